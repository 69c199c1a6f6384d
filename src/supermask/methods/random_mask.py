"""A random mask, drawn once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from supermask.core.method import Method, check_choice, check_density
from supermask.core.registry import register
from supermask.core.select import SCOPES, Scope, masks_by_score
from supermask.core.sparsifier import Sparsifier
from supermask.tensors.philox import Stream


@register
@dataclass(frozen=True, kw_only=True)
class RandomMask(Method):
    """A random mask, drawn once before training; the weights that remain are trained.

    Update: ``weight = dense * mask`` with a fixed mask; the k entries with the largest uniform random numbers remain.

    **Source:** the "static random" baseline of the sparse-training literature; layer densities by Erdős-Rényi-Kernel after
    Evci et al., "Rigging the Lottery", ICML 2020, arXiv 1911.11134.

    **Differs:** counts are exact (largest remainder), where common code draws each entry on its own.

    Args:
        density: Fraction of the targeted weights that remains, in (0, 1]. Default 0.1: ours.
        scope: ``erk`` (default), ``uniform`` (the same density everywhere) or ``global`` (any k of all weights).

    Raises:
        HyperparameterError: A field is out of range.
    """

    name: ClassVar[str] = "random"

    density: float = 0.1
    scope: Scope = "erk"

    def __post_init__(self) -> None:
        check_density(self.name, self.density)
        check_choice(self.name, "scope", self.scope, SCOPES)

    def setup(self, s: Sparsifier) -> None:
        """Draw and install the masks."""
        scores = [
            torch.from_numpy(Stream(s.seed, "mask", target.name).uniform(target.size)).reshape(target.shape)
            for target in s.targets
        ]
        for target, mask in zip(s.targets, masks_by_score(s.targets, scores, self.density, self.scope), strict=True):
            s.install_mask(target, mask.to(target.parameter.device))
