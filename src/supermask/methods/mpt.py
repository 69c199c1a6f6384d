"""Multi-prize tickets: edge-popup with binary weights, one scale a layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self, get_args

import torch
from torch import nn

from supermask.core.batchnorm import BatchNorm
from supermask.core.initialize import density_factors, starting_score, starting_weight
from supermask.core.method import Method, check_choice, check_density, check_initializer, check_range
from supermask.core.parametrizations import Selected
from supermask.core.registry import register
from supermask.core.select import SCOPES, Scope, masks_by_learnt_score, selected
from supermask.core.sparsifier import Sparsifier
from supermask.tensors.initializers import DensityScale, Initializer, density_factor
from supermask.tensors.schedules import cubic
from supermask.tensors.scores import wide

RAMP_FROM = 0.5


@register
@dataclass(frozen=True, kw_only=True)
class MPT(Method):
    """Multi-prize ticket MPT-1/32 (biprop): random signs and one scale a layer, under a mask of the highest scores.

    Update, per layer of n entries, with random weight W and learnt score s::

        m      = 1 where |s| is among the density * n largest, else 0
        alpha  = sum(|W| * m) / sum(m)
        weight = alpha * sign(W) * m
        dL/ds  = dL/dweight * W * sign(s)                 (straight through; alpha counts as a constant)

    ``scope: global`` ranks all layers together and begins dense, so that no layer is lost before its scores mean
    something: the density falls from 0.5 to ``density`` as ``density + (0.5 - density) * (1 - t)**3``, with ``t`` from 0
    to 1 over the first ``ramp`` of training. A density of 0.5 or more has no ramp.

    **Source:** James Diffenderfer, Bhavya Kailkhura, "Multi-Prize Lottery Ticket Hypothesis: Finding Accurate Binary Neural
    Networks by Pruning A Randomly Weighted Network", ICLR 2021, arXiv 2103.09377; code chrundle/biprop at f709fc5, which
    added the global scope in 2022.

    **Differs:** (1) The mean of |W| is over what is kept; the code divides by a count that may be one off, or 0. (2) The
    layers' counts are rounded so that all together keep exactly ``density``. (3) A weight of exactly 0 counts as positive;
    in the code it would never be used. (4) The ramp follows every step; the code's moves once an epoch. (5) Activations
    are left as they are: binary ones (MPT-1/1) are a matter of the model. (6) Biases train as usual.

    **Cost:** as edge-popup, and two passes over the weights for alpha. Memory: 9 bytes a weight more than dense training.

    Args:
        density: Fraction of the targeted weights that remains, in (0, 1]. Default 0.2: the paper's ResNet-18.
        scope: ``uniform`` (default, the paper's), ``global`` (with the ramp), ``erk`` or ``er``.
        ramp: Share of training over which a global density falls, in [0, 1]; 0: at once. Default 0.1: ten of the code's
            100 epochs. Unused by the other scopes.
        scale: Factor on drawn W, and so on alpha (given or kept weights are taken as they are): ``none`` (default: ours),
            ``kept``: sqrt(1 / density), the density being the layer's own under ``erk`` and ``er``; ``pruned-bug``:
            sqrt(1 / (1 - density)), what most of the published configurations really compute.
        batchnorm: ``non-affine`` (default): scale and shift stay as they are, statistics are collected; ``trained``: the
            paper's "+BN".
        weights: Initialiser of W. Default He normal: most of the published configurations.
        scores: Initialiser of s. Default uniform within ±1 / sqrt(fan_in): the authors' code.

    Raises:
        HyperparameterError: A field is out of range.
    """

    name: ClassVar[str] = "mpt"
    redraws: ClassVar[bool] = True

    density: float = 0.2
    scope: Scope = "uniform"
    ramp: float = 0.1
    scale: DensityScale = "none"
    batchnorm: BatchNorm = "non-affine"
    weights: Initializer = Initializer(distribution="normal", rule="he")
    scores: Initializer = Initializer(distribution="uniform", rule="lecun", gain=1.0 / math.sqrt(3.0))

    def __post_init__(self) -> None:
        check_density(self.name, self.density)
        check_choice(self.name, "scope", self.scope, SCOPES)
        check_range(self.name, "ramp", self.ramp, 0.0, 1.0)
        check_choice(self.name, "scale", self.scale, get_args(DensityScale))
        check_choice(self.name, "batchnorm", self.batchnorm, get_args(BatchNorm))
        check_initializer(self.name, "weights", self.weights)
        check_initializer(self.name, "scores", self.scores)
        density_factor(self.scale, self.density)

    @classmethod
    def examples(cls, model: nn.Module) -> tuple[Self, ...]:
        """Layer by layer, and all together with a ramp of half a short run."""
        return (cls(), cls(density=0.3, scope="global", ramp=0.5, batchnorm="trained"))

    def setup(self, s: Sparsifier) -> None:
        """Draw weights and scores, choose the first masks."""
        factors = density_factors(s, self.scale, self.density, self.scope)
        for target, factor in zip(s.targets, factors, strict=True):
            weight = starting_weight(s, target, self.weights) * factor
            sign = torch.where(weight < 0, -1.0, 1.0).to(weight)
            s.install_score(target, Selected(sign, slope=weight, scaled=True), starting_score(s, target, self.scores))
        s.freeze_batchnorm(self.batchnorm)
        self.after_step(s)

    def after_step(self, s: Sparsifier) -> None:
        """Choose the masks of the scores as they are now, and the scales that go with them."""
        masks = masks_by_learnt_score(s.targets, self._density(s.progress), self.scope)
        for target, mask in zip(s.targets, masks, strict=True):
            installed = selected(target)
            weight = installed.frozen_weight()
            kept = (weight.abs() * mask).sum(dtype=wide(weight.dtype))  # a sum of float16 ends at 65,504
            installed.select(mask, kept / torch.count_nonzero(mask).clamp(min=1))

    def _density(self, progress: float) -> float:
        if self.scope != "global" or self.density >= RAMP_FROM or progress >= self.ramp:
            return self.density
        return cubic(progress, start=0.0, end=self.ramp, initial=RAMP_FROM, final=self.density)
