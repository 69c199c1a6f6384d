from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn

from supermask import Sparsifier, models
from supermask.core.budget import fractions
from supermask.core.groups import Structure
from supermask.core.tracing import find_structure
from supermask.errors import BudgetError, DivergedError, HyperparameterError
from supermask.methods.l1_filters import L1Filters

from .channel_nets import attached, conv_net, counts, train


def pruned(method: L1Filters, net: nn.Module, size: int = 32) -> Sparsifier:
    """Without training."""
    s = method.attach(net, example=torch.zeros(1, 3, size, size))
    with torch.no_grad():
        method.next_round(s)
    return s


def build(model: str) -> nn.Module:
    """As in the paper's code."""
    options: dict[str, Any] = {"vgg16-bn": {"hidden": [512]}, "resnet56": {"shortcut": "average"}, "resnet34": {}}
    return models.build(model, **options[model])


@functools.cache
def structure_of(model: str) -> Structure:
    """On 64x64 images for ImageNet: shares of the convolutions' multiply-accumulates do not depend on the size."""
    size = 64 if model == "resnet34" else 32
    return find_structure(build(model), torch.zeros(1, 3, size, size))


# The rows of the recipes: parameters and multiply-accumulates of the pruned network, recomputed from the published widths.
@pytest.mark.parametrize(
    ("recipe", "model", "params", "macs_removed"),
    [
        ("vgg16-a", "vgg16-bn", 5.397e6, 0.342),
        ("resnet56-a", "resnet56", 0.773e6, 0.104),
        ("resnet56-b", "resnet56", 0.736e6, 0.275),
        ("resnet34-a", "resnet34", 20.15e6, 0.154),
        ("resnet34-b", "resnet34", 19.47e6, 0.240),
    ],
)
def test_published_recipes_give_the_published_counts(
    recipe: str, model: str, params: float, macs_removed: float
) -> None:
    method = L1Filters(recipe=recipe)
    s = method.attach(build(model), structure=structure_of(model))
    with torch.no_grad():
        method.next_round(s)
    keeps = s.channels()
    assert s.costs["params"](keeps) == pytest.approx(params, rel=1e-3)
    assert 1.0 - fractions(s.costs, keeps)["macs"] == pytest.approx(macs_removed, abs=1e-3)
    if recipe == "vgg16-a":
        assert list(counts(s).values()) == [32, 64, 128, 128, 256, 256, 256, *[256] * 6]
        assert s.costs["macs"](keeps) == pytest.approx(2.063e8, rel=1e-3)


def test_the_filters_of_the_smallest_sums_go() -> None:
    net = conv_net(4, 3)
    with torch.no_grad():
        for i, value in enumerate((0.4, -0.1, 0.3, -0.2)):
            net.conv1.weight[i] = value
    s = pruned(L1Filters(recipe={"conv1": 0.5}), net, 6)
    assert s.channels()["conv1"].tolist() == [True, False, True, False]
    assert counts(s)["conv2"] == 3


@pytest.mark.parametrize(("fraction", "kept"), [(0.9, 9), (0.7, 7), (0.55, 5), (0.05, 1), (1.0, 10)])
def test_counts_are_rounded_down_and_at_least_one(fraction: float, kept: int) -> None:
    s = pruned(L1Filters(recipe={"conv1": fraction, "conv2": 0.5}), conv_net(10, 4), 6)
    assert counts(s) == {"conv1": kept, "conv2": 2}


def test_of_two_patterns_the_last_holds() -> None:
    s = pruned(L1Filters(recipe={"*": 0.5, "conv2": 0.25}), conv_net(4, 4, 4), 6)
    assert counts(s) == {"conv1": 2, "conv2": 1, "conv3": 2}


