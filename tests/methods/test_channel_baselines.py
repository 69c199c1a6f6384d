"""Random and magnitude channels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from supermask.core.budget import fractions
from supermask.errors import AttachError, DivergedError, HyperparameterError, UnsupportedModuleError
from supermask.methods.bar import BAR
from supermask.methods.l1_filters import L1Filters
from supermask.methods.magnitude_channels import MagnitudeChannels
from supermask.methods.mask_conv_net import MaskConvNet
from supermask.methods.network_slimming import NetworkSlimming
from supermask.methods.random_channels import RandomChannels

from .channel_nets import attached, conv_net, counts, train


def test_random_channels_are_drawn_before_training_and_stay() -> None:
    net = conv_net(12, 20)
    s = attached(RandomChannels(budget={"macs": 0.5}), net, seed=3)
    before = s.channels()
    assert 0.45 < fractions(s.costs, before)["macs"] <= 0.5
    train(s, 3)
    assert all(torch.equal(before[name], keep) for name, keep in s.channels().items())
    s.finalize()
    gone = ~before["conv1"]
    assert not bool(net.conv1.weight[gone].any())
    assert bool(net.conv1.weight[~gone].any())


def test_seeds_draw_other_channels_and_equal_shares() -> None:
    a, b, c = (attached(RandomChannels(budget={"macs": 0.4}), conv_net(40, 40), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(a.channels()["conv1"], b.channels()["conv1"])
    assert not torch.equal(a.channels()["conv1"], c.channels()["conv1"])
    assert counts(a) == counts(c)
    assert abs(counts(a)["conv1"] - counts(a)["conv2"]) <= 1


def test_a_smaller_budget_keeps_a_part_of_a_larger_one() -> None:
    net = conv_net(30)
    large, small = (attached(RandomChannels(budget={"params": share}), conv_net(30)) for share in (0.6, 0.3))
    assert not bool((small.channels()["conv1"] & ~large.channels()["conv1"]).any())
    assert net.conv1.weight.shape[0] == 30


def test_any_channels_are_drawn_globally() -> None:
    s = attached(RandomChannels(budget={"volume": 0.5}, scope="global"), conv_net(40, 40))
    assert sum(counts(s).values()) == 40
    assert counts(s)["conv1"] != 20


def test_magnitude_tightens_step_by_step_and_meets_the_budget() -> None:
    net = conv_net(20, 20)
    s = attached(MagnitudeChannels(budget={"macs": 0.3}, every=2, end=0.8), net)
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.05, momentum=0.9)
    s.bind(optimizer, total_steps=10)
    spent, seen = [], [s.channels()]
    for step in range(10):
        optimizer.zero_grad()
        net(torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(step))).square().sum().backward()
        optimizer.step()
        spent.append(fractions(s.costs, s.channels())["macs"])
        seen.append(s.channels())
    for before, after in zip(seen, seen[1:]):
        assert sum(int((after[name] & ~before[name]).sum()) for name in after) <= 1  # to fill what others overshoot
    assert all(spent[step] == spent[step - 1] for step in (2, 4, 6, 8, 9))  # steps 3, 5, …: no events
    assert spent[0] == 1.0
    for step, value in enumerate(spent, start=1):
        due = step // 2 * 2
        limit = 0.3 + 0.7 * (1 - min(1.0, due / 8)) ** 3
        assert limit - 0.06 < value <= limit + 1e-9  # one channel of 20


def test_magnitude_ranks_by_the_norm_relative_to_the_group() -> None:
    net = conv_net(4, 4)
    with torch.no_grad():
        net.conv1.weight.fill_(1.0)
        net.conv2.weight.fill_(100.0)
        net.conv2.weight[1] = 10.0
    method = MagnitudeChannels(budget={"params": 1 - 1e-6}, every=1, end=1.0)
    s = attached(method, net)
    train(s, 1, lr=0.0)
    assert s.channels()["conv2"].tolist() == [True, False, True, True]
    assert counts(s)["conv1"] == 4


def test_uniform_shares() -> None:
    s = attached(MagnitudeChannels(budget={"volume": 0.5}, scope="uniform", every=1, end=1.0), conv_net(10, 20))
    train(s, 2)
    assert counts(s) == {"conv1": 5, "conv2": 10}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"budget": None}, "budget must name at least one unit"),
        ({"budget": {"macs": 0}}, "budget macs must be"),
        ({"begin": 0.8}, "begin must be before end"),
        ({"every": 0}, "every must be a whole number of steps"),
        ({"scope": "layer"}, "scope must be one of global, uniform"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(HyperparameterError, match=message):
        MagnitudeChannels(**fields)  # type: ignore[arg-type]


def test_diverged_weights_are_named() -> None:
    s = attached(MagnitudeChannels(every=1), conv_net(4))
    s.targets[0].parameter.data.fill_(torch.nan)
    with pytest.raises(DivergedError, match="weights of conv1 are not finite"):
        train(s, 1)


# ---------------------------------------------------------------------- groups that are left whole


@pytest.mark.parametrize("method", [BAR, L1Filters, MagnitudeChannels, MaskConvNet, NetworkSlimming, RandomChannels])
def test_groups_can_be_left_whole(method: Any) -> None:
    made = method(whole=("*1",))
    s = attached(made, conv_net(4, 5, 6))
    assert [group.name for group in s.groups] == ["conv2", "conv3"]
    assert all(not target.name.startswith("conv1.") for target in s.targets)
    with pytest.raises(UnsupportedModuleError, match="conv1: left whole, as asked for"):
        attached(method(whole=("conv*",)), conv_net(4))
    with pytest.raises(AttachError, match="whole has 'stem', which matches no group of channels; there are conv1"):
        attached(method(whole=("stem",)), conv_net(4))
    for wrong in ("conv1", ("",), [1]):
        with pytest.raises(HyperparameterError, match="whole must be a tuple of names or globs"):
            method(whole=wrong)
