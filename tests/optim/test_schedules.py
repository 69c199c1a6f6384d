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
    OneCycle,
    Plateau,
    PlateauRule,
    Schedule,
    Scheduler,
    Step,
    WarmUp,
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
    class Rise(Schedule):
        name = "rise"

        def factor(self, step: int) -> float:
            return min(1.0, (step + 1) / 4)

    optimizer = SGDW([{"params": nn.Parameter(torch.ones(1))}, {"params": nn.Parameter(torch.ones(1)), "lr": 1.0}], 0.4)
    scheduler = Scheduler(optimizer, Rise())
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
    with pytest.raises(HyperparameterError, match=r"steps of Cosine is not known; give Cosine\(steps=n\)"):
        Scheduler(sgdw(), Cosine())
    with pytest.raises(HyperparameterError, match="total_steps=n"):
        Cosine().factor(0)


def test_one_cycle_by_hand() -> None:
    # 21 steps: up until step 0.3 * 21 - 1 = 5.3, down until step 20
    linear = OneCycle(21, start=0.1, end=0.01, anneal="linear")
    assert [linear.factor(t) for t in (0, 2)] == pytest.approx([0.1, 0.1 + 0.9 * 2 / 5.3])
    assert linear.factor(6) == pytest.approx(1 - 0.99 * 0.7 / 14.7)
    assert [linear.factor(t) for t in (20, 21, 99)] == pytest.approx([0.01, 0.01, 0.01])
    # 20 steps in three phases: up until 7, down until 14, out until 19
    three = OneCycle(20, rise=0.4, start=0.1, end=0.0, anneal="linear", three_phases=True)
    assert [three.factor(t) for t in (0, 7, 14, 19)] == pytest.approx([0.1, 1.0, 0.1, 0.0])
    assert [three.factor(t) for t in (3.5, 10.5, 16.5)] == pytest.approx([0.55, 0.55, 0.05])  # type: ignore[arg-type]
    cosine = OneCycle(21, rise=1 / 3, start=0.2, end=0.0)
    assert [cosine.factor(t) for t in (0, 3, 6, 13, 20)] == pytest.approx([0.2, 0.6, 1.0, 0.5, 0.0])


@pytest.mark.parametrize("steps", [2, 3, 10, 101])
@pytest.mark.parametrize("three_phases", [False, True])
@pytest.mark.parametrize("anneal", ["cosine", "linear"])
@pytest.mark.parametrize(("rise", "start", "end"), [(0.3, 0.04, 4e-6), (0.45, 0.1, 0.002)])
def test_one_cycle_is_that_of_torch(
    steps: int, three_phases: bool, anneal: Any, rise: float, start: float, end: float
) -> None:
    theirs = torch.optim.SGD([nn.Parameter(torch.ones(1, dtype=torch.float64))], lr=1.0)
    torch_scheduler = torch.optim.lr_scheduler.OneCycleLR(
        theirs,
        max_lr=0.3,
        total_steps=steps,
        pct_start=rise,
        anneal_strategy="cos" if anneal == "cosine" else "linear",
        cycle_momentum=False,
        div_factor=1 / start,
        final_div_factor=start / end,
        three_phase=three_phases,
    )
    ours = sgdw(lr=0.3, weight_decay=0.0)
    schedule = OneCycle(rise=rise, start=start, end=end, anneal=anneal, three_phases=three_phases)
    scheduler = schedule.bind(ours, total_steps=steps)
    for _ in range(steps):
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12, abs=1e-15)
        theirs.step()
        if torch_scheduler.last_epoch < steps - 1:
            torch_scheduler.step()
        scheduler.step()


def test_one_cycle_has_the_defaults_of_torch() -> None:
    theirs = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    torch.optim.lr_scheduler.OneCycleLR(theirs, max_lr=1.0, total_steps=10)
    group = theirs.param_groups[0]
    assert OneCycle().start == pytest.approx(group["initial_lr"], rel=1e-12)
    assert OneCycle().end == pytest.approx(group["min_lr"], rel=1e-12)


@pytest.mark.parametrize("three_phases", [False, True])
def test_the_shortest_cycles_have_a_factor_for_each_step(three_phases: bool) -> None:
    for steps in (1, 2, 3, 4):
        schedule = OneCycle(steps, rise=0.5, three_phases=three_phases)
        assert all(0 < schedule.factor(t) <= 1 for t in range(steps + 1))


