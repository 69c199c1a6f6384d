from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from torch import nn

from supermask import Dense, RandomMask
from supermask.tensors.allocation import erk

from .helpers import bare, fcn, train


def test_pinned_masks() -> None:
    """What seed 7 stands for; changing it breaks every shipped seed."""
    s = RandomMask(density=0.3).attach(bare(8, 6, 4), seed=7)
    data = b"".join(t.mask.numpy().tobytes() for t in s.targets)
    assert hashlib.sha256(data).hexdigest()[:16] == "a725917e4c0742c9"


@pytest.mark.parametrize("scope", ["uniform", "erk", "global"])
def test_counts_are_exact(scope: Any) -> None:
    s = RandomMask(density=0.1, scope=scope).attach(fcn())
    assert s.remaining() == 26_620
    counts = [int(t.mask.sum()) for t in s.targets]
    laws = {"uniform": [0.1] * 3, "erk": erk([(300, 784), (100, 300), (10, 100)], 0.1)}
    for count, target, share in zip(counts, s.targets, laws.get(scope, [0.1] * 3), strict=True):
        # global: hypergeometric, within five standard deviations
        tolerance = 1 if scope in laws else 5 * (0.09 * target.size) ** 0.5
        assert abs(count - share * target.size) < tolerance


def test_seeds_and_layers_differ_and_weights_are_kept() -> None:
    masks = [RandomMask(density=0.5).attach(bare(6, 6, 6), seed=seed).masks() for seed in (0, 0, 1)]
    assert torch.equal(masks[0]["0.weight"], masks[1]["0.weight"])
    assert not torch.equal(masks[0]["0.weight"], masks[2]["0.weight"])
    assert not torch.equal(masks[0]["0.weight"], masks[0]["2.weight"])
    model = bare(6, 6, 6)
    start = model[0].weight.detach().clone()
    s = RandomMask(density=0.5).attach(model)
    assert torch.equal(s.targets[0].weight, start * s.targets[0].mask)


def test_the_mask_stays_and_the_weights_train() -> None:
    s = RandomMask(density=0.5).attach(bare(9, 8, 5))
    before, weights = s.masks(), [t.weight.detach().clone() for t in s.targets]
    train(s, 5)
    for target, weight in zip(s.targets, weights, strict=True):
        assert torch.equal(target.mask, before[target.name])
        assert bool((target.weight != weight)[target.mask].all())


def test_full_density_is_dense_training() -> None:
    model, plain = bare(9, 8, 5), bare(9, 8, 5)
    s = RandomMask(density=1.0).attach(model)
    train(s, 3)
    s.finalize()
    other = Dense().attach(plain)
    train(other, 3)
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)


def test_dropout_and_a_mask_do_not_share_random_numbers() -> None:
    """Attaching moves no global generator, so a run with and one without a method see the same dropout."""
    torch.manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        a = nn.functional.dropout(torch.ones(50))
    with torch.random.fork_rng(devices=[]):
        RandomMask().attach(fcn())
        b = nn.functional.dropout(torch.ones(50))
    assert torch.equal(a, b)
