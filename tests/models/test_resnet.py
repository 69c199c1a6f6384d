from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supermask.models import build
from supermask.models.resnet import BasicBlock, Bottleneck, PaddedShortcut

from .helpers import norm, randomize_norms


def bn(x: Tensor, module: nn.Module) -> Tensor:
    return norm(x, module, False, eps=1e-5)


def project(x: Tensor, downsample: Any, stride: int) -> Tensor:
    return bn(F.conv2d(x, downsample[0].weight, stride=stride), downsample[1])


def pad(x: Tensor, average: bool) -> Tensor:
    """Half the size, and as many channels of zeros as there are channels."""
    if average:
        x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    else:
        x = x[..., ::2, ::2]
    return torch.cat([x, torch.zeros_like(x)], 1)


def basic(block: BasicBlock, x: Tensor, stride: int, shortcut: Tensor) -> Tensor:
    main = F.relu(bn(F.conv2d(x, block.conv1.weight, stride=stride, padding=1), block.bn1))
    return F.relu(bn(F.conv2d(main, block.conv2.weight, padding=1), block.bn2) + shortcut)


@pytest.mark.parametrize("shortcut", ["subsample", "average", "projection"])
def test_resnet20_by_hand(shortcut: str) -> None:
    torch.manual_seed(0)
    model = build("resnet20", shortcut=shortcut, channels=1, classes=7).double().eval()
    randomize_norms(model)
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        h = F.relu(bn(F.conv2d(x, model.conv1.weight, padding=1), model.bn1))
        for number, stage in enumerate((model.layer1, model.layer2, model.layer3), start=1):
            assert len(stage) == 3
            for index, block in enumerate(stage):
                if number > 1 and index == 0:
                    way = project(h, block.downsample, 2) if shortcut == "projection" else pad(h, shortcut == "average")
                    h = basic(block, h, 2, way)
                else:
                    assert block.downsample is None
                    h = basic(block, h, 1, h)
        assert h.shape == (2, 64, 4, 4)
        expected = h.mean((2, 3)) @ model.fc.weight.t() + model.fc.bias
        torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-9)


def test_gradients_pass_the_shortcut_without_weights() -> None:
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    PaddedShortcut(3, 2, average=True)(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.full_like(x, 0.25))


@pytest.mark.parametrize("average", [True, False])
def test_shortcut_of_an_odd_size(average: bool) -> None:
    assert PaddedShortcut(3, 2, average)(torch.ones(1, 2, 7, 5)).shape == (1, 5, 4, 3)
    assert repr(PaddedShortcut(3, 2, average)) == f"PaddedShortcut(extra=3, stride=2, average={average})"


@pytest.mark.parametrize(
    ("name", "blocks"), [("resnet20", 3), ("resnet32", 5), ("resnet50-cifar", 8), ("resnet56", 9), ("resnet110", 18)]
)
def test_depth_for_cifar(name: str, blocks: int) -> None:
    with torch.device("meta"):
        model = build(name)
    assert [len(model.get_submodule(f"layer{stage}")) for stage in (1, 2, 3)] == [blocks] * 3
    depth = sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules())
    assert depth == 6 * blocks + 2 == int(name.removeprefix("resnet").removesuffix("-cifar"))


def test_resnet18_for_imagenet_by_hand() -> None:
    torch.manual_seed(1)
    model = build("resnet18", classes=3).double().eval()
    randomize_norms(model)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        h = F.relu(bn(F.conv2d(x, model.conv1.weight, stride=2, padding=3), model.bn1))
        h = F.max_pool2d(h, 3, stride=2, padding=1)
        assert h.shape == (1, 64, 16, 16)
        for number in (1, 2, 3, 4):
            first, second = model.get_submodule(f"layer{number}")
            if number == 1:
                h = basic(first, h, 1, h)
            else:
                h = basic(first, h, 2, project(h, first.downsample, 2))
            h = basic(second, h, 1, h)
        assert h.shape == (1, 512, 2, 2)
        expected = h.mean((2, 3)) @ model.fc.weight.t() + model.fc.bias
        torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stride", [1, 2])
def test_bottleneck_by_hand(stride: int) -> None:
    torch.manual_seed(2)
    downsample = nn.Sequential(nn.Conv2d(6, 8, 1, stride=stride, bias=False), nn.BatchNorm2d(8))
    block = Bottleneck(6, 2, stride, downsample).double().eval()
    randomize_norms(block)
    x = torch.randn(2, 6, 6, 6, dtype=torch.float64)
    h = F.relu(bn(F.conv2d(x, block.conv1.weight), block.bn1))
    h = F.relu(bn(F.conv2d(h, block.conv2.weight, stride=stride, padding=1), block.bn2))
    expected = F.relu(bn(F.conv2d(h, block.conv3.weight), block.bn3) + project(x, downsample, stride))
    torch.testing.assert_close(block(x), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "blocks", "kind", "tensors"),
    [
        ("resnet18", [2, 2, 2, 2], BasicBlock, 122),
        ("resnet34", [3, 4, 6, 3], BasicBlock, 218),
        ("resnet50", [3, 4, 6, 3], Bottleneck, 320),
    ],
)
def test_state_dict_for_imagenet_is_torchvisions(
    name: str, blocks: list[int], kind: type[nn.Module], tensors: int
) -> None:
    with torch.device("meta"):
        model = build(name)
    state = model.state_dict()
    assert len(state) == tensors
    assert [len(model.get_submodule(f"layer{stage}")) for stage in (1, 2, 3, 4)] == blocks
    assert all(isinstance(block, kind) for stage in (1, 2, 3, 4) for block in model.get_submodule(f"layer{stage}"))
    keys = list(state)
    assert keys[:3] == ["conv1.weight", "bn1.weight", "bn1.bias"]
    assert keys[-2:] == ["fc.weight", "fc.bias"]
    projections = [key.removesuffix(".downsample.0.weight") for key in keys if key.endswith("downsample.0.weight")]
    first = 1 if kind is Bottleneck else 2
    assert projections == [f"layer{stage}.0" for stage in range(first, 5)]
    assert "layer2.0.downsample.1.running_var" in keys
    last = 3 if kind is Bottleneck else 2
    assert {f"layer4.1.conv{last}.weight", f"layer4.1.bn{last}.num_batches_tracked"} <= set(keys)
    assert f"layer4.1.conv{last + 1}.weight" not in keys


def test_resnet50_has_its_stride_on_the_3x3_convolutions() -> None:
    with torch.device("meta"):
        model = build("resnet50").eval()
        assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    for stage, stride in ((1, 1), (2, 2), (3, 2), (4, 2)):
        block = model.get_submodule(f"layer{stage}")[0]
        assert (block.conv1.stride, block.conv2.stride, block.conv3.stride) == ((1, 1), (stride, stride), (1, 1))
