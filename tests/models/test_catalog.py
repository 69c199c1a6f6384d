from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from supermask.errors import ConfigError
from supermask.models import MODELS, build

from .helpers import parameters, weights

SIGNED = ["fcn", "conv2", "conv4", "conv6", "conv8", *(name for name in MODELS if name.endswith(("signed", "masked")))]


@pytest.mark.parametrize("name", MODELS)
def test_every_entry_says_what_it_builds(name: str) -> None:
    info = MODELS[name]
    with torch.device("meta"):
        model = build(name)
        given = build(name, **info.options)
        out = model.eval()(torch.zeros(2, *info.input_shape))
    assert info.name == name
    assert weights(model) == info.weights
    assert parameters(model) == info.parameters
    assert "\n" not in info.summary
    assert given.state_dict().keys() == model.state_dict().keys()
    assert out.shape == (2, info.options["classes"])


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_as_many_outputs_as_asked_for(name: str) -> None:
    info = MODELS[name]
    with torch.device("meta"):
        out = build(name, classes=7).eval()(torch.zeros(1, *info.input_shape))
    assert out.shape == (1, 7)


@pytest.mark.parametrize("name", SIGNED)
def test_networks_of_the_signed_supermask_have_no_bias_and_batch_norms_of_keras(name: str) -> None:
    options = {"batchnorm": True} if "batchnorm" in MODELS[name].options else {}
    norms = 0
    with torch.device("meta"):
        model = build(name, **options)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            assert module.bias is None
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            norms += 1
            assert (module.eps, module.momentum, module.affine) == (1e-3, 0.01, True)
    assert norms > 0


@pytest.mark.parametrize("name", SIGNED)
def test_relu_replaces_every_elu(name: str) -> None:
    with torch.device("meta"):
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
        "bias": False,
    }
    assert MODELS["lenet-300-100"].options == MODELS["fcn"].options | {"activation": "relu", "bias": True}
    assert MODELS["lstm-b"].options == {"inputs": 28, "hidden": 256, "classes": 10, "forget_bias": 1.0}
    assert MODELS["conv8"].options == {
        "width": 1.0,
        "channels": 3,
        "size": 32,
        "classes": 10,
        "activation": "elu",
        "head_activation": None,
        "batchnorm": False,
        "bias": False,
    }
    assert MODELS["resnet56-signed"].options == {"width": 1.0, "classes": 100, "channels": 3, "activation": "elu"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("con2", {}, "there is no model 'con2'; did you mean 'conv2'"),
        ("transformer!", {}, "known: fcn, lenet-300-100, lenet5-caffe"),
        ("fcn", {"hiden": [3]}, "fcn has no option 'hiden'; did you mean 'hidden'"),
        ("conv2", {"pairs": 2}, "conv2 has no option 'pairs'"),
        ("fcn", {"hidden": 300}, "hidden must be a list of widths .*got 300"),
        ("fcn", {"hidden": [300, 0]}, "hidden must be an integer >= 1, got 0"),
        ("fcn", {"inputs": 78.4}, "inputs must be an integer >= 1, got 78.4"),
        ("fcn", {"batchnorm": "yes"}, "batchnorm must be true or false, got 'yes'"),
        ("fcn", {"bias": 1}, "bias must be true or false, got 1"),
        ("conv2", {"bias": "no"}, "bias must be true or false, got 'no'"),
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
        ("lenet5-caffe", {"conv_activation": "gelu"}, "conv_activation must be one of elu, relu, got 'gelu'"),
        ("lenet5-caffe", {"classes": 0}, "classes must be an integer >= 1, got 0"),
        ("lenet5-dessilbi", {"channels": 1.0}, "channels must be an integer >= 1, got 1.0"),
        ("lenet5-dessilbi", {"activation": "tanh"}, "activation must be one of elu, relu, got 'tanh'"),
        ("lstm-s", {"forget_bias": "one"}, "forget_bias must be a finite number such as 1.0, got 'one'"),
        ("lstm-s", {"forget_bias": float("inf")}, "forget_bias must be a finite number such as 1.0, got inf"),
        ("lstm-s", {"hidden": 0}, "hidden must be an integer >= 1, got 0"),
        ("gru-s", {"inputs": None}, "inputs must be an integer >= 1, got None"),
        ("gru-s", {"forget_bias": 1.0}, "gru-s has no option 'forget_bias'"),
        ("alexnet-s", {"stride": 0}, "stride must be an integer >= 1, got 0"),
        ("alexnet-s", {"size": 32.0}, "size must be an integer >= 1, got 32.0"),
        ("alexnet", {"dropout": 1}, r"dropout must be a number in \[0, 1\), got 1; 0 drops nothing"),
        ("alexnet", {"dropout": False}, r"dropout must be a number in \[0, 1\), got False"),
        ("vgg-c", {"size": 31}, "size must be at least 32 for a stride of 1 and 5 poolings by 2, got 31"),
        (
            "vgg-like",
            {"size": 62, "stride": 2},
            "size must be at least 63 for a stride of 2 and 5 poolings by 2, got 62",
        ),
        ("vgg-d", {"stride": True}, "stride must be an integer >= 1, got True"),
        ("vgg16-bn", {"hidden": 512}, "hidden must be a list of widths .*got 512"),
        ("vgg16-bn", {"hidden": [0]}, "hidden must be an integer >= 1, got 0"),
        ("vgg16-bn", {"width": 0.01}, "width must be a number that leaves at least one channel of 64, got 0.01"),
        ("resnet56", {"width": "half"}, "width must be .*got 'half'"),
        ("resnet164", {"width": 0}, "width must be .*got 0"),
        ("resnet164", {"channels": 0}, "channels must be an integer >= 1, got 0"),
        ("wrn-16-4", {"width": -0.5}, "width must be .*got -0.5"),
        ("vgg19-bn", {"size": 32}, "vgg19-bn has no option 'size'"),
        ("resnet20", {"shortcut": "A"}, "shortcut must be one of subsample, average, projection, got 'A'"),
        ("resnet56", {"classes": "10"}, "classes must be an integer >= 1, got '10'"),
        ("resnet18", {"classes": 0}, "classes must be an integer >= 1, got 0"),
        ("wrn-16-8", {"shortcut": "projection"}, "shortcut must be one of activated, raw, got 'projection'"),
        ("wrn-16-8", {"stride_conv": 3}, "stride_conv must be one of 1, 2, got 3"),
        ("wrn-16-8", {"channels": -3}, "channels must be an integer >= 1, got -3"),
    ],
)
def test_bad_options_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, **options)
