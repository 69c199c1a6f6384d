"""Wide residual networks for small images: WRN-depth-width."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Final, Literal

from torch import Tensor, nn

from supermask.errors import ConfigError
from supermask.models.layers import choice, count, scaled

Shortcut = Literal["activated", "raw"]
_SHORTCUTS: Final = ("activated", "raw")


class WideBlock(nn.Module):
    """``bn1``, ReLU, ``conv1`` 3x3, ``bn2``, ReLU, ``conv2`` 3x3; plus the input, or its 1x1 convolution ``shortcut``.

    Output (N, channels, ceil(H / stride), ceil(W / stride)) from (N, inputs, H, W).

    Args:
        inputs: Channels in.
        channels: Channels out; where they differ from ``inputs``, there is a shortcut convolution.
        stride: Of the block.
        stride_conv: Which convolution takes it, 1 or 2.
        activated: Whether the shortcut convolution sees the input after ``bn1`` and ReLU.
    """

    def __init__(self, inputs: int, channels: int, stride: int, stride_conv: int, activated: bool) -> None:
        super().__init__()
        strides = (stride, 1) if stride_conv == 1 else (1, stride)
        self.activated = activated
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride=strides[0], padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=strides[1], padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, channels, 1, stride=stride, bias=False) if inputs != channels else None
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """One block; shapes as the class says."""
        active = self.act(self.bn1(x))
        main: Tensor = self.conv2(self.act(self.bn2(self.conv1(active))))
        if self.shortcut is not None:
            x = self.shortcut(active if self.activated else x)
        return main + x


class WideResNet(nn.Module):
    """Stem ``conv1``, three stages of 1, 2 and 4 times ``base * widen`` channels, ``bn``, ReLU, average pool, ``fc``.

    Input (N, channels, H, W); output (N, classes), logits. Modules: ``conv1``, ``stage1.block1.conv1``,
    ``stage1.block1.shortcut``, …, ``bn``, ``fc``. Convolutions have no bias, ``fc`` has one; batch norms are torch's.

    Args:
        blocks: Blocks a stage.
        widen: How many times as wide as the stem the first stage is.
        base: Channels of the stem.
        channels: Channels of the images.
        classes: Outputs.
        stride_conv: See :class:`WideBlock`.
        activated: See :class:`WideBlock`.
    """

    def __init__(
        self, blocks: int, widen: int, *, base: int, channels: int, classes: int, stride_conv: int, activated: bool
    ) -> None:
        super().__init__()
        before = base
        self.conv1 = nn.Conv2d(channels, before, 3, padding=1, bias=False)
        stages = []
        for after, stride in ((base * widen, 1), (2 * base * widen, 2), (4 * base * widen, 2)):
            stage: OrderedDict[str, nn.Module] = OrderedDict()
            for number in range(1, blocks + 1):
                first = number == 1
                inputs = before if first else after
                stage[f"block{number}"] = WideBlock(inputs, after, stride if first else 1, stride_conv, activated)
            stages.append(nn.Sequential(stage))
            before = after
        self.stage1, self.stage2, self.stage3 = stages
        self.bn = nn.BatchNorm2d(before)
        self.act = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, channels, H, W)."""
        x = self.stage3(self.stage2(self.stage1(self.conv1(x))))
        out: Tensor = self.fc(self.flatten(self.pool(self.act(self.bn(x)))))
        return out


def wide_resnet(
    depth: int,
    widen: int,
    /,
    *,
    channels: int = 3,
    classes: int = 10,
    stride_conv: int = 1,
    shortcut: Shortcut = "activated",
    width: float = 1.0,
) -> WideResNet:
    """Build WRN-depth-widen without dropout.

    Args:
        depth: 6 * n + 4 for n blocks a stage.
        widen: Multiplier of the 16, 32 and 64 channels of the stages.
        channels: Channels of the images.
        classes: Outputs.
        stride_conv: Which convolution of a block takes its stride: 1, the authors' network, or 2, that of MaskConvNet,
            which computes more and has the same weights.
        shortcut: What the 1x1 convolutions of the shortcuts see: the input after batch norm and ReLU ("activated", the
            authors' network) or before them ("raw", MaskConvNet's and several other implementations).
        width: Multiplier of the 16 channels of the stem, rounded down; with it of all others.

    Raises:
        ConfigError: An option is out of range.
    """
    if count("depth", depth) < 10 or (depth - 4) % 6:
        raise ConfigError(f"depth must be 6 * n + 4 with n >= 1 (10, 16, 22, 28, ...), got {depth}")
    choice("stride_conv", stride_conv, (1, 2))
    choice("shortcut", shortcut, _SHORTCUTS)
    return WideResNet(
        (depth - 4) // 6,
        count("widen", widen),
        base=scaled(16, width),
        channels=count("channels", channels),
        classes=count("classes", classes),
        stride_conv=stride_conv,
        activated=shortcut == "activated",
    )


wrn_16_4 = partial(wide_resnet, 16, 4)
wrn_16_8 = partial(wide_resnet, 16, 8)
wrn_16_10 = partial(wide_resnet, 16, 10)
wrn_22_2 = partial(wide_resnet, 22, 2)
wrn_22_8 = partial(wide_resnet, 22, 8)
wrn_22_12 = partial(wide_resnet, 22, 12)
wrn_28_10 = partial(wide_resnet, 28, 10)
