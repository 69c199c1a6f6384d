from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from supermask.errors import HyperparameterError, StateError
from supermask.optim import SGDW, Constant, Cosine, Exponential, Schedule, Scheduler

SHAPES = [(7, 5), (4, 3, 3, 3), (6,)]


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in SHAPES]


def gradients(steps: int, dtype: torch.dtype = torch.float64) -> Iterator[list[Tensor]]:
    generator = torch.Generator().manual_seed(4)
    for _ in range(steps):
        yield [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in SHAPES]


class Recursion:
    """The update as the signed supermask's specification writes it."""

    def __init__(self, params: list[nn.Parameter], momentum: float, nesterov: bool) -> None:
        self.p = [p.detach().clone() for p in params]
        self.v = [torch.zeros_like(p) for p in self.p]
        self.momentum, self.nesterov = momentum, nesterov

    def step(self, grads: list[Tensor], lr: float, wd: float) -> None:
        for i, g in enumerate(grads):
            self.p[i] = self.p[i] - wd * self.p[i]
            self.v[i] = self.momentum * self.v[i] - lr * g
            self.p[i] = self.p[i] + (self.momentum * self.v[i] - lr * g if self.nesterov else self.v[i])


def set_grads(params: list[nn.Parameter], grads: list[Tensor]) -> None:
    for p, g in zip(params, grads, strict=True):
        p.grad = g.clone()


def assert_close(params: list[nn.Parameter], reference: list[Tensor], tolerance: float = 1e-11) -> None:
    for p, r in zip(params, reference, strict=True):
        torch.testing.assert_close(p.detach(), r, rtol=tolerance, atol=tolerance)


def return_to_one(step: int) -> float:
    """Cosine to exactly zero, twenty steps of it, and a return."""
    return Cosine(150).factor(step) if step < 170 else 0.5


def to_next_to_nothing(step: int) -> float:
    return 1e-4**step


SCHEDULES: dict[str, Callable[[int], float]] = {
    "constant": Constant().factor,
    "staircase": Exponential(0.6, 20, staircase=True).factor,
    "continuous": Exponential(0.9, 10, staircase=False).factor,
    "cosine to zero and back": return_to_one,
    "warm-up from zero": lambda step: min(1.0, step / 30),
    "below the smallest rate": to_next_to_nothing,
    "always zero": lambda step: 0.0,
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, True), (0.9, False), (0.0, True), (0.0, False)])
def test_follows_the_written_recursion_for_300_steps(schedule: str, momentum: float, nesterov: bool) -> None:
    factor = SCHEDULES[schedule]
    params = parameters()
    reference = Recursion(params, momentum, nesterov)
    optimizer = SGDW(params, 0.05, momentum=momentum, nesterov=nesterov, weight_decay=5e-3)
    for step, grads in enumerate(gradients(300)):
        lr, wd = 0.05 * factor(step), 5e-3 * factor(step)
        optimizer.param_groups[0].update(lr=lr, weight_decay=wd)
        set_grads(params, grads)
        optimizer.step()
        reference.step(grads, lr, wd)
    assert_close(params, reference.p)


def test_the_velocity_keeps_moving_the_weights_while_lr_is_zero() -> None:
    p = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = SGDW([p], 0.5, momentum=0.9, nesterov=False)
    p.grad = torch.tensor([2.0], dtype=torch.float64)
    optimizer.step()
    assert p.item() == pytest.approx(0.0)  # v = -1
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert p.item() == pytest.approx(-0.9)
    optimizer.step()
    assert p.item() == pytest.approx(-1.71)


