from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from supermask.models.resnet_preact import PreActBottleneck, resnet_preact

from .helpers import norm, randomize_norms


def by_hand(block: PreActBottleneck, x: Tensor, stride: int, training: bool) -> Tensor:
    def active(h: Tensor, number: int) -> Tensor:
        return F.relu(norm(h, block.get_submodule(f"bn{number}"), training, eps=1e-5))

    h = F.conv2d(active(x, 1), block.conv1.weight)
    h = F.conv2d(active(h, 2), block.conv2.weight, stride=stride, padding=1)
    h = F.conv2d(active(h, 3), block.conv3.weight)
    return h + (x if block.downsample is None else F.conv2d(x, block.downsample.weight, stride=stride))


@pytest.mark.parametrize("training", [True, False])
def test_whole_network_by_hand(training: bool) -> None:
    torch.manual_seed(0)
    model = resnet_preact(2, channels=2, classes=7, width=0.25).double().train(training)
    randomize_norms(model)
    x = torch.randn(3, 2, 12, 12, dtype=torch.float64)
    with torch.no_grad():
        h = F.conv2d(x, model.conv1.weight, padding=1)
        for number, stride in ((1, 1), (2, 2), (3, 2)):
            first, second = model.get_submodule(f"layer{number}")
            assert (first.downsample is not None, second.downsample) == (True, None)
            h = by_hand(second, by_hand(first, h, stride, training), 1, training)
        assert h.shape == (3, 64, 3, 3)
        h = F.relu(norm(h, model.bn, training, eps=1e-5)).mean((2, 3))
        torch.testing.assert_close(model(x), h @ model.fc.weight.t() + model.fc.bias, rtol=1e-9, atol=1e-9)


def test_a_width_that_is_no_whole_number_of_channels_is_rounded_down() -> None:
    with torch.device("meta"):
        model = resnet_preact(1, width=0.45)
    assert [model.conv1.out_channels, model.layer1[0].conv1.out_channels, model.fc.in_features] == [7, 7, 112]
