"""The residual networks of He et al. 2016: for CIFAR (three stages, 6 * n + 2 layers) and for ImageNet (four stages)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from supermask.models.layers import choice, count, scaled

Shortcut = Literal["subsample", "average", "projection"]
_SHORTCUTS: Final = ("subsample", "average", "projection")


class BasicBlock(nn.Module):
    """``conv1`` 3x3 with the stride, ``bn1``, ReLU, ``conv2`` 3x3, ``bn2``; plus the input or its ``downsample``; ReLU.

    Output (N, channels, ceil(H / stride), ceil(W / stride)) from (N, inputs, H, W).

    Args:
        inputs: Channels in.
        channels: Channels out.
        stride: Of the block.
        downsample: What gives the input the shape of the output; None: the shapes are equal.
    """

    expansion: Final = 1

    def __init__(self, inputs: int, channels: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """One block; shapes as the class says."""
        main = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu(main + (x if self.downsample is None else self.downsample(x)))
        return out


class Bottleneck(nn.Module):
    """``conv1`` 1x1, ``conv2`` 3x3 with the stride, ``conv3`` 1x1, each with batch norm; plus the input; ReLU.

    Output (N, 4 * channels, ceil(H / stride), ceil(W / stride)) from (N, inputs, H, W).

    Differs:
        From He et al. 2016, who put the stride on ``conv1``; as torchvision ("v1.5").

    Args:
        inputs: Channels in.
        channels: Channels of the first two convolutions.
        stride: Of the block.
        downsample: What gives the input the shape of the output; None: the shapes are equal.
    """

    expansion: Final = 4

    def __init__(self, inputs: int, channels: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, self.expansion * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.expansion * channels)
        self.relu = nn.ReLU()
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """One block; shapes as the class says."""
        main = self.relu(self.bn1(self.conv1(x)))
        main = self.relu(self.bn2(self.conv2(main)))
        main = self.bn3(self.conv3(main))
        out: Tensor = self.relu(main + (x if self.downsample is None else self.downsample(x)))
        return out


class PaddedShortcut(nn.Module):
    """A shortcut without weights ("option A"): fewer pixels, then channels of zeros behind.

    (N, C, H, W) to (N, C + extra, ceil(H / stride), ceil(W / stride)).

    Args:
        extra: Channels of zeros.
        stride: In both directions.
        average: Take means of stride x stride pixels; else every stride-th pixel.
    """

    def __init__(self, extra: int, stride: int, average: bool) -> None:
        super().__init__()
        self.extra = extra
        self.stride = stride
        self.average = average

    def forward(self, x: Tensor) -> Tensor:
        """The shortcut; shapes as the class says."""
        if self.average:
            x = F.avg_pool2d(x, self.stride, ceil_mode=True)
        else:
            x = x[..., :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.extra))

    def extra_repr(self) -> str:
        """What printing shows."""
        return f"extra={self.extra}, stride={self.stride}, average={self.average}"


class ResNet(nn.Sequential):
    """``conv1``, ``bn1``, ReLU, stages ``layer1``, ``layer2``, …, average pool, linear layer ``fc``.

    Input (N, channels, H, W); output (N, classes), logits. Blocks are ``layer1.0``, ``layer1.1``, …; a projection is
    ``layer2.0.downsample.0`` (1x1 convolution) and ``.1`` (batch norm): torchvision's names. Convolutions have no bias,
    ``fc`` has one; batch norms are torch's (eps 1e-5, momentum 0.1). The networks for ImageNet have a 7x7 convolution of
    stride 2 and a 3x3 max-pool of stride 2 before the stages, those for CIFAR a 3x3 convolution.
    """


Block = type[BasicBlock] | type[Bottleneck]
MakeShortcut = Callable[[int, int, int], nn.Module]  # channels in, channels out, stride


def resnet_cifar(
    blocks: int,
    /,
    *,
    channels: int = 3,
    classes: int = 10,
    shortcut: Shortcut = "subsample",
    width: float = 1.0,
) -> ResNet:
    """Build a ResNet for CIFAR with 6 * blocks + 2 layers: 16, 32 and 64 channels, basic blocks.

    Args:
        blocks: Blocks a stage: 3 for ResNet-20, 9 for ResNet-56.
        channels: Channels of the images.
        classes: Outputs.
        shortcut: Where the shape changes: "subsample", every second pixel and channels of zeros, He et al.'s option A;
            "average", means of 2x2 pixels and channels of zeros, as the pruning literature has it; "projection", 1x1
            convolutions with batch norm, He et al.'s option B.
        width: Multiplier of the 16 channels of the stem and the first stage, rounded down; later stages double them.

    Raises:
        ConfigError: An option is out of range.
    """
    choice("shortcut", shortcut, _SHORTCUTS)
    first = scaled(16, width)
    make = _projection if shortcut == "projection" else partial(_padded, average=shortcut == "average")
    stem: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(count("channels", channels), first, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(first),
        relu=nn.ReLU(),
    )
    return _resnet(stem, first, BasicBlock, [blocks] * 3, make, count("classes", classes))


def resnet_imagenet(block: Block, blocks: Sequence[int], /, *, classes: int = 1000) -> ResNet:
    """Build a ResNet for ImageNet: 64, 128, 256 and 512 channels; state dict as torchvision's.

    Args:
        block: The kind of block.
        blocks: Blocks of each stage.
        classes: Outputs.

    Raises:
        ConfigError: An option is out of range.
    """
    stem: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
        bn1=nn.BatchNorm2d(64),
        relu=nn.ReLU(),
        maxpool=nn.MaxPool2d(3, stride=2, padding=1),
    )
    return _resnet(stem, 64, block, blocks, _projection, count("classes", classes))


def _resnet(
    layers: OrderedDict[str, nn.Module],
    width: int,
    block: Block,
    blocks: Sequence[int],
    shortcut: MakeShortcut,
    classes: int,
) -> ResNet:
    """Append stages that halve the size and double the channels, and the head."""
    before = width
    for stage, number in enumerate(blocks):
        channels = width * 2**stage
        after = channels * block.expansion
        stride = 1 if stage == 0 else 2
        downsample = None if stride == 1 and before == after else shortcut(before, after, stride)
        first = block(before, channels, stride, downsample)
        layers[f"layer{stage + 1}"] = nn.Sequential(
            first, *(block(after, channels, 1, None) for _ in range(number - 1))
        )
        before = after
    layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(before, classes)
    return ResNet(layers)


def _projection(before: int, after: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))


def _padded(before: int, after: int, stride: int, *, average: bool) -> nn.Module:
    return PaddedShortcut(after - before, stride, average)


resnet20 = partial(resnet_cifar, 3)
resnet32 = partial(resnet_cifar, 5)
resnet50_cifar = partial(resnet_cifar, 8)
resnet56 = partial(resnet_cifar, 9)
resnet110 = partial(resnet_cifar, 18)
resnet18 = partial(resnet_imagenet, BasicBlock, (2, 2, 2, 2))
resnet34 = partial(resnet_imagenet, BasicBlock, (3, 4, 6, 3))
resnet50 = partial(resnet_imagenet, Bottleneck, (3, 4, 6, 3))
