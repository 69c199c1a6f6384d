"""IteRand: edge-popup that draws pruned weights again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import nn

from supermask.core.batchnorm import BatchNorm
from supermask.core.initialize import density_factors, starting_score, starting_weight
from supermask.core.method import Method, check_choice, check_count, check_density, check_initializer, check_range
from supermask.core.parametrizations import Selected
from supermask.core.registry import register
from supermask.core.select import SCOPES, Scope, masks_by_learnt_score, selected
from supermask.core.sparsifier import Sparsifier
from supermask.tensors.initializers import Initializer
from supermask.tensors.philox import Stream

Scale = Literal["none", "kept"]


@register
@dataclass(frozen=True, kw_only=True)
class IteRand(Method):
    """IteRand: edge-popup in which some of the pruned weights are drawn again from time to time.

    Update, per layer of n entries, with random weight W and learnt score s::

        m      = 1 where s is among the density * n largest, else 0
        weight = W * m
        dL/ds  = dL/dweight * W                           (straight through, also where m = 0)

    and after every ``every`` steps each W with m = 0 is, with probability ``share``, drawn again from its initialiser.

    **Source:** Daiki Chijiwa, Shin'ya Yamaguchi, Yasutoshi Ida, Kenji Umakoshi, Tomohiro Inoue, "Pruning Randomly Initialized
    Neural Networks with Iterative Randomization", NeurIPS 2021, arXiv 2106.09269; code dchiji-ntt/iterand at 90e0862.

    **Differs:** (1) The layers' counts are rounded so that all together keep exactly ``density``; equal scores: the lower
    index stays. (2) Every draw follows from the seed, the target and the number of the event, so that a stopped training
    goes on bitwise, and all weights can be drawn again from the seed. (3) With ``weights="keep"`` the first weights are
    the model's, later ones come from the initialiser. (4) Biases train as usual. (5) ``global``, ``erk``, ``er``
    and ``scale`` are not in the paper.

    **Cost:** as edge-popup; a draw of all weights on the CPU every ``every`` steps. Memory: 5 bytes a weight more than
    dense training.

    Args:
        density: Fraction of the targeted weights that remains, in (0, 1]. Default 0.5: the paper's Conv6.
        scope: ``uniform`` (default, the paper's), ``global``, ``erk`` or ``er``.
        every: Optimizer steps between two events. Default 300: the paper's.
        share: Probability that a pruned weight is drawn again at an event, in [0, 1]. Default 0.1: the paper's.
        scale: Factor on every drawn W (given or kept weights are taken as they are). ``none`` (default, the paper's), ``kept``:
            sqrt(1 / density) of the layer, as edge-popup's scaled initialisation.
        batchnorm: ``non-affine`` (default): scale and shift stay as they are, statistics are collected; ``trained``.
        weights: Initialiser of W. Default He uniform; the paper's other one is ``distribution: signed-constant``.
        scores: Initialiser of s. Default He uniform: the authors' code.

    Raises:
        HyperparameterError: A field is out of range.
    """

    name: ClassVar[str] = "iterand"
    redraws: ClassVar[bool] = True

    density: float = 0.5
    scope: Scope = "uniform"
    every: int = 300
    share: float = 0.1
    scale: Scale = "none"
    batchnorm: BatchNorm = "non-affine"
    weights: Initializer = Initializer(distribution="uniform", rule="he")
    scores: Initializer = Initializer(distribution="uniform", rule="he")

    def __post_init__(self) -> None:
        check_density(self.name, self.density)
        check_choice(self.name, "scope", self.scope, SCOPES)
        check_count(self.name, "every", self.every, "steps")
        check_range(self.name, "share", self.share, 0.0, 1.0)
        check_choice(self.name, "scale", self.scale, get_args(Scale))
        check_choice(self.name, "batchnorm", self.batchnorm, get_args(BatchNorm))
        check_initializer(self.name, "weights", self.weights)
        check_initializer(self.name, "scores", self.scores)

    @classmethod
    def examples(cls, model: nn.Module) -> tuple[Self, ...]:
        """Events often enough for a short run."""
        return (
            cls(every=2, share=0.5),
            cls(
                density=0.3,
                scope="global",
                every=3,
                share=1.0,
                scale="kept",
                batchnorm="trained",
                weights=Initializer(distribution="signed-constant", rule="he"),
            ),
        )

    def setup(self, s: Sparsifier) -> None:
        """Draw weights and scores, choose the first masks."""
        factors = density_factors(s, self.scale, self.density, self.scope)
        for target, factor in zip(s.targets, factors, strict=True):
            weight, score = starting_weight(s, target, self.weights) * factor, starting_score(s, target, self.scores)
            s.install_score(target, Selected(weight, absolute=False, redraws=True), score)
        s.freeze_batchnorm(self.batchnorm)
        self._select(s)

    def after_step(self, s: Sparsifier) -> None:
        """Choose the masks of the scores as they are now; draw pruned weights again when an event is due."""
        self._select(s)
        assert s.total_steps is not None
        if s.step == 1 and self.every > s.total_steps:
            s.note(
                f"{self.name}: no weight is drawn again: every={self.every:,} is more than the {s.total_steps:,} steps of "
                "training; lower every, or train longer"
            )
        if s.step % self.every == 0:
            self._redraw(s, s.step // self.every)

    def _select(self, s: Sparsifier) -> None:
        masks = masks_by_learnt_score(s.targets, self.density, self.scope, absolute=False)
        for target, mask in zip(s.targets, masks, strict=True):
            selected(target).select(mask)

    def _redraw(self, s: Sparsifier, event: int) -> None:
        factors = density_factors(s, self.scale, self.density, self.scope)
        for target, factor in zip(s.targets, factors, strict=True):
            values = self.weights.draw(target.shape, target.fans, Stream(s.seed, "redraw", target.name, event)) * factor
            chance = Stream(s.seed, "redrawn", target.name, event).uniform(target.size)
            where = torch.from_numpy(chance).reshape(target.shape) < self.share
            device = target.parameter.device
            selected(target).replace(values.to(device), where.to(device) & ~target.mask)
