"""Ways to make a weight from what is stored.

``Masked``: a trained weight and a mask. ``Scored``: a frozen weight and a learnt score, which either is compared with
thresholds (``Thresholded``), or whose codes the method chooses after each step (``Selected``), or is the logit of a random
mask (``Sampled``).

They hold no reference to a sparsifier or an optimizer, so a model that carries them can be copied, compiled and exported.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from supermask.kernels.ternary import straight_through, ternary, ternary_between, ternary_codes
from supermask.tensors.philox import Stream
from supermask.tensors.scores import wide


class Masked(nn.Module):
    """``weight = dense * mask``.

    Args:
        mask: Bool, shape of the weight, True = remaining.
        applied: False only tracks the mask: the forward uses the dense weight until ``sparse()`` or ``finalize()``.
        dense_grad: True lets the gradient reach hidden weights as if they remained (for methods that grow by it); the
            sparsifier masks it before the step. The forward pass is then the identity: the sparsifier keeps stored values
            at zero where they are hidden.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, *, applied: bool = True, dense_grad: bool = False) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.applied = applied
        self.dense_grad = dense_grad

    def forward(self, dense: Tensor) -> Tensor:
        """The effective weight."""
        if self.dense_grad or not self.applied:
            return dense
        return dense * self.mask.view(torch.uint8)  # bytes: a bool factor is slower on a CPU


class Scored(nn.Module, abc.ABC):
    """A frozen weight and a learnt score; the subclass says which of it remains. What core asks of every one.

    A score is stored in float32 at least; the weight it makes, and so the gradient that comes back, has the frozen weight's
    dtype. The gradient of the score is computed in the score's dtype.

    Attributes:
        redraws: Whether hidden frozen weights may be replaced during training; those that remain never are.
        released: Whether a score is learnt no longer: what is stored is the weight, trained under a fixed mask.
    """

    redraws = False
    released = False

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
    like: Tensor
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
        kind = wide(frozen.dtype)  # as scores are
        self.register_buffer("low", torch.tensor(low, dtype=kind, device=frozen.device))
        self.register_buffer("high", torch.tensor(high, dtype=kind, device=frozen.device))
        # says in which dtype, and on which device, the weight is wanted: it follows the model
        self.register_buffer("like", frozen.new_empty(0), persistent=False)
        self._threshold = self.high.item()
        self._wanted = self.like.dtype

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
        self._wanted = self.like.dtype
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
            weight = ternary(stored, self._threshold, self.scale)
        else:
            frozen = self.frozen if self.frozen is not None else self.sign
            weight = _BetweenStraightThrough.apply(stored, self.low, self.high, frozen, self.scale)  # type: ignore[no-untyped-call]
        return weight if weight.dtype is self._wanted else weight.to(self._wanted)

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
        return self.frozen if self.frozen is not None else self.signs().to(self.like.dtype) * self.scale

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
        factor: Another factor of the gradient, for codes that are sums of several masks.
        redraws: Whether :meth:`replace` will be used.
    """

    base: Tensor
    slope: Tensor | None
    codes: Tensor
    scale: Tensor | None

    def __init__(
        self,
        base: Tensor,
        *,
        slope: Tensor | None = None,
        absolute: bool = True,
        scaled: bool = False,
        factor: int = 1,
        redraws: bool = False,
    ) -> None:
        super().__init__()
        self.absolute = absolute
        self.factor = factor
        self.redraws = redraws
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

    def replace(self, values: Tensor, where: Tensor) -> None:
        """Take over other frozen weights where a bool tensor is True; in place, for hidden ones only."""
        assert self.redraws
        self.base.copy_(torch.where(where, values.to(self.base), self.base))

    def release(self) -> Tensor:
        """End the learning of scores; returns the effective weight, which is to be stored and trained in their place."""
        weight = self.base * self.codes
        self.released = True
        return weight if self.scale is None else weight.mul_(self.scale)

    def get_extra_state(self) -> Tensor:
        """Whether the weight was released."""
        return torch.tensor(self.released)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over what :meth:`get_extra_state` gave."""
        self.released = bool(state)

    def forward(self, score: Tensor) -> Tensor:
        """The effective weight."""
        if self.released:
            return (score * self.codes).to(self.base.dtype)
        # torch.compile takes no tensor twice: a slope that is the base is passed as None
        weight: Tensor = _SelectStraightThrough.apply(  # type: ignore[no-untyped-call]
            score, self.base, self.slope, self.codes, self.scale, self.absolute, self.factor
        )
        return weight

    def frozen_weight(self) -> Tensor:
        """The frozen weight."""
        return self.base if self.slope is None else self.slope

    def remaining(self, stored: Tensor) -> Tensor:  # noqa: ARG002
        """Bool, True = remaining."""
        return self.codes != 0


