from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from supermask import Magnitude
from supermask.errors import HyperparameterError
from supermask.tensors.allocation import erk

from .helpers import bare, train


def run(method: Magnitude, total: int, model: nn.Sequential | None = None) -> list[list[torch.Tensor]]:
    """Masks at attach and after each step."""
    s = method.attach(bare(9, 8, 5) if model is None else model)
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    s.bind(optimizer, total_steps=total)
    history = [[t.mask.clone() for t in s.targets]]
    for step in range(total):
        train(s, 1, first=step, optimizer=optimizer)
        history.append([t.mask.clone() for t in s.targets])
    return history


def remaining(masks: list[torch.Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks)


def test_the_cubic_schedule_of_zhu_and_gupta_step_by_step() -> None:
    """The published vector, with its 1,000 steps scaled to 20."""
    history = run(Magnitude(density=0.1, every=1, end=1.0, scope="global"), 20)
    size = 9 * 8 + 8 * 5
    expected = {0: 0.0, 2: 0.2439, 5: 0.5203125, 10: 0.7875, 15: 0.8859375, 20: 0.9}
    for step, sparsity in expected.items():
        assert remaining(history[step]) == math.floor((1 - sparsity) * size + 0.5), step


@pytest.mark.parametrize("scope", ["uniform", "global", "erk"])
def test_masks_are_nested(scope: Any) -> None:
    history = run(Magnitude(density=0.05, every=1, end=1.0, scope=scope), 25)
    for before, after in zip(history, history[1:], strict=False):
        for old, new in zip(before, after, strict=True):
            assert not bool((new & ~old).any())


def test_masks_are_nested_also_where_the_largest_remainder_is_not_monotone() -> None:
    """Sizes 6, 6, 2: of 11 weights the third layer gets 1, of 10 it would get 2."""
    layers = nn.ModuleList([nn.Linear(6, 1, bias=False), nn.Linear(6, 1, bias=False), nn.Linear(2, 1, bias=False)])
    method = Magnitude(density=0.1, begin=0.5)
    s = method.attach(layers)
    counts = []
    for total in (11, 10):
        method._prune(s, total / 14)
        counts.append([int(t.mask.sum()) for t in s.targets])
    assert counts == [[5, 5, 1], [5, 4, 1]]


@pytest.mark.parametrize("total", [1, 2, 3, 7, 8, 100])
@pytest.mark.parametrize("begin", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("schedule", ["one-shot", "gradual"])
def test_the_final_density_is_reached_whatever_the_length(schedule: Any, begin: float, total: int) -> None:
    """Also where a short run rounds the first event to step 0, or puts all events into one step."""
    method = Magnitude(density=0.3, schedule=schedule, begin=begin, end=1.0, every=3)
    s = method.attach(bare(4, 3))
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.1)
    s.bind(optimizer, total_steps=total)
    train(s, total, optimizer=optimizer)
    assert s.remaining() == 4  # .3 * 12 = 3.6


def test_one_shot_prunes_once() -> None:
    history = run(Magnitude(schedule="one-shot", density=0.25, begin=0.5, scope="global"), 8)
    assert [remaining(masks) for masks in history] == [112] * 4 + [28] * 5
    history = run(Magnitude(schedule="one-shot", density=0.25, scope="global"), 3)
    assert [remaining(masks) for masks in history] == [28] * 4
    assert all(torch.equal(a, b) for a, b in zip(history[0], history[-1], strict=True))


def test_gradual_keeps_to_begin_end_and_every() -> None:
    history = run(Magnitude(density=0.25, begin=0.2, end=0.8, every=2, initial_density=0.75, scope="global"), 10)
    counts = [remaining(masks) for masks in history]
    assert counts[:2] == [112, 112]
    assert counts[2] == 84  # the first event prunes to initial_density
    assert counts[3] == counts[2]
    p = (4 - 2) / (8 - 2)
    assert counts[4] == math.floor((0.25 + 0.5 * (1 - p) ** 3) * 112 + 0.5)
    assert counts[8] == counts[10] == 28


def test_the_smallest_magnitudes_go() -> None:
    model = bare(9, 8, 5)
    weights = [m.weight.detach().clone() for m in model if isinstance(m, nn.Linear)]
    s = Magnitude(schedule="one-shot", density=0.25, scope="global").attach(model)
    cut = torch.cat([w.abs().flatten() for w in weights]).sort(descending=True).values[27]
    for target, weight in zip(s.targets, weights, strict=True):
        assert torch.equal(target.mask, weight.abs() >= cut)
        assert torch.equal(target.weight, weight * target.mask)


@pytest.mark.parametrize(("scope", "shares"), [("uniform", [0.2, 0.2]), ("erk", erk([(8, 9), (5, 8)], 0.2))])
def test_scopes(scope: Any, shares: list[float]) -> None:
    s = Magnitude(schedule="one-shot", density=0.2, scope=scope).attach(bare(9, 8, 5))
    for target, share in zip(s.targets, shares, strict=True):
        assert abs(int(target.mask.sum()) - share * target.size) < 1
    assert s.remaining() == 22  # .2 * 112 = 22.4


def test_equal_weights_do_not_change_the_count() -> None:
    model = bare(10, 10)
    nn.init.constant_(model[0].weight, 0.5)
    s = Magnitude(schedule="one-shot", density=0.33).attach(model)
    assert s.remaining() == 33
    assert s.targets[0].mask.flatten().nonzero().flatten().tolist() == list(range(33))


def test_a_hidden_weight_loses_value_and_momentum() -> None:
    s = Magnitude(density=0.2, every=1, end=1.0).attach(bare(9, 8, 5))
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True)
    s.bind(optimizer, total_steps=10)
    for step in range(12):  # beyond the end, too
        train(s, 1, first=step, optimizer=optimizer)
        for target in s.targets:
            hidden = ~target.mask
            assert not bool(target.dense[hidden].any())
            assert not bool(s.slots(target)["momentum_buffer"][hidden].any())
    assert s.remaining() == 22


