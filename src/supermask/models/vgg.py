"""VGG for small images: SNIP's VGG-C, VGG-D and VGG-like, and VGG-16 and VGG-19 of the pruning literature."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from torch import nn

from supermask.errors import ConfigError
from supermask.models.layers import add_convolution, add_linear, batch_norm_1d, batch_norm_2d, count, counts, scaled

_CHANNELS: Final = (64, 128, 256, 512, 512)

# kernels of the convolutions of each block
_C: Final = ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1))
_D: Final = ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
_E: Final = ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3))


class VGG(nn.Sequential):
    """Five blocks of convolutions ``conv1``, ``conv2``, …, then ``fc1``, ``fc2``, ….

    Input (N, channels, size, size); output (N, classes), logits. After each layer but the last a batch norm (``bn_conv1``,
    ``bn_fc1``, …) and ReLU; ``pool1``, ``pool2``, … (2x2 max-pools) end the blocks.
    """


def vgg_snip(
    kernels: Sequence[Sequence[int]],
    hidden: Sequence[int],
    /,
    *,
    channels: int = 3,
    size: int = 32,
    stride: int = 1,
    classes: int = 10,
) -> VGG:
    """Build a VGG as SNIP's authors did; Tiny-ImageNet is ``size=64, stride=2, classes=200``.

    Every layer has a bias. Five max-pools; 1x1 convolutions are not padded. Batch norms have eps 1e-3 and momentum 0.01
    (TensorFlow's values).

    Args:
        kernels: Of each convolution, block by block.
        hidden: Widths of the hidden linear layers.
        channels: Channels of the images.
        size: Height and width of the images.
        stride: Of the first convolution; padded as in :class:`~supermask.models.layers.SamePad2d`.
        classes: Outputs.

    Raises:
        ConfigError: An option is out of range.
    """
    least = (2 ** len(kernels) - 1) * count("stride", stride) + 1
    if count("size", size) < least:
        raise ConfigError(
            f"size must be at least {least} for a stride of {stride} and {len(kernels)} poolings by 2, got {size}"
        )
    final_size = -(-size // stride) // 2 ** len(kernels)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    last = _add_blocks(
        layers, kernels, channels, _CHANNELS, stride=stride, norm=batch_norm_2d, bias=True, pools=len(kernels)
    )
    widths = [last * final_size**2, *hidden, count("classes", classes)]
    add_linear(layers, widths, activation=nn.ReLU, norm=batch_norm_1d, bias=True)
    return VGG(layers)


def vgg_bn(
    kernels: Sequence[Sequence[int]],
    /,
    *,
    channels: int = 3,
    classes: int = 10,
    hidden: Sequence[int] = (),
    width: float = 1.0,
) -> VGG:
    """Build a VGG with batch norm as the pruning literature has it: four max-pools, a global average, one linear layer.

    Convolutions have no bias, linear layers have one. Batch norms are torch's (eps 1e-5, momentum 0.1). On 32x32 images
    the average is that of 2x2 values. Images must be at least 16x16.

    Args:
        kernels: Of each convolution, block by block.
        channels: Channels of the images.
        classes: Outputs.
        hidden: Widths of hidden linear layers, each with bias, batch norm and ReLU; [512] is the VGG-16 of Li et al.
            2017 (L1-norm filters) and MaskConvNet.
        width: Multiplier of the convolutions' 64 to 512 channels, rounded down.

    Raises:
        ConfigError: An option is out of range.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    pools = len(kernels) - 1
    widths = [scaled(channels, width) for channels in _CHANNELS]
    last = _add_blocks(layers, kernels, channels, widths, stride=1, norm=nn.BatchNorm2d, bias=False, pools=pools)
    layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
    head = [last, *counts("hidden", hidden), count("classes", classes)]
    add_linear(layers, head, activation=nn.ReLU, norm=nn.BatchNorm1d, bias=True)
    return VGG(layers)


def _add_blocks(
    layers: OrderedDict[str, nn.Module],
    kernels: Sequence[Sequence[int]],
    channels: int,
    widths: Sequence[int],
    *,
    stride: int,
    norm: Callable[[int], nn.Module],
    bias: bool,
    pools: int,
) -> int:
    """Append blocks of these widths, with a max-pool at the end of the first ``pools``; the last number of channels."""
    before, number = count("channels", channels), 0
    for block, (after, of_block) in enumerate(zip(widths, kernels, strict=True), start=1):
        for position, kernel in enumerate(of_block, start=1):
            number += 1
            add_convolution(
                layers,
                number,
                (before, after),
                kernel=kernel,
                stride=stride if number == 1 else 1,
                activation=nn.ReLU(),
                norm=norm,
                bias=bias,
                pool=block if position == len(of_block) and block <= pools else None,
            )
            before = after
    return before


vgg_c = partial(vgg_snip, _C, (512, 512))
vgg_d = partial(vgg_snip, _D, (512, 512))
vgg_like = partial(vgg_snip, _D, (512,))
vgg16_bn = partial(vgg_bn, _D)
vgg19_bn = partial(vgg_bn, _E)
