"""Around the optimizer's step: closures, mixed precision, and optimizers that do not fit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from supermask import Magnitude, RandomMask, SignedSupermask
from supermask.errors import BindError, HyperparameterError, StateError

from .helpers import Penalised, loss_of, mlp, sgd, train


class Twice(torch.optim.SGD):
    """Evaluates its closure twice a step, as line searches do."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        assert closure is not None
        for _ in range(2):
            with torch.enable_grad():
                loss = closure()
            super().step()
        return loss


@pytest.mark.parametrize("by_keyword", [False, True])
def test_a_closure_is_the_same_as_a_plain_step(by_keyword: bool) -> None:
    plain, closed = mlp(), mlp()
    first = RandomMask(density=0.4).attach(plain)
    train(plain, torch.optim.Adam(first.param_groups(), lr=0.01), 3)
    s = RandomMask(density=0.4).attach(closed)
    optimizer = torch.optim.Adam(s.param_groups(), lr=0.01)
    s.bind(optimizer, total_steps=3)
    for step in range(3):

        def closure(step: int = step) -> float:
            optimizer.zero_grad()
            loss = loss_of(closed, step)
            loss.backward()
            return loss.item()

        loss = optimizer.step(closure=closure) if by_keyword else optimizer.step(closure)
        assert isinstance(loss, float)
    assert s.step == 3
    for a, b in zip(plain.parameters(), closed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_penalty_joins_gradients_that_a_closure_makes() -> None:
    """The pre-step hook runs before the closure: adding the penalty there would be undone by its zero_grad."""
    results = []
    for closed in (False, True):
        model = mlp()
        s = Penalised().attach(model)
        optimizer = sgd(s, momentum=0.9)

        def closure(model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> float:
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            return loss.item()

        for _ in range(3):
            if closed:
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
        results.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_lbfgs_is_refused() -> None:
    s = RandomMask().attach(mlp())
    with pytest.raises(BindError, match="LBFGS evaluates the loss several times a step; use an optimizer with one"):
        s.bind(torch.optim.LBFGS(s.param_groups()), total_steps=3)


def test_an_optimizer_that_evaluates_its_closure_twice_is_refused() -> None:
    model = mlp()
    s = RandomMask().attach(model)
    optimizer = Twice(s.param_groups(), lr=0.1)
    s.bind(optimizer, total_steps=3)

    def closure() -> float:
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss.item()

    with pytest.raises(BindError, match="Twice evaluated its closure 2 times in one step; use an optimizer with one"):
        optimizer.step(closure)


def test_a_skipped_fused_step_changes_nothing() -> None:
    """What GradScaler does to a fused optimizer, emulated: step() is called although nothing shall move."""
    model = mlp()
    s = Magnitude(density=0.3, every=1, end=1.0).attach(model)
    optimizer = torch.optim.Adam(s.param_groups(), lr=0.1, weight_decay=0.1, fused=True)
    s.bind(optimizer, total_steps=4)
    for skip, steps in ((False, 1), (True, 1), (False, 2)):
        optimizer.zero_grad()
        loss_of(model).backward()
        before, density = copy.deepcopy(model.state_dict()), s.density()
        optimizer.grad_scale = torch.tensor(1.0)  # type: ignore[attr-defined]
        optimizer.found_inf = torch.tensor(float(skip))  # type: ignore[attr-defined]
        optimizer.step()
        assert s.step == steps
        assert (s.density() == density) == skip
        for key, value in model.state_dict().items():
            assert not skip or torch.equal(value, before[key]), key


@pytest.mark.parametrize("fused", [True, False])
def test_a_real_grad_scaler_skips_an_overflow(fused: bool) -> None:
    model, reference = mlp(), mlp()
    s = Penalised(strength=0.3).attach(model)
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.1, momentum=0.9, fused=fused)
    s.bind(optimizer, total_steps=9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    other = Penalised(strength=0.3).attach(reference)
    unscaled = torch.optim.SGD(other.param_groups(), lr=0.1, momentum=0.9)
    other.bind(unscaled, total_steps=9)
    for step in range(4):
        overflow = step == 1
        optimizer.zero_grad()
        loss = loss_of(model, step)
        scaler.scale(loss * float("inf") if overflow else loss).backward()
        before = copy.deepcopy(model.state_dict())
        scaler.step(optimizer)
        scaler.update()
        if overflow:
            assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        else:
            train(reference, unscaled, 1, first=step)
    assert scaler.get_scale() == 2.0**11
    assert s.step == other.step == 3
    # the penalty was scaled as the gradients were: the weights follow the unscaled run
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_second_bind_replaces_the_first() -> None:
    model = mlp()
    s = RandomMask().attach(model)
    first = sgd(s)
    train(model, first, 1)
    second = torch.optim.SGD(s.param_groups(), lr=0.01)
    s.bind(second, total_steps=8)
    train(model, second, 1)
    assert s.step == 2
    assert s.lr(s.targets[0]) == 0.01
    first.step()
    assert s.step == 2


def test_lr_follows_the_group_of_the_target() -> None:
    s = SignedSupermask().attach(mlp())
    groups = s.param_groups(weight_decay=5e-4, other_weight_decay=0.0)
    optimizer = torch.optim.SGD(groups, lr=0.5, momentum=0.9)
    groups[1]["lr"] = 0.25
    s.bind(optimizer, total_steps=1)
    assert [s.lr(target) for target in s.targets] == [0.5, 0.5]
    optimizer.param_groups[0]["lr"] = 0.125
    assert s.lr(s.targets[1]) == 0.125
    assert [group["weight_decay"] for group in optimizer.param_groups] == [5e-4, 0.0]
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]


def test_slots_are_the_optimizer_state_of_a_target() -> None:
    model = mlp()
    s = RandomMask().attach(model)
    with pytest.raises(BindError, match="no optimizer is bound yet: sparsifier.bind"):
        s.slots(s.targets[0])
    with pytest.raises(BindError, match="no optimizer is bound yet"):
        s.lr(s.targets[0])
    optimizer = torch.optim.Adam(s.param_groups())
    s.bind(optimizer, total_steps=2)
    assert s.slots(s.targets[0]) == {}
    train(model, optimizer, 1)
    assert set(s.slots(s.targets[0])) == {"exp_avg", "exp_avg_sq"}


def test_an_optimizer_built_before_attach_is_refused() -> None:
    model = mlp()
    stale = torch.optim.SGD(model.parameters(), lr=0.1)
    for method in (RandomMask(), SignedSupermask()):
        s = method.attach(copy.deepcopy(model))
        with pytest.raises(
            BindError, match=r"the optimizer lacks 0.weight, 0.bias, 2.weight, 2.bias: .*after attach\(\)"
        ):
            s.bind(stale, total_steps=1)
    s = RandomMask().attach(model)
    with pytest.raises(
        BindError,
        match=r"the optimizer lacks 0.weight, 2.weight: one optimizer must hold every trainable tensor, and be built after",
    ):
        s.bind(stale, total_steps=1)


def test_an_optimizer_that_lacks_one_trainable_tensor_is_refused() -> None:
    s = SignedSupermask().attach(mlp())
    some = torch.optim.SGD([target.parameter for target in s.targets], lr=0.1)
    with pytest.raises(BindError, match=r"lacks 0.bias, 2.bias: .*need requires_grad_\(False\)"):
        s.bind(some, total_steps=1)
    s.model.get_parameter("0.bias").requires_grad_(False)
    s.model.get_parameter("2.bias").requires_grad_(False)
    s.bind(some, total_steps=1)


@pytest.mark.parametrize("total_steps", [0, -1, 2.0, True, None, "10"])
def test_total_steps_must_be_a_positive_integer(total_steps: object) -> None:
    s = RandomMask().attach(mlp())
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.1)
    with pytest.raises(HyperparameterError, match="total_steps must be a positive integer, got"):
        s.bind(optimizer, total_steps=total_steps)  # type: ignore[arg-type]


def test_total_steps_cannot_change_in_the_middle() -> None:
    model = mlp()
    s = RandomMask().attach(model)
    train(model, sgd(s, 8), 1)
    again = torch.optim.SGD(s.param_groups(), lr=0.1)
    with pytest.raises(
        StateError, match="step 1 of total_steps=8 is done, now total_steps is 9.*bind with total_steps=8"
    ):
        s.bind(again, total_steps=9)
    s.bind(again, total_steps=8)


def test_finalize_takes_the_hooks_away() -> None:
    model = mlp()
    s = RandomMask().attach(model)
    optimizer = sgd(s)
    s.finalize()
    optimizer.step()
    assert s.step == 0
