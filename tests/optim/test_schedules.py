from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import nn

from supermask.errors import BindError, DivergedError, HyperparameterError, StateError
from supermask.optim import (
    SCHEDULES,
    SGDW,
    Constant,
    Cosine,
    Exponential,
    Plateau,
    PlateauRule,
    Schedule,
    Scheduler,
    Step,
)


def sgdw(**options: Any) -> SGDW:
    return SGDW([nn.Parameter(torch.ones(1))], **{"lr": 0.05, "weight_decay": 5e-4, **options})


def test_factors() -> None:
    assert Constant().factor(10**6) == 1.0
    staircase = Exponential(0.96, 3900)
    assert [staircase.factor(t) for t in (0, 3899, 3900, 7800)] == pytest.approx([1, 1, 0.96, 0.96**2])
    assert Exponential(0.9, 4, staircase=False).factor(2) == pytest.approx(math.sqrt(0.9))
    cosine = Cosine(100)
    assert [cosine.factor(t) for t in (0, 25, 50)] == pytest.approx([1, 0.5 + math.sqrt(0.125), 0.5])
    assert [cosine.factor(t) for t in (100, 101)] == [0.0, 0.0]
    assert 0 < cosine.factor(99) < 3e-4
    step = Step((10, 20), 0.1)
    assert [step.factor(t) for t in (9, 10, 19, 20)] == pytest.approx([1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize(
    ("schedule", "decay_sum", "last"),
    [
        (Exponential(0.96, 390 * 10, staircase=True), 18.91, 0.613),
        (Exponential(0.9, 469 * 10, staircase=False), 14.50, 0.349),
    ],
    ids=["staircase", "continuous"],
)
def test_published_totals_of_100_mnist_epochs(schedule: Schedule, decay_sum: float, last: float) -> None:
    optimizer = sgdw()
    scheduler = Scheduler(optimizer, schedule)
    group = optimizer.param_groups[0]
    total = 0.0
    for _ in range(46_900):
        total += group["weight_decay"]
        lr = group["lr"]
        scheduler.step()
    assert round(total, 2) == decay_sum
    assert round(lr / 0.05, 3) == last


@pytest.mark.parametrize(
    ("optimizer", "decay", "scaled"),
    [
        (SGDW, None, True),
        (SGDW, False, False),
        (torch.optim.SGD, None, False),
        (torch.optim.SGD, True, True),
        (torch.optim.AdamW, None, False),
    ],
)
def test_weight_decay_follows_by_default_only_where_lr_does_not_multiply_it(
    optimizer: Any, decay: bool | None, scaled: bool
) -> None:
    made = optimizer([nn.Parameter(torch.ones(1))], lr=0.2, weight_decay=0.1)
    scheduler = Scheduler(made, Step([1], 0.5), decay=decay)
    scheduler.step()
    group = made.param_groups[0]
    assert group["lr"] == pytest.approx(0.1)
    assert group["weight_decay"] == pytest.approx(0.05 if scaled else 0.1)


def test_scheduler_starts_with_the_factor_of_step_zero_and_keeps_groups_apart() -> None:
    class WarmUp(Schedule):
        name = "warm-up"

        def factor(self, step: int) -> float:
            return min(1.0, (step + 1) / 4)

    optimizer = SGDW([{"params": nn.Parameter(torch.ones(1))}, {"params": nn.Parameter(torch.ones(1)), "lr": 1.0}], 0.4)
    scheduler = Scheduler(optimizer, WarmUp())
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.25])
    for _ in range(3):
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.4, 1.0])
    assert scheduler.factor == 1.0
    assert not scheduler.finished


def test_cosine_takes_its_length_from_the_training() -> None:
    optimizer = sgdw()
    scheduler = Cosine().bind(optimizer, total_steps=10)
    for _ in range(10):
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.0
    assert Cosine(7).bind(sgdw(), total_steps=10).schedule == Cosine(7)
    with pytest.raises(HyperparameterError, match=r"steps of the cosine is not known; give Cosine\(steps=n\)"):
        Scheduler(sgdw(), Cosine())
    with pytest.raises(HyperparameterError, match="total_steps=n"):
        Cosine().factor(0)


