"""A gradient, a momentum or a weight times a mask, in place: compiled in one pass over memory, in plain torch in two.

Both forms give the same bits. The compiled one takes tensors of float32 on the CPU; all else is plain torch's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from ctypes import c_int64, c_void_p
from typing import Final

import torch
from torch import Tensor, nn

from supermask.kernels.library import kernel

_PLAIN: Final = (Tensor, nn.Parameter)


def mask_in_place(values: Tensor, mask: Tensor) -> None:
    """``values *= mask``, which autograd does not record: for use under ``torch.no_grad``.

    Args:
        values: Any shape, floating.
        mask: Bool, of that shape.
    """
    compiled = None if torch.compiler.is_compiling() else _loaded()
    if compiled is None or not _readable(values, mask):
        values.mul_(mask.view(torch.uint8))  # bytes: a bool factor is slower on a CPU
        return
    compiled(values.data_ptr(), mask.data_ptr(), values.numel())
    torch.autograd.graph.increment_version(values)


def _readable(values: Tensor, mask: Tensor) -> bool:
    """Whether the compiled product can walk these two in the order of memory."""
    if values.dtype is not torch.float32 or not values.is_cpu or type(values) not in _PLAIN or type(mask) not in _PLAIN:
        return False
    if values.layout is not torch.strided or values.is_neg() or not mask.is_cpu:
        return False
    if values.shape != mask.shape or values.stride() != mask.stride():
        return False
    return values.is_contiguous() or values.is_contiguous(memory_format=torch.channels_last)


@functools.cache
def _loaded() -> Callable[..., int] | None:
    return kernel("smk_mask", (c_void_p, c_void_p, c_int64), simd=True)
