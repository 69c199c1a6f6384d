from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from supermask.core.select import (
    LAWS,
    SCOPES,
    Law,
    Scope,
    layer_counts,
    masks_by_counts,
    masks_by_score,
    random_masks,
)
from supermask.core.targets import find_targets
from supermask.errors import DivergedError, HyperparameterError
from supermask.tensors.allocation import erk

from .helpers import noise

MODEL = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3), nn.Linear(3, 11))
TARGETS = find_targets(MODEL)
SIZE = 35 + 15 + 33


@given(st.floats(0.5 / SIZE, 1.0), st.sampled_from(SCOPES), st.booleans())
def test_the_promise_is_kept_to_the_single_weight(density: float, scope: Scope, ties: bool) -> None:
    scores = [noise(*t.shape, seed=i) for i, t in enumerate(TARGETS)]
    if ties:
        scores = [score.round() for score in scores]
    masks = masks_by_score(TARGETS, scores, density, scope)
    assert sum(int(mask.sum()) for mask in masks) == math.floor(density * SIZE + 0.5)
    laws = {"uniform": [density] * 3, "erk": erk([tuple(t.shape) for t in TARGETS], density)}
    for mask, target, wanted in zip(masks, TARGETS, laws.get(scope, [None] * 3), strict=True):
        assert mask.shape == target.shape
        assert wanted is None or abs(int(mask.sum()) - wanted * target.size) < 1 + 1e-6


def test_global_ranks_all_together() -> None:
    scores = [torch.full(t.shape, float(i)) for i, t in enumerate(TARGETS)]
    counts = [int(mask.sum()) for mask in masks_by_score(TARGETS, scores, 40 / SIZE, "global")]
    assert counts == [0, 7, 33]


def test_a_density_of_less_than_one_weight_is_refused() -> None:
    scores = [torch.zeros(t.shape) for t in TARGETS]
    with pytest.raises(HyperparameterError, match="density 0.001 keeps none of 83 weights; the smallest .* is 0.00602"):
        masks_by_score(TARGETS, scores, 0.001, "global")


@given(st.floats(36 / SIZE, 1.0), st.sampled_from(LAWS))
def test_a_dense_first_layer_is_part_of_the_promise(density: float, law: Law) -> None:
    counts = layer_counts(TARGETS, density, law, first_dense=True)
    assert counts[0] == 35
    assert sum(counts) == math.floor(density * SIZE + 0.5)


def test_a_dense_first_layer_must_leave_something() -> None:
    message = "first_dense keeps all 35 weights of 0.weight, but density 0.4 stands for 33 in all layers; raise density"
    with pytest.raises(HyperparameterError, match=message):
        layer_counts(TARGETS, 0.4, "uniform", first_dense=True)
    with pytest.raises(HyperparameterError, match="first_dense keeps all 35 weights"):
        layer_counts(TARGETS[:1], 0.4, "uniform", first_dense=True)
    assert layer_counts(TARGETS[:1], 1.0, "uniform", first_dense=True) == [35]


def test_random_masks_of_fewer_weights_are_a_part_of_more() -> None:
    few, more = (random_masks(TARGETS, 3, density, "uniform") for density in (0.2, 0.5))
    for a, b in zip(few, more, strict=True):
        assert not bool((a & ~b).any())
    assert not torch.equal(few[0], random_masks(TARGETS, 4, 0.2, "uniform")[0])


def test_given_counts() -> None:
    scores = [torch.arange(float(t.size)).reshape(t.shape) for t in TARGETS]
    assert [int(mask.sum()) for mask in masks_by_counts(TARGETS, scores, [1, 0, 33])] == [1, 0, 33]
    scores[1][0, 0] = math.nan
    with pytest.raises(DivergedError, match="1.weight holds values that are not numbers"):
        masks_by_counts(TARGETS, scores, [1, 0, 33])
