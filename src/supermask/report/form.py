"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from supermask.report.grid import UNKNOWN
from supermask.report.statistics import ENOUGH_FOR_QUANTILES, Spread

#: What a star means.
ESTIMATED: Final = f"* n < {ENOUGH_FOR_QUANTILES}: quantiles are estimated by interpolation."


def spread(value: Spread | None, kind: str, form: Callable[[float], str]) -> str:
    """`mean [low, high]` or `mean ± std`, as `kind` says; the mean alone for one run, or runs that agree exactly."""
    if value is None:
        return UNKNOWN
    if not _varies(value):
        return form(value.mean)
    if kind == "std" and value.std is not None:
        return f"{form(value.mean)} ± {form(value.std).lstrip('+')}"
    return f"{form(value.mean)} [{form(value.low)}, {form(value.high)}]"


def estimated(value: Spread | None) -> bool:
    """Whether `spread` shows quantiles of fewer than 20 runs."""
    return value is not None and _varies(value) and value.n < ENOUGH_FOR_QUANTILES


def _varies(value: Spread) -> bool:
    return bool(value.std) and not math.isclose(value.low, value.high, rel_tol=1e-9)


def mean(value: Spread | None, form: Callable[[float], str]) -> str:
    """The mean alone."""
    return UNKNOWN if value is None else form(value.mean)


def percent(fraction: float) -> str:
    """A fraction in per cent, two decimals."""
    return f"{100 * fraction:.2f}"


def points(fraction: float) -> str:
    """A difference of fractions in percentage points with its sign, two decimals."""
    return f"{100 * fraction:+.2f}"


def signed_percent(fraction: float) -> str:
    """A fraction in per cent with its sign, one decimal."""
    return f"{100 * fraction:+.1f}"


def epochs(number: float) -> str:
    """Epochs, one decimal where runs trained for different numbers of them."""
    return f"{number:.0f}" if float(number).is_integer() else f"{number:.1f}"


def count(number: float) -> str:
    """A whole number with commas."""
    return f"{number:,.0f}"


def decimals(digits: int) -> Callable[[float], str]:
    """Numbers with that many decimals and commas."""
    return lambda number: f"{number:,.{digits}f}"


def seconds(number: float) -> str:
    """Seconds, more finely below ten."""
    return decimals(2 if number < 10 else 1)(number)


def mebibytes(number: float) -> str:
    """Bytes as MiB."""
    return f"{number / 2**20:,.0f}"


def like(number: float) -> Callable[[float], str]:
    """A form with as many decimals as give `number` four significant digits, at most six."""
    if not number or not math.isfinite(number):
        return decimals(4)
    return decimals(min(6, max(0, 3 - math.floor(math.log10(abs(number))))))
