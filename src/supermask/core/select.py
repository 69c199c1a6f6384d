"""From scores and one density to masks over a sparsifier's targets, exact to the single weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from supermask.core.targets import Target
from supermask.errors import DivergedError, HyperparameterError
from supermask.tensors import allocation
from supermask.tensors.topk import keep_count, topk_mask, topk_masks

Scope = Literal["global", "uniform", "erk"]
SCOPES: tuple[Scope, ...] = ("global", "uniform", "erk")


def masks_by_score(
    targets: Sequence[Target],
    scores: Sequence[Tensor],
    density: float,
    scope: Scope,
    limits: Sequence[int] | None = None,
) -> list[Tensor]:
    """Keep the highest scores.

    Args:
        targets: The targets, for their shapes.
        scores: One tensor per target, of its shape; higher is kept.
        density: Fraction of all targeted weights together that remains, in (0, 1].
        scope: ``global`` ranks all scores together; ``uniform`` and ``erk`` give every target its own share first.
        limits: The most weights that each target may keep under ``uniform`` and ``erk``; None: all. For methods whose
            masks only shrink: with one total less, the largest remainder may give a target one weight more.

    Returns:
        One bool mask per target; together they keep exactly ``density * size`` weights, rounded half up.

    Raises:
        HyperparameterError: The density stands for no weight at all.
        DivergedError: A score is NaN; the message names the target.
    """
    for target, score in zip(targets, scores, strict=True):
        if bool(torch.isnan(score).any()):
            raise DivergedError(
                f"{target.name} holds values that are not numbers (NaN): training diverged before pruning"
            )
    sizes = [target.size for target in targets]
    total = keep_count(density, sum(sizes))
    if total == 0:
        raise HyperparameterError(
            f"density {density!r} keeps none of {sum(sizes):,} weights; "
            f"the smallest that keeps one is {0.5 / sum(sizes):.3g}"
        )
    if scope == "global":
        return topk_masks(scores, total)
    law = allocation.erk if scope == "erk" else allocation.uniform
    shares = allocation.counts(law([tuple(target.shape) for target in targets], density), sizes, total, limits)
    return [topk_mask(score, k) for score, k in zip(scores, shares, strict=True)]