def test_hand_computed_nesterov_step_with_decay() -> None:
    p = nn.Parameter(torch.tensor([10.0], dtype=torch.float64))
    optimizer = SGDW([p], 0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    p.grad = torch.tensor([1.0], dtype=torch.float64)
    optimizer.step()  # 9.9, v = -0.1, 9.9 - 0.09 - 0.1
    assert p.item() == pytest.approx(9.71)
    optimizer.step()  # 9.6129, v = -0.19, 9.6129 - 0.171 - 0.1
    assert p.item() == pytest.approx(9.3419)


def test_float32_stays_close_and_keeps_its_type() -> None:
    params = parameters(torch.float32)
    reference = Recursion(parameters(), 0.9, True)
    optimizer = SGDW(params, 0.05, weight_decay=1e-3)
    scheduler = Scheduler(optimizer, Exponential(0.9, 50, staircase=False))
    for step, grads in enumerate(gradients(200)):
        set_grads(params, [g.float() for g in grads])
        optimizer.step()
        scheduler.step()
        factor = 0.9 ** (step / 50)
        reference.step(grads, 0.05 * factor, 1e-3 * factor)
    assert all(p.dtype == torch.float32 for p in params)
    assert_close(params, [r.float() for r in reference.p], 1e-4)


def test_groups_have_their_own_values() -> None:
    params = parameters()
    first, second = Recursion(params[:1], 0.9, True), Recursion(params[1:], 0.5, False)
    groups = [
        {"params": params[:1]},
        {"params": params[1:], "lr": 0.2, "momentum": 0.5, "nesterov": False, "weight_decay": 0.0},
    ]
    optimizer = SGDW(groups, 0.05, weight_decay=1e-2)
    scheduler = Scheduler(optimizer, Exponential(0.7, 9))
    for step, grads in enumerate(gradients(60)):
        factor = 0.7 ** (step // 9)
        set_grads(params, grads)
        optimizer.step()
        scheduler.step()
        first.step(grads[:1], 0.05 * factor, 1e-2 * factor)
        second.step(grads[1:], 0.2 * factor, 0.0)
    assert_close(params, first.p + second.p)


def test_a_parameter_without_gradient_rests_and_its_velocity_follows_the_rate() -> None:
    params = parameters()
    reference = Recursion(params, 0.9, True)
    optimizer = SGDW(params, 0.05, weight_decay=1e-2)
    for step, grads in enumerate(gradients(12)):
        lr = 0.05 * 0.5 ** (step // 2)
        optimizer.param_groups[0]["lr"] = lr
        set_grads(params, grads)
        resting = step in (0, 4, 5, 6)
        if resting:
            params[1].grad = None
            kept = reference.p[1].clone(), reference.v[1].clone()
        optimizer.step()
        reference.step(grads, lr, 1e-2)
        if resting:
            reference.p[1], reference.v[1] = kept
    assert_close(params, reference.p)


def test_no_gradient_at_all_changes_nothing() -> None:
    params = parameters()
    before = [p.detach().clone() for p in params]
    SGDW(params, 0.1, weight_decay=0.1).step()
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))


@pytest.mark.parametrize("fused", [True, None])
def test_without_the_fused_kernel_the_update_is_the_same(fused: bool | None) -> None:
    params = parameters()
    reference = Recursion(params, 0.9, True)
    optimizer = SGDW(params, 0.05, weight_decay=1e-3)
    assert optimizer.param_groups[0]["fused"] is True
    optimizer.param_groups[0]["fused"] = fused
    for step, grads in enumerate(gradients(50)):
        optimizer.param_groups[0]["lr"] = lr = 0.05 * return_to_one(4 * step)
        set_grads(params, grads)
        optimizer.step()
        reference.step(grads, lr, 1e-3)
    assert_close(params, reference.p)


def test_parameters_that_no_fused_kernel_takes_get_the_plain_one() -> None:
    p = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    optimizer = SGDW([p], 0.5, momentum=0.0)
    assert optimizer.param_groups[0]["fused"] is None
    p.grad = torch.ones(2, dtype=torch.complex64)
    optimizer.step()
    assert torch.equal(p.detach(), torch.full((2,), 0.5, dtype=torch.complex64))


@pytest.mark.parametrize("moment", ["gradient", "parameter"])
def test_layout_in_memory_does_not_matter(moment: str) -> None:
    # torch's fused kernels walk the memory of parameter, gradient and buffer side by side whatever their strides
    params = parameters()
    reference = Recursion(params, 0.9, True)
    optimizer = SGDW(params, 0.05)
    for step, grads in enumerate(gradients(4)):
        set_grads(params, grads)
        if moment == "parameter" and step == 2:
            params[1].data = params[1].data.to(memory_format=torch.channels_last)
            params[0].data = params[0].data.t().contiguous().t()
        if moment == "gradient":
            params[1].grad = grads[1].to(memory_format=torch.channels_last)
        optimizer.step()
        reference.step(grads, 0.05, 0.0)
    assert_close(params, reference.p)


@pytest.mark.parametrize(
    "schedule", [Exponential(0.6, 7), Exponential(0.9, 7, staircase=False), Cosine(30)], ids=lambda s: s.name
)
def test_resume_is_bitwise(schedule: Schedule) -> None:
    def start() -> tuple[list[nn.Parameter], SGDW, Scheduler]:
        params = parameters(torch.float32)
        optimizer = SGDW(params, 0.05, weight_decay=1e-3)
        return params, optimizer, Scheduler(optimizer, schedule)

    def advance(params: list[nn.Parameter], optimizer: SGDW, scheduler: Scheduler, grads: list[Tensor]) -> None:
        set_grads(params, grads)
        optimizer.step()
        scheduler.step()

    all_grads = list(gradients(40, torch.float32))
    whole = start()
    for grads in all_grads:
        advance(*whole, grads)

    first = start()
    for grads in all_grads[:17]:
        advance(*first, grads)
    weights = [p.detach().clone() for p in first[0]]
    saved = copy.deepcopy((first[1].state_dict(), first[2].state_dict()))

    second = start()
    with torch.no_grad():
        for p, w in zip(second[0], weights, strict=True):
            p.copy_(w)
    second[1].load_state_dict(saved[0])
    second[2].load_state_dict(saved[1])
    for grads in all_grads[17:]:
        advance(*second, grads)
    assert all(torch.equal(a, b) for a, b in zip(whole[0], second[0], strict=True))
    for a, b in zip(whole[0], second[0], strict=True):
        assert torch.equal(whole[1].state[a]["momentum_buffer"], second[1].state[b]["momentum_buffer"])


def test_refuses_the_state_of_another_optimizer() -> None:
    params = parameters()
    saved = torch.optim.SGD(params, lr=0.1).state_dict()
    with pytest.raises(StateError, match="SGDW did not save it"):
        SGDW(params, 0.1).load_state_dict(saved)


def test_a_copy_continues_alike() -> None:
    params = parameters()
    optimizer = SGDW(params, 0.05, weight_decay=1e-3)
    stream = gradients(4)
    for _ in range(2):
        set_grads(params, next(stream))
        optimizer.step()
    twin = copy.deepcopy(optimizer)
    twins = twin.param_groups[0]["params"]
    for grads in stream:
        for own, one in ((params, optimizer), (twins, twin)):
            set_grads(own, grads)
            one.step()
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))


