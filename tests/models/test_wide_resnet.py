from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supermask.errors import ConfigError
from supermask.models import build
from supermask.models.wide_resnet import WideBlock, wide_resnet

from .helpers import norm, randomize_norms


def block_by_hand(block: WideBlock, x: Tensor, stride: int, stride_conv: int, shortcut: str, training: bool) -> Tensor:
    active = F.relu(norm(x, block.bn1, training, eps=1e-5))
    first, second = (stride, 1) if stride_conv == 1 else (1, stride)
    main = F.conv2d(active, block.conv1.weight, stride=first, padding=1)
    main = F.conv2d(F.relu(norm(main, block.bn2, training, eps=1e-5)), block.conv2.weight, stride=second, padding=1)
    if block.shortcut is None:
        return main + x
    return main + F.conv2d(active if shortcut == "activated" else x, block.shortcut.weight, stride=stride)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"stride_conv": 2}, {"shortcut": "raw"}, {"stride_conv": 2, "shortcut": "raw"}]
)
def test_whole_network_by_hand(options: dict[str, Any], training: bool) -> None:
    torch.manual_seed(0)
    model = wide_resnet(16, 1, channels=2, classes=7, **options).double().train(training)
    randomize_norms(model)
    x = torch.randn(3, 2, 12, 12, dtype=torch.float64)
    settings = (options.get("stride_conv", 1), options.get("shortcut", "activated"), training)
    with torch.no_grad():
        h = F.conv2d(x, model.conv1.weight, padding=1)
        for stage, stride in ((model.stage1, 1), (model.stage2, 2), (model.stage3, 2)):
            assert len(stage) == 2
            for number, block in enumerate(stage, start=1):
                h = block_by_hand(block, h, stride if number == 1 else 1, *settings)
        assert h.shape == (3, 64, 3, 3)
        h = F.relu(norm(h, model.bn, training, eps=1e-5)).mean((2, 3))
        expected = h @ model.fc.weight.t() + model.fc.bias
        torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "blocks", "widths"),
    [
        ("wrn-16-4", 2, [64, 128, 256]),
        ("wrn-16-8", 2, [128, 256, 512]),
        ("wrn-16-10", 2, [160, 320, 640]),
        ("wrn-22-2", 3, [32, 64, 128]),
        ("wrn-22-8", 3, [128, 256, 512]),
        ("wrn-22-12", 3, [192, 384, 768]),
        ("wrn-28-10", 4, [160, 320, 640]),
    ],
)
def test_depth_and_width(name: str, blocks: int, widths: list[int]) -> None:
    with torch.device("meta"):
        model = build(name)
    for stage, width in zip((model.stage1, model.stage2, model.stage3), widths, strict=True):
        assert [block.conv2.out_channels for block in stage] == [width] * blocks
        assert [block.shortcut is not None for block in stage] == [True] + [False] * (blocks - 1)
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in model.modules()) == 6 * blocks + 1


def test_a_multiplier_of_the_width_changes_the_stem_too() -> None:
    with torch.device("meta"):
        model = build("wrn-16-4", width=0.5)
    assert [model.conv1.out_channels, model.stage1.block1.conv1.out_channels, model.fc.in_features] == [8, 32, 128]


def test_a_width_of_one_has_no_shortcut_in_the_first_stage() -> None:
    with torch.device("meta"):
        model = wide_resnet(10, 1)
    assert model.stage1.block1.shortcut is None
    assert model.stage2.block1.shortcut is not None


@pytest.mark.parametrize("depth", [4, 15, 18, -2, 16.0, True])
def test_depths_that_no_network_has(depth: Any) -> None:
    with pytest.raises(ConfigError, match=r"depth must be .*got"):
        wide_resnet(depth, 8)


def test_a_width_that_no_network_has() -> None:
    with pytest.raises(ConfigError, match="widen must be an integer >= 1, got 0.5"):
        wide_resnet(16, 0.5)  # type: ignore[arg-type]
