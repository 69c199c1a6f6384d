from __future__ import annotations

import pytest
import torch
from torch import nn

from supermask.core.budget import fractions
from supermask.errors import DivergedError, HyperparameterError, UnsupportedModuleError
from supermask.methods.network_slimming import NetworkSlimming

from .channel_nets import attached, conv_net, counts, train


def set_scales(net: nn.Sequential, *values: list[float]) -> None:
    with torch.no_grad():
        for number, scales in enumerate(values, start=1):
            net.get_submodule(f"bn{number}").weight.copy_(torch.tensor(scales))  # type: ignore[operator,union-attr]


def pruned(method: NetworkSlimming, *values: list[float]) -> dict[str, list[bool]]:
    """Which channels remain when training ended with these scales."""
    net = conv_net(*map(len, values))
    s = attached(method, net)
    with torch.no_grad():
        for number, scales in enumerate(values, start=1):
            target = next(t for t in s.targets if t.name == f"bn{number}.weight")
            target.parameter.copy_(torch.tensor(scales))
        assert method.next_round(s) is method.fine_tune
    return {name: keep.tolist() for name, keep in s.channels().items()}


def test_the_threshold_is_global_and_strict() -> None:
    # ten scales; floor(10 * 0.4) = 4: the fifth smallest is the threshold, and goes, as in the authors' code
    found = pruned(NetworkSlimming(channel_density=0.6), [0.9, -0.1, 0.5, 0.05], [0.4, 0.3, -0.8, 0.2, 0.7, 0.6])
    assert found["conv1"] == [True, False, True, False]
    assert found["conv2"] == [False, False, True, False, True, True]


def test_a_fraction_that_floats_cannot_hold_counts_exactly() -> None:
    # 10 * (1 - 0.9) is 0.99999...: one below the threshold, and the threshold itself
    found = pruned(NetworkSlimming(channel_density=0.9), [0.1, 0.2, 0.3, 0.4, 0.5], [0.6, 0.7, 0.8, 0.9, 1.0])
    assert found["conv1"] == [False, False, True, True, True]


def test_a_layer_keeps_the_channel_of_its_largest_scale() -> None:
    found = pruned(NetworkSlimming(channel_density=0.5), [0.01, -0.03, 0.02], [0.5, 0.6, 0.7])
    assert found == {"conv1": [False, True, False], "conv2": [True, True, True]} or found["conv1"] == [
        False,
        True,
        False,
    ]


def test_everything_remains_at_a_density_of_one() -> None:
    assert all(all(keep) for keep in pruned(NetworkSlimming(channel_density=1.0), [0.1, 0.2], [0.3, 0.0]).values())


def test_a_budget_takes_the_smallest_scales_until_it_is_met() -> None:
    net = conv_net(8, 8)
    method = NetworkSlimming(budget={"macs": 0.5}, initial_scale=None)
    set_scales(net, [0.1 * i for i in range(1, 9)], [1.0] * 8)
    s = attached(method, net)
    with torch.no_grad():
        method.next_round(s)
    assert fractions(s.costs, s.channels())["macs"] <= 0.5
    kept = s.channels()
    assert kept["conv1"].tolist() == sorted(kept["conv1"].tolist())  # the smallest of conv1 go before any of conv2
    assert counts(s)["conv2"] == 8


def test_the_penalty_is_the_sign_of_every_scale_through_the_optimizer() -> None:
    net = conv_net(2, 2)
    s = attached(NetworkSlimming(strength=0.01, initial_scale=None), net)
    set_scales_of = [t for t in s.targets if t.name in ("bn1.weight", "bn2.weight")]
    with torch.no_grad():
        for target in set_scales_of:
            target.parameter.copy_(torch.tensor([0.5, 0.0]))
        set_scales_of[0].parameter[1] = -0.25
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.1, momentum=0.5)
    s.bind(optimizer, total_steps=4)
    for _ in range(2):
        optimizer.zero_grad()
        (net(torch.randn(2, 3, 6, 6)) * 0.0).sum().backward()
        optimizer.step()
    step = 0.1 * 0.01 * (1 + 1.5)  # momentum sees it
    assert torch.allclose(set_scales_of[0].parameter, torch.tensor([0.5 - step, -0.25 + step]), atol=1e-7)
    assert torch.allclose(set_scales_of[1].parameter, torch.tensor([0.5 - step, 0.0]), atol=1e-7)


def test_the_second_round_has_no_penalty_and_removed_channels_stay_gone() -> None:
    net = conv_net(6, 6)
    method = NetworkSlimming(channel_density=0.5, strength=0.1)
    s = attached(method, net)
    rounds = []
    for number in s.rounds():
        rounds.append(number)
        assert (s.method.penalty(s) is None) == (number == 1)
        train(s, 3)
    assert rounds == [0, 1]
    keeps = s.channels()
    s.finalize()
    assert 0 < sum(int(keep.sum()) for keep in keeps.values()) <= 7
    for number in (1, 2):
        gone = ~keeps[f"conv{number}"]
        for name in (f"conv{number}.weight", f"bn{number}.weight", f"bn{number}.bias"):
            assert not bool(net.get_parameter(name)[gone].any())


def test_without_fine_tuning_there_is_one_round() -> None:
    s = attached(NetworkSlimming(fine_tune=False), conv_net(4))
    assert [train(s, 2) for _ in s.rounds()] == [None]
    assert counts(s)["conv1"] < 4


def test_initial_scales_are_set_and_a_trained_model_is_told() -> None:
    net = conv_net(3, 4)
    s = attached(NetworkSlimming(), net)
    assert all(bool((m.weight == 0.5).all()) for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    assert s.notes == []
    trained = conv_net(3)
    set_scales(trained, [1.0, 0.3, 2.0])
    kept = attached(NetworkSlimming(initial_scale=None), trained)
    assert kept.masks()["bn1.weight"].all()
    assert torch.equal(kept.model.get_submodule("bn1").weight, torch.tensor([1.0, 0.3, 2.0]))
    kept.finalize()
    told = attached(NetworkSlimming(), trained)
    assert ["scales other than 1" in note for note in told.notes] == [True]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channel_density": 0.0}, "channel_density must be"),
        ({"channel_density": 70}, "channel_density .*did you mean 0.7"),
        ({"budget": {"flops": 0.5}}, "budget has the unit 'flops'.*did you mean 'macs'"),
        (
            {"budget": {"macs": 0.5}, "channel_density": 0.4},
            "channel_density is 0.4, but nothing uses it; leave out budget",
        ),
        ({"strength": -1.0}, "strength must be"),
        ({"initial_scale": 0.0}, "initial_scale must be"),
        ({"residual": "both"}, "residual must be one of inner, shared"),
        ({"fine_tune": "yes"}, "fine_tune must be true or false"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(HyperparameterError, match=message):
        NetworkSlimming(**fields)  # type: ignore[arg-type]


def test_channels_without_a_scale_are_refused() -> None:
    with pytest.raises(UnsupportedModuleError, match="it has no batch norm with a scale"):
        attached(NetworkSlimming(), conv_net(4, norm=False))


def test_a_diverged_scale_is_named() -> None:
    s = attached(NetworkSlimming(), conv_net(4))
    with torch.no_grad():
        next(t for t in s.targets if t.name == "bn1.weight").parameter[2] = torch.nan
        with pytest.raises(DivergedError, match="bn1.weight holds values that are not finite"):
            s.method.next_round(s)
