"""Threshold, sign and scale: compiled in one pass over memory, in plain torch in as few passes as it offers.

Both forms give the same bits. The compiled one takes float32 on the CPU, outside of torch.compile, torch.export and
torch.jit.trace; all else is plain torch's. All functions are pure: they return new tensors and touch no gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from ctypes import c_float, c_int64, c_void_p
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supermask.kernels.library import kernel

_PLAIN: Final = (Tensor, nn.Parameter)
_POINTERS: Final = (c_void_p, c_void_p, c_void_p, c_int64)
_ARGUMENTS: Final = {
    "smk_ternary": (c_void_p, c_void_p, c_int64, c_float, c_float),
    "smk_ternary_between": (*_POINTERS, c_float, c_float),
    "smk_ternary_signs": (*_POINTERS, c_float, c_float, c_float),
    "smk_signed_gradient": (*_POINTERS, c_float),
}


def ternary(score: Tensor, threshold: float, scale: float) -> Tensor:
    """``scale * sign(score)`` where ``|score| > threshold``, else 0; ``dL/dscore = scale * dL/dresult`` (straight through).

    Args:
        score: Any shape, floating.
        threshold: Non-negative; a score exactly on it gives 0.
        scale: Positive factor of the result.

    Returns:
        Tensor like ``score`` with entries in {-scale, 0, scale}. A NaN score gives 0.
    """
    compiled = _kernel("smk_ternary", score) if scale > 0 else None
    straight: Tensor = _StraightThrough.apply(score, threshold, scale, compiled)  # type: ignore[no-untyped-call]
    return straight


class _StraightThrough(torch.autograd.Function):
    """:func:`ternary`, by a compiled kernel where there is one for this score."""

    # in one piece: with a separate setup_context, torch inspects the signature of forward at every call
    @staticmethod
    def forward(ctx: Any, score: Tensor, threshold: float, scale: float, compiled: Callable[..., int] | None) -> Tensor:
        ctx.scale = scale
        if compiled is not None:
            weight = torch.empty_like(score)
            if weight.stride() == score.stride():  # without gaps
                compiled(score.data_ptr(), weight.data_ptr(), weight.numel(), threshold, scale)
                return weight
        return F.hardshrink(score, threshold).sign_().mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return grad * ctx.scale, None, None, None


def ternary_between(score: Tensor, low: Tensor, high: Tensor, frozen: Tensor, scale: float = 1.0) -> Tensor:
    """The frozen weight where ``score > high``, its negative where ``score < low``, else 0. Without a gradient.

    Args:
        score: Any shape, floating.
        low: 0-dim tensor; ``-inf`` never inverts (a binary mask).
        high: 0-dim tensor.
        frozen: Same shape as ``score``; the frozen weight, or its signs as int8.
        scale: With signs: their magnitude, > 0.

    Returns:
        Tensor of the dtype of the frozen weight, of signs: of the score. A NaN score gives 0.
    """
    signs = frozen.dtype is torch.int8
    compiled = _kernel("smk_ternary_signs" if signs else "smk_ternary_between", score, frozen)
    if compiled is not None:
        weight = torch.empty_like(score)
        if weight.stride() == score.stride() == frozen.stride():
            pointers = score.data_ptr(), frozen.data_ptr(), weight.data_ptr()
            compiled(*pointers, weight.numel(), low.item(), high.item(), *((scale,) if signs else ()))
            return weight
    magnitude = frozen.to(score.dtype) * scale if signs else frozen
    code = (score > high).to(magnitude.dtype) - (score < low).to(magnitude.dtype)
    return code.mul_(magnitude)


def straight_through(gradient: Tensor, frozen: Tensor, scale: float = 1.0) -> Tensor:
    """The score's gradient for :func:`ternary_between`: ``gradient * frozen``, of signs: ``gradient * sign * scale``."""
    if frozen.dtype is not torch.int8:
        return gradient * frozen
    compiled = _kernel("smk_signed_gradient", gradient, frozen)
    differentiated = torch.is_grad_enabled() and gradient.requires_grad  # a second derivative will be asked for
    if compiled is not None and not differentiated:
        result = torch.empty_like(frozen, dtype=gradient.dtype)
        if result.stride() == gradient.stride() == frozen.stride():
            compiled(gradient.data_ptr(), frozen.data_ptr(), result.data_ptr(), result.numel(), scale)
            return result
    return (gradient * frozen).mul_(scale)


def ternary_codes(score: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The ternary mask itself: int8, +1 where ``score > high``, -1 where ``score < low``, else 0."""
    return (score > high).to(torch.int8) - (score < low).to(torch.int8)


def _kernel(name: str, first: Tensor, second: Tensor | None = None) -> Callable[..., int] | None:
    """A compiled kernel, if it can read these tensors: plain ones on the CPU, float32, the second float32 or int8.

    None also while torch records a program: it would not see what happens.
    """
    if torch.compiler.is_compiling() or torch._C._is_tracing():
        return None
    compiled = _loaded(name)
    if compiled is None or first.dtype is not torch.float32 or not first.is_cpu or type(first) not in _PLAIN:
        return None
    if first.is_neg() or (second is not None and second.is_neg()):
        return None
    if second is not None:
        wanted = torch.float32 if name == "smk_ternary_between" else torch.int8
        if second.dtype is not wanted or not second.is_cpu or type(second) not in _PLAIN or second.shape != first.shape:
            return None
    return compiled


@functools.cache
def _loaded(name: str) -> Callable[..., int] | None:
    return kernel(name, _ARGUMENTS[name], simd=True)
