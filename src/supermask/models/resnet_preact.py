"""Residual networks with pre-activation for CIFAR: three stages of bottlenecks, 9 * n + 2 layers."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Final

from torch import Tensor, nn

from supermask.models.layers import count, scaled

EXPANSION: Final = 4


class PreActBottleneck(nn.Module):
    """``bn1``, ReLU, ``conv1`` 1x1, ``bn2``, ReLU, ``conv2`` 3x3 with the stride, ``bn3``, ReLU, ``conv3`` 1x1; plus the input.

    Output (N, 4 * channels, ceil(H / stride), ceil(W / stride)) from (N, inputs, H, W).

    Args:
        inputs: Channels in.
        channels: Channels of the first two convolutions.
        stride: Of the block.
        project: Whether the input goes through ``downsample``, a 1x1 convolution of the raw input, before it is added.
    """

    def __init__(self, inputs: int, channels: int, stride: int, project: bool) -> None:
        super().__init__()
        outputs = EXPANSION * channels
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, outputs, 1, bias=False)
        self.relu = nn.ReLU()
        self.downsample = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if project else None

    def forward(self, x: Tensor) -> Tensor:
        """One block; shapes as the class says."""
        main = self.conv1(self.relu(self.bn1(x)))
        main = self.conv2(self.relu(self.bn2(main)))
        main = self.conv3(self.relu(self.bn3(main)))
        out: Tensor = main + (x if self.downsample is None else self.downsample(x))
        return out


class PreActResNet(nn.Sequential):
    """``conv1`` 3x3, stages ``layer1`` to ``layer3``, ``bn``, ReLU, average pool, linear layer ``fc``.

    Input (N, channels, H, W); output (N, classes), logits. Blocks are ``layer1.0``, ``layer1.1``, …; the first of each stage
    has a projection, ``layer1.0.downsample``. Convolutions have no bias, ``fc`` has one; batch norms are torch's (eps 1e-5,
    momentum 0.1).
    """


def resnet_preact(blocks: int, /, *, channels: int = 3, classes: int = 10, width: float = 1.0) -> PreActResNet:
    """Build a pre-activation ResNet for CIFAR with 9 * blocks + 2 layers: bottlenecks of 16, 32 and 64 channels.

    Projections see the raw input of their block, as in the code of network slimming; He et al. let the first one of the network
    see the activated input.

    Args:
        blocks: Blocks a stage: 18 for ResNet-164.
        channels: Channels of the images.
        classes: Outputs.
        width: Multiplier of the 16 channels of the stem and the first bottlenecks, rounded down; later stages double them.

    Raises:
        ConfigError: An option is out of range.
    """
    before = first = scaled(16, width)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = nn.Conv2d(count("channels", channels), before, 3, padding=1, bias=False)
    for stage in range(3):
        narrow = first * 2**stage
        after = EXPANSION * narrow
        block = PreActBottleneck(before, narrow, 1 if stage == 0 else 2, True)
        rest = (PreActBottleneck(after, narrow, 1, False) for _ in range(blocks - 1))
        layers[f"layer{stage + 1}"] = nn.Sequential(block, *rest)
        before = after
    layers["bn"] = nn.BatchNorm2d(before)
    layers["relu"] = nn.ReLU()
    layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(before, count("classes", classes))
    return PreActResNet(layers)


resnet164 = partial(resnet_preact, 18)