def test_a_budget_scales_the_recipe_by_one_factor() -> None:
    net = conv_net(40, 40, 40)
    s = pruned(L1Filters(recipe={"conv1": 0.5, "conv2": 0.75, "conv3": 1.0}, budget={"macs": 0.7}), net, 6)
    kept = counts(s)
    assert kept["conv3"] == 40
    gone1, gone2 = 40 - kept["conv1"], 40 - kept["conv2"]
    assert abs(gone1 - 2 * gone2) <= 2  # the recipe's ratio, to the channel
    assert 0.68 < fractions(s.costs, s.channels())["macs"] <= 0.7


def test_the_global_scope_compares_means_over_layers() -> None:
    net = conv_net(4, 4)
    with torch.no_grad():
        net.conv1.weight.fill_(0.1)
        net.conv2.weight.fill_(0.2)
        net.conv2.weight[2] = 0.05
    budget = {"params": 1 - 1e-6}
    s = pruned(L1Filters(scope="global", budget=budget), net, 6)
    assert s.channels()["conv2"].tolist() == [True, True, False, True]
    assert counts(s)["conv1"] == 4


def test_two_rounds_and_the_budget_at_the_end() -> None:
    net = conv_net(8, 8)
    s = attached(L1Filters(budget={"macs": 0.4, "params": 0.5}), net)
    assert [train(s, 2) for _ in s.rounds()] == [None, None]
    spent = fractions(s.costs, s.channels())
    assert spent["macs"] <= 0.4
    assert spent["params"] <= 0.5
    gone = ~s.channels()["conv1"]
    s.finalize()
    assert not bool(net.conv1.weight[gone].any())
    assert not bool(net.bn1.bias[gone].any())


def test_a_budget_that_the_recipe_cannot_meet_is_refused_before_training() -> None:
    with pytest.raises(
        BudgetError, match=r"budget \{macs: 0.3\} cannot be met: with one channel left in each of 1 groups"
    ):
        attached(L1Filters(recipe={"conv1": 0.5}, budget={"macs": 0.3}), conv_net(4, 40, 40))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"recipe": "vgg16-b"}, "recipe must be one of vgg16-a, "),
        ({"recipe": {}}, "recipe must be a name"),
        ({"recipe": 0.5}, "recipe must be a name .*got 0.5"),
        ({"recipe": {"conv1": 50}}, "recipe conv1 must be"),
        ({"recipe": {"conv1": 0.0}}, "recipe conv1 must be"),
        ({"scope": "global"}, "scope is 'global', which needs a budget"),
        ({"scope": "global", "budget": {"macs": 0.5}, "recipe": "vgg16-a"}, "recipe is 'vgg16-a', but nothing uses it"),
        ({"budget": {}}, "budget must name at least one unit"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(HyperparameterError, match=message):
        L1Filters(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("vgg16-a", "recipe 'vgg16-a' is for 13 groups of channels, this model has 2: conv1, conv2; give a mapping"),
        ({"stem*": 0.5}, r"recipe 'stem\*' matches no group of channels; there are conv1, conv2"),
        ({"*": 1.0}, "recipe removes nothing from conv1, conv2"),
    ],
)
def test_a_recipe_of_another_model_is_refused(recipe: object, message: str) -> None:
    with pytest.raises(HyperparameterError, match=message):
        attached(L1Filters(recipe=recipe), conv_net(4, 4))  # type: ignore[arg-type]


def test_diverged_weights_are_named() -> None:
    s = attached(L1Filters(), conv_net(4))
    with torch.no_grad():
        s.targets[0].parameter[0, 0] = torch.inf
        with pytest.raises(DivergedError, match="weights of conv1 are not finite"):
            s.method.next_round(s)


def test_hidden_linear_layers_are_no_filters() -> None:
    net = models.build("vgg16-bn", hidden=[32], width=0.0625)
    names = [group.name for group in find_structure(net, torch.zeros(1, 3, 32, 32)).removable()]
    assert "fc1" in names
    assert "fc1" not in counts(pruned(L1Filters(), net))
