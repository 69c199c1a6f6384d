from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count, repeat
from pathlib import Path

import pytest

from supermask.errors import StoreError
from supermask.lab.remote import Store

from .conftest import Invoke

SHORT = ("--workers", 0, "--set", "vary.seed=[0]", "--set", "train.epochs=1")


def test_runs_go_to_a_store_and_come_back(supermask: Invoke, tiny: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    result = supermask("run", tiny, *SHORT, "--store", url)
    assert result.exit_code == 0
    first = json.loads(supermask("report", url, "--json").stdout)
    assert [row["label"] for row in first["rows"]] == ["plain", "supermask"]
    assert json.loads(supermask("report", f"{url}/tiny", "--json").stdout)["rows"] == first["rows"]
    assert json.loads(supermask("report", "runs", "--json").stdout)["rows"] == first["rows"]
    other = supermask("run", tiny, *SHORT, "--store", url, "--out", "elsewhere", "--json")
    assert {run["state"] for run in json.loads(other.stdout)["runs"]} == {"skipped"}


@pytest.mark.parametrize(("texts", "warnings"), [(repeat("full"), 1), (map("full, request {}".format, count()), 2)])
def test_what_cannot_be_uploaded_is_a_warning_told_once(
    texts: Iterator[str],
    warnings: int,
    supermask: Invoke,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two runs: once where they hear the same, and once of each where every answer has a number of its own."""

    def refuse(*arguments: object) -> None:
        raise StoreError(f"the bucket is {next(texts)}")

    monkeypatch.setattr(Store, "push_checkpoint", refuse)
    result = supermask("run", tiny, *SHORT, "--checkpoint-seconds", 0, "--store", f"file://{tmp_path}/store")
    assert result.exit_code == 0
    assert result.stderr.count("warning: the bucket is full") == warnings


def test_a_store_that_is_not_there(supermask: Invoke) -> None:
    result = supermask("report", "memory://nothing-here")
    assert result.exit_code == 2
    assert "there is nothing at memory://nothing-here" in result.stderr
