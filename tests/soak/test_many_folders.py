"""A report over 10,000 finished runs: under 10 s of processor time and 1 GiB. Writing the folders takes minutes."""

import time

import pytest

from .folders import SEEDS, report, write_runs

RUNS = 10_000


@pytest.mark.soak
def test_ten_thousand_runs(tmp_path):
    write_runs(tmp_path / "runs", RUNS)
    began = time.monotonic()
    document, seconds, size = report(tmp_path / "runs")
    print(f"\n{RUNS} runs: {time.monotonic() - began:.1f} s, {seconds:.1f} s of a processor, {size / 2**20:.0f} MiB")
    assert sum(row["n"] for row in document["rows"]) == RUNS
    assert len(document["rows"]) == RUNS // SEEDS
    assert seconds < 10
    assert size < 2**30
