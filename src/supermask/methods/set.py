"""Sparse evolutionary training: the smallest weights move to random places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import nn

from supermask.core.method import Method, check_choice
from supermask.core.moving import Anneal, check_moving, fraction_due
from supermask.core.registry import register
from supermask.core.select import Law, random_masks
from supermask.core.sparsifier import Sparsifier
from supermask.core.targets import Target
from supermask.errors import DivergedError
from supermask.tensors import regrow
from supermask.tensors.philox import Stream
from supermask.tensors.topk import holds_nan

Drop = Literal["by-sign", "magnitude"]
NewWeights = Literal["random", "zero"]


@register
@dataclass(frozen=True, kw_only=True)
class SET(Method):
    """Sparse evolutionary training: every so often the smallest weights go, and as many come back at random places.

    Update: after the gradient step t, where ``t`` is a multiple of ``every`` and ``t < end * total_steps``, in each layer:
    of ``p`` active weights that are not negative ``floor(zeta * p)`` are dropped, of ``n`` negative ones ``floor(zeta * n)``
    (``drop: magnitude``: of all ``a`` active ones ``floor(zeta * a)``), and as many positions are drawn from all that are not
    active now. The dropped ones are among them, as in the original. A layer's count never changes.

    **Source:** Decebal Constantin Mocanu, Elena Mocanu, Peter Stone, Phuong H. Nguyen, Madeleine Gibescu, Antonio Liotta,
    "Scalable training of artificial neural networks with adaptive sparse connectivity inspired by network science", Nature
    Communications 2018, arXiv 1707.04780; ``new_weights: zero`` with ``drop: magnitude`` is the baseline of
    google-research/rigl, commit d39fc7d.

    **Differs:** exact counts instead of a histogram or a draw per entry; an event every ``every`` steps, where the original
    has one an epoch; after the last step nothing moves. New weights are normal with the standard deviation that the layer's
    weights had at ``attach``; the original's is a constant.

    **Cost:** a static mask's step, and an event: a selection among the active weights of each layer. Memory: a byte a weight.

    Args:
        density: Fraction of the targeted weights that remains, in (0, 1]. Default 0.1: ours.
        scope: Law of the layers' densities: ``erk`` (default, RigL's), ``er`` (the original's) or ``uniform``.
        first_dense: Whether the first layer stays dense, and the others share what is left. Default false.
        drop_fraction: The paper's zeta, in (0, 1]. Default 0.3: the paper's.
        anneal: ``constant`` (default, the paper's), or ``cosine`` down to 0 at ``end``.
        every: Optimizer steps between events. Default 100: RigL's.
        end: Progress at which events end, in (0, 1]. Default 1: the paper's.
        drop: ``by-sign`` (default, the original's): zeta of the positive weights, the smallest, and zeta of the negative ones,
            the largest; ``magnitude``: the smallest magnitudes of all.
        new_weights: ``random`` (default, the original's): all that are drawn get new values, also those just dropped;
            ``zero``: they start at 0, and one that was just dropped keeps its value and its momentum.

    Raises:
        HyperparameterError: A field is out of range.
    """

    name: ClassVar[str] = "set"

    density: float = 0.1
    scope: Law = "erk"
    first_dense: bool = False
    drop_fraction: float = 0.3
    anneal: Anneal = "constant"
    every: int = 100
    end: float = 1.0
    drop: Drop = "by-sign"
    new_weights: NewWeights = "random"

    def __post_init__(self) -> None:
        check_moving(self)
        check_choice(self.name, "drop", self.drop, get_args(Drop))
        check_choice(self.name, "new_weights", self.new_weights, get_args(NewWeights))

    @classmethod
    def examples(cls, model: nn.Module) -> tuple[Self, ...]:
        """The original and RigL's baseline, with events frequent enough for a short run."""
        baseline = cls(every=3, density=0.6, drop="magnitude", new_weights="zero", anneal="cosine", end=0.9)
        return (cls(every=2, density=0.3), baseline)

    def setup(self, s: Sparsifier) -> None:
        """Draw and install the masks."""
        masks = random_masks(s.targets, s.seed, self.density, self.scope, first_dense=self.first_dense)
        for target, mask in zip(s.targets, masks, strict=True):
            if self.new_weights == "random":
                s.state[f"std/{target.name}"] = target.parameter.detach().double().std(correction=0)
            s.install_mask(target, mask)

    def after_step(self, s: Sparsifier) -> None:
        """Move connections when an event is due; not in steps that were left out, after which nothing trains."""
        fraction = fraction_due(s, self)
        if fraction is None or s.catching_up:
            return
        for target in s.targets:
            self._move(s, target, fraction)

    def _move(self, s: Sparsifier, target: Target, fraction: float) -> None:
        weight, active = target.parameter.detach(), regrow.active_positions(target.mask)
        if active.numel() == target.size:
            return  # a dense layer has nowhere to go
        if holds_nan(weight):
            raise DivergedError(f"training diverged: {target.name} holds NaN")
        if self.drop == "by-sign":
            kept = regrow.keep_largest_by_sign(weight, active, fraction)
        else:
            kept = regrow.keep_largest(weight, active, regrow.drop_count(fraction, active.numel()))
        place = (s.seed, "grow", target.name, s.round, s.step)
        mask = regrow.grow_random(target.shape, kept, active.numel() - kept.numel(), Stream(*place))
        if self.new_weights == "random":
            new = mask.clone()
            new.view(-1)[kept] = False
            s.set_mask(target, mask & ~new)  # a weight that was dropped and drawn again forgets its momentum, too
            s.set_mask(target, mask)
            values = Stream(s.seed, "values", target.name, s.round, s.step).normal(active.numel() - kept.numel())
            weight.masked_scatter_(new, (torch.from_numpy(values) * s.state[f"std/{target.name}"].cpu()).to(weight))
        else:
            s.set_mask(target, mask)