def test_a_weight_that_trained_to_exactly_zero_goes_before_a_hidden_one_returns() -> None:
    """Zero against zero: the hidden one must lose, whatever its index."""
    model = bare(10, 1)
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(10.0))
    method = Magnitude(schedule="one-shot", density=0.5)
    s = method.attach(model)
    s.targets[0].parameter.data.zero_()
    method._prune(s, 0.4)
    assert s.targets[0].mask.flatten().nonzero().flatten().tolist() == [5, 6, 7, 8]


def test_a_late_beginning_is_never_before_the_first_step() -> None:
    """4 % of 10 steps rounds to step 0, which is over when the method first acts; the event is at step 1."""
    history = run(Magnitude(density=0.25, initial_density=0.5, begin=0.04, end=1.0, every=4, scope="global"), 10)
    counts = [remaining(masks) for masks in history]
    assert counts[:3] == [112, 56, 56]
    assert counts[5] == math.floor((0.25 + 0.25 * (1 - 4 / 9) ** 3) * 112 + 0.5)
    assert counts[10] == 28
    assert [remaining(masks) for masks in run(Magnitude(density=0.25, begin=0.04, scope="global"), 1)] == [112, 28]


def test_a_schedule_without_steps_between_is_noted() -> None:
    for every, notes in ((5, 0), (6, 1)):
        s = Magnitude(density=0.25, every=every).attach(bare(9, 8, 5))
        train(s, 8)
        assert len(s.notes) == notes
    assert s.notes[0].startswith(
        "magnitude: no event between the first and the last: every=6 steps, and they are at step 0 and"
    )


def test_a_density_below_one_weight_is_refused_before_training() -> None:
    with pytest.raises(HyperparameterError, match="density 0.001 keeps none of 112 weights"):
        Magnitude(density=0.001, schedule="one-shot", begin=0.5).attach(bare(9, 8, 5))
