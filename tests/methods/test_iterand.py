from __future__ import annotations

import copy

import pytest
import torch

from supermask import Initializer
from supermask.errors import HyperparameterError
from supermask.methods.iterand import IteRand
from supermask.tensors.philox import Stream

from .helpers import bare, train


@pytest.mark.parametrize("distribution", ["uniform", "signed-constant"])
def test_an_event_draws_a_share_of_the_pruned_weights_again(distribution: str) -> None:
    weights = Initializer(distribution=distribution, rule="he")  # type: ignore[arg-type]
    method = IteRand(every=3, share=0.25, weights=weights)
    s = method.attach(bare(60, 50, 40), seed=4)
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.1)
    s.bind(optimizer, total_steps=10)
    for step in range(7):
        before = [target.dense.clone() for target in s.targets]
        train(s, 1, first=step, optimizer=optimizer)
        for target, old in zip(s.targets, before, strict=True):
            if (step + 1) % 3:
                assert torch.equal(target.dense, old)
                continue
            event = (step + 1) // 3
            values = weights.draw(target.shape, target.fans, Stream(4, "redraw", target.name, event)).float()
            chance = torch.from_numpy(Stream(4, "redrawn", target.name, event).uniform(target.size))
            where = (chance.reshape(target.shape) < 0.25) & ~target.mask
            assert torch.equal(target.dense, torch.where(where, values, old))
            share = int(where.sum()) / int((~target.mask).sum())
            assert 0.15 < share < 0.35
            assert not torch.equal(target.dense, old)


def test_a_scale_holds_for_the_first_weights_and_for_later_ones() -> None:
    sparsifiers = [
        IteRand(density=0.25, every=2, scale=scale).attach(bare(20, 10), seed=1) for scale in ("none", "kept")
    ]
    for s in sparsifiers:
        optimizer = torch.optim.SGD(s.param_groups(), lr=1e-9)
        s.bind(optimizer, total_steps=4)
        first = s.targets[0].dense.clone()
        train(s, 3, optimizer=optimizer)
        assert not torch.equal(s.targets[0].dense, first)
    assert torch.allclose(sparsifiers[1].targets[0].dense, 2.0 * sparsifiers[0].targets[0].dense)
    with pytest.raises(HyperparameterError, match="iterand: scale must be one of none, kept; got 'fan'"):
        IteRand(scale="fan")  # type: ignore[arg-type]


def test_it_ranks_by_the_signed_score_and_the_gradient_has_no_sign() -> None:
    model = bare(3, 2, dtype=torch.float64)
    weights = {"0.weight": [[0.5, -1.0, 2.0], [1.0, 1.5, -0.5]]}
    scores = {"0.weight": [[0.3, -0.9, 0.1], [-0.2, 0.4, 0.0]]}
    s = IteRand(density=0.5).attach(model, weights=weights, scores=scores)
    target = s.targets[0]
    assert target.mask.int().tolist() == [[1, 0, 1], [0, 1, 0]]
    x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    model(x).sum().backward()
    assert target.parameter.grad is not None
    assert torch.equal(target.parameter.grad, x * torch.tensor(weights["0.weight"], dtype=torch.float64))


def test_a_resume_across_an_event_is_bitwise() -> None:
    """Also the weights that were drawn again before the stop."""
    method = IteRand(every=2, share=0.5)
    sparsifiers = []
    for stop in (False, True):
        s = method.attach(bare(9, 8, 5), seed=2)
        optimizer = torch.optim.SGD(s.param_groups(), lr=0.1, momentum=0.9)
        s.bind(optimizer, total_steps=7)
        train(s, 3, optimizer=optimizer)
        if stop:
            saved = copy.deepcopy((s.model.state_dict(), optimizer.state_dict(), s.state_dict()))
            s = method.attach(bare(9, 8, 5), seed=2)
            optimizer = torch.optim.SGD(s.param_groups(), lr=0.1, momentum=0.9)
            s.bind(optimizer, total_steps=7)
            s.model.load_state_dict(saved[0])
            optimizer.load_state_dict(saved[1])
            s.load_state_dict(saved[2])
        train(s, 4, first=3, optimizer=optimizer)
        sparsifiers.append(s)
    for a, b in zip(*(s.targets for s in sparsifiers), strict=True):
        assert torch.equal(a.dense, b.dense)
        assert torch.equal(a.weight, b.weight)
        assert torch.equal(a.score, b.score)


def test_a_share_of_zero_never_draws_again() -> None:
    s = IteRand(every=1, share=0.0).attach(bare(9, 8, 5))
    before = [target.dense.clone() for target in s.targets]
    train(s, 3)
    assert all(torch.equal(target.dense, old) for target, old in zip(s.targets, before, strict=True))


def test_a_training_without_an_event_is_noted() -> None:
    for every, notes in (
        (3, []),
        (4, ["iterand: no weight is drawn again: every=4 is more than the 3 steps of training"]),
    ):
        s = IteRand(every=every).attach(bare(9, 8, 5))
        train(s, 3)
        assert [note.partition(";")[0] for note in s.notes] == notes
