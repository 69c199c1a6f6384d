"""Mean and spread of a handful of runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

#: Below this many runs the 5 % and 95 % quantiles lie between the two outermost values: they are estimated.
ENOUGH_FOR_QUANTILES = 20


@dataclass(frozen=True)
class Spread:
    """Mean and spread of one number over the runs of a row, in the number's own unit.

    Attributes:
        mean: The arithmetic mean.
        low: The 5 % quantile, linearly interpolated between order statistics (numpy's default).
        high: The 95 % quantile, likewise.
        std: The sample standard deviation (divisor n - 1); None when n is 1.
        n: How many runs.
    """

    mean: float
    low: float
    high: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Summarise `values`; None when there are none or when any of them is unknown (None)."""
        known = list(values)
        if not known or any(value is None for value in known):
            return None
        array = np.asarray(known, dtype=np.float64)
        low, high = np.quantile(array, [0.05, 0.95])
        std = float(array.std(ddof=1)) if array.size > 1 else None
        return cls(mean=float(array.mean()), low=float(low), high=float(high), std=std, n=array.size)
