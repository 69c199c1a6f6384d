"""Two ways to make a weight from what is stored.

``Masked``: a trained weight and a mask. ``Scored``: a frozen weight and a learnt score, which either is compared with
thresholds (``Thresholded``), or whose codes the method chooses after each step (``Selected``).

They hold no reference to a sparsifier or an optimizer, so a model that carries them can be copied, compiled and exported.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from supermask.kernels.ternary import ternary, ternary_between, ternary_codes
from supermask.tensors.philox import Stream


class Masked(nn.Module):
    """``weight = dense * mask``.

    Args:
        mask: Bool, shape of the weight, True = remaining.
        applied: False only tracks the mask: the forward uses the dense weight until ``sparse()`` or ``finalize()``.
        dense_grad: True lets the gradient reach hidden weights as if they remained (for methods that grow by it); the
            sparsifier masks it before the step.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, *, applied: bool = True, dense_grad: bool = False) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.applied = applied
        self.dense_grad = dense_grad

    def forward(self, dense: Tensor) -> Tensor:
        """The effective weight."""
        if not self.applied:
            return dense
        if self.dense_grad:
            masked: Tensor = _MaskStraightThrough.apply(dense, self.mask)  # type: ignore[no-untyped-call]
            return masked
        return dense * self.mask.view(torch.uint8)  # bytes: a bool factor is slower on a CPU


class Scored(nn.Module, abc.ABC):
    """A frozen weight and a learnt score; the subclass says which of it remains. What core asks of every one."""

    @property
    @abc.abstractmethod
    def signed(self) -> bool:
        """Whether a weight may be inverted, so that a mask has signs."""

    @abc.abstractmethod
    def frozen_weight(self) -> Tensor:
        """The frozen weight; the same tensor of values through all of training."""

    @abc.abstractmethod
    def remaining(self, stored: Tensor) -> Tensor:
        """Bool, True = remaining, from the stored score."""

    def relative_score(self, stored: Tensor) -> Tensor:
        """The score relative to the frozen weight, from the stored one."""
        return stored.detach()

    def stored_score(self, score: Tensor) -> Tensor:
        """The inverse of :meth:`relative_score`."""
        return score.detach()


