from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from supermask.models import build


def layer(model: Any, name: str, x: Tensor, padding: int = 0) -> Tensor:
    module = getattr(model, name)
    if name.startswith("conv"):
        return F.conv2d(x, module.weight, module.bias, padding=padding)
    return x @ module.weight.t() + module.bias


@pytest.mark.parametrize(("option", "between"), [(None, lambda x: x), ("relu", F.relu), ("elu", F.elu)])
def test_lenet5_caffe_by_hand(option: str | None, between: Any) -> None:
    torch.manual_seed(0)
    model = build("lenet5-caffe", conv_activation=option).double()
    x = torch.randn(3, 1, 28, 28, dtype=torch.float64)
    h = between(F.max_pool2d(layer(model, "conv1", x), 2))
    h = between(F.max_pool2d(layer(model, "conv2", h), 2))
    expected = layer(model, "fc2", F.relu(layer(model, "fc1", h.flatten(1))))
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)
    assert h.shape == (3, 50, 4, 4)


def test_caffes_convolutions_are_followed_by_nothing_unless_asked() -> None:
    assert [name for name, _ in build("lenet5-caffe").named_children()] == [
        *["conv1", "pool1", "conv2", "pool2", "flatten", "fc1", "act_fc1", "fc2"]
    ]


def test_lenet5_dessilbi_by_hand() -> None:
    torch.manual_seed(1)
    model = build("lenet5-dessilbi").double()
    x = torch.randn(3, 1, 28, 28, dtype=torch.float64)
    h = F.max_pool2d(F.relu(layer(model, "conv1", x, padding=2)), 2)
    h = F.max_pool2d(F.relu(layer(model, "conv2", h)), 2)
    h = F.relu(layer(model, "conv3", h))
    expected = layer(model, "fc2", F.relu(layer(model, "fc1", h.flatten(1))))
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)
    assert h.shape == (3, 120, 1, 1)


def test_lenet_300_100_by_hand() -> None:
    torch.manual_seed(2)
    model = build("lenet-300-100").double()
    x = torch.randn(3, 1, 28, 28, dtype=torch.float64)
    h = F.relu(layer(model, "fc1", x.flatten(1)))
    expected = layer(model, "fc3", F.relu(layer(model, "fc2", h)))
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)


def test_convolutional_networks_with_biases() -> None:
    model = build("conv2", bias=True, width=0.125)
    assert [name for name in model.state_dict() if name.endswith("bias")] == [
        *["conv1.bias", "conv2.bias", "fc1.bias", "fc2.bias", "fc3.bias"]
    ]
