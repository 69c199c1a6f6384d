from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from supermask.core.select import SCOPES, Scope, masks_by_score
from supermask.core.targets import find_targets
from supermask.errors import HyperparameterError
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
