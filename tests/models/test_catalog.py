from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from supermask.errors import ConfigError
from supermask.models import MODELS, build


def weights(model: nn.Module) -> int:
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d))


@pytest.mark.parametrize("name", MODELS)
def test_every_entry_says_what_it_builds(name: str) -> None:
    info = MODELS[name]
    model = build(name)
    assert info.name == name
    assert weights(model) == info.weights
    assert "\n" not in info.summary
    assert build(name, **info.options).state_dict().keys() == model.state_dict().keys()
    model.eval()
    with torch.no_grad():
        out = model(torch.zeros(2, *info.input_shape))
    assert out.shape == (2, info.options["classes"])


@pytest.mark.parametrize("name", MODELS)
def test_no_layer_has_a_bias_and_every_batch_norm_is_keras(name: str) -> None:
    options = {"batchnorm": True} if "batchnorm" in MODELS[name].options else {}
    norms = 0
    for module in build(name, **options).modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            assert module.bias is None
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            norms += 1
            assert (module.eps, module.momentum, module.affine) == (1e-3, 0.01, True)
    assert norms > 0


@pytest.mark.parametrize("name", MODELS)
def test_relu_replaces_every_elu(name: str) -> None:
    elu, relu = build(name), build(name, activation="relu")
    assert not any(isinstance(m, nn.ReLU) for m in elu.modules())
    assert not any(isinstance(m, nn.ELU) for m in relu.modules())
    assert sum(isinstance(m, nn.ReLU) for m in relu.modules()) == sum(isinstance(m, nn.ELU) for m in elu.modules()) > 0


def test_default_options_are_listed() -> None:
    assert MODELS["fcn"].options == {
        "inputs": 784,
        "hidden": (300, 100),
        "classes": 10,
        "activation": "elu",
        "batchnorm": False,
    }
    assert MODELS["conv8"].options == {
        "width": 1.0,
        "channels": 3,
        "size": 32,
        "classes": 10,
        "activation": "elu",
        "head_activation": None,
        "batchnorm": False,
    }
    assert MODELS["resnet56-signed"].options == {"width": 1.0, "classes": 100, "channels": 3, "activation": "elu"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("con2", {}, "there is no model 'con2'; did you mean 'conv2'"),
        ("transformer!", {}, "known: fcn, conv2, conv4"),
        ("fcn", {"hiden": [3]}, "fcn has no option 'hiden'; did you mean 'hidden'"),
        ("conv2", {"pairs": 2}, "conv2 has no option 'pairs'"),
        ("fcn", {"hidden": 300}, "hidden must be a list of widths .*got 300"),
        ("fcn", {"hidden": [300, 0]}, "hidden must be an integer >= 1, got 0"),
        ("fcn", {"inputs": 78.4}, "inputs must be an integer >= 1, got 78.4"),
        ("fcn", {"batchnorm": "yes"}, "batchnorm must be true or false, got 'yes'"),
        ("fcn", {"activation": "gelu"}, "activation must be one of elu, relu, got 'gelu'"),
        ("conv2", {"head_activation": "gelu"}, "head_activation must be one of elu, relu, got 'gelu'"),
        ("conv2", {"width": 0.001}, "width must be a number that leaves at least one channel of 64, got 0.001"),
        ("conv2", {"width": float("nan")}, "width must be .*got nan"),
        ("conv2", {"width": "2"}, "width must be .*got '2'"),
        ("conv8", {"size": 15}, "size must be at least 16 for 4 poolings by 2, got 15"),
        ("conv2", {"channels": 0}, "channels must be an integer >= 1, got 0"),
        ("conv2", {"classes": True}, "classes must be an integer >= 1, got True"),
        ("resnet20-signed", {"width": -1}, "width must be .*got -1"),
        ("resnet20-signed", {"batchnorm": False}, "resnet20-signed has no option 'batchnorm'"),
    ],
)
def test_bad_options_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, **options)
