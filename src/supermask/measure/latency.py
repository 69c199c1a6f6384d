"""How long a call takes, beside others: candidates take turns in rounds, and only ratios within a round are compared.

A processor's speed changes from second to second with what else runs on it. Candidates that take turns meet the same
moments, so the ratio of two of them within one round holds where their absolute times do not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import numpy as np

from supermask.core.clock import CLOCKS, Clock, time_calls
from supermask.errors import HyperparameterError

_MOST_CALLS: Final = 10_000  # of one candidate in one round
_FEWEST_ROUNDS: Final = 5


@runtime_checkable
class Candidate(Protocol):
    """Something to time that times itself: in another process, or on another machine."""

    def time(self, calls: int, clock: Clock) -> Sequence[float]:
        """Seconds of each of that many calls, one after the other."""


@dataclass(frozen=True)
class _Local:
    """A function that is timed in this process."""

    function: Callable[[], object]

    def time(self, calls: int, clock: Clock) -> list[float]:
        return time_calls(self.function, calls, clock)


@dataclass(frozen=True)
class Ratio:
    """How many times as long one candidate takes as another, paired by round.

    Attributes:
        median: Over the rounds.
        low: 5 % quantile over the rounds, linearly interpolated.
        high: 95 % quantile.
        rounds: How many rounds.
    """

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:.2f}x [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Latency:
    """Seconds of one candidate.

    Attributes:
        rounds: Seconds of each call, round by round; no round is empty.
        clock: ``wall``, or ``cpu``: time of all threads of the process, without what others take.
    """

    rounds: tuple[tuple[float, ...], ...]
    clock: Clock

    def quantile(self, q: float) -> float:
        """Seconds below which a share ``q`` of all calls stays."""
        return float(np.quantile([seconds for calls in self.rounds for seconds in calls], q))

    @property
    def p50(self) -> float:
        """Median over all calls, seconds."""
        return self.quantile(0.5)

    @property
    def p95(self) -> float:
        """95 % quantile over all calls, seconds."""
        return self.quantile(0.95)

    @property
    def calls(self) -> int:
        """How many calls were timed."""
        return sum(map(len, self.rounds))

    def ratio(self, other: Latency) -> Ratio:
        """How many times as long this candidate takes as ``other``: median call over median call, round by round.

        Raises:
            HyperparameterError: The two were not measured together.
        """
        if len(self.rounds) != len(other.rounds) or self.clock != other.clock:
            raise HyperparameterError(
                f"a ratio needs two candidates of one measurement, got {len(self.rounds)} rounds ({self.clock}) and "
                f"{len(other.rounds)} ({other.clock}); give both to one call of latency()"
            )
        ratios = [float(np.median(a) / np.median(b)) for a, b in zip(self.rounds, other.rounds)]
        low, median, high = np.quantile(ratios, [0.05, 0.5, 0.95])
        return Ratio(float(median), float(low), float(high), len(ratios))


def latency(
    candidates: Mapping[str, Callable[[], object] | Candidate],
    *,
    rounds: int = 30,
    round_seconds: float = 0.02,
    warmup_seconds: float = 0.2,
    max_seconds: float = 60.0,
    clock: Clock = "wall",
) -> dict[str, Latency]:
    """Time candidates that take turns.

    Each is warmed up first; how long its calls then take decides how many of them a round holds. In every round each candidate
    runs once; the one that begins changes from round to round. Threads are the candidates' own business: state them
    beside the figures.

    Args:
        candidates: Name -> function without arguments, or a :class:`Candidate`; at least one.
        rounds: Number of rounds, >= 5.
        round_seconds: What one candidate gets in a round, > 0: as many calls as fit, at least one.
        warmup_seconds: Untimed calls of each candidate before the first round, >= 0; at least two calls.
        max_seconds: No round begins after that time, > 0, but five rounds are always measured.
        clock: ``wall``, or ``cpu`` for the time of all threads of the process: on a busy machine steadier, and for more
            than one thread not a latency.

    Returns:
        Name -> what was measured; all with the same number of rounds.

    Raises:
        HyperparameterError: An argument is out of range.
    """
    _check(candidates, rounds, round_seconds, warmup_seconds, max_seconds, clock)
    timed = {name: c if isinstance(c, Candidate) else _Local(c) for name, c in candidates.items()}
    calls = {name: _warm_up(c, warmup_seconds, round_seconds, clock) for name, c in timed.items()}
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in timed}
    names = list(timed)
    start = time.perf_counter()
    for index in range(rounds):
        if index >= _FEWEST_ROUNDS and time.perf_counter() - start > max_seconds:
            break
        first = index % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(tuple(timed[name].time(calls[name], clock)))
    return {name: Latency(tuple(values), clock) for name, values in found.items()}


def _warm_up(candidate: Candidate, seconds: float, round_seconds: float, clock: Clock) -> int:
    """Run untimed calls; how many then fit into one round."""
    start = time.perf_counter()
    candidate.time(1, clock)
    last = list(candidate.time(1, "wall"))
    while time.perf_counter() - start < seconds:
        last = list(candidate.time(min(_MOST_CALLS, max(1, int(seconds / 10 / max(last[-1], 1e-9)))), "wall"))
    return min(_MOST_CALLS, max(1, round(round_seconds / max(float(np.median(last)), 1e-9))))


def _check(
    candidates: Mapping[str, object], rounds: int, round_seconds: float, warmup: float, most: float, clock: str
) -> None:
    if not candidates:
        raise HyperparameterError("candidates: there is nothing to measure; give at least one function")
    if rounds < _FEWEST_ROUNDS:
        raise HyperparameterError(f"rounds must be at least {_FEWEST_ROUNDS}, got {rounds}")
    for name, value in (("round_seconds", round_seconds), ("max_seconds", most)):
        if not value > 0:
            raise HyperparameterError(f"{name} must be above 0, got {value}")
    if not warmup >= 0:
        raise HyperparameterError(f"warmup_seconds must be at least 0, got {warmup}")
    if clock not in CLOCKS:
        raise HyperparameterError(f"clock must be 'wall' or 'cpu', got {clock!r}")
