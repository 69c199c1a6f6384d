"""IteRand: edge-popup that draws pruned weights again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import nn

from supermask.core.initialize import starting_score, starting_weight
from supermask.core.method import Method, check_choice, check_count, check_density, check_initializer, check_range
from supermask.core.parametrizations import Selected
from supermask.core.registry import register
from supermask.core.select import SCOPES, Scope, masks_by_learnt_score, selected
from supermask.core.sparsifier import Sparsifier
from supermask.tensors.initializers import Initializer
from supermask.tensors.philox import Stream

BatchNorm = Literal["non-affine", "trained"]


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
    the model's, later ones come from the initialiser. (4) Biases train as usual. (5) ``global`` and ``erk`` are not in
    the paper.

    **Cost:** as edge-popup; a draw of all weights on the CPU every ``every`` steps. Memory: 5 bytes a weight more than
    dense training.

    Args:
        density: Fraction of the targeted weights that remains, in (0, 1]. Default 0.5: the paper's Conv6.
        scope: ``uniform`` (default, the paper's), ``global`` or ``erk``.
        every: Optimizer steps between two events. Default 300: the paper's.
        share: Probability that a pruned weight is drawn again at an event, in [0, 1]. Default 0.1: the paper's.
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
    batchnorm: BatchNorm = "non-affine"
    weights: Initializer = Initializer(distribution="uniform", rule="he")
    scores: Initializer = Initializer(distribution="uniform", rule="he")

    def __post_init__(self) -> None:
        check_density(self.name, self.density)
        check_choice(self.name, "scope", self.scope, SCOPES)
        check_count(self.name, "every", self.every, "steps")
        check_range(self.name, "share", self.share, 0.0, 1.0)
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
                batchnorm="trained",
                weights=Initializer(distribution="signed-constant", rule="he"),
            ),
        )

    def setup(self, s: Sparsifier) -> None:
        """Draw weights and scores, choose the first masks."""
        for target in s.targets:
            weight, score = starting_weight(s, target, self.weights), starting_score(s, target, self.scores)
            s.install_score(target, Selected(weight, absolute=False, redraws=True), score)
        if self.batchnorm == "non-affine":
            s.freeze_batchnorm(statistics=False)
        self._select(s)

    def after_step(self, s: Sparsifier) -> None:
        """Choose the masks of the scores as they are now; draw pruned weights again when an event is due."""
        self._select(s)
        if s.step % self.every == 0:
            self._redraw(s, s.step // self.every)

    def _select(self, s: Sparsifier) -> None:
        masks = masks_by_learnt_score(s.targets, self.density, self.scope, absolute=False)
        for target, mask in zip(s.targets, masks, strict=True):
            selected(target).select(mask)

    def _redraw(self, s: Sparsifier, event: int) -> None:
        for target in s.targets:
            values = self.weights.draw(target.shape, target.fans, Stream(s.seed, "redraw", target.name, event))
            chance = Stream(s.seed, "redrawn", target.name, event).uniform(target.size)
            where = torch.from_numpy(chance).reshape(target.shape) < self.share
            device = target.parameter.device
            selected(target).replace(values.to(device), where.to(device) & ~target.mask)
