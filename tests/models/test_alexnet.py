from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from supermask.models import build

from .helpers import norm, randomize_norms


@pytest.mark.parametrize("training", [True, False])
def test_alexnet_s_by_hand(training: bool) -> None:
    """Strides and zeros by hand: before and after, as TensorFlow pads 32, 16, 8, 4 and 2."""
    torch.manual_seed(0)
    model = build("alexnet-s", classes=3).double().train(training)
    randomize_norms(model)
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    h = x
    with torch.no_grad():
        for number, (before, after) in enumerate([(4, 5), (1, 2), (0, 1), (0, 1), (0, 1)], start=1):
            conv = model.get_submodule(f"conv{number}")
            h = F.conv2d(F.pad(h, (before, after, before, after)), conv.weight, conv.bias, stride=2)
            h = F.relu(norm(h, model.get_submodule(f"bn_conv{number}"), training, eps=1e-3))
        assert h.shape == (3, 256, 1, 1)
        h = h.flatten(1)
        for number in (1, 2):
            fc = model.get_submodule(f"fc{number}")
            h = F.relu(norm(h @ fc.weight.t() + fc.bias, model.get_submodule(f"bn_fc{number}"), training, eps=1e-3))
        expected = h @ model.fc3.weight.t() + model.fc3.bias
        torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("name", "width"), [("alexnet-s", 1024), ("alexnet-b", 2048)])
def test_layers_of_snips_alexnet(name: str, width: int) -> None:
    with torch.device("meta"):
        model = build(name)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.out_channels, m.kernel_size[0], m.stride[0]) for m in convolutions] == [
        *[(96, 11, 2), (256, 5, 2), (384, 3, 2), (384, 3, 2), (256, 3, 2)]
    ]
    assert [m.out_features for m in model.modules() if isinstance(m, nn.Linear)] == [width, width, 10]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert [(m.eps, m.momentum) for m in norms] == [(1e-3, 0.01)] * 7


def test_only_the_first_stride_changes_for_tiny_imagenet() -> None:
    with torch.device("meta"):
        model = build("alexnet-s", size=64, stride=4, classes=200)
    assert [m.stride[0] for m in model.modules() if isinstance(m, nn.Conv2d)] == [4, 2, 2, 2, 2]
    assert model.fc1.in_features == 256


@pytest.mark.parametrize(("size", "inputs"), [(28, 256), (33, 1024), (64, 1024)])
def test_other_sizes_of_images(size: int, inputs: int) -> None:
    with torch.device("meta"):
        model = build("alexnet-s", size=size, channels=1)
        assert model.eval()(torch.zeros(1, 1, size, size)).shape == (1, 10)
    assert model.fc1.in_features == inputs


def test_alexnet_for_imagenet_has_torchvisions_state_dict() -> None:
    with torch.device("meta"):
        state = build("alexnet").state_dict()
    assert {name: tuple(value.shape) for name, value in state.items() if name.endswith("weight")} == {
        "features.0.weight": (64, 3, 11, 11),
        "features.3.weight": (192, 64, 5, 5),
        "features.6.weight": (384, 192, 3, 3),
        "features.8.weight": (256, 384, 3, 3),
        "features.10.weight": (256, 256, 3, 3),
        "classifier.1.weight": (4096, 9216),
        "classifier.4.weight": (4096, 4096),
        "classifier.6.weight": (1000, 4096),
    }
    assert [name.removesuffix("bias") + "weight" for name in state if name.endswith("bias")] == [
        name for name in state if name.endswith("weight")
    ]


def test_sizes_in_alexnet_for_imagenet() -> None:
    with torch.device("meta"):
        model = build("alexnet").eval()
        x = torch.zeros(1, 3, 224, 224)
        assert model.features[:3](x).shape == (1, 64, 27, 27)
        assert model.features[:6](x).shape == (1, 192, 13, 13)
        assert model.features(x).shape == (1, 256, 6, 6)


def test_dropout_drops_in_training_only() -> None:
    with torch.device("meta"):
        assert [m.p for m in build("alexnet").modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]
        assert [m.p for m in build("alexnet", dropout=0.25).modules() if isinstance(m, nn.Dropout)] == [0.25, 0.25]