@pytest.mark.parametrize("schedule", [Step((2, 4), 0.5), Exponential(0.9, 2), Cosine(30)], ids=lambda s: s.name)
def test_scheduler_state_survives_json_and_any_order_of_loading(schedule: Schedule) -> None:
    optimizer = sgdw()
    scheduler = Scheduler(optimizer, schedule)
    for _ in range(5):
        scheduler.step()
    saved_optimizer = optimizer.state_dict()
    saved = json.loads(json.dumps(scheduler.state_dict()))
    for _ in range(3):
        scheduler.step()
    expected = optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]

    for optimizer_first in (True, False):
        other = sgdw()
        if optimizer_first:
            other.load_state_dict(saved_optimizer)
        resumed = Scheduler(other, schedule)
        resumed.load_state_dict(saved)
        if not optimizer_first:
            other.load_state_dict(saved_optimizer)
        for _ in range(3):
            resumed.step()
        assert (other.param_groups[0]["lr"], other.param_groups[0]["weight_decay"]) == expected


def test_scheduler_refuses_a_state_that_is_not_its_own() -> None:
    saved = Scheduler(sgdw(), Exponential(0.9, 10)).state_dict()
    with pytest.raises(StateError, match=r"'rate': 0\.9.*'rate': 0\.8"):
        Scheduler(sgdw(), Exponential(0.8, 10)).load_state_dict(saved)
    with pytest.raises(StateError, match="decay=True, here are 1 groups and decay=False"):
        Scheduler(sgdw(), Exponential(0.9, 10), decay=False).load_state_dict(saved)


def test_a_group_added_later_is_an_error() -> None:
    optimizer = sgdw()
    scheduler = Scheduler(optimizer, Constant())
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    with pytest.raises(BindError, match="2 parameter groups, but had 1"):
        scheduler.step()


def test_decay_needs_an_optimizer_that_has_one() -> None:
    optimizer = torch.optim.Rprop([nn.Parameter(torch.ones(1))])
    with pytest.raises(BindError, match="Rprop has no weight_decay to schedule; use decay=False"):
        Scheduler(optimizer, Constant(), decay=True)


def cut_epochs(rule: PlateauRule, losses: list[float]) -> list[int]:
    cuts = []
    for epoch, loss in enumerate(losses):
        before = rule.cuts
        rule.epoch_end(loss)
        cuts += [epoch] * (rule.cuts - before)
    return cuts


def test_plateau_waits_never_resets_and_cools_down() -> None:
    optimizer = sgdw(lr=1.0, weight_decay=0.5)
    rule = PlateauRule(optimizer, factor=0.1, patience=3, max_cuts=3, cooldown=2, start=4)
    # flat from the start: epochs 4, 5, 6 wait 1, 2, 3; epoch 7 makes it 4 > 3: cut; 8, 9 cool down; 10 cuts at once; ...
    assert cut_epochs(rule, [1.0] * 14) == [7, 10, 13]
    assert rule.finished
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.5e-3)


def test_plateau_repaired_counts_afresh_after_a_cut_and_after_progress() -> None:
    rule = PlateauRule(sgdw(), 0.1, 3, 3, cooldown=2, start=4, reset_wait=True)
    assert cut_epochs(rule, [1.0] * 14) == [7, 13]
    losses = [1.0] * 7 + [0.5] + [0.5] * 5  # waits 1, 2, 3, progress, then four more
    original = PlateauRule(sgdw(), 0.1, 3, 3, cooldown=2, start=4)
    repaired = PlateauRule(sgdw(), 0.1, 3, 3, cooldown=2, start=4, reset_wait=True)
    assert cut_epochs(original, losses) == [8, 11]
    assert cut_epochs(repaired, losses) == [11]