def snapshot(params: list[nn.Parameter], optimizer: SGDW) -> list[Tensor]:
    states = [optimizer.state[p]["momentum_buffer"] for p in params if p in optimizer.state]
    return [t.detach().clone() for t in [*params, *states]] + [torch.tensor(optimizer.param_groups[0]["buffer_lr"])]


@pytest.mark.parametrize("lr", [0.01, 0.0])
def test_a_skipped_step_changes_nothing_and_a_scaled_gradient_is_unscaled(lr: float) -> None:
    params = parameters()
    reference = Recursion(params, 0.9, True)
    optimizer = SGDW(params, 0.05, weight_decay=1e-2)
    stream = gradients(4)
    grads = next(stream)
    set_grads(params, grads)
    optimizer.step()
    reference.step(grads, 0.05, 1e-2)
    optimizer.param_groups[0]["lr"] = lr

    before = snapshot(params, optimizer)
    set_grads(params, next(stream))
    optimizer.grad_scale = torch.tensor(1024.0)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(params, optimizer), strict=True))

    grads = next(stream)
    set_grads(params, [1024 * g for g in grads])
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    reference.step(grads, lr, 1e-2)
    assert_close(params, reference.p)


@pytest.mark.parametrize("fused", [True, None])
def test_grad_scaler_skips_and_goes_on(fused: bool | None) -> None:
    params = parameters(torch.float32)
    reference = Recursion(params, 0.9, True)
    optimizer = SGDW(params, 0.05, weight_decay=1e-2)
    if fused is None:
        optimizer.param_groups[0]["fused"] = None
        optimizer._step_supports_amp_scaling = False
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    for step, grads in enumerate(gradients(6, torch.float32)):
        scaler.scale(torch.zeros(1))  # makes the scale
        set_grads(params, [scaler.get_scale() * g for g in grads])
        before = [p.detach().clone() for p in params]
        if step in (0, 3):
            params[0].grad[0, 0] = math.inf
        scaler.step(optimizer)
        scaler.update()
        if step in (0, 3):
            assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))
        else:
            reference.step(grads, 0.05, 1e-2)
    assert_close(params, reference.p, 1e-5)


