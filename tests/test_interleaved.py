"""The timing of benchmarks: candidates take turns, and one that dies ends it with a clear error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from interleaved import measure, ratio


def candidate(name: str) -> Callable[[], object]:
    calls = 0

    def run() -> None:
        nonlocal calls
        calls += 1
        if name == "fails in a round" and calls > 1:
            raise ValueError("no more")
        if name == "dies in a round" and calls > 1:
            os._exit(3)

    if name == "fails at the start":
        raise ValueError("this cannot be built")
    if name == "dies at the start":
        os._exit(7)
    return run


def test_one_value_a_round() -> None:
    environments = {"a": {}, "b": {"SUPERMASK_KERNELS": "off"}}
    before = dict(os.environ)
    times = measure(candidate, environments, rounds=3, calls=2, warmup=1, clock="perf_counter")
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails at the start", "'fails at the start' failed:\n(.|\n)*ValueError: this cannot be built"),
        ("dies at the start", "the process of 'dies at the start' ended with exit code 7"),
        ("fails in a round", "'fails in a round' failed:\n(.|\n)*ValueError: no more"),
        ("dies in a round", "the process of 'dies in a round' ended with exit code 3"),
    ],
)
def test_a_candidate_that_dies_is_named(name: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        measure(candidate, {"good": {}, name: {}}, rounds=3, calls=1, warmup=1)


def test_ratio_is_paired_by_round() -> None:
    assert ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]) == (2.0, 2.0, 2.0)
