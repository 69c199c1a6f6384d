"""Multicoated supermasks: several nested masks of one score tensor, added up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import nn

from supermask.core.batchnorm import BatchNorm
from supermask.core.initialize import density_factors, starting_score, starting_weight
from supermask.core.method import Method, check_choice, check_density, check_initializer
from supermask.core.parametrizations import Selected
from supermask.core.registry import register
from supermask.core.select import SCOPES, Scope, masks_by_learnt_score, selected
from supermask.core.sparsifier import Sparsifier
from supermask.errors import HyperparameterError
from supermask.tensors.initializers import Initializer
from supermask.tensors.topk import keep_count

CoatScale = Literal["kept", "none"]
MOST = 126  # coats beside the first: they are counted in a signed byte


@register
@dataclass(frozen=True, kw_only=True)
class MulticoatedSupermask(Method):
    """Multicoated supermask: nested masks of one score tensor, added up, so that frozen weights take several magnitudes.

    Update, per layer of n entries, with frozen weight W = ±c, learnt score s and N coats of densities k1 > k2 > ...::

        m_i    = 1 where |s| is among the k_i * n largest, else 0
        weight = W * (m_1 + ... + m_N)
        dL/ds  = N * dL/dweight * W * sign(s)             (straight through; every coat adds the same)

    The coats are nested; the first one decides what remains. They are chosen after every step.

    **Source:** Yasuyuki Okoshi, Ángel López García-Arias, Kazutoshi Hirose, Kota Ando, Kazushi Kawamura, Thiem Van Chu, Masato
    Motomura, Jaehoon Yu, "Multicoated Supermasks Enhance Hidden Networks", ICML 2022; code yasu0001/multicoated-supermasks at
    533560a.

    **Differs:** (1) Counts are exact, where the code compares with a quantile. (2) How the paper derives the densities of
    its coats is not known to us; the default is the one set of three that the code's configuration shows. (3) c is a
    part of W, so that the gradient holds it. (4) Biases train as usual.

    **Cost:** as edge-popup, with a selection for each coat. Memory: 5 bytes a weight more than dense training.

    Args:
        density: Fraction of the targeted weights in the first coat, which is what remains, in (0, 1]. Default 0.3: the
            configuration that the code ships.
        scope: ``uniform`` (default, the authors'): the same densities in every layer; ``erk``, ``er``; ``global``: all scores
            together.
        inner: Sizes of the further coats as shares of the first, in (0, 1], none larger than the one before, at most 126.
            Default (0.2627, 0.105): pruned shares 0.9212 and 0.9685 where the first coat's is 0.7.
        scale: Factor on drawn W (given or kept weights are taken as they are): ``kept`` (default, the authors'):
            sqrt(1 / density), so that c = sqrt(2 / (density * fan_in)), the density being the layer's own first coat under
            ``erk`` and ``er``; ``none``.
        batchnorm: ``trained`` (default, as the shipped configuration leaves it) or ``non-affine``: scale and shift stay as
            they are, statistics are collected.
        weights: Initialiser of W. Default He signed constant: the authors'.
        scores: Initialiser of s. Default He normal by fan_out: the authors'.

    Raises:
        HyperparameterError: A field is out of range, or a coat is less than one weight.
    """

    name: ClassVar[str] = "multicoated-supermask"
    redraws: ClassVar[bool] = True

    density: float = 0.3
    scope: Scope = "uniform"
    inner: tuple[float, ...] = (0.2627, 0.105)
    scale: CoatScale = "kept"
    batchnorm: BatchNorm = "trained"
    weights: Initializer = Initializer(distribution="signed-constant", rule="he")
    scores: Initializer = Initializer(distribution="normal", rule="he-out")

    def __post_init__(self) -> None:
        check_density(self.name, self.density)
        if not isinstance(self.inner, tuple):
            raise HyperparameterError(f"{self.name}: inner must be a tuple of shares, got {self.inner!r}")
        if len(self.inner) > MOST:
            raise HyperparameterError(f"{self.name}: inner must have at most {MOST} shares, got {len(self.inner)}")
        for share in self.inner:
            check_density(self.name, share, "inner")
        if list(self.inner) != sorted(self.inner, reverse=True):
            raise HyperparameterError(
                f"{self.name}: inner must not increase, because coats are nested, got {self.inner!r}"
            )
        check_choice(self.name, "scope", self.scope, SCOPES)
        check_choice(self.name, "scale", self.scale, get_args(CoatScale))
        check_choice(self.name, "batchnorm", self.batchnorm, get_args(BatchNorm))
        check_initializer(self.name, "weights", self.weights)
        check_initializer(self.name, "scores", self.scores)

    @classmethod
    def examples(cls, model: nn.Module) -> tuple[Self, ...]:
        """Three coats and one; layer by layer and not."""
        erk = cls(density=0.4, scope="erk", inner=(0.3,))
        return (cls(density=0.5, inner=(0.5, 0.25)), erk, cls(inner=(), scale="none", batchnorm="non-affine"))

    def setup(self, s: Sparsifier) -> None:
        """Draw weights and scores, choose the first coats."""
        size = sum(target.size for target in s.targets)
        for share in self.inner:
            if keep_count(share * self.density, size) == 0:
                raise HyperparameterError(
                    f"{self.name}: inner {share!r} of density {self.density!r} is less than one of {size:,} weights; leave "
                    f"this coat out, or raise it to {0.5 / size / self.density:.3g} or more"
                )
        factors = density_factors(s, self.scale, self.density, self.scope)
        for target, factor in zip(s.targets, factors, strict=True):
            weight = starting_weight(s, target, self.weights) * factor
            score = starting_score(s, target, self.scores)
            s.install_score(target, Selected(weight, factor=1 + len(self.inner)), score)
        s.freeze_batchnorm(self.batchnorm)
        self.after_step(s)

    def after_step(self, s: Sparsifier) -> None:
        """Choose the coats of the scores as they are now."""
        codes = [torch.zeros(target.shape, dtype=torch.int8, device=target.parameter.device) for target in s.targets]
        limits = [target.size for target in s.targets]
        for share in (1.0, *self.inner):
            density = share * self.density
            masks = masks_by_learnt_score(s.targets, density, self.scope, limits=limits)
            limits = [int(torch.count_nonzero(mask)) for mask in masks]
            codes = [code + mask for code, mask in zip(codes, masks, strict=True)]
        for target, code in zip(s.targets, codes, strict=True):
            selected(target).select(code)
