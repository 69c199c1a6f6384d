"""Masks that are tracked in one round and applied in the next."""

from __future__ import annotations

import copy

import torch

from .helpers import Tracked, half, loss_of, mlp, sgd, train


def test_applied_masks_hide_weights_and_their_momentum() -> None:
    s = Tracked().attach(mlp())
    optimizer = sgd(s, momentum=0.9)
    train(s.model, optimizer, 2)
    before = [target.dense.clone() for target in s.targets]
    assert s.tracked
    s.apply_masks()
    assert not s.tracked
    for target, dense in zip(s.targets, before, strict=True):
        assert torch.equal(target.dense, dense * target.mask)
        assert torch.equal(target.weight, target.dense)
        assert not bool(s.slots(target)["momentum_buffer"][~target.mask].any())
    optimizer.zero_grad()
    loss_of(s.model).backward()
    for target in s.targets:
        assert target.parameter.grad is not None
        assert not bool(target.parameter.grad[~target.mask].any())


def test_a_saved_state_says_whether_masks_were_applied() -> None:
    """In both directions, whatever the sparsifier it is loaded into had; and also if taken inside sparse()."""
    first, second = Tracked().attach(mlp()), Tracked().attach(mlp())
    with first.sparse():
        tracked = copy.deepcopy(first.state_dict())
    first.apply_masks()
    second.load_state_dict(first.state_dict())
    assert not second.tracked
    second.load_state_dict(tracked)
    assert second.tracked


def test_a_state_from_before_this_was_saved_changes_nothing() -> None:
    s = Tracked().attach(mlp())
    old = s.state_dict()
    del old["tracked"]
    s.load_state_dict(old)
    assert s.tracked
    for target in s.targets:
        s.set_mask(target, half(target.shape))
    s.apply_masks()
    s.load_state_dict(old)
    assert not s.tracked
