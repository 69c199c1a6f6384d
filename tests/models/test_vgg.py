from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from supermask.models import build

from .helpers import norm, randomize_norms

BLOCKS = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [m for m in model.modules() if isinstance(m, nn.Conv2d)]


def by_hand(model: nn.Module, x: torch.Tensor, plan: list[Any], stride: int, eps: float) -> torch.Tensor:
    """Convolution, batch norm, ReLU, then the pool, in evaluation mode."""
    number = 0
    h = x
    for entry in plan:
        if entry == "M":
            h = F.max_pool2d(h, 2)
            continue
        number += 1
        conv = model.get_submodule(f"conv{number}")
        assert conv.out_channels == entry
        if number == 1 and stride == 2:  # even sizes: zeros below and to the right only
            h = F.conv2d(F.pad(h, (0, 1, 0, 1)), conv.weight, conv.bias, stride=2)
        else:
            h = F.conv2d(h, conv.weight, conv.bias, padding=conv.kernel_size[0] // 2)
        h = F.relu(norm(h, model.get_submodule(f"bn_conv{number}"), False, eps))
    return h


@pytest.mark.parametrize(
    ("name", "options", "size", "hidden"),
    [("vgg-c", {}, 32, 2), ("vgg-like", {"size": 64, "stride": 2, "classes": 3}, 64, 1)],
)
def test_vgg_of_snip_by_hand(name: str, options: dict[str, Any], size: int, hidden: int) -> None:
    torch.manual_seed(0)
    model = build(name, **options).double().eval()
    randomize_norms(model)
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    with torch.no_grad():
        h = by_hand(model, x, BLOCKS, options.get("stride", 1), eps=1e-3)
        assert h.shape == (2, 512, 1, 1)
        h = h.flatten(1)
        for number in range(1, hidden + 1):
            fc = model.get_submodule(f"fc{number}")
            h = F.relu(norm(h @ fc.weight.t() + fc.bias, model.get_submodule(f"bn_fc{number}"), False, eps=1e-3))
        last = model.get_submodule(f"fc{hidden + 1}")
        torch.testing.assert_close(model(x), h @ last.weight.t() + last.bias, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "small"),
    [("vgg-c", {7, 10, 13}), ("vgg-d", set()), ("vgg-like", set()), ("vgg16-bn", set()), ("vgg19-bn", set())],
)
def test_kernels(name: str, small: set[int]) -> None:
    with torch.device("meta"):
        found = convolutions(build(name))
    assert {number for number, conv in enumerate(found, start=1) if conv.kernel_size == (1, 1)} == small
    for conv in found:
        assert conv.padding == ((0, 0) if conv.kernel_size == (1, 1) else (1, 1))


@pytest.mark.parametrize(
    ("name", "widths"),
    [("vgg-c", [512, 512, 10]), ("vgg-d", [512, 512, 10]), ("vgg-like", [512, 10]), ("vgg16-bn", [10])],
)
def test_head(name: str, widths: list[int]) -> None:
    with torch.device("meta"):
        model = build(name)
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == list(pairwise([512, *widths]))
    assert all(m.bias is not None for m in linear)


@pytest.mark.parametrize(("options", "hidden"), [({}, []), ({"hidden": [16]}, [16])])
def test_vgg16_bn_by_hand(options: dict[str, Any], hidden: list[int]) -> None:
    """Four pools, then the mean of what is left, 2x2."""
    torch.manual_seed(1)
    model = build("vgg16-bn", classes=5, **options).double().eval()
    randomize_norms(model)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        h = by_hand(model, x, BLOCKS[:-1], 1, eps=1e-5)
        assert h.shape == (2, 512, 2, 2)
        h = h.mean((2, 3))
        for number, _ in enumerate(hidden, start=1):
            fc = model.get_submodule(f"fc{number}")
            h = F.relu(norm(h @ fc.weight.t() + fc.bias, model.get_submodule(f"bn_fc{number}"), False, eps=1e-5))
        last = model.get_submodule(f"fc{len(hidden) + 1}")
        torch.testing.assert_close(model(x), h @ last.weight.t() + last.bias, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "number"), [("vgg16-bn", 13), ("vgg19-bn", 16)])
def test_batch_norms_and_biases_of_the_pruning_literature(name: str, number: int) -> None:
    with torch.device("meta"):
        model = build(name)
    assert [conv.bias for conv in convolutions(model)] == [None] * number
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [(m.eps, m.momentum) for m in norms] == [(1e-5, 0.1)] * number


def test_batch_norms_and_biases_of_snip() -> None:
    with torch.device("meta"):
        model = build("vgg-d")
    assert all(conv.bias is not None for conv in convolutions(model))
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert [(m.eps, m.momentum) for m in norms] == [(1e-3, 0.01)] * 15


@pytest.mark.parametrize(("size", "stride", "inputs"), [(32, 1, 512), (63, 2, 512), (64, 1, 2048), (127, 2, 2048)])
def test_other_sizes_of_images(size: int, stride: int, inputs: int) -> None:
    with torch.device("meta"):
        model = build("vgg-like", size=size, stride=stride, channels=1)
        assert model.eval()(torch.zeros(1, 1, size, size)).shape == (1, 10)
    assert model.fc1.in_features == inputs
