"""A random mask, drawn once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from supermask.core.method import Method, check_choice, check_density
from supermask.core.registry import register
from supermask.core.select import SCOPES, Scope, random_masks
from supermask.core.sparsifier import Sparsifier


@register
@dataclass(frozen=True, kw_only=True)
class RandomMask(Method):
    """A random mask, drawn once before training; the weights that remain are trained.

    Update: ``weight = dense * mask`` with a fixed mask; the k entries with the largest uniform random numbers remain.

    **Source:** the "static random" baseline of the sparse-training literature; layer densities by Erdős-Rényi-Kernel after
    Evci et al., "Rigging the Lottery", ICML 2020, arXiv 1911.11134.

    **Differs:** counts are exact (largest remainder), where common code draws each entry on its own.

    **Cost:** once, a number drawn for each weight. A step takes the product of weight and mask more: about a tenth of a
    dense step of the FCN at batch 128 (``docs/performance.md``). Memory: 1 byte a weight.

    Args:
        density: Fraction of the targeted weights that remains, in (0, 1]. Default 0.1: ours.
        scope: ``erk`` (default), ``er``, ``uniform`` (the same density everywhere) or ``global`` (any k of all weights).

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
        masks = random_masks(s.targets, s.seed, self.density, self.scope)
        for target, mask in zip(s.targets, masks, strict=True):
            s.install_mask(target, mask)
