"""SGD with momentum and decoupled decay, in one pass over memory and bit for bit what torch's fused kernel gives.

Where torch rounds follows from how it was built. So the compiled step is compared with torch's at the first use in a
process, and is not used if one bit differs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from ctypes import c_float, c_int, c_int64, c_void_p
from typing import Final

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from supermask.kernels.library import kernel, variant

Step = Callable[..., None]

_PLAIN: Final = (Tensor, nn.Parameter)
_WIDTHS: Final = (16, 8, 4)  # entries of torch's vectors: AVX-512, AVX2, NEON
_PROBE: Final = 269  # entries; no multiple of a width
_ARGUMENTS: Final = (c_int64, *(c_void_p,) * 4, c_int64, c_float, c_float, c_float, c_int)


def momentum_step(
    params: Sequence[Tensor],
    gradients: Sequence[Tensor],
    buffers: Sequence[Tensor],
    lr: float,
    momentum: float,
    nesterov: bool,
    decay: float,
) -> bool:
    """One step in place, compiled: ``p -= decay * p``; ``m = momentum * m + g``; ``p -= lr * (g + momentum * m)``.

    Args:
        params: Parameters, each laid out in memory as its gradient and its buffer.
        gradients: Their gradients.
        buffers: Their momenta.
        lr: Learning rate.
        momentum: Factor of the momentum, in (0, 1).
        nesterov: As above; else ``p -= lr * m``.
        decay: Share of the parameters that is taken off, in [0, 1).

    Returns:
        Whether it was done. If not, nothing was changed and torch has to do it: there is no compiled step of the same bits,
        the process computes on several threads, or a tensor is not a plain, dense one of float32 on the CPU.
    """
    if torch.get_num_threads() != 1 or torch.compiler.is_compiling():
        return False
    step = _same_as_torch()
    if step is None or not all(map(_readable, params, gradients, buffers)):
        return False
    step(params, gradients, buffers, lr, momentum, nesterov, decay)
    # a graph that still needs the old values is then refused
    torch.autograd.graph.increment_version([*params, *buffers])
    return True


def _torch_step(
    params: Sequence[Tensor],
    gradients: Sequence[Tensor],
    buffers: Sequence[Tensor],
    lr: float,
    momentum: float,
    nesterov: bool,
    decay: float,
) -> None:
    """The same by torch's fused kernel, to compare with."""
    if decay:
        torch._foreach_mul_(list(params), 1.0 - decay)
    sgd(
        list(params),
        list(gradients),
        list(buffers),
        fused=True,
        weight_decay=0.0,
        momentum=momentum,
        lr=lr,
        dampening=0.0,
        nesterov=nesterov,
        maximize=False,
    )


def _readable(param: Tensor, gradient: Tensor, buffer: Tensor) -> bool:
    """Whether the compiled step can walk these three in the order of memory."""
    for tensor in (param, gradient, buffer):
        if tensor.dtype is not torch.float32 or not tensor.is_cpu or tensor.is_sparse or type(tensor) not in _PLAIN:
            return False
        if tensor.is_neg():
            return False
    return param.is_contiguous() or param.is_contiguous(memory_format=torch.channels_last)


def _step(width: int) -> Step | None:
    """The compiled step for vectors of torch of a width; None without a library, or without fused multiply-add."""
    compiled = None if variant() == "generic" else kernel("smk_sgd", _ARGUMENTS, simd=True)
    if compiled is None:
        return None

    def step(
        params: Sequence[Tensor],
        gradients: Sequence[Tensor],
        buffers: Sequence[Tensor],
        lr: float,
        momentum: float,
        nesterov: bool,
        decay: float,
    ) -> None:
        n = len(params)
        pointers, counts = c_void_p * n, (c_int64 * n)(*[param.numel() for param in params])
        addresses = [pointers(*[tensor.data_ptr() for tensor in group]) for group in (params, gradients, buffers)]
        compiled(n, *addresses, counts, width, 1.0 - decay, momentum, lr, nesterov)

    return step


@functools.cache
def _same_as_torch() -> Step | None:
    """The compiled step, if it gives torch's bits here."""
    steps = [step for step in map(_step, _WIDTHS) if step is not None]
    return next((step for step in steps if _agrees(step, True) and _agrees(step, False)), None)


def _agrees(step: Step, nesterov: bool) -> bool:
    start = torch.sin(torch.arange(3.0 * _PROBE)).split(_PROBE)
    ours, theirs = ([[tensor.clone()] for tensor in start] for _ in range(2))
    step(*ours, 0.0371, 0.9, nesterov, 1e-3)
    (params, gradients, buffers) = theirs
    _torch_step(params, gradients, buffers, 0.0371, 0.9, nesterov, 1e-3)
    return all(torch.equal(one, other) for (one,), (other,) in zip(ours, theirs, strict=True))