class Thresholded(Scored):
    """``weight = frozen * code(score)``, the code +1 above ``high``, -1 below ``low``, 0 between, both strictly.

    The gradient passes straight through the code: ``dL/dscore = dL/dweight * frozen``.

    Where all frozen weights have one magnitude ``scale`` and ``low == -high``, the stored score is ``sign * score``:
    then ``weight = scale * code(stored)`` exactly, and neither sign nor weight is read during training ("absorbed").
    The signs are then kept only if they cannot be drawn again from a seed, as one byte each.

    Args:
        frozen: The frozen weight; not kept when one magnitude and signs replace it.
        low: Score below which the weight is inverted; ``-inf`` never inverts (a binary mask).
        high: Score above which the weight is kept.
        origin: (seed, target name) when the signs come from ``Stream(seed, "weights", name).signs``.
        fixed_thresholds: False when thresholds will move apart later, which rules out absorbing.
    """

    low: Tensor
    high: Tensor
    sign: Tensor | None
    frozen: Tensor | None

    def __init__(
        self,
        frozen: Tensor,
        low: float,
        high: float,
        *,
        origin: tuple[int, str] | None = None,
        fixed_thresholds: bool = True,
    ) -> None:
        super().__init__()
        magnitude = frozen.abs().flatten()[0]
        constant = bool(magnitude > 0) and bool((frozen.abs() == magnitude).all())
        self.scale = magnitude.item() if constant else 1.0
        self.absorbed = constant and fixed_thresholds and low == -high
        self.origin = origin if constant else None
        self.shape = frozen.shape
        keep_sign = constant and not (self.absorbed and self.origin)
        self.register_buffer("sign", frozen.sign().to(torch.int8) if keep_sign else None)
        self.register_buffer("frozen", None if constant else frozen.clone())
        self.register_buffer("low", torch.tensor(low, dtype=frozen.dtype, device=frozen.device))
        self.register_buffer("high", torch.tensor(high, dtype=frozen.dtype, device=frozen.device))
        self._threshold = self.high.item()

    @property
    def signed(self) -> bool:
        """Whether a weight may be inverted: a lower threshold exists."""
        return bool(torch.isfinite(self.low))

    def set_thresholds(self, low: float, high: float) -> None:
        """Move both thresholds, in place."""
        assert not self.absorbed
        self.low.fill_(low)
        self.high.fill_(high)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if not self.high.is_meta:
            self._threshold = self.high.item()  # in the new dtype
        return self

    def get_extra_state(self) -> Tensor:
        """The scale, as a float64 tensor."""
        return torch.tensor(self.scale, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over a scale that :meth:`get_extra_state` gave."""
        self.scale = float(state)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._threshold = self.high.item()

    def forward(self, stored: Tensor) -> Tensor:
        """The effective weight from the stored score."""
        weight: Tensor
        if self.absorbed:
            weight = _TernaryStraightThrough.apply(stored, self._threshold, self.scale)  # type: ignore[no-untyped-call]
        else:
            frozen = self.frozen if self.frozen is not None else self.sign
            weight = _BetweenStraightThrough.apply(stored, self.low, self.high, frozen, self.scale)  # type: ignore[no-untyped-call]
        return weight

    def signs(self) -> Tensor:
        """Signs of the frozen weight, int8 (0 where the weight itself is 0)."""
        if self.frozen is not None:
            return self.frozen.sign().to(torch.int8)
        if self.sign is not None:
            return self.sign
        assert self.origin is not None
        seed, name = self.origin
        signs = torch.from_numpy(Stream(seed, "weights", name).signs(self.shape.numel()))
        return signs.reshape(self.shape).to(self.low.device)

    def frozen_weight(self) -> Tensor:
        """The frozen weight."""
        return self.frozen if self.frozen is not None else self.signs().to(self.low.dtype) * self.scale

    def relative_score(self, stored: Tensor) -> Tensor:
        """The score relative to the frozen weight, from the stored one."""
        return stored.detach() * self.signs() if self.absorbed else stored.detach()

    def stored_score(self, score: Tensor) -> Tensor:
        """What is stored for a score: a sign is its own inverse."""
        return self.relative_score(score)

    def sign_mask(self, stored: Tensor) -> Tensor:
        """int8: +1 keep, 0 hide, -1 invert, relative to the frozen weight."""
        codes = ternary_codes(stored.detach(), self.low, self.high)
        return codes * self.signs() if self.absorbed else codes

    def remaining(self, stored: Tensor) -> Tensor:
        """Bool, True = remaining."""
        return ternary_codes(stored.detach(), self.low, self.high) != 0


class Selected(Scored):
    """``weight = base * codes * scale``, with codes that the method chooses (:meth:`select`), not the forward pass.

    The gradient passes straight through the codes: ``dL/dscore = dL/dweight * slope``, times ``sign(score)`` where the
    codes follow ``|score|`` (0 at a score of 0).

    Args:
        base: What a code of 1 stands for, up to the scale.
        slope: Factor of the gradient, and the frozen weight that is reported; None: the base.
        absolute: Whether the codes follow ``|score|``.
        scaled: Whether there is a scale, 1 at first; without, no time is spent on it.
    """

    base: Tensor
    slope: Tensor | None
    codes: Tensor
    scale: Tensor | None

    def __init__(
        self, base: Tensor, *, slope: Tensor | None = None, absolute: bool = True, scaled: bool = False
    ) -> None:
        super().__init__()
        self.absolute = absolute
        self.register_buffer("base", base.clone())
        self.register_buffer("slope", None if slope is None else slope.clone())
        self.register_buffer("codes", torch.ones_like(base, dtype=torch.int8))
        self.register_buffer("scale", torch.ones((), dtype=base.dtype, device=base.device) if scaled else None)

    @property
    def signed(self) -> bool:
        """Never: codes are counts."""
        return False

    def select(self, codes: Tensor, scale: Tensor | float | None = None) -> None:
        """Take over codes (bool or integers in [0, 127]), and the scale where there is one; in place."""
        self.codes.copy_(codes)
        if scale is not None:
            assert self.scale is not None
            self.scale.fill_(scale)

    def forward(self, score: Tensor) -> Tensor:
        """The effective weight."""
        weight: Tensor = _SelectStraightThrough.apply(  # type: ignore[no-untyped-call]
            score, self.base, self.base if self.slope is None else self.slope, self.codes, self.scale, self.absolute
        )
        return weight

    def frozen_weight(self) -> Tensor:
        """The frozen weight."""
        return self.base if self.slope is None else self.slope

    def remaining(self, stored: Tensor) -> Tensor:  # noqa: ARG002
        """Bool, True = remaining."""
        return self.codes != 0


# The functions below define forward(ctx, ...) in one piece: with a separate setup_context, torch inspects the signature of
# forward at every call, which costs more than the arithmetic of a small layer.


class _MaskStraightThrough(torch.autograd.Function):
    """dense * mask, with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, dense: Tensor, mask: Tensor) -> Tensor:
        return dense * mask.view(torch.uint8)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _SelectStraightThrough(torch.autograd.Function):
    """base * codes * scale, with the gradient of score * slope, or of |score| * slope."""

    @staticmethod
    def forward(
        ctx: Any, score: Tensor, base: Tensor, slope: Tensor, codes: Tensor, scale: Tensor | None, absolute: bool
    ) -> Tensor:
        ctx.save_for_backward(slope, *((score,) if absolute else ()))
        weight = base * codes
        return weight if scale is None else weight.mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        slope, *score = ctx.saved_tensors
        weighted = grad * slope
        return (weighted.mul_(score[0].sign()) if score else weighted), None, None, None, None, None


class _TernaryStraightThrough(torch.autograd.Function):
    """scale * code(score) for symmetric thresholds."""

    @staticmethod
    def forward(ctx: Any, score: Tensor, threshold: float, scale: float) -> Tensor:
        ctx.scale = scale
        return ternary(score, threshold, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad * ctx.scale, None, None


class _BetweenStraightThrough(torch.autograd.Function):
    """frozen * scale * code(score) for any thresholds."""

    @staticmethod
    def forward(ctx: Any, score: Tensor, low: Tensor, high: Tensor, frozen: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(frozen)
        ctx.scale = scale
        weight = frozen if frozen.is_floating_point() else frozen.to(score.dtype) * scale
        return ternary_between(score, low, high, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (frozen,) = ctx.saved_tensors
        weighted = grad * frozen
        return (weighted if frozen.is_floating_point() else weighted.mul_(ctx.scale)), None, None, None, None
