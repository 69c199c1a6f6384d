"""SET: what goes, what comes, and what becomes of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from supermask import Sparsifier
from supermask.errors import DivergedError, HyperparameterError
from supermask.methods import SET

from .helpers import bare, train


def bound(method: SET, total: int = 20, **options: float) -> tuple[Sparsifier, torch.optim.SGD]:
    s = method.attach(bare(20, 10, 5))
    optimizer = torch.optim.SGD(s.param_groups(), **{"lr": 0.1, "momentum": 0.9, **options})
    s.bind(optimizer, total_steps=total)
    return s, optimizer


def counts(s: Sparsifier) -> list[int]:
    return [int(target.mask.sum()) for target in s.targets]


def test_an_event_comes_after_the_gradient_step() -> None:
    """The smallest of the moved weights go; those that stay have moved; new ones are random and have no momentum."""
    (s, optimizer), (plain, other) = (
        bound(SET(density=0.5, every=3, drop="magnitude")),
        bound(SET(density=0.5, every=9)),
    )
    train(s, 3, optimizer=optimizer)
    train(plain, 3, optimizer=other)
    for target, reference in zip(s.targets, plain.targets, strict=True):
        active = reference.mask.flatten().nonzero().flatten().tolist()
        moved = reference.dense.detach().flatten()
        ranked = sorted(active, key=lambda i: (-abs(moved[i].item()), i))
        kept = torch.tensor(ranked[: len(active) - int(0.3 * len(active))])
        dense, momentum = target.dense.detach().flatten(), s.slots(target)["momentum_buffer"].flatten()
        assert bool(target.mask.flatten()[kept].all())
        assert torch.equal(dense[kept], moved[kept])
        new = target.mask.flatten().clone()
        new[kept] = False
        assert int(new.sum()) == int(0.3 * len(active))
        assert bool(dense[new].all())
        assert not bool(momentum[~target.mask.flatten()].any())
        assert not bool(momentum[new].any())
        assert bool(momentum[kept].all())


def test_new_weights_have_the_spread_of_the_first_ones() -> None:
    model = bare(400, 200)
    start = model[0].weight.detach().std(correction=0).item()
    s = SET(density=0.5, every=1, drop_fraction=1.0).attach(model)
    before = s.targets[0].dense.clone()
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.0)
    s.bind(optimizer, total_steps=2)
    s.targets[0].parameter.grad = torch.zeros_like(before)
    optimizer.step()
    new = s.targets[0].dense[s.targets[0].mask]
    assert len(new) == 40_000
    assert new.std(correction=0).item() == pytest.approx(start, rel=0.02)
    assert abs(new.mean().item()) < 5 * start / 200
    assert not bool((new == before[s.targets[0].mask]).any())


def test_zero_new_weights_and_those_that_come_back_keep_value_and_momentum() -> None:
    (s, optimizer), (plain, other) = (
        bound(SET(density=0.8, every=every, drop="magnitude", drop_fraction=0.9, new_weights="zero"))
        for every in (2, 9)
    )
    train(s, 2, optimizer=optimizer)
    train(plain, 2, optimizer=other)
    again = 0
    for target, reference in zip(s.targets, plain.targets, strict=True):
        both, new = target.mask & reference.mask, target.mask & ~reference.mask
        assert torch.equal(target.dense[both], reference.dense[both])
        slots = [x.slots(t)["momentum_buffer"] for x, t in ((s, target), (plain, reference))]
        assert torch.equal(slots[0][both], slots[1][both])
        assert not bool(target.dense[new].any())
        assert not bool(slots[0][new].any())
        n = int(reference.mask.sum())
        again += int(both.sum()) - (n - int(0.9 * n))
    assert again > 0  # some were dropped and drawn again


def test_by_sign_drops_of_each_sign() -> None:
    s, optimizer = bound(SET(density=0.5, every=1), lr=0.0)
    target = s.targets[0]
    weight, mask = target.dense.clone(), target.mask.clone()
    train(s, 1, optimizer=optimizer)
    for part in (mask & (weight > 0), mask & (weight < 0)):
        places = part.flatten().nonzero().flatten()
        order = weight.flatten()[places].abs().argsort(stable=True)
        moved = target.dense.flatten() != weight.flatten()  # a random value came, or none
        assert sorted(places[order[: int(0.3 * len(places))]].tolist()) == places[moved[places]].tolist()
        assert 0 < int(0.3 * len(places)) < len(places)


def changes(method: SET, total: int) -> list[int]:
    s, optimizer = bound(method, total)
    found, start = [], counts(s)
    for step in range(total):
        before = s.masks()
        train(s, 1, first=step, optimizer=optimizer)
        assert counts(s) == start
        if any(not torch.equal(mask, before[name]) for name, mask in s.masks().items()):
            found.append(step + 1)
    return found


def test_when_events_happen() -> None:
    """Never after the last step: what comes then would not train."""
    assert changes(SET(density=0.4, every=3), 9) == [3, 6]
    assert changes(SET(density=0.4, every=3), 10) == [3, 6, 9]
    assert changes(SET(density=0.4, every=2, end=0.5, anneal="cosine"), 12) == [2, 4]


@settings(max_examples=15, deadline=None)
@given(
    st.floats(0.15, 1.0), st.sampled_from(["erk", "er", "uniform"]), st.floats(0.01, 1.0),
    st.sampled_from(["by-sign", "magnitude"]), st.sampled_from(["random", "zero"]),
)  # fmt: skip
def test_counts_are_constant(density: float, scope: Any, fraction: float, drop: Any, new: Any) -> None:
    method = SET(density=density, scope=scope, every=1, drop_fraction=fraction, drop=drop, new_weights=new)
    s = method.attach(bare(6, 5, 4))
    start = counts(s)
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.1, momentum=0.9)
    s.bind(optimizer, total_steps=6)
    for step in range(6):
        train(s, 1, first=step, optimizer=optimizer)
        assert counts(s) == start
        assert all(not bool(target.dense[~target.mask].any()) for target in s.targets)


def test_weights_that_are_not_numbers() -> None:
    s, optimizer = bound(SET(density=0.5, every=1), lr=float("inf"))
    with pytest.raises(DivergedError, match="training diverged: 0.weight holds NaN"):
        train(s, 2, optimizer=optimizer)


@pytest.mark.parametrize(
    ("field", "value"),
    [("density", 0.0), ("drop_fraction", 0.0), ("every", 0), ("end", 1.5), ("drop", "sign"), ("new_weights", "zeros")],
)
def test_bad_fields(field: str, value: Any) -> None:
    with pytest.raises(HyperparameterError, match=f"set: {field} must be"):
        SET(**{field: value})


def test_steps_that_were_left_out_move_nothing() -> None:
    """What moves after the last real step would not train."""
    s, optimizer = bound(SET(density=0.4, every=2), 8)
    train(s, 5, optimizer=optimizer)
    before, weights = s.masks(), [target.dense.clone() for target in s.targets]
    s.catch_up()
    assert (s.step, s.catching_up) == (8, False)
    assert all(torch.equal(mask, before[name]) for name, mask in s.masks().items())
    assert all(torch.equal(target.dense, weight) for target, weight in zip(s.targets, weights, strict=True))


def test_a_training_without_an_event_is_noted() -> None:
    for every, notes in ((3, 0), (4, 1)):
        s, optimizer = bound(SET(density=0.4, every=every), 4)
        train(s, 4, optimizer=optimizer)
        assert len(s.notes) == notes
    assert s.notes[0].startswith(
        "set: no connection moves after step 0: of 4 steps, none before step 4 is a multiple of every=4"
    )
