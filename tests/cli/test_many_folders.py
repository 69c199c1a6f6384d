"""A report over many folders stays quick and small; 10,000 of them are in tests/soak."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.soak.folders import SEEDS, report, write_runs

RUNS = 500


@pytest.mark.slow
def test_five_hundred_runs_of_which_two_are_damaged(tmp_path: Path) -> None:
    write_runs(tmp_path, RUNS)
    cut, other = sorted(tmp_path.rglob("result.json"))[:2]
    cut.write_bytes(cut.read_bytes()[:100])
    other.write_text(other.read_text().replace('"epochs": 30', '"epochs": "30"'))
    document, seconds, size = report(tmp_path)
    assert sum(row["n"] for row in document["rows"]) == RUNS - 2
    assert len(document["rows"]) == RUNS // SEEDS
    errors = {failure["run"]: failure["error"] for failure in document["failed"]}
    assert errors.keys() == {cut.parent.name, other.parent.name}
    assert "result.json: damaged (" in errors[cut.parent.name]
    assert "'epochs' should be int, is '30'" in errors[other.parent.name]
    assert seconds < 4  # most of it to import Python's modules
    assert size < 200 * 2**20
