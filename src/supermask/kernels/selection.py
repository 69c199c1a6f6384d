"""Exact selection of the k largest of n numbers: compiled by histograms of their bits, in numpy by introselect.

Both forms take float32 and float64, and give the same results.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from ctypes import byref, c_double, c_float, c_int64, c_void_p
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from supermask.kernels.library import NAN, NO_MEMORY, kernel

_SUFFIXES: Final = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
NAN_REFUSED: Final = "a score is NaN: scores must be numbers to be ranked"


def kth_largest(values: NDArray[Any], k: int, *, magnitude: bool = False) -> float:
    """The k-th largest value (k = 1 is the maximum); NaN ranks above every number, and a zero is never negative.

    Args:
        values: 1-D, contiguous, float32 or float64.
        k: In [1, len(values)].
        magnitude: Rank by ``|value|``, without a copy of it, and give that.

    Raises:
        ValueError: k is out of range.
    """
    _check(values, k)
    compiled = _loaded("smk_kth_magnitude" if magnitude else "smk_kth", values.dtype)
    if compiled is not None:
        result = (c_float if values.dtype == np.float32 else c_double)()
        if _done(compiled(values.ctypes.data, len(values), k, byref(result))):
            return result.value
    position = len(values) - k
    return float(np.partition(np.abs(values) if magnitude else values, position)[position]) + 0.0


def largest(values: NDArray[Any], k: int, *, magnitude: bool = False) -> NDArray[np.bool_]:
    """Mask of the k largest values, exactly k; of equal ones the earlier is kept.

    Args:
        values: 1-D, contiguous, float32 or float64.
        k: In [1, len(values)].
        magnitude: Rank by ``|value|``, without a copy of it.

    Raises:
        ValueError: k is out of range, or a value is NaN.
    """
    _check(values, k)
    compiled = _loaded("smk_largest_magnitude" if magnitude else "smk_largest", values.dtype)
    if compiled is not None:
        chosen = np.empty(len(values), dtype=np.bool_)
        if _done(compiled(values.ctypes.data, len(values), k, chosen.ctypes.data)):
            return chosen
        raise ValueError(NAN_REFUSED)
    if magnitude:
        values = np.abs(values)
    top = np.partition(values, len(values) - k)[len(values) - k :]
    if np.isnan(top.max()):  # NaN is ranked above every number
        raise ValueError(NAN_REFUSED)
    cut = top[0]
    mask: NDArray[np.bool_] = values >= cut
    surplus = int(np.count_nonzero(mask)) - k
    if surplus:
        mask[np.flatnonzero(values == cut)[-surplus:]] = False
    return mask


def _check(values: NDArray[Any], k: int) -> None:
    flags = values.flags
    if values.ndim != 1 or values.dtype not in _SUFFIXES or not (flags.c_contiguous and flags.aligned):
        got = f"{values.ndim}-D {values.dtype}, contiguous {flags.c_contiguous}, aligned {flags.aligned}"
        raise ValueError(f"values must be 1-D, contiguous, aligned, float32 or float64; got {got}")
    if not 1 <= k <= len(values):
        raise ValueError(f"k must be in [1, {len(values)}] (the number of values), got {k}")


def _done(status: int) -> bool:
    """Whether a kernel did it; if not, a value is NaN."""
    if status == NO_MEMORY:
        raise MemoryError("no memory for the selection of the largest scores")
    assert status in (0, NAN)
    return status == 0


@functools.cache
def _loaded(name: str, dtype: np.dtype[Any]) -> Callable[..., int] | None:
    return kernel(f"{name}_{_SUFFIXES[dtype]}", (c_void_p, c_int64, c_int64, c_void_p), simd=True)
