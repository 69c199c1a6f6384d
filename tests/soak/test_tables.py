"""Every table of the papers, reduced as far as it goes: 16 images, one epoch. Every run ends, and the table is printed.

About half an hour on two free cores; the largest networks (WRN-28-10, ResNet-18 on 224 x 224) take most of it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from supermask.cli import app
from supermask.lab import reduced
from supermask.lab.reproductions import tables

pytestmark = pytest.mark.soak


@pytest.mark.parametrize("name", [entry.id for entry in tables()])
def test_every_table_runs_and_is_printed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reduced, "FEWEST", 16)
    monkeypatch.setattr(reduced, "MOST", 16)
    monkeypatch.setattr(reduced, "EPOCHS", 1)
    result = CliRunner().invoke(app, ["reproduce", name, "--fast", "--workers", "0", "--json"])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert {run["state"] for run in content["runs"]} <= {"done"}
    report = content["report"]
    assert report["rows"] or report["settings"] or report["quoted"]
    if any(row["method"] == "maskconvnet" for row in report["rows"]):
        assert len(list(Path("runs-fast").rglob("figures/*/channel-*.svg"))) == 2
