from __future__ import annotations

import gc
import time
from collections.abc import Sequence

import pytest

from supermask.core.clock import time_calls
from supermask.errors import HyperparameterError
from supermask.measure import Latency, latency


class Scripted:
    """A candidate whose calls take what a list says, in units of its turn."""

    def __init__(self, seconds: float, log: list[str], name: str) -> None:
        self.seconds, self.log, self.name = seconds, log, name

    def time(self, calls: int, clock: str) -> Sequence[float]:
        self.log.append(self.name)
        return [self.seconds] * calls


def test_candidates_take_turns_and_the_first_changes() -> None:
    log: list[str] = []
    found = latency({n: Scripted(0.01, log, n) for n in "abc"}, rounds=6, round_seconds=0.02, warmup_seconds=0)
    assert "".join(log[-18:]) == "abcbcacababcbcacab"
    assert all(len(value.rounds) == 6 and value.calls == 12 for value in found.values())


def test_a_round_holds_as_many_calls_as_fit_and_at_least_one() -> None:
    log: list[str] = []
    candidates = {"quick": Scripted(0.001, log, "q"), "slow": Scripted(3.0, log, "s")}
    found = latency(candidates, rounds=5, round_seconds=0.05, warmup_seconds=0)
    assert [len(calls) for calls in found["quick"].rounds] == [50] * 5
    assert [len(calls) for calls in found["slow"].rounds] == [1] * 5
    assert found["slow"].p50 == found["slow"].p95 == 3.0


def test_ratios_are_paired_by_round() -> None:
    slow = Latency(((2.0, 2.0, 9.0), (40.0,), (6.0,), (8.0,), (10.0,)), "wall")
    fast = Latency(((1.0,), (10.0,), (2.0,), (2.0,), (5.0,)), "wall")
    ratio = slow.ratio(fast)  # 2, 4, 3, 4, 2: the outlier within a round and the slow round do not show
    assert (ratio.median, ratio.rounds) == (3.0, 5)
    assert (ratio.low, ratio.high) == (2.0, 4.0)
    assert str(ratio) == "3.00x [2.00, 4.00]"
    assert fast.ratio(slow).median == pytest.approx(1 / 3)
    with pytest.raises(HyperparameterError, match=r"got 5 rounds \(wall\) and 1 \(wall\); give both to one call"):
        slow.ratio(Latency(((1.0,),), "wall"))
    with pytest.raises(HyperparameterError, match=r"\(wall\) and 5 \(cpu\)"):
        slow.ratio(Latency(fast.rounds, "cpu"))


def test_quantiles_are_over_all_calls() -> None:
    found = Latency((tuple(float(i) for i in range(50)), tuple(float(i) for i in range(50, 101))), "wall")
    assert (found.p50, found.p95, found.calls) == (50.0, 95.0, 101)


@pytest.mark.parametrize("clock", ["wall", "cpu"])
def test_real_functions(clock: str) -> None:
    def work(n: int) -> int:
        return sum(range(n))

    found = latency(
        {"small": lambda: work(2_000), "large": lambda: work(40_000)},
        rounds=7,
        round_seconds=0.004,
        warmup_seconds=0.01,
        clock=clock,  # type: ignore[arg-type]
    )
    assert 5 < found["large"].ratio(found["small"]).median < 80
    assert found["small"].calls > found["large"].calls


def test_the_cpu_clock_does_not_count_waiting() -> None:
    assert (
        sum(time_calls(lambda: time.sleep(0.03), 2, "cpu"))
        < 0.03
        < 0.06
        <= sum(time_calls(lambda: time.sleep(0.03), 2))
    )


def test_the_collector_waits_and_is_switched_on_again() -> None:
    seen: list[bool] = []
    time_calls(lambda: seen.append(gc.isenabled()), 2)
    assert seen == [False, False]
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        time_calls(lambda: 1 / 0, 1)
    assert gc.isenabled()


def test_a_measurement_ends_in_time_after_five_rounds() -> None:
    found = latency(
        {"a": lambda: time.sleep(0.01)}, rounds=1000, round_seconds=0.001, warmup_seconds=0, max_seconds=0.02
    )
    assert 5 <= len(found["a"].rounds) < 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": {}}, "candidates: there is nothing to measure"),
        ({"rounds": 4}, "rounds must be at least 5, got 4"),
        ({"round_seconds": 0.0}, "round_seconds must be above 0, got 0.0"),
        ({"max_seconds": float("nan")}, "max_seconds must be above 0, got nan"),
        ({"warmup_seconds": -1.0}, "warmup_seconds must be at least 0, got -1.0"),
        ({"clock": "sun"}, "clock must be 'wall' or 'cpu', got 'sun'"),
    ],
)
def test_bad_arguments(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"candidates": {"a": lambda: None}, **change}
    with pytest.raises(HyperparameterError, match=message):
        latency(**arguments)  # type: ignore[arg-type]
