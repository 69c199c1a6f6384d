"""Two networks called AlexNet: SNIP's for CIFAR-10 and Tiny-ImageNet, and the one for ImageNet in torchvision's layout."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn

from supermask.errors import ConfigError
from supermask.models.layers import add_convolution, add_linear, batch_norm_1d, batch_norm_2d, count

# channels and kernel
_SNIP_CONVOLUTIONS: Final = ((96, 11), (256, 5), (384, 3), (384, 3), (256, 3))
_IMAGENET_MAP: Final = 6


class AlexNetSNIP(nn.Sequential):
    """Convolutions ``conv1`` to ``conv5`` with strides instead of pools, linear layers ``fc1`` to ``fc3``, all with biases.

    Input (N, channels, size, size); output (N, classes), logits. After each layer but the last a batch norm (``bn_conv1``,
    ``bn_fc1``, …; eps 1e-3, momentum 0.01, TensorFlow's values) and ReLU. Zero padding is TensorFlow's "SAME": see
    :class:`~supermask.models.layers.SamePad2d`.
    """


def alexnet_snip(
    width: int, /, *, channels: int = 3, size: int = 32, stride: int = 2, classes: int = 10
) -> AlexNetSNIP:
    """Build AlexNet as SNIP's authors did; Tiny-ImageNet is ``size=64, stride=4, classes=200``.

    Args:
        width: k: the hidden linear layers have 1024 * k units. The first version of the paper says 512 and 1024 units; its
            numbers of weights and the authors' code say 1024 and 2048.
        channels: Channels of the images.
        size: Height and width of the images.
        stride: Of the first convolution; that of the others is 2.
        classes: Outputs.

    Raises:
        ConfigError: An option is out of range.
    """
    final_size = count("size", size)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before, step = count("channels", channels), count("stride", stride)
    for number, (after, kernel) in enumerate(_SNIP_CONVOLUTIONS, start=1):
        add_convolution(
            layers,
            number,
            (before, after),
            kernel=kernel,
            stride=step,
            activation=nn.ReLU(),
            norm=batch_norm_2d,
            bias=True,
        )
        final_size = -(-final_size // step)
        before, step = after, 2
    widths = [before * final_size**2, 1024 * width, 1024 * width, count("classes", classes)]
    add_linear(layers, widths, activation=nn.ReLU, norm=batch_norm_1d, bias=True)
    return AlexNetSNIP(layers)


class AlexNet(nn.Module):
    """AlexNet for ImageNet, without normalisation; the state dict has torchvision's names and shapes.

    Input (N, 3, H, W), H and W at least 63, usually 224; output (N, classes), logits. Parts: ``features`` (five
    convolutions, three 3x3 max-pools of stride 2), ``avgpool`` to 6x6, ``classifier`` (three linear layers).

    Args:
        classes: Outputs.
        dropout: Probability in [0, 1) with which an input of the two hidden linear layers is dropped.
    """

    def __init__(self, classes: int, dropout: float) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(_IMAGENET_MAP)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(256 * _IMAGENET_MAP**2, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, 3, H, W)."""
        out: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return out


def alexnet(*, classes: int = 1000, dropout: float = 0.5) -> AlexNet:
    """Build AlexNet for ImageNet.

    Args:
        classes: Outputs.
        dropout: Probability in [0, 1) with which an input of the two hidden linear layers is dropped in training.

    Raises:
        ConfigError: An option is out of range.
    """
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ConfigError(f"dropout must be a number in [0, 1), got {dropout!r}; 0 drops nothing")
    return AlexNet(count("classes", classes), dropout)


alexnet_s = partial(alexnet_snip, 1)
alexnet_b = partial(alexnet_snip, 2)
