"""Two convolutional LeNets for MNIST: Caffe's, and that of DessiLBI's authors."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from torch import nn

from supermask.models.layers import activation as make_activation
from supermask.models.layers import add_linear, count

_CAFFE_MAP: Final = 4 * 4  # of 28x28: 24, pool, 12, 8, pool, 4


class LeNet(nn.Sequential):
    """5x5 convolutions ``conv1``, ``conv2``, … and linear layers ``fc1``, ``fc2``, all with biases.

    Input (N, channels, 28, 28); output (N, classes), logits. ``pool1`` and ``pool2`` are 2x2 max-pools.
    """


def lenet5_caffe(
    *, channels: int = 1, classes: int = 10, activation: str = "relu", conv_activation: str | None = None
) -> LeNet:
    """Build Caffe's LeNet-5: 20 and 50 channels without padding, each with a max-pool; 800-500-classes.

    Args:
        channels: Channels of the images.
        classes: Outputs.
        activation: After the hidden linear layer: ``elu`` or ``relu``.
        conv_activation: After each pool: ``elu`` or ``relu``; None: nothing stands there, as in Caffe's network and in the
            code of SNIP's authors (other implementations of SNIP have ReLU).

    Raises:
        ConfigError: An option is out of range.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before = count("channels", channels)
    for number, after in ((1, 20), (2, 50)):
        layers[f"conv{number}"] = nn.Conv2d(before, after, 5)
        layers[f"pool{number}"] = nn.MaxPool2d(2)
        if conv_activation is not None:
            layers[f"act_conv{number}"] = make_activation(conv_activation, option="conv_activation")
        before = after
    _add_head(layers, [before * _CAFFE_MAP, 500, classes], activation)
    return LeNet(layers)


def lenet5_dessilbi(*, channels: int = 1, classes: int = 10, activation: str = "relu") -> LeNet:
    """Build the LeNet of DessiLBI's authors: 6 channels (zero padding 2), pool, 16, pool, 120; 120-84-classes.

    Args:
        channels: Channels of the images.
        classes: Outputs.
        activation: After each layer but the last: ``elu`` or ``relu``.

    Raises:
        ConfigError: An option is out of range.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before = count("channels", channels)
    for number, after in ((1, 6), (2, 16), (3, 120)):
        layers[f"conv{number}"] = nn.Conv2d(before, after, 5, padding=2 if number == 1 else 0)
        if number < 3:
            layers[f"pool{number}"] = nn.MaxPool2d(2)
        layers[f"act_conv{number}"] = make_activation(activation)
        before = after
    _add_head(layers, [before, 84, classes], activation)
    return LeNet(layers)


def _add_head(layers: OrderedDict[str, nn.Module], widths: list[int], activation: str) -> None:
    count("classes", widths[-1])
    add_linear(layers, widths, activation=lambda: make_activation(activation), norm=None, bias=True)