def test_warm_up_by_hand() -> None:
    warm = WarmUp(4, Constant())
    assert [warm.factor(t) for t in (0, 1, 2, 3, 4, 5)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    warm = WarmUp(2, Step((3,), 0.1), start=0.5)
    assert [warm.factor(t) for t in (0, 1, 2, 4, 5)] == pytest.approx([0.5, 0.75, 1.0, 1.0, 0.1])


def test_what_follows_a_warm_up_gets_the_steps_that_are_left() -> None:
    optimizer = sgdw(lr=1.0)
    scheduler = WarmUp(10, Cosine()).bind(optimizer, total_steps=30)
    assert scheduler.schedule == WarmUp(10, Cosine(20))
    rates = []
    for _ in range(30):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    assert rates[:11] == pytest.approx([t / 10 for t in range(11)])
    assert rates[20] == pytest.approx(0.5)
    assert optimizer.param_groups[0]["lr"] == 0.0
    nested = WarmUp(5, WarmUp(5, OneCycle())).bind(sgdw(), total_steps=30).schedule
    assert nested == WarmUp(5, WarmUp(5, OneCycle(20)))
    assert WarmUp(10, Constant()).bind(sgdw()).schedule == WarmUp(10, Constant())  # needs no length


def test_a_warm_up_must_leave_steps_to_what_follows() -> None:
    message = "steps of the warm-up must be below those of the training, got 30 of 30; shorten"
    with pytest.raises(HyperparameterError, match=message):
        WarmUp(30, Cosine()).bind(sgdw(), total_steps=30)
    with pytest.raises(HyperparameterError, match=r"steps of Cosine is not known; give Cosine\(steps=n\)"):
        WarmUp(30, Cosine()).bind(sgdw())


def test_the_state_of_a_warm_up_names_what_follows() -> None:
    saved = json.loads(json.dumps(WarmUp(2, Step((3,), 0.5)).bind(sgdw()).state_dict()))
    assert saved["schedule"] == {
        "name": "warm-up",
        "steps": 2,
        "then": {"name": "step", "milestones": [3], "rate": 0.5},
        "start": 0.0,
    }
    with pytest.raises(StateError, match=r"'rate': 0\.5.*'rate': 0\.1"):
        WarmUp(2, Step((3,), 0.1)).bind(sgdw()).load_state_dict(saved)


@pytest.mark.parametrize(
    "schedule",
    [
        Step((2, 4), 0.5),
        Exponential(0.9, 2),
        Cosine(30),
        OneCycle(9),
        WarmUp(3, Cosine(6)),
        WarmUp(6, OneCycle(5, three_phases=True)),
    ],
    ids=lambda s: s.name,
)
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
    "schedule",
    [Constant(), Exponential(), Cosine(5), Step((3,)), OneCycle(), WarmUp(4, Cosine()), Plateau(0.1, 5, 2)],
    ids=lambda s: s.name,
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
        (lambda: OneCycle(0), "steps must be a number of optimizer steps >= 1, or None, got 0"),
        (lambda: OneCycle(rise=1.0), r"rise must be in \(0, 1\) \(0.3 is usual\), got 1.0"),
        (lambda: OneCycle(rise=0.6, three_phases=True), "rise must be at most 0.5 with three_phases, got 0.6"),
        (lambda: OneCycle(start=0.0), r"start must be in \(0, 1\] .*got 0.0"),
        (lambda: OneCycle(start=25), "start must be at most 1, got 25; it multiplies the peak"),
        (lambda: OneCycle(end=-1), r"end must be in \[0, 1\] .*got -1"),
        (lambda: OneCycle(end=1e4), "end must be at most 1, got 10000.0"),
        (lambda: OneCycle(anneal="cos"), "anneal must be 'cosine' or 'linear', got 'cos'"),  # type: ignore[arg-type]
        (lambda: OneCycle(three_phases=1), "three_phases must be True or False, got 1"),  # type: ignore[arg-type]
        (lambda: OneCycle().factor(0), r"steps of OneCycle is not known; give OneCycle\(steps=n\) or total_steps=n"),
        (lambda: WarmUp(0, Constant()), "steps must be a number of optimizer steps >= 1, got 0"),
        (lambda: WarmUp(5, Constant(), start=2.0), r"start must be in \[0, 1\], got 2.0; a warm-up goes up to 1"),
        (lambda: WarmUp(5, Constant(), start=-0.1), r"start must be in \[0, 1\] .*got -0.1"),
        (lambda: WarmUp(5, Plateau(0.1, 5, 2)), "then must be a schedule of the steps, got the plateau rule"),  # type: ignore[arg-type]
        (lambda: WarmUp(5, "cosine"), r"then must be a schedule such as Cosine\(\), got 'cosine'"),  # type: ignore[arg-type]
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
