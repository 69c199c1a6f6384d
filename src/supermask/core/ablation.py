"""The last step of pruning before training: from scores to masks, with a guard and with the ablations of the literature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from supermask.core.method import check_choice, check_count, check_density
from supermask.core.select import SCOPES, Scope, masks_by_score, promised, random_scores
from supermask.core.sparsifier import Sparsifier
from supermask.core.targets import Target
from supermask.errors import HyperparameterError
from supermask.tensors.philox import Stream
from supermask.tensors.topk import topk_mask, topk_masks

Ablation = Literal["none", "shuffle", "reinit", "random"]
"""What is changed once the masks are chosen, each layer for itself; all keep the counts.

``shuffle``: the mask's entries are permuted. ``random``: the mask is drawn anew. The two have one distribution; ``random``
takes the numbers of the method ``random``, so that at one seed equal counts give equal masks, whatever method they come
from, and fewer weights are a part of more. ``reinit``: the mask stays, and the layer's initial weights are permuted, that is
drawn anew from their own distribution, whichever it was. Source: Frankle et al., "Pruning neural networks at initialization:
why are we missing the mark?", ICLR 2021, arXiv 2009.08576.
"""


class Pruning(Protocol):
    """The fields that methods which prune before training share."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def density(self) -> float: ...  # noqa: D102
    @property
    def scope(self) -> Scope: ...  # noqa: D102
    @property
    def ablation(self) -> Ablation: ...  # noqa: D102
    @property
    def min_per_layer(self) -> int: ...  # noqa: D102


def check_pruning(method: Pruning) -> None:
    """Check the shared fields.

    Raises:
        HyperparameterError: One is out of range.
    """
    check_density(method.name, method.density)
    check_choice(method.name, "scope", method.scope, SCOPES)
    check_choice(method.name, "ablation", method.ablation, get_args(Ablation))
    check_count(method.name, "min_per_layer", method.min_per_layer, "weights", least=0)


def check_promise(method: Pruning, targets: Sequence[Target]) -> None:
    """Before any work is done: can density and guard be met on these targets?

    Raises:
        HyperparameterError: The density keeps no weight, or fewer than the guard wants in all layers together.
    """
    total, least = promised(targets, method.density), sum(_least(target, method.min_per_layer) for target in targets)
    if least > total:
        raise HyperparameterError(
            f"{method.name}: min_per_layer {method.min_per_layer} asks for {least:,} weights in all layers, but density "
            f"{method.density!r} keeps {total:,}; lower min_per_layer or raise density"
        )


def choose_masks(
    s: Sparsifier, method: Pruning, scores: Sequence[Tensor], density: float, limits: Sequence[int] | None = None
) -> list[Tensor]:
    """Keep the highest scores in the method's scope, and at least ``min_per_layer`` in each layer.

    Where a layer falls below, its next highest scores are added; the lowest kept scores of the layers that have more than the
    minimum make room, so that the total stays exact. What the guard did is noted. Vectors (biases) have no minimum.

    Args:
        s: The sparsifier.
        method: Its fields scope and min_per_layer are used.
        scores: One tensor per target, higher is kept; what must never return has a negative score lower than all others.
        density: Fraction of all targeted weights that remains, in (0, 1].
        limits: As in :func:`masks_by_score`.
    """
    masks = masks_by_score(s.targets, scores, density, method.scope, limits)
    least = [_least(target, method.min_per_layer) for target in s.targets]
    counts = [int(mask.sum()) for mask in masks]
    starved = [t.name for t, count, n in zip(s.targets, counts, least, strict=True) if count < n]
    if not starved:
        return masks
    for name in starved:
        s.note(
            f"{name} would have kept fewer than min_per_layer={method.min_per_layer} weights by score: it was topped up"
        )
    ranked = []
    for score, mask, n in zip(scores, masks, least, strict=True):
        rank = torch.where(mask, score, -torch.inf)
        ranked.append(rank.masked_fill_(topk_mask(score, n), torch.inf))
    return topk_masks(ranked, sum(counts))


def install(s: Sparsifier, method: Pruning, masks: Sequence[Tensor], scores: Sequence[Tensor]) -> None:
    """Put the masks on the targets, after the method's ablation, and note what is arbitrary.

    Args:
        s: The sparsifier, its targets with the weights to train.
        method: Its field ablation is used.
        masks: One per target.
        scores: What the masks were chosen by.
    """
    zero = sum(int((mask & (score == 0)).sum()) for score, mask in zip(scores, masks, strict=True))
    if zero and not all(bool(mask.all()) for mask in masks):
        s.note(
            f"{zero:,} of the weights that remain have a score of exactly 0 (dead units, or layers that are cut off): among "
            "equal scores the earlier weight is kept"
        )
    for target, mask in zip(s.targets, masks, strict=True):
        if method.ablation == "shuffle":
            mask = _permuted(mask, Stream(s.seed, "shuffle", target.name))
        elif method.ablation == "random":
            mask = topk_mask(random_scores([target], s.seed)[0], int(mask.sum())).to(mask.device)
        elif method.ablation == "reinit":
            weight = _permuted(target.parameter.detach(), Stream(s.seed, "reinit", target.name))
            target.parameter.data.copy_(weight)
            target.redrawn = True
        s.install_mask(target, mask)


def _least(target: Target, min_per_layer: int) -> int:
    return min(min_per_layer, target.size) if len(target.shape) > 1 else 0


def _permuted(values: Tensor, stream: Stream) -> Tensor:
    order = torch.from_numpy(stream.permutation(values.numel())).to(values.device)
    return values.flatten()[order].reshape(values.shape)
