from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from supermask.lab import bench as lab_bench

from .conftest import Invoke
from .test_json import EXAMPLES, compare

RESULT = EXAMPLES["bench"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the verb asks for; nothing is measured."""
    found: list[tuple[Any, ...]] = []

    def pretend(source: Any, *, against: Any, options: Any, tell: Any) -> Any:
        found.append((source, against, options))
        tell("measuring")
        return RESULT

    monkeypatch.setattr(lab_bench, "bench", pretend)
    return found


def test_tables_and_files(supermask: Invoke, asked: list[tuple[Any, ...]], tmp_path: Path) -> None:
    result = supermask("bench", "net", "--batch", "1, 32", "--threads", 2, "--rounds", 7, "--out", "a/b")
    assert "torch eager" in result.stdout
    assert result.stdout.rstrip().endswith(RESULT["verdict"])
    assert "measuring ..." in result.stderr
    assert json.loads((tmp_path / "a/b/bench.json").read_text()) == RESULT
    assert (tmp_path / "a/b/bench.svg").read_text().startswith("<svg")
    ((source, against, options),) = asked
    assert source == {"place": "net", "model": None, "input_shape": None}
    assert against is None
    assert (options.batches, options.threads, options.rounds, options.clock) == ((1, 32), 2, 7, "wall")


def test_json_and_against(supermask: Invoke, asked: list[tuple[Any, ...]]) -> None:
    result = supermask("bench", "net", "--against", "conv2", "--input", "3,32,32", "--clock", "cpu", "--json")
    assert json.loads(result.stdout) == RESULT
    ((source, against, options),) = asked
    assert source["input_shape"] == (3, 32, 32)
    assert against == {"place": "conv2", "input_shape": (3, 32, 32)}
    assert options.clock == "cpu"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch", "1,x"), "--batch: expected batch sizes: 1,32,128; got '1,x'"),
        (("--clock", "sun"), "clock must be 'wall' or 'cpu', got 'sun'"),
        (("--input", "0,3"), "--input: expected the sizes of one input without the batch: 3,32,32; got '0,3'"),
    ],
)
def test_mistakes(supermask: Invoke, asked: list[tuple[Any, ...]], arguments: tuple[str, str], message: str) -> None:
    result = supermask("bench", "net", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert asked == []


@pytest.mark.slow
def test_the_keys_are_as_documented(supermask: Invoke) -> None:
    result = supermask("bench", "fcn", "--batch", 1, "--rounds", 5, "--compile-seconds", 0, "--json")
    compare(json.loads(result.stdout), RESULT)
