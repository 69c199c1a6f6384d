"""The ResNets of the signed supermask's authors. They differ from those of He et al. for CIFAR: see :class:`ResNetSigned`."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from supermask.models.layers import activation as make_activation
from supermask.models.layers import batch_norm_2d, count, scaled


class ProjectionBlock(nn.Module):
    """The "C-block": changes width and size.

    main: ``conv1`` 1x1 with the stride, ``bn1``, activation, ``conv2`` 3x3, ``bn2``, activation (once more before the
    sum); ``shortcut``: 1x1 convolution with the stride, batch norm. Output: activation(main + shortcut),
    (N, channels, ceil(H / stride), ceil(W / stride)) from (N, inputs, H, W).

    Args:
        inputs: Channels in.
        channels: Channels out.
        stride: Of the two 1x1 convolutions.
        activation: ``elu`` or ``relu``.
    """

    def __init__(self, inputs: int, channels: int, stride: int, activation: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 1, stride=stride, bias=False)
        self.bn1 = batch_norm_2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = batch_norm_2d(channels)
        self.shortcut = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(inputs, channels, 1, stride=stride, bias=False), bn=batch_norm_2d(channels))
        )
        self.act = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """One block; shapes as the class says."""
        main = self.act(self.bn1(self.conv1(x)))
        main = self.act(self.bn2(self.conv2(main)))
        out: Tensor = self.act(main + self.shortcut(x))
        return out


class IdentityBlock(nn.Module):
    """The "I-block": 3x3, batch norm, activation, 3x3, batch norm; output activation(that + input), of the input's shape.

    Args:
        channels: Channels in and out.
        activation: ``elu`` or ``relu``.
    """

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = batch_norm_2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = batch_norm_2d(channels)
        self.act = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """One block; shapes as the class says."""
        main = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        out: Tensor = self.act(main + x)
        return out


class ResNetSigned(nn.Module):
    """Stem, three stages of 16, 32 and 64 channels times ``width``, average pool, linear layer ``fc``; no biases.

    Input (N, channels, H, W); output (N, classes), logits. Modules: ``stem.conv``, ``stem.bn``, ``stage1.block1.conv1``,
    ``stage1.block1.shortcut.conv``, …, ``fc``. Batch norms have eps 1e-3 and momentum 0.01.

    Differs:
        From He et al. 2016 for CIFAR: ELU; a 3x3 max-pool of stride 1 in the stem; each stage, also the first, begins
        with a projection whose first convolution is 1x1, with one activation more before the sum.

    Args:
        blocks: Blocks a stage: 3 for ResNet20, 9 for ResNet56, 18 for ResNet110.
        width: Multiplier of the channels, rounded down.
        classes: Outputs.
        channels: Channels of the images.
        activation: ``elu`` or ``relu``.
        second_projection: Number, from 1, of one more block in each stage that is a projection with the stage's stride.
    """

    def __init__(
        self,
        blocks: int,
        *,
        width: float,
        classes: int,
        channels: int,
        activation: str,
        second_projection: int | None = None,
    ) -> None:
        super().__init__()
        before = scaled(16, width)
        self.stem = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(count("channels", channels), before, 3, padding=1, bias=False),
                bn=batch_norm_2d(before),
                act=make_activation(activation),
                pool=nn.MaxPool2d(3, stride=1, padding=1),
            )
        )
        widths = [scaled(base, width) for base in (16, 32, 64)]
        self.stage1 = _stage(before, widths[0], blocks, 1, second_projection, activation)
        self.stage2 = _stage(widths[0], widths[1], blocks, 2, second_projection, activation)
        self.stage3 = _stage(widths[1], widths[2], blocks, 2, second_projection, activation)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(widths[2], count("classes", classes), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, channels, H, W)."""
        x = self.stage3(self.stage2(self.stage1(self.stem(x))))
        out: Tensor = self.fc(self.flatten(self.pool(x)))
        return out


def _stage(
    before: int, after: int, blocks: int, stride: int, second_projection: int | None, activation: str
) -> nn.Sequential:
    stage: OrderedDict[str, nn.Module] = OrderedDict()
    for number in range(1, blocks + 1):
        if number in (1, second_projection):
            stage[f"block{number}"] = ProjectionBlock(before, after, stride, activation)
        else:
            stage[f"block{number}"] = IdentityBlock(after, activation)
        before = after
    return nn.Sequential(stage)


def resnet20_signed(
    *, width: float = 1.0, classes: int = 10, channels: int = 3, activation: str = "elu"
) -> ResNetSigned:
    """Build ResNet20, 3 blocks a stage.

    Args:
        width: Multiplier of the channels, rounded down; 1, 1.5, 2, 2.5 and 3 are published.
        classes: Outputs.
        channels: Channels of the images.
        activation: ``elu`` or ``relu``.

    Raises:
        ConfigError: An option is out of range.
    """
    return ResNetSigned(3, width=width, classes=classes, channels=channels, activation=activation)


def resnet56_signed(
    *, width: float = 1.0, classes: int = 100, channels: int = 3, activation: str = "elu"
) -> ResNetSigned:
    """Build ResNet56, 9 blocks a stage. Options as for :func:`resnet20_signed`."""
    return ResNetSigned(9, width=width, classes=classes, channels=channels, activation=activation)


def resnet110_signed(
    *, width: float = 1.0, classes: int = 100, channels: int = 3, activation: str = "elu"
) -> ResNetSigned:
    """Build ResNet110, 18 blocks a stage, as the authors' dense baseline. Options as for :func:`resnet20_signed`."""
    return ResNetSigned(18, width=width, classes=classes, channels=channels, activation=activation)


def resnet110_signed_masked(
    *, width: float = 1.0, classes: int = 100, channels: int = 3, activation: str = "elu"
) -> ResNetSigned:
    """Build ResNet110 as the authors' masked network: ``block10`` of each stage is a projection as well.

    With strides 1, 2, 2 again, images of 32x32 end as 2x2 and not 8x8. Options as for :func:`resnet20_signed`.
    """
    return ResNetSigned(
        18, width=width, classes=classes, channels=channels, activation=activation, second_projection=10
    )
