"""Conv2, Conv4, Conv6 and Conv8: pairs of 3x3 convolutions, each pair followed by a max-pool, then three linear layers."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Final

from torch import nn

from supermask.errors import ConfigError
from supermask.models.layers import activation as make_activation
from supermask.models.layers import add_convolution, add_linear, batch_norm_1d, batch_norm_2d, count, flag, scaled

_PAIR_CHANNELS: Final = (64, 128, 256, 512)
_HEAD: Final = 256


class ConvNet(nn.Sequential):
    """Convolutions ``conv1``, ``conv2``, … (3x3, stride 1, zero padding) and ``fc1``, ``fc2``, ``fc3``.

    Input (N, channels, size, size); output (N, classes), logits. An activation follows each layer but the last;
    ``pool1``, ``pool2``, … (2x2) end the pairs. Batch norms are ``bn_conv1``, ``bn_fc1``, and so on.
    """


def conv_net(
    pairs: int,
    wide_head: bool,
    /,
    *,
    width: float = 1.0,
    channels: int = 3,
    size: int = 32,
    classes: int = 10,
    activation: str = "elu",
    head_activation: str | None = None,
    batchnorm: bool = False,
    bias: bool = False,
) -> ConvNet:
    """Build a network of ``pairs`` pairs of convolutions: 64, 64, pool, 128, 128, pool, …; 256, 256, classes.

    Args:
        pairs: 1 to 4.
        wide_head: Whether ``width`` multiplies the two hidden linear layers as well.
        width: Multiplier of the channels of the convolutions, rounded down.
        channels: Channels of the images: 3, or 1 for MNIST and its like.
        size: Height and width of the images: 32, or 28 for MNIST and its like.
        classes: Outputs.
        activation: ``elu`` or ``relu``.
        head_activation: Another activation after ``fc1`` and ``fc2``; None: the same.
        batchnorm: Normalise after each layer but the last.
        bias: Whether the convolutions and linear layers have one.

    Raises:
        ConfigError: An option is out of range.
    """
    flag("batchnorm", batchnorm)
    flag("bias", bias)
    if head_activation is None:
        head_activation = activation
    final_size = count("size", size) // 2**pairs
    if final_size < 1:
        raise ConfigError(f"size must be at least {2**pairs} for {pairs} poolings by 2, got {size}")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before = count("channels", channels)
    for number in range(1, 2 * pairs + 1):
        after = scaled(_PAIR_CHANNELS[(number - 1) // 2], width)
        add_convolution(
            layers,
            number,
            (before, after),
            activation=make_activation(activation),
            norm=batch_norm_2d if batchnorm else None,
            bias=bias,
            pool=number // 2 if number % 2 == 0 else None,
        )
        before = after
    hidden = scaled(_HEAD, width) if wide_head else _HEAD
    add_linear(
        layers,
        [before * final_size**2, hidden, hidden, count("classes", classes)],
        activation=partial(make_activation, head_activation, option="head_activation"),
        norm=batch_norm_1d if batchnorm else None,
        bias=bias,
    )
    return ConvNet(layers)


conv2 = partial(conv_net, 1, True)
conv4 = partial(conv_net, 2, True)
conv6 = partial(conv_net, 3, True)
# The dense baseline published for Conv8 very probably had ReLU after the hidden linear layers: head_activation="relu".
conv8 = partial(conv_net, 4, False)