class Sampled(Scored):
    """``weight = base * m * c``, with ``m`` a random mask of which each entry is 1 with probability ``sigmoid(score)``.

    The method draws (:meth:`take`) when it is attached and after every step, not the forward pass: scores move in steps
    only, and this way the parts of a batch, activation checkpointing and tests see one mask. The gradient passes straight
    through the draw: ``dL/dscore = dL/dm * sigmoid'(score)``.

    ``soft`` masks have no draw: while training, the entries taken are ``m = sigmoid(score)`` and the others are rounded,
    without a gradient; in evaluation all are rounded (1 above a score of 0).

    Args:
        base: The frozen weight.
        soft: See above.
        rescale: ``c = n / max(1, sum(m))`` instead of 1.
        through: Whether the gradient also flows through ``c``.
    """

    base: Tensor
    taken: Tensor

    def __init__(self, base: Tensor, *, soft: bool = False, rescale: bool = False, through: bool = True) -> None:
        super().__init__()
        self.soft = soft
        self.rescale = rescale
        self.through = through
        self.rounded = False
        self.register_buffer("base", base.clone())
        self.register_buffer("taken", torch.ones_like(base, dtype=torch.int8))

    @property
    def signed(self) -> bool:
        """Never: an entry is there or not."""
        return False

    def take(self, where: Tensor) -> None:
        """Take over a draw: the mask, or which entries are soft."""
        self.taken.copy_(where)

    def forward(self, score: Tensor) -> Tensor:
        """The effective weight."""
        if not self.soft:
            mask: Tensor = _DrawStraightThrough.apply(score, self.taken)  # type: ignore[no-untyped-call]
        else:
            mask = (score > 0).to(score.dtype)
            if self.training and not self.rounded:
                mask = torch.where(self.taken.bool(), torch.sigmoid(score), mask)
        weight = self.base * mask
        if self.rescale:
            # a count of float16 ends at 65,504
            total = (mask if self.through else mask.detach()).sum(dtype=wide(mask.dtype)).clamp(min=1.0)
            weight = weight * (mask.numel() / total)
        return weight.to(self.base.dtype)

    def frozen_weight(self) -> Tensor:
        """The frozen weight."""
        return self.base

    def remaining(self, stored: Tensor) -> Tensor:
        """Bool, True = remaining."""
        return stored.detach() > 0 if self.soft else self.taken != 0


def read_directly(module: nn.Module, attribute: str) -> None:
    """Let a parametrized attribute be made from the stored tensor without torch's detours.

    Torch's way goes through two more modules, which at every access costs as much time as the arithmetic of a small layer.
    With several parametrizations on top of each other, or in ``parametrize.cached()``, it is taken as usual.
    """
    cls = type(module)
    general: property = getattr(cls, attribute)
    assert general.fget is not None
    through_all = general.fget

    def made(self: nn.Module) -> Any:
        chain: Any = self._modules["parametrizations"]._modules[attribute]  # type: ignore[union-attr]
        modules = chain._modules
        if len(modules) != 1 or parametrize._cache_enabled:
            return through_all(self)
        return modules["0"].forward(chain._parameters["original"])

    setattr(cls, attribute, property(made, general.fset))


# The functions below define forward(ctx, ...) in one piece: with a separate setup_context, torch inspects the signature of
# forward at every call, which costs more than the arithmetic of a small layer.


class _SelectStraightThrough(torch.autograd.Function):
    """base * codes * scale, with the gradient of score * slope * factor, or of |score| * slope * factor."""

    @staticmethod
    def forward(
        ctx: Any,
        score: Tensor,
        base: Tensor,
        slope: Tensor | None,
        codes: Tensor,
        scale: Tensor | None,
        absolute: bool,
        factor: int,
    ) -> Tensor:
        ctx.save_for_backward(base if slope is None else slope, *((score,) if absolute else ()))
        ctx.factor, ctx.dtype = factor, score.dtype
        weight = base * codes
        return weight if scale is None else weight.mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        slope, *score = ctx.saved_tensors
        weighted = grad.to(ctx.dtype) * slope
        if score:
            weighted.mul_(score[0].sign())
        if ctx.factor != 1:
            weighted.mul_(ctx.factor)
        return weighted, None, None, None, None, None, None


class _DrawStraightThrough(torch.autograd.Function):
    """A drawn mask, with the gradient of the sigmoid of the score."""

    @staticmethod
    def forward(ctx: Any, score: Tensor, drawn: Tensor) -> Tensor:
        ctx.save_for_backward(score)
        return drawn.to(score.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (score,) = ctx.saved_tensors
        p = torch.sigmoid(score)
        return grad * (p - p * p), None


class _BetweenStraightThrough(torch.autograd.Function):
    """frozen * scale * code(score) for any thresholds."""

    @staticmethod
    def forward(ctx: Any, score: Tensor, low: Tensor, high: Tensor, frozen: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(frozen)
        ctx.scale = scale
        ctx.dtype = score.dtype
        return ternary_between(score, low, high, frozen, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (frozen,) = ctx.saved_tensors
        return straight_through(grad.to(ctx.dtype), frozen, ctx.scale), None, None, None, None
