from __future__ import annotations

import os

import numpy as np
import pytest

from supermask.errors import RunError
from supermask.lab.contender import Contender
from supermask.measure import latency

from . import contender_parts

PARTS = contender_parts.__name__
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def contender(name: str, *, max_seconds: float = 60.0, threads: int = 1, **arguments: object) -> Contender:
    return Contender(f"{PARTS}:{name}", arguments, threads=threads, max_seconds=max_seconds)


def test_it_runs_and_is_timed_in_its_own_process() -> None:
    with contender("double") as quick, contender("sleeps", seconds=0.02) as slow:
        assert np.array_equal(quick.run(X), 2 * X)
        slow.run(X)
        found = latency({"quick": quick.timer(), "slow": slow.timer()}, rounds=5, round_seconds=0.001, warmup_seconds=0)
        assert found["slow"].p50 >= 0.02 > found["quick"].p50
        assert found["slow"].ratio(found["quick"]).median > 5
        assert os.getpid() != quick._process.pid


def test_its_threads_do_not_spin_and_torch_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    with contender("environment", threads=2) as one:
        assert one.run(X).tolist() == [2.0, 1.0, 0.0]
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "OMP_WAIT_POLICY" not in os.environ


def test_the_peak_of_its_memory() -> None:
    with contender("hungry", megabytes=64) as large, contender("double") as small:
        large.run(X)
        small.run(X)
        peaks = large.peak(), small.peak()
        if None in peaks:
            pytest.skip("this system does not tell")
        assert peaks[0] - peaks[1] > 50 << 20  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "message"), [("broken", r"^ValueError: no such thing \(broken\)$"), ("missing", "AttributeError")]
)
def test_a_factory_that_fails(name: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        contender(name)


def test_a_factory_that_takes_too_long() -> None:
    with pytest.raises(RunError, match=r"^not ready within 0.2 s$"):
        contender("slow_to_start", seconds=30.0, max_seconds=0.2)


def test_a_call_that_fails_takes_too_long_or_dies() -> None:
    with contender("breaks_later") as one, pytest.raises(RunError, match=r"^KeyError: 'later' \(run\)$"):
        one.run(X)
    with contender("sleeps", seconds=30.0) as one, pytest.raises(RunError, match=r"^not ready within 0.1 s$"):
        one.run(X, max_seconds=0.1)
    with contender("dies") as one:
        with pytest.raises(RunError, match=r"^its process has ended with exit code 3$"):
            one.run(X)
        with pytest.raises(RunError, match="its process has ended"):
            one.run(X)
