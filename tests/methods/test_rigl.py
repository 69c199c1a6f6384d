"""RigL against hand-computed events, and what people get wrong about it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from supermask import RandomMask, Sparsifier
from supermask.errors import DivergedError, HyperparameterError
from supermask.methods import RigL
from supermask.tensors.allocation import erk

from .helpers import bare, batch, fcn, train


def one_layer(method: RigL, weight: list[float], mask: list[bool]) -> tuple[Sparsifier, torch.optim.SGD]:
    """One output in float64 with given weights and mask, SGD with momentum and decay."""
    model = bare(len(weight), 1, dtype=torch.float64)
    s = method.attach(model)
    target = s.targets[0]
    s.set_mask(target, torch.tensor([mask]))
    target.parameter.data.copy_(torch.tensor([weight], dtype=torch.float64))
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.1, momentum=0.9, weight_decay=0.01)
    s.bind(optimizer, total_steps=10)
    return s, optimizer


def step_with(s: Sparsifier, optimizer: torch.optim.Optimizer, gradient: list[float]) -> None:
    """A step whose dense gradient is the given one."""
    optimizer.zero_grad()
    (s.model(torch.tensor([gradient], dtype=torch.float64))).sum().backward()
    optimizer.step()


def test_one_update_by_hand() -> None:
    """Of four active weights two are dropped; one of the two comes back, and keeps its value and its momentum."""
    method = RigL(density=0.5, drop_fraction=0.5, anneal="constant", every=1, end=0.2)
    s, optimizer = one_layer(method, [0.5, 0.1, -0.2, 0.9, 0, 0, 0, 0], [True] * 4 + [False] * 4)
    target = s.targets[0]
    step_with(s, optimizer, [1.0, 2.0, 3.0, 4.0, 9.0, 9.0, 9.0, 9.0])  # step 0 is no update
    momentum = s.slots(target)["momentum_buffer"].clone()
    weight = target.dense.clone()
    assert momentum[0].tolist() == pytest.approx([1.005, 2.001, 2.998, 4.009, 0, 0, 0, 0])
    assert weight[0].tolist() == pytest.approx([0.3995, -0.1001, -0.4998, 0.4991, 0, 0, 0, 0])
    # the smallest are 0 and 1; of what is not kept, 5 and 1 have the largest gradients
    step_with(s, optimizer, [0.1, -7.0, 0.0, 0.0, 0.5, 8.0, -6.0, 0.0])
    assert target.mask[0].tolist() == [False, True, True, True, False, True, False, False]
    kept = torch.tensor([1, 2, 3])
    assert torch.equal(target.dense[0, kept], weight[0, kept])  # the update replaces the gradient step
    assert torch.equal(s.slots(target)["momentum_buffer"][0, kept], momentum[0, kept])
    assert target.dense[0, 5] == 0
    assert s.slots(target)["momentum_buffer"][0, 5] == 0
    assert target.dense[0, 0] == 0
    assert s.slots(target)["momentum_buffer"][0, 0] == 0
    # step 2 is past the end: an ordinary step, in which the new weight moves by its own gradient alone
    step_with(s, optimizer, [1.0] * 8)
    assert target.dense[0, 5].item() == pytest.approx(-0.1)
    assert not bool(target.dense[~target.mask].any())
    assert s.step == 3


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad])
def test_slots_of_other_optimizers(optimizer: Any) -> None:
    s = RigL(density=0.4, every=2, end=1.0).attach(bare(9, 8, 5))
    bound = optimizer(s.param_groups(), lr=0.01, weight_decay=0.01)
    s.bind(bound, total_steps=12)
    for step in range(12):
        train(s, 1, first=step, optimizer=bound)
        for target in s.targets:
            assert len(s.slots(target)) >= 1
            for tensor in (target.dense, *s.slots(target).values()):
                assert not bool(tensor[~target.mask].any())


def test_an_optimizer_that_mixes_entries_moves_no_hidden_weight() -> None:
    s = RigL(density=0.4, every=2, end=1.0).attach(bare(9, 8, 5))
    optimizer = torch.optim.Muon(s.param_groups(), lr=0.02)
    s.bind(optimizer, total_steps=8)
    for step in range(8):
        before = s.masks()
        train(s, 1, first=step, optimizer=optimizer)
        for target in s.targets:
            assert not bool(target.dense[~target.mask].any())
        assert s.remaining() == before.remaining()


def counts(s: Sparsifier) -> list[int]:
    return [int(target.mask.sum()) for target in s.targets]


def updates(s: Sparsifier, total: int) -> list[int]:
    """Steps in which nothing but masks moved."""
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.05)
    s.bind(optimizer, total_steps=total)
    found = []
    for step in range(total):
        before = [target.dense.clone() for target in s.targets]
        masks = s.masks()
        train(s, 1, first=step, optimizer=optimizer)
        still = [
            torch.equal(target.dense[masks[target.name] & target.mask], old[masks[target.name] & target.mask])
            for target, old in zip(s.targets, before, strict=True)
        ]
        if all(still):
            found.append(step)
    return found


def test_when_updates_happen() -> None:
    assert updates(RigL(density=0.5, every=4).attach(bare(9, 8, 5)), 20) == [4, 8, 12]
    assert updates(RigL(density=0.5, every=5).attach(bare(9, 8, 5)), 20) == [5, 10]  # the end, 15, is none
    assert updates(RigL(density=0.5, every=5, end=1.0, update_at_start=True).attach(bare(9, 8, 5)), 12) == [0, 5, 10]


def test_how_many_are_dropped_and_that_the_count_stays() -> None:
    """The cosine over 20 steps of 100 active weights: 30, 25, 15 and 4, of which some come back."""
    s = RigL(density=0.5, every=5, end=1.0, update_at_start=True).attach(bare(200, 1))
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.0)  # weights stay: dropped ones are the same smallest
    s.bind(optimizer, total_steps=20)
    target = s.targets[0]
    for step in range(20):
        mask, weight = target.mask.clone(), target.dense.clone()
        gradient = torch.randn(200, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        s.model(gradient.view(1, -1)).sum().backward()
        optimizer.step()
        if step % 5:
            assert torch.equal(target.mask, mask)
            continue
        n = {0: 30, 5: 25, 10: 15, 15: 4}[step]
        active = mask.flatten().nonzero().flatten()
        ranked = sorted(active.tolist(), key=lambda i: (-weight.abs().flatten()[i].item(), i))
        kept = ranked[: 100 - n]
        rest = [i for i in range(200) if i not in set(kept)]
        grown = sorted(rest, key=lambda i: (-gradient.abs()[i].item(), i))[:n]
        assert sorted(kept + grown) == target.mask.flatten().nonzero().flatten().tolist()
        assert int(target.mask.sum()) == 100


@settings(max_examples=15, deadline=None)
@given(st.floats(0.15, 1.0), st.sampled_from(["erk", "er", "uniform"]), st.integers(1, 3), st.floats(0.01, 1.0))
def test_counts_are_constant(density: float, scope: Any, every: int, fraction: float) -> None:
    s = RigL(density=density, scope=scope, every=every, drop_fraction=fraction, end=1.0).attach(bare(6, 5, 4))
    start = counts(s)
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.1, momentum=0.9)
    s.bind(optimizer, total_steps=6)
    for step in range(6):
        train(s, 1, first=step, optimizer=optimizer)
        assert counts(s) == start


def test_lenet_starts_at_the_erk_counts_with_the_mask_of_the_random_baseline() -> None:
    s = RigL(density=0.1).attach(fcn(), seed=3)
    assert s.remaining() == 26_620
    for count, target, share in zip(counts(s), s.targets, erk([(300, 784), (100, 300), (10, 100)], 0.1), strict=True):
        assert abs(count - share * target.size) <= 1
    other = RandomMask(density=0.1).attach(fcn(), seed=3)
    assert all(torch.equal(mask, other.masks()[name]) for name, mask in s.masks().items())


def test_a_first_dense_layer_never_moves() -> None:
    s = RigL(density=0.8, scope="uniform", first_dense=True, every=1, end=1.0).attach(bare(9, 8, 5))
    train(s, 5)
    assert counts(s) == [72, 18]  # .8 * 112 = 89.6


def test_the_gradient_is_that_of_the_accumulated_batch() -> None:
    masks = []
    for parts in (1, 4):
        s = RigL(density=0.3, every=1, end=1.0).attach(bare(9, 8, 5, dtype=torch.float64))
        optimizer = torch.optim.SGD(s.param_groups(), lr=0.1)
        s.bind(optimizer, total_steps=6)
        for step in range(6):
            optimizer.zero_grad()
            x, y = batch(s.model, step)  # type: ignore[arg-type]
            for xs, ys in zip(x.chunk(parts), y.chunk(parts), strict=True):
                (F.cross_entropy(s.model(xs), ys) / parts).backward()
            optimizer.step()
        masks.append(s.masks())
    assert all(torch.equal(mask, masks[1][name]) for name, mask in masks[0].items())


def test_an_overflow_leaves_the_update_for_the_next_step() -> None:
    s, _ = one_layer(
        RigL(density=0.5, drop_fraction=0.5, every=1, end=1.0),
        [4.0, 3.0, 2.0, 1.0, 0, 0, 0, 0],
        [True] * 4 + [False] * 4,
    )
    fused = torch.optim.SGD(s.param_groups(), lr=0.1, fused=True)
    s.bind(fused, total_steps=10)
    target = s.targets[0]
    gradient = [1.0] * 4 + [5.0, 6.0, 7.0, 8.0]
    step_with(s, fused, gradient)
    before = target.mask.clone()
    for inf in (1.0, 0.0):
        fused.grad_scale, fused.found_inf = torch.tensor(4.0), torch.tensor(inf)  # type: ignore[attr-defined]
        step_with(s, fused, gradient)
        if inf:
            assert (s.step, torch.equal(target.mask, before)) == (1, True)
    assert s.step == 2
    assert target.mask[0].tolist() == [True, True, True, False, False, False, False, True]


def test_the_model_computes_with_the_stored_weight_itself() -> None:
    """No product a forward pass; and what somebody puts on top still acts."""
    s = RigL(density=0.3).attach(bare(9, 8, 5))
    target = s.targets[0]
    assert target.weight is target.parameter
    module = target.module

    class Double(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    nn.utils.parametrize.register_parametrization(module, "weight", Double())
    assert torch.equal(target.weight, 2 * target.parameter)


def test_finalize_leaves_the_optimizer_behind() -> None:
    model = bare(9, 8, 5)
    s = RigL(density=0.3, every=2).attach(model)
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.1)
    s.bind(optimizer, total_steps=2)
    train(s, 2, optimizer=optimizer)
    s.finalize()
    before = [p.clone() for p in model.parameters()]
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step()
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_a_gradient_that_is_not_a_number() -> None:
    s, optimizer = one_layer(RigL(density=0.5, every=1, end=1.0), [1.0, 1.0, 0.0, 0.0], [True, True, False, False])
    step_with(s, optimizer, [1.0] * 4)
    with pytest.raises(DivergedError, match="training diverged: 0.weight or its gradient holds NaN"):
        step_with(s, optimizer, [1.0, 1.0, float("nan"), 1.0])


@pytest.mark.parametrize(
    ("field", "value"),
    [("density", 0.0), ("drop_fraction", 0.0), ("drop_fraction", 1.1), ("every", 0), ("end", 0.0), ("scope", "global")],
)
def test_bad_fields(field: str, value: Any) -> None:
    with pytest.raises(HyperparameterError, match=f"rigl: {field} must be"):
        RigL(**{field: value})


def test_no_step_is_lost_where_every_layer_is_dense() -> None:
    assert updates(RigL(density=1.0, every=2, end=1.0).attach(bare(9, 8, 5)), 6) == []


def test_a_training_without_an_update_is_noted() -> None:
    for every, notes in ((5, []), (6, ["rigl: no connection moves after step 0: of 8 steps, none before step 6"])):
        s = RigL(density=0.5, every=every).attach(bare(9, 8, 5))
        train(s, 8)
        assert [note[: len(notes[0])] for note in s.notes] == notes
