"""Conv2, Conv4, Conv6 and Conv8: pairs of 3x3 convolutions, each pair followed by a max-pool, then three linear layers."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Final

from torch import nn

from supermask.errors import ConfigError
from supermask.models.layers import activation as make_activation
from supermask.models.layers import batch_norm_1d, batch_norm_2d, count, flag, scaled

_PAIR_CHANNELS: Final = (64, 128, 256, 512)
_HEAD: Final = 256


class ConvNet(nn.Sequential):
    """Convolutions ``conv1``, ``conv2``, … (3x3, stride 1, zero padding) and ``fc1``, ``fc2``, ``fc3``; no biases.

    Input (N, channels, size, size); output (N, classes), logits. An activation follows each layer but the last;
    ``pool1``, ``pool2``, … (2x2) end the pairs. Batch norms are ``bn_conv1``, ``bn_fc1``, and so on.

    The activation stands after the pool of its pair, not before: both activations never decrease, so the outputs are the
    same numbers, and a quarter of the activations is computed.
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

    Raises:
        ConfigError: An option is out of range.
    """
    flag("batchnorm", batchnorm)
    if head_activation is None:
        head_activation = activation
    final_size = count("size", size) // 2**pairs
    if final_size < 1:
        raise ConfigError(f"size must be at least {2**pairs} for {pairs} poolings by 2, got {size}")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before = count("channels", channels)
    for number in range(1, 2 * pairs + 1):
        after = scaled(_PAIR_CHANNELS[(number - 1) // 2], width)
        layers[f"conv{number}"] = nn.Conv2d(before, after, 3, padding=1, bias=False)
        if batchnorm:
            layers[f"bn_conv{number}"] = batch_norm_2d(after)
        if number % 2 == 0:
            layers[f"pool{number // 2}"] = nn.MaxPool2d(2)
        layers[f"act_conv{number}"] = make_activation(activation)
        before = after
    layers["flatten"] = nn.Flatten()
    before *= final_size**2
    hidden = scaled(_HEAD, width) if wide_head else _HEAD
    for number in (1, 2):
        layers[f"fc{number}"] = nn.Linear(before, hidden, bias=False)
        if batchnorm:
            layers[f"bn_fc{number}"] = batch_norm_1d(hidden)
        layers[f"act_fc{number}"] = make_activation(head_activation, option="head_activation")
        before = hidden
    layers["fc3"] = nn.Linear(before, count("classes", classes), bias=False)
    return ConvNet(layers)


conv2 = partial(conv_net, 1, True)
conv4 = partial(conv_net, 2, True)
conv6 = partial(conv_net, 3, True)
# The dense baseline published for Conv8 very probably had ReLU after the hidden linear layers: head_activation="relu".
conv8 = partial(conv_net, 4, False)
