"""Gem-Miner: regularised scores in [0, 1], and the lowest of them frozen for good, more and more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn

from supermask.core.batchnorm import BatchNorm
from supermask.core.initialize import starting_weight
from supermask.core.method import (
    Method,
    check_choice,
    check_count,
    check_density,
    check_flag,
    check_initializer,
    check_range,
)
from supermask.core.parametrizations import Selected
from supermask.core.registry import register
from supermask.core.select import masks_by_score, promised, selected
from supermask.core.sparsifier import Sparsifier
from supermask.core.targets import Target
from supermask.errors import MaskError
from supermask.tensors.initializers import Initializer
from supermask.tensors.philox import Stream

Regularization = Literal["l2", "l1"]


@register
@dataclass(frozen=True, kw_only=True)
class GemMiner(Method):
    """Gem-Miner: learns which frozen random weights to use, freezes the least wanted step by step, then trains the rest.

    Update, with frozen weight W, learnt score p in [0, 1] and q = 0 where frozen out, else 1::

        weight = W * q where p > 0.5, else 0
        dL/dp  = dL/dweight * W + d/dp of strength * sum(p**2)      (straight through; p is clamped after each step)

    At ``freezings`` = N evenly spaced moments, the lowest p of all layers together are frozen out, so that after the i-th
    density**(i / N) of all weights are left. After the search all that are left are switched on: exactly ``density``. A second
    round trains their weights.

    **Source:** Kartik Sreenivasan, Jy-yong Sohn, Liu Yang, Matthew Grinde, Alliot Nagle, Hongyi Wang, Eric Xing, Kangwook Lee,
    Dimitris Papailiopoulos, "Rare Gems: Finding Lottery Tickets at Initialization", NeurIPS 2022, arXiv 2202.12002; code
    ksreenivasan/pruning_is_enough at 8c4c9e8c.

    **Differs:** (1) Exact counts at every freezing; with the code's threshold, equal p (all that are clamped to 0) go
    together. (2) The loss's gradient also reaches the p of frozen weights, which never return: nothing else depends on it,
    unless the norm of the gradient is clipped. (3) Both rounds train with one optimizer section; the paper fine-tunes at a
    tenth of the rate. (4) Layers are found by type, not listed by hand, so shortcuts take part. (5) Biases train as usual.

    **Cost:** per step the penalty's gradient and six more passes over the weights. Memory: 6 bytes a weight more than dense
    training. The second round takes as long as the first.

    Args:
        density: Fraction of the targeted weights that remains, in (0, 1]. Default 0.0372: one of the paper's.
        freezings: How often p are frozen out. Default 29: every 5 of the paper's 150 epochs.
        regularization: ``l2`` (default, the paper's): strength * sum(p**2); ``l1``: strength * sum(p).
        strength: >= 0. Default 3e-5: the paper's at density 0.0372 (1e-4 at 0.0059).
        unflag: True (default): after the search also those weights come back that p <= 0.5 hid without freezing them out
            (the code's ``unflag_before_finetune``): before the second round, so that the search's last test is one of the masks
            it trained; without ``finetune``, at the last step. False: they stay hidden, and ``density`` is an upper bound.
        finetune: A second round trains the remaining weights from the frozen values. Default true: the paper's.
        batchnorm: ``non-affine`` (default): scale and shift stay as they are, statistics are collected; ``trained``.
        weights: Initialiser of W. Default He signed constant: the authors'.

    Raises:
        HyperparameterError: A field is out of range.
        MaskError: Scores given to ``attach`` lie outside [0, 1].
    """

    name: ClassVar[str] = "gem-miner"
    redraws: ClassVar[bool] = True

    density: float = 0.0372
    freezings: int = 29
    regularization: Regularization = "l2"
    strength: float = 3e-5
    unflag: bool = True
    finetune: bool = True
    batchnorm: BatchNorm = "non-affine"
    weights: Initializer = Initializer(distribution="signed-constant", rule="he")

    def __post_init__(self) -> None:
        check_density(self.name, self.density)
        check_count(self.name, "freezings", self.freezings, "freezings")
        check_choice(self.name, "regularization", self.regularization, get_args(Regularization))
        check_range(self.name, "strength", self.strength, 0.0, float("inf"))
        check_flag(self.name, "unflag", self.unflag)
        check_flag(self.name, "finetune", self.finetune)
        check_choice(self.name, "batchnorm", self.batchnorm, get_args(BatchNorm))
        check_initializer(self.name, "weights", self.weights)

    @classmethod
    def examples(cls, model: nn.Module) -> tuple[Self, ...]:
        """More freezings than a short run has steps, and fewer."""
        more = cls(density=0.6, freezings=3, regularization="l1", unflag=False, finetune=False, batchnorm="trained")
        return (cls(density=0.7), more)

    def promised_density(self) -> float | None:
        """None where weights that are left may still be hidden."""
        return self.density if self.unflag else None

    def setup(self, s: Sparsifier) -> None:
        """Draw weights and scores."""
        promised(s.targets, self.density)  # also where it is but an upper bound
        for target in s.targets:
            s.install_score(
                target, Selected(starting_weight(s, target, self.weights), absolute=False), self._score(s, target)
            )
            s.state[f"left/{target.name}"] = torch.ones_like(target.parameter, dtype=torch.bool)
            selected(target).select(target.parameter > 0.5)
        s.freeze_batchnorm(self.batchnorm)

    def penalty(self, s: Sparsifier) -> Tensor | None:
        """The regularisation of the search; none while weights are trained."""
        if s.round > 0 or self.strength == 0.0:
            return None
        power = 2 if self.regularization == "l2" else 1
        total = torch.stack([(target.parameter**power).sum() for target in s.targets]).sum()
        return self.strength * total

    def after_step(self, s: Sparsifier) -> None:
        """Clamp, freeze out when it is due, choose the masks; nothing while weights are trained."""
        if s.round > 0:
            return
        assert s.total_steps is not None
        for target in s.targets:
            target.parameter.data.clamp_(0.0, 1.0)
        due = self._due(s.step, s.total_steps)
        if due > self._due(s.step - 1, s.total_steps):
            self._freeze(s, due)
        ended = s.step >= s.total_steps
        on = 0
        for target in s.targets:
            codes = s.state[f"left/{target.name}"]
            if not (ended and self.unflag and not self.finetune):
                codes = codes & (target.parameter > 0.5)
            selected(target).select(codes)
            on += int(torch.count_nonzero(codes))
        allowed = promised(s.targets, self.density)
        if s.step == s.total_steps and not self.unflag and on < allowed:
            s.note(
                f"{self.name}: {on:,} weights remain of the {allowed:,} that density allows: scores below 0.5 hide more"
            )

    def next_round(self, s: Sparsifier) -> bool:
        """After the search, train what it left."""
        if not self.finetune or s.round > 0:
            return False
        for target in s.targets:
            if self.unflag:
                selected(target).select(s.state[f"left/{target.name}"])
            s.train_weight(target)
        return True

    def _score(self, s: Sparsifier, target: Target) -> Tensor:
        score = s.initial_score(target)
        if score is None:
            drawn = torch.from_numpy(Stream(s.seed, "scores", target.name).uniform(target.size))
            return drawn.reshape(target.shape)
        if not bool(((score >= 0.0) & (score <= 1.0)).all()):
            raise MaskError(
                f"{self.name}: scores of {target.name} must lie in [0, 1], got {score.min()} to {score.max()}"
            )
        return score

    def _due(self, step: int, total_steps: int) -> int:
        """Freezings that are done after a step; all of them after the last, however short training is."""
        return min(self.freezings, step * (self.freezings + 1) // total_steps)

    def _freeze(self, s: Sparsifier, done: int) -> None:
        scores = [torch.where(s.state[f"left/{t.name}"], t.parameter.detach(), -1.0) for t in s.targets]
        density = self.density ** (done / self.freezings)
        for target, mask in zip(s.targets, masks_by_score(s.targets, scores, density, "global"), strict=True):
            s.state[f"left/{target.name}"].copy_(mask)
