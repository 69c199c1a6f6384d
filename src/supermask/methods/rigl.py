"""RigL: the smallest weights move to where the gradient is largest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from torch import nn

from supermask.core.method import Method, check_flag
from supermask.core.moving import Anneal, check_moving, fraction_due
from supermask.core.registry import register
from supermask.core.select import Law, random_masks
from supermask.core.sparsifier import Sparsifier
from supermask.errors import DivergedError
from supermask.tensors import regrow


@register
@dataclass(frozen=True, kw_only=True)
class RigL(Method):
    """RigL: every so often the smallest weights go, and as many come back where the dense gradient is largest.

    Update: at a step t that is a multiple of ``every`` and ``t < T = end * total_steps``, in each layer with ``n`` active
    weights, ``floor(f * n)`` of the smallest ``|weight|`` are dropped, ``f = alpha / 2 * (1 + cos(pi * t / T))``, and as
    many positions are added that have the largest ``|dL/dweight|`` of all that are not kept, the dropped ones included.
    Such an update takes the place of the gradient step: the optimizer moves nothing. A connection that is dropped and added
    again in one update keeps its value and its momentum; others start at 0 with a momentum of 0. A layer's count never
    changes. Where every layer is dense there are no updates, and all steps are gradient steps.

    **Source:** Utku Evci, Trevor Gale, Jacob Menick, Pablo Samuel Castro, Erich Elsen, "Rigging the Lottery: making all
    tickets winners", ICML 2020, arXiv 1911.11134; google-research/rigl, commit d39fc7d.

    **Differs:** the first update is at step ``every``, because gradients of an untrained network rank by chance; the authors'
    code begins at step 0 (``update_at_start``). There an update does not count as a step; here it does, so that a run has the
    batches of every other method. The last update comes before step T; the paper's may be at T, where its cosine drops
    nothing. Ranks are exact with ties by position, where the code adds noise to break them. Hidden
    weights are 0 and see no weight decay. The promised density is that of all targets together; the paper's uniform law
    leaves the dense first layer out of it. Gradients are masked right before the optimizer's step: a norm that
    is clipped before includes those of hidden weights.

    **Cost:** one product of gradient and mask a step; an update ranks each layer's gradient, and saves a step of the
    optimizer. Memory: a byte a weight.

    Args:
        density: Fraction of the targeted weights that remains, in (0, 1]. Default 0.1: ours.
        scope: Law of the layers' densities: ``erk`` (default, the paper's best), ``er`` or ``uniform``.
        first_dense: Whether the first layer stays dense, and the others share what is left. Default false; the paper's
            uniform law has it true.
        drop_fraction: The paper's alpha, in (0, 1]. Default 0.3: the paper's.
        anneal: ``cosine`` (default, the paper's) or ``constant``.
        every: Optimizer steps between updates. Default 100: the paper's.
        end: Progress at which updates end, in (0, 1]. Default 0.75: the paper's.
        update_at_start: Whether step 0 is an update as well. Default false; the authors' code has it true.

    Raises:
        HyperparameterError: A field is out of range.
    """

    name: ClassVar[str] = "rigl"

    density: float = 0.1
    scope: Law = "erk"
    first_dense: bool = False
    drop_fraction: float = 0.3
    anneal: Anneal = "cosine"
    every: int = 100
    end: float = 0.75
    update_at_start: bool = False

    def __post_init__(self) -> None:
        check_moving(self)
        check_flag(self.name, "update_at_start", self.update_at_start)

    @classmethod
    def examples(cls, model: nn.Module) -> tuple[Self, ...]:
        """Both laws of time, with updates frequent enough for a short run."""
        constant = cls(every=3, density=0.5, scope="uniform", anneal="constant", end=1.0, update_at_start=True)
        return (cls(every=2, density=0.3), constant)

    def setup(self, s: Sparsifier) -> None:
        """Draw and install the masks."""
        masks = random_masks(s.targets, s.seed, self.density, self.scope, first_dense=self.first_dense)
        for target, mask in zip(s.targets, masks, strict=True):
            s.install_mask(target, mask, dense_grad=True)

    def before_step(self, s: Sparsifier) -> None:
        """Move connections when an update is due; the optimizer then moves nothing."""
        fraction = fraction_due(s, self)
        if fraction is None or (s.step == 0 and not self.update_at_start):
            return
        moved = False
        for target in s.targets:
            weight, gradient = target.parameter.detach(), target.parameter.grad
            active = regrow.active_positions(target.mask)
            if gradient is None or active.numel() == target.size:
                continue  # not a part of this loss, or dense: nowhere to go
            n = regrow.drop_count(fraction, active.numel())
            try:
                kept = regrow.keep_largest(weight, active, n)
                mask = regrow.grow_largest(gradient, kept, n)
            except ValueError as error:
                raise DivergedError(f"training diverged: {target.name} or its gradient holds NaN") from error
            s.set_mask(target, mask)
            moved = True
        if moved:
            s.skip_step()
