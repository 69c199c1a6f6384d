from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supermask.models import build

LAYERS = {
    "fcn": [(300, 784), (100, 300), (10, 100)],
    "conv2": [(64, 3, 3, 3), (64, 64, 3, 3), (256, 16384), (256, 256), (10, 256)],
    "conv4": [
        *[(64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3), (128, 128, 3, 3)],
        *[(256, 8192), (256, 256), (10, 256)],
    ],
    "conv6": [
        *[(64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3), (128, 128, 3, 3), (256, 128, 3, 3), (256, 256, 3, 3)],
        *[(256, 4096), (256, 256), (10, 256)],
    ],
    "conv8": [
        *[(64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3), (128, 128, 3, 3), (256, 128, 3, 3), (256, 256, 3, 3)],
        *[(512, 256, 3, 3), (512, 512, 3, 3)],
        *[(256, 2048), (256, 256), (10, 256)],
    ],
}
TOTALS = {"fcn": 266_200, "conv2": 4_300_992, "conv4": 2_425_024, "conv6": 2_261_184, "conv8": 5_275_840}
CONVOLUTIONS = {"fcn": 0, "conv2": 38_592, "conv4": 259_776, "conv6": 1_144_512, "conv8": 4_683_456}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_and_counts_of_the_specification(name: str) -> None:
    state = build(name).state_dict()
    assert [tuple(tensor.shape) for tensor in state.values()] == LAYERS[name]
    convs = len(LAYERS[name]) - 3
    names = [f"conv{n}.weight" for n in range(1, convs + 1)] + ["fc1.weight", "fc2.weight", "fc3.weight"]
    assert list(state) == names
    assert sum(tensor.numel() for tensor in state.values()) == TOTALS[name]
    assert sum(tensor.numel() for key, tensor in state.items() if key.startswith("conv")) == CONVOLUTIONS[name]


def by_hand(state: dict[str, Tensor], x: Tensor, head: Any = F.elu) -> Tensor:
    """Activation after every convolution, then the pool: the order of the paper."""
    number = 1
    while f"conv{number}.weight" in state:
        x = F.elu(F.conv2d(x, state[f"conv{number}.weight"], padding=1))
        if number % 2 == 0:
            x = F.max_pool2d(x, 2)
        number += 1
    x = x.flatten(1)
    x = head(x @ state["fc1.weight"].t())
    x = head(x @ state["fc2.weight"].t())
    return x @ state["fc3.weight"].t()


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("fcn", {}, (1, 28, 28)),
        ("fcn", {"inputs": 12, "hidden": [7, 5]}, (12,)),
        ("conv2", {"width": 0.125}, (3, 32, 32)),
        ("conv4", {"width": 0.125, "channels": 1, "size": 28}, (1, 28, 28)),
        ("conv6", {"width": 0.125, "channels": 1, "size": 28, "classes": 4}, (1, 28, 28)),
        ("conv8", {"width": 0.125, "head_activation": "relu"}, (3, 32, 32)),
    ],
)
def test_forward_by_hand(name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = build(name, **options).double()
    x = 3 * torch.randn(4, *shape, dtype=torch.float64)
    head = F.relu if options.get("head_activation") == "relu" else F.elu
    expected = by_hand(model.state_dict(), x, head)
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)
    assert expected.shape == (4, options.get("classes", 10))


def test_pool_before_activation_has_the_gradients_of_the_paper_order() -> None:
    torch.manual_seed(0)
    model = build("conv4", width=0.125, size=16).double()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    model(x).square().sum().backward()
    state = {name: value.detach().clone().requires_grad_() for name, value in model.state_dict().items()}
    by_hand(state, x).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, state[name].grad, rtol=1e-11, atol=1e-11)


def test_hidden_layers_of_any_number() -> None:
    assert list(build("fcn", inputs=4, hidden=[], classes=3).state_dict()) == ["fc1.weight"]
    model = build("fcn", inputs=4, hidden=(6, 5, 7), classes=3)
    assert [tuple(p.shape) for p in model.parameters()] == [(6, 4), (5, 6), (7, 5), (3, 7)]


@pytest.mark.parametrize(
    ("name", "width", "conv1", "fc1"),
    [("conv2", 2, 128, (512, 32768)), ("conv6", 1.5, 96, (384, 6144)), ("conv8", 2, 128, (256, 4096))],
)
def test_width_multiplies_convolutions_and_except_in_conv8_the_hidden_layers(
    name: str, width: float, conv1: int, fc1: tuple[int, int]
) -> None:
    with torch.device("meta"):
        model = build(name, width=width)
    assert isinstance(model, nn.Sequential)
    assert model.conv1.out_channels == conv1
    assert tuple(model.fc1.weight.shape) == fc1
    assert model.fc3.out_features == 10


@pytest.mark.parametrize(("name", "flat"), [("conv2", 14 * 14 * 64), ("conv6", 3 * 3 * 256), ("conv8", 512)])
def test_images_of_28(name: str, flat: int) -> None:
    with torch.device("meta"):
        model = build(name, channels=1, size=28)
    assert model.fc1.in_features == flat
    assert model.conv1.in_channels == 1


def test_batch_norm_stands_between_layer_and_activation() -> None:
    assert [name for name, _ in build("fcn", batchnorm=True).named_children()] == [
        *["flatten", "fc1", "bn_fc1", "act_fc1", "fc2", "bn_fc2", "act_fc2", "fc3"]
    ]
    model = build("conv2", batchnorm=True)
    assert [name for name, _ in model.named_children()] == [
        *["conv1", "bn_conv1", "act_conv1", "conv2", "bn_conv2", "pool1", "act_conv2", "flatten"],
        *["fc1", "bn_fc1", "act_fc1", "fc2", "bn_fc2", "act_fc2", "fc3"],
    ]
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
