"""Paired differences of a handful of runs: a bootstrap interval of their mean, and which rows cannot be told apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt

#: Share of samples whose interval holds the true mean, where differences scatter normally.
LEVEL: Final = 0.95
#: Resamples of the bootstrap. Where all ``n ** n`` are fewer, all are taken, and nothing is drawn.
RESAMPLES: Final = 10_000
#: Below this many pairs an interval says more about its assumptions than about the runs.
ENOUGH_PAIRS: Final = 5

_SEED: Final = 0  # of the resamples


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, in the unit of what was measured.

    Attributes:
        mean: The arithmetic mean.
        low: Lower end of the interval; None for one pair.
        high: Upper end; None for one pair.
        pairs: How many pairs.
    """

    mean: float
    low: float | None
    high: float | None
    pairs: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Difference | None:
        """Mean and bootstrap interval of differences; None when there are none.

        The interval is the percentile interval of the mean over resamples of the pairs, whose two arms are stretched by
        ``t * sqrt(n / (n - 1)) / z``, with the quantiles t of Student's distribution with n - 1 degrees of freedom and z
        of the normal one: resamples of few pairs scatter too little. Of five normal differences, the plain percentile
        interval holds the true mean in 84 % of samples, this one in 95 %.

        Args:
            values: Differences, one a pair; all finite.
        """
        sample = np.asarray(list(values), dtype=np.float64)
        n = sample.size
        if not n:
            return None
        mean = float(sample.mean())
        if n == 1:
            return cls(mean=mean, low=None, high=None, pairs=1)
        # centred, so that equal differences give an interval of no width
        ends = np.quantile(_counts(n) @ (sample - mean) / n, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        low, high = mean + ends * _stretch(n)
        return cls(mean=mean, low=float(low), high=float(high), pairs=n)

    @property
    def trusted(self) -> bool:
        """Whether there are pairs enough for the interval to be trusted."""
        return self.pairs >= ENOUGH_PAIRS

    @property
    def is_none(self) -> bool:
        """Whether the differences may be those of equals: the interval holds 0, or there is none."""
        return self.low is None or self.high is None or self.low <= 0.0 <= self.high


def student_quantile(degrees: int, level: float = LEVEL) -> float:
    """The number that ``|t|`` of Student's distribution stays below with probability ``level``, to 12 digits.

    Args:
        degrees: Degrees of freedom, at least 1.
        level: Probability in (0, 1).
    """
    low, high = 0.0, math.pi / 2  # of the angle atan(t / sqrt(degrees))
    while high - low > 1e-15:
        middle = (low + high) / 2
        if _within(middle, degrees) < level:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan(low)


def letters(apart: npt.NDArray[np.bool_]) -> list[str]:
    """Letters such that two rows share one exactly if they cannot be told apart.

    The compact letter display by insertion and absorption (Piepho, "An algorithm for a letter-based representation of
    all-pairwise comparisons", Journal of Computational and Graphical Statistics 13, 2004).

    Args:
        apart: ``(rows, rows)``, symmetric: whether two rows can be told apart.

    Returns:
        For each row its letters in alphabetical order; ``a`` is a letter of the first row.
    """
    rows = len(apart)
    groups = [frozenset(range(rows))]
    for one in range(rows):
        for other in range(one + 1, rows):
            if apart[one, other]:
                split = [
                    part
                    for group in groups
                    for part in ((group - {one}, group - {other}) if {one, other} <= group else (group,))
                ]
                groups = _maximal(split)
    groups.sort(key=sorted)
    return ["".join(_letter(index) for index, group in enumerate(groups) if row in group) for row in range(rows)]


def _maximal(groups: Sequence[frozenset[int]]) -> list[frozenset[int]]:
    """Each group once, without those that another holds."""
    once = list(dict.fromkeys(groups))
    return [group for group in once if not any(group < other for other in once)]


def _letter(index: int) -> str:
    """Letters a to z, then a2, b2, ..."""
    turn, place = divmod(index, 26)
    return chr(ord("a") + place) + (str(turn + 1) if turn else "")


@cache
def _counts(n: int) -> npt.NDArray[np.float64]:
    """How often each resample, a line, holds each of n values."""
    if n**n <= RESAMPLES:
        drawn = np.indices((n,) * n).reshape(n, -1)
        counts: npt.NDArray[Any] = np.stack([(drawn == value).sum(axis=0) for value in range(n)], axis=1)
    else:
        counts = np.random.default_rng(_SEED).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    return counts.astype(np.float64)


@cache
def _stretch(n: int) -> float:
    normal = NormalDist().inv_cdf((1 + LEVEL) / 2)
    return student_quantile(n - 1) * math.sqrt(n / (n - 1)) / normal


def _within(angle: float, degrees: int) -> float:
    """Probability that ``|t|`` is below ``sqrt(degrees) * tan(angle)`` (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term, total = (cosine if odd else 1.0), 0.0
    for step in range(1, (degrees - odd) // 2 + 1):
        total += term
        term *= cosine**2 * ((2 * step) / (2 * step + 1) if odd else (2 * step - 1) / (2 * step))
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
