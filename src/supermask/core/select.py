"""From scores and one density to masks over a sparsifier's targets, exact to the single weight."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from supermask.core.parametrizations import Selected
from supermask.core.targets import Target
from supermask.errors import DivergedError, HyperparameterError
from supermask.tensors import allocation
from supermask.tensors.philox import Stream
from supermask.tensors.topk import holds_nan, keep_count, topk_mask, topk_masks

Law = Literal["uniform", "erk", "er"]
LAWS: tuple[Law, ...] = ("uniform", "erk", "er")
Scope = Literal["global", "uniform", "erk", "er"]
SCOPES: tuple[Scope, ...] = ("global", *LAWS)


def promised(targets: Sequence[Target], density: float) -> int:
    """How many weights a density of all targets together keeps, at least 1.

    Raises:
        HyperparameterError: The density stands for no weight at all.
    """
    size = sum(target.size for target in targets)
    total = keep_count(density, size)
    if total == 0:
        raise HyperparameterError(
            f"density {density!r} keeps none of {size:,} weights; the smallest that keeps one is {0.5 / size:.3g}"
        )
    return total


def masks_by_score(
    targets: Sequence[Target],
    scores: Sequence[Tensor],
    density: float,
    scope: Scope,
    limits: Sequence[int] | None = None,
    *,
    magnitude: bool = False,
) -> list[Tensor]:
    """Keep the highest scores.

    Args:
        targets: The targets, for their shapes.
        scores: One tensor per target, of its shape; higher is kept.
        density: Fraction of all targeted weights together that remains, in (0, 1].
        scope: ``global`` ranks all scores together; ``uniform`` and ``erk`` give every target its own share first.
        limits: The most weights that each target may keep under ``uniform`` and ``erk``; None: all. For methods whose
            masks only shrink: with one total less, the largest remainder may give a target one weight more.
        magnitude: Rank by ``|score|``.

    Returns:
        One bool mask per target; together they keep exactly ``density * size`` weights, rounded half up.

    Raises:
        HyperparameterError: The density stands for no weight at all.
        DivergedError: A score is NaN; the message names the target.
    """
    total = promised(targets, density)
    if scope == "global":
        with _nan_named(targets, scores):
            return topk_masks(scores, total, magnitude=magnitude)
    return _by_counts(targets, scores, layer_counts(targets, density, scope, limits), magnitude)


def _by_counts(
    targets: Sequence[Target], scores: Sequence[Tensor], counts: Sequence[int], magnitude: bool
) -> list[Tensor]:
    with _nan_named(targets, scores):
        return [topk_mask(score, k, magnitude=magnitude) for score, k in zip(scores, counts, strict=True)]


@contextlib.contextmanager
def _nan_named(targets: Sequence[Target], scores: Sequence[Tensor]) -> Iterator[None]:
    """Say which target holds NaN, if one does: what selects refuses it, and looking before would be one more pass."""
    try:
        yield
    except ValueError as error:
        for target, score in zip(targets, scores, strict=True):
            if holds_nan(score):
                raise DivergedError(
                    f"{target.name} holds values that are not numbers (NaN): training diverged before pruning"
                ) from error
        raise


def layer_counts(
    targets: Sequence[Target],
    density: float,
    law: Law,
    limits: Sequence[int] | None = None,
    *,
    first_dense: bool = False,
) -> list[int]:
    """How many weights each target keeps, exact in sum.

    Args:
        targets: The targets, in the order of the model's parameters.
        density: Fraction of all targeted weights together that remains, in (0, 1].
        law: ``uniform``: the same density everywhere; ``erk``, ``er``: :func:`~supermask.tensors.allocation.erk` and ``er``.
        limits: As in :func:`masks_by_score`.
        first_dense: Whether the first target keeps all its weights; the law shares out what is left to the others.

    Raises:
        HyperparameterError: The density stands for no weight at all, or for no more than the first target has.
    """
    total = promised(targets, density)
    shapes, sizes = [tuple(target.shape) for target in targets], [target.size for target in targets]
    function = {"uniform": allocation.uniform, "erk": allocation.erk, "er": allocation.er}[law]
    if not first_dense or total == sum(sizes):
        return allocation.counts(function(shapes, density), sizes, total, limits)
    rest = total - sizes[0]
    if rest <= 0 or len(targets) == 1:
        raise HyperparameterError(
            f"first_dense keeps all {sizes[0]:,} weights of {targets[0].name}, but density {density!r} stands for {total:,} in "
            "all layers; raise density, or set first_dense to false"
        )
    densities = function(shapes[1:], rest / sum(sizes[1:]))
    return [sizes[0], *allocation.counts(densities, sizes[1:], rest, None if limits is None else limits[1:])]


def masks_by_counts(targets: Sequence[Target], scores: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
    """Keep the highest scores, a given number in each target.

    Raises:
        DivergedError: A score is NaN; the message names the target.
    """
    return _by_counts(targets, scores, counts, magnitude=False)


def random_scores(targets: Sequence[Target], seed: int) -> list[Tensor]:
    """Uniform random numbers to rank weights by, float64 on the CPU.

    At one seed all methods with random masks take the same ones: equal counts give equal masks, and fewer weights are a part
    of more.
    """
    return [
        torch.from_numpy(Stream(seed, "mask", target.name).uniform(target.size)).reshape(target.shape)
        for target in targets
    ]


def random_masks(
    targets: Sequence[Target], seed: int, density: float, scope: Scope, *, first_dense: bool = False
) -> list[Tensor]:
    """The highest of :func:`random_scores`, on the devices of their targets.

    Args:
        targets: The targets.
        seed: What the numbers follow from.
        density: Fraction of all targeted weights together that remains, in (0, 1].
        scope: ``global``: any of all weights; else a law as in :func:`layer_counts`.
        first_dense: As in :func:`layer_counts`; not with ``global``.

    Raises:
        HyperparameterError: The density stands for no weight at all, or for no more than a dense first target has.
    """
    scores = random_scores(targets, seed)
    if scope == "global":
        assert not first_dense
        masks = topk_masks(scores, promised(targets, density))
    else:
        counts = layer_counts(targets, density, scope, first_dense=first_dense)
        masks = masks_by_counts(targets, scores, counts)
    return [mask.to(target.parameter.device) for target, mask in zip(targets, masks, strict=True)]


def masks_by_learnt_score(
    targets: Sequence[Target],
    density: float,
    scope: Scope,
    *,
    absolute: bool = True,
    limits: Sequence[int] | None = None,
) -> list[Tensor]:
    """:func:`masks_by_score` of the scores that the targets hold now, or of their absolute values."""
    scores = [target.parameter.detach() for target in targets]
    return masks_by_score(targets, scores, density, scope, limits, magnitude=absolute)


def selected(target: Target) -> Selected:
    """The :class:`Selected` that a method installed on a target."""
    installed = target.parametrization
    assert isinstance(installed, Selected)
    return installed