def test_plateau_looks_back_patience_minus_two_epochs_and_wants_more_than_a_ten_thousandth() -> None:
    # patience 4 looks at two epochs before: a loss that beats those two is progress though 0.1 was once reached
    losses = [0.1, 1.0, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    assert cut_epochs(PlateauRule(sgdw(), 0.1, 4, 1, start=3), losses) == []
    slow = [1.0 - 0.00009 * epoch for epoch in range(10)]
    assert cut_epochs(PlateauRule(sgdw(), 0.1, 3, 1, start=3), slow) == [6]
    enough = [1.0 - 0.00011 * epoch for epoch in range(10)]
    assert cut_epochs(PlateauRule(sgdw(), 0.1, 3, 1, start=3), enough) == []


def test_plateau_makes_no_cut_after_the_last_one() -> None:
    optimizer = sgdw(lr=1.0)
    rule = PlateauRule(optimizer, 0.5, 3, 1, cooldown=0, start=0)
    assert cut_epochs(rule, [1.0] * 30) == [4]  # epoch 0 has nothing before it: progress
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_plateau_rule_resumes_exactly() -> None:
    losses = [1.0 / (1 + epoch % 3) for epoch in range(40)]
    whole = Plateau(0.5, 3, 9, cooldown=1, start=2).bind(sgdw(lr=1.0))
    expected = cut_epochs(whole, losses)
    assert len(expected) == 9  # the limit is met
    for split in (5, 14, 23):
        first = Plateau(0.5, 3, 9, cooldown=1, start=2).bind(sgdw(lr=1.0))
        head = cut_epochs(first, losses[:split])
        second = Plateau(0.5, 3, 9, cooldown=1, start=2).bind(sgdw(lr=1.0))
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        tail = [split + epoch for epoch in cut_epochs(second, losses[split:])]
        assert head + tail == expected
        assert second.factor == whole.factor
    with pytest.raises(StateError, match="make the schedule as it was"):
        Plateau(0.2, 3, 9).bind(sgdw()).load_state_dict(whole.state_dict())


def test_plateau_refuses_a_loss_that_is_no_number() -> None:
    with pytest.raises(DivergedError, match="epoch index 0 is nan"):
        PlateauRule(sgdw(), 0.1, 3, 1).epoch_end(math.nan)


@pytest.mark.parametrize(
    "schedule", [Constant(), Exponential(), Cosine(5), Step((3,)), Plateau(0.1, 5, 2)], ids=lambda s: s.name
)
def test_every_driver_answers_the_same_calls(schedule: Any) -> None:
    assert SCHEDULES[schedule.name] is type(schedule)
    driver = schedule.bind(sgdw(), total_steps=10)
    driver.step()
    driver.epoch_end(1.0)
    assert driver.finished is False
    assert driver.factor <= 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Exponential(rate=1.5), r"rate must be in \(0, 1\], got 1\.5"),
        (lambda: Exponential(rate=0), r"rate must be in \(0, 1\].*got 0"),
        (lambda: Exponential(every=0), "every must be a number of optimizer steps >= 1, got 0"),
        (lambda: Exponential(every=2.5), "every must be .*got 2.5"),  # type: ignore[arg-type]
        (lambda: Exponential(staircase="yes"), "staircase must be True or False, got 'yes'"),  # type: ignore[arg-type]
        (lambda: Cosine(0), "steps must be .*got 0"),
        (lambda: Step((20, 10)), r"milestones must ascend, got \[20, 10\]; sort them"),
        (lambda: Step((10, 10)), "milestones must ascend"),
        (lambda: Step(10), "milestones must be a list of optimizer steps, got 10"),  # type: ignore[arg-type]
        (lambda: Step((0,)), "milestones must be optimizer steps >= 1, got 0"),
        (lambda: Plateau(1.0, 5, 2), r"factor must be in \(0, 1\) .*got 1\.0"),
        (lambda: Plateau(0.1, 2, 2), "patience must be a number of epochs >= 3 .*got 2"),
        (lambda: Plateau(0.1, 5, 0), "max_cuts must be a number of cuts >= 1, got 0"),
        (lambda: Plateau(0.1, 5, 1, cooldown=-1), "cooldown must be a number of epochs >= 0, got -1"),
        (lambda: Plateau(0.1, 5, 1, start=-1), "start must be the index of an epoch, >= 0, got -1"),
        (lambda: Scheduler(sgdw(), Constant(), decay=1), "decay must be True or False, got 1"),  # type: ignore[arg-type]
    ],
)
def test_bad_values_name_the_field(make: Any, message: str) -> None:
    with pytest.raises(HyperparameterError, match=message):
        make()
