"""Edge-popup: frozen random weights, of which those with the highest learnt scores are used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self, get_args

from torch import nn

from supermask.core.batchnorm import BatchNorm
from supermask.core.initialize import density_factors, starting_score, starting_weight
from supermask.core.method import Method, check_choice, check_density, check_flag, check_initializer
from supermask.core.parametrizations import Selected
from supermask.core.registry import register
from supermask.core.select import SCOPES, Scope, masks_by_learnt_score, selected
from supermask.core.sparsifier import Sparsifier
from supermask.tensors.initializers import DensityScale, Initializer, density_factor


@register
@dataclass(frozen=True, kw_only=True)
class EdgePopup(Method):
    """Edge-popup: frozen random weights, of which those with the highest learnt scores are used.

    Update, per layer of n entries, with frozen weight W and learnt score s::

        m      = 1 where |s| is among the density * n largest, else 0
        weight = W * m
        dL/ds  = dL/dweight * W * sign(s)                 (straight through, also where m = 0)

    Masks are chosen after every step, from the scores that the step left.

    **Source:** Vivek Ramanujan, Mitchell Wortsman, Aniruddha Kembhavi, Ali Farhadi, Mohammad Rastegari, "What's Hidden in a
    Randomly Weighted Neural Network?", CVPR 2020, arXiv 1911.13299; code allenai/hidden-networks at dddf2d0.

    **Differs:** (1) The layers' counts are rounded so that all together keep exactly ``density``; the code rounds each
    one up. Equal scores: the lower index stays. (2) The code's ``prune_rate`` is the kept share when masks are made and
    the pruned one when weights are scaled; here the scale is right unless ``pruned-bug`` is asked for (its published
    numbers use no scale), under ``erk`` and ``er`` for the share that each layer keeps. (3) Biases train as usual; the paper's
    networks have none. (4) ``global``, ``erk`` and ``er`` are not in the paper. (5) No layer is promised a weight: the code's
    rounding up leaves at least one in each, here a layer may end empty, and a note says so.

    **Cost:** per step a selection and four more passes over the weights: on a CPU .4 of a dense step for the FCN at batch
    128, little for convolutions (``docs/performance.md``). Memory: 5 bytes a weight more than dense training.

    Args:
        density: Fraction of the targeted weights that remains, in (0, 1]. Default 0.5: where the paper's curves peak.
        scope: ``uniform`` (default, the paper's): the same density in every layer; ``global``: all scores together; ``erk``,
            ``er``.
        absolute: Rank by |s| (default, the authors' code) or by s, as the paper's algorithm is written.
        scale: Factor on drawn W (given or kept weights are taken as they are). ``none`` (default, the published numbers),
            ``kept``: sqrt(1 / density), the paper's scaled initialisation, the density being the layer's own under ``erk`` and
            ``er``; ``pruned-bug``: sqrt(1 / (1 - density)), which the published code computes instead.
        batchnorm: ``non-affine`` (default, the paper's): scale and shift stay as they are, statistics are collected;
            ``trained``.
        weights: Initialiser of W. Default He signed constant, ±sqrt(2 / fan_in), the paper's best; its other one is
            ``distribution: normal``.
        scores: Initialiser of s. Default uniform within ±1 / sqrt(fan_in): the authors' code.

    Raises:
        HyperparameterError: A field is out of range.
    """

    name: ClassVar[str] = "edge-popup"
    redraws: ClassVar[bool] = True

    density: float = 0.5
    scope: Scope = "uniform"
    absolute: bool = True
    scale: DensityScale = "none"
    batchnorm: BatchNorm = "non-affine"
    weights: Initializer = Initializer(distribution="signed-constant", rule="he")
    scores: Initializer = Initializer(distribution="uniform", rule="lecun", gain=1.0 / math.sqrt(3.0))

    def __post_init__(self) -> None:
        check_density(self.name, self.density)
        check_choice(self.name, "scope", self.scope, SCOPES)
        check_flag(self.name, "absolute", self.absolute)
        check_choice(self.name, "scale", self.scale, get_args(DensityScale))
        check_choice(self.name, "batchnorm", self.batchnorm, get_args(BatchNorm))
        check_initializer(self.name, "weights", self.weights)
        check_initializer(self.name, "scores", self.scores)
        density_factor(self.scale, self.density)

    @classmethod
    def examples(cls, model: nn.Module) -> tuple[Self, ...]:
        """By absolute scores and by signed ones; layer by layer and all together."""
        return (cls(), cls(density=0.3, scope="global", absolute=False, scale="kept", batchnorm="trained"))

    def setup(self, s: Sparsifier) -> None:
        """Draw weights and scores, choose the first masks."""
        factors = density_factors(s, self.scale, self.density, self.scope)
        for target, factor in zip(s.targets, factors, strict=True):
            weight = starting_weight(s, target, self.weights) * factor
            score = starting_score(s, target, self.scores)
            s.install_score(target, Selected(weight, absolute=self.absolute), score)
        s.freeze_batchnorm(self.batchnorm)
        self.after_step(s)

    def after_step(self, s: Sparsifier) -> None:
        """Choose the masks of the scores as they are now."""
        masks = masks_by_learnt_score(s.targets, self.density, self.scope, absolute=self.absolute)
        for target, mask in zip(s.targets, masks, strict=True):
            selected(target).select(mask)
