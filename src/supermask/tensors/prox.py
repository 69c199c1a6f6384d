"""Proximal maps of sparse penalties: soft thresholds of single entries, and of whole groups by their norm.

``prox(v) = argmin_g 1/2 ||g - v||^2 + penalty(g)`` has a closed form for both:

* elementwise, ``penalty = t * sum |g_i|``: ``sign(v_i) * max(|v_i| - t, 0)``;
* in groups, ``penalty = t * sum ||g_group||_2``: ``v_group * max(1 - t / ||v_group||_2, 0)``, 0 where the norm is 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Unit = Literal["elementwise", "kernel", "filter", "layer"]


def soft_threshold(v: Tensor, threshold: float, *, out: Tensor | None = None) -> Tensor:
    """``sign(v) * max(|v| - threshold, 0)``.

    Args:
        v: Any shape, floating point.
        threshold: At least 0. An entry of exactly this magnitude becomes 0.
        out: Where the result goes: a tensor of v's shape and dtype, not v itself.

    Returns:
        Shape and dtype of v; NaN stays NaN.
    """
    out = torch.empty_like(v) if out is None else out
    torch.ops.aten.softshrink.out(v, threshold, out=out)
    return out


def shrink_groups(v: Tensor, threshold: float, dims: tuple[int, ...], *, out: Tensor | None = None) -> Tensor:
    """``v * max(1 - threshold / norm, 0)``, the norm taken over ``dims``.

    Args:
        v: Any shape, floating point.
        threshold: At least 0. A group whose norm is exactly this, or 0, becomes 0.
        dims: Dimensions along which one group extends; at least one.
        out: Where the result goes: a tensor of v's shape and dtype; it may be v itself.

    Returns:
        Shape and dtype of v; NaN makes its group NaN.
    """
    out = torch.empty_like(v) if out is None else out
    norm = torch.linalg.vector_norm(v, dim=dims, keepdim=True)
    factor = torch.where(norm <= threshold, 0.0, 1.0 - threshold / norm)
    return torch.mul(v, factor, out=out)


@dataclass(frozen=True)
class Grouping:
    """How the entries of one weight form groups.

    Args:
        unit: ``elementwise``: every entry alone. For a convolution, of shape (out, in, *kernel): ``filter``: all entries of
            one output channel; ``kernel``: those of one output and one input channel; ``layer``: all.
        transposed: A transposed convolution stores (in, out, *kernel).
        groups: Of a transposed grouped convolution: its output channels repeat for every group of inputs.
    """

    unit: Unit = "elementwise"
    transposed: bool = False
    groups: int = 1

    def prox(self, v: Tensor, threshold: float, normalised: bool = False, *, out: Tensor | None = None) -> Tensor:
        """The proximal map of ``threshold`` times the sum of the groups' norms.

        Args:
            v: A weight's shape, floating point.
            threshold: At least 0.
            normalised: Multiply the threshold by the square root of the group's size.
            out: As for :func:`soft_threshold`.

        Returns:
            Shape and dtype of v.
        """
        threshold = self._scaled(v, threshold, normalised)
        if self.unit == "elementwise":
            return soft_threshold(v, threshold, out=out)
        out = torch.empty_like(v) if out is None else out
        view, dims = self._view(v)
        shrink_groups(view, threshold, dims, out=self._view(out)[0])
        return out

    def wait(self, v: Tensor, increment: Tensor, threshold: float, normalised: bool = False) -> Tensor:
        """How many increments v is away from a prox that is not 0, if they point the way v does.

        Args:
            v: A weight's shape, floating point.
            increment: Same shape; what is added at a time.
            threshold: As for :meth:`prox`.
            normalised: As for :meth:`prox`.

        Returns:
            ``max(threshold - ||v_group||, 0) / ||increment_group||`` for each entry, of v's shape and dtype; large and
            finite where nothing is added, 0 where the prox is not 0 already.
        """
        missing = (self._scaled(v, threshold, normalised) - self.norms(v)).clamp_(min=0.0)
        return missing / self.norms(increment.to(v.dtype)).clamp_(min=1e-30)

    def norms(self, v: Tensor) -> Tensor:
        """Euclidean norm of each entry's group; a fresh tensor of v's shape and dtype."""
        if self.unit == "elementwise":
            return v.abs()
        view, dims = self._view(v)
        norm: Tensor = torch.linalg.vector_norm(view, dim=dims, keepdim=True)
        return norm.expand_as(view).reshape(v.shape).clone()

    def rms(self, v: Tensor) -> Tensor:
        """Root mean square of each entry's group, to compare groups of different sizes; shape and dtype of v."""
        return self.norms(v).div_(math.sqrt(self._size(v)))

    def _scaled(self, v: Tensor, threshold: float, normalised: bool) -> float:
        return threshold * math.sqrt(self._size(v)) if normalised else threshold

    def _size(self, v: Tensor) -> int:
        """Entries of one group."""
        view, dims = self._view(v)
        return math.prod(view.shape[dim] for dim in dims)

    def _view(self, v: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """A view of v, and its dimensions along which one group extends."""
        if self.unit == "elementwise":
            return v, ()
        if self.unit == "layer":
            return v, tuple(range(v.dim()))
        if self.unit == "kernel":
            return v, tuple(range(2, v.dim()))
        if not self.transposed:
            return v, tuple(range(1, v.dim()))
        view = v.unflatten(0, (self.groups, -1))  # (groups, in of one group, out of one group, *kernel)
        return view, (1, *range(3, view.dim()))