def test_step_hooks_run_once_even_after_plain_sgd_was_used() -> None:
    torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)  # torch wraps SGD.step now
    params = parameters()
    optimizer = SGDW(params, 0.1)
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    set_grads(params, next(gradients(1)))
    optimizer.step()
    assert calls == ["before", "after"]


def test_a_closure_is_run_with_gradients_and_its_loss_returned() -> None:
    p = nn.Parameter(torch.tensor([3.0], dtype=torch.float64))
    optimizer = SGDW([p], 0.1, momentum=0.0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 9.0
    assert p.item() == pytest.approx(2.4)


def test_works_with_torch_schedulers() -> None:
    params = parameters()
    reference = Recursion(params, 0.9, True)
    optimizer = SGDW(params, 0.05)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.5)
    for step, grads in enumerate(gradients(20)):
        set_grads(params, grads)
        optimizer.step()
        scheduler.step()
        reference.step(grads, 0.05 * 0.5 ** (step // 5), 0.0)
    assert_close(params, reference.p)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -0.1}, r"lr must be a finite number >= 0 .*got -0\.1"),
        ({"lr": math.nan}, "lr must be .*got nan"),
        ({"lr": "0.1"}, "lr must be .*got '0.1'"),
        ({"lr": True}, "lr must be .*got True"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\) \(0.9 is usual.*got 1\.0"),
        ({"momentum": -0.5}, r"momentum must be .*got -0\.5"),
        ({"weight_decay": -1e-4}, "weight_decay must be .*got -0.0001"),
        ({"weight_decay": 5}, r"weight_decay must be in \[0, 1\): .*not multiplied by lr.*got 5"),
        ({"nesterov": 1}, "nesterov must be True or False, got 1"),
    ],
)
@pytest.mark.parametrize("where", ["constructor", "group"])
def test_bad_values_name_the_field_the_value_and_the_way_out(
    options: dict[str, object], message: str, where: str
) -> None:
    common = {"lr": 0.1, **(options if where == "constructor" else {})}
    group = {"params": parameters(), **(options if where == "group" else {})}
    with pytest.raises(HyperparameterError, match=message):
        SGDW([group], **common)


def test_options_of_torch_sgd_that_would_be_ignored_are_refused() -> None:
    with pytest.raises(HyperparameterError, match=r"dampening is not an option of SGDW, got 0\.5"):
        SGDW([{"params": parameters(), "dampening": 0.5}], 0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("schedule", ["staircase", "cosine to zero and back"])
def test_follows_the_recursion_on_an_accelerator(schedule: str) -> None:
    params = [nn.Parameter(p.detach().cuda()) for p in parameters()]
    reference = Recursion(params, 0.9, True)
    optimizer = SGDW(params, 0.05, weight_decay=5e-3)
    assert optimizer.param_groups[0]["fused"] is True
    for step, grads in enumerate(gradients(300)):
        grads = [g.cuda() for g in grads]
        lr = 0.05 * SCHEDULES[schedule](step)
        optimizer.param_groups[0]["lr"] = lr
        set_grads(params, grads)
        optimizer.step()
        reference.step(grads, lr, 5e-3)
    assert_close(params, reference.p)
