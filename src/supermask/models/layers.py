"""What the model families share: layers in a row, activations, normalisation, padding, and checks of build options."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final

import torch.nn.functional as F
from torch import Tensor, nn

from supermask.errors import ConfigError

ACTIVATIONS: Final[dict[str, Callable[[], nn.Module]]] = {"elu": nn.ELU, "relu": nn.ReLU}

# Keras' defaults, which the signed supermask was trained with; torch's momentum is one minus Keras' 0.99
BATCHNORM_EPS: Final = 1e-3
BATCHNORM_MOMENTUM: Final = 0.01


def activation(name: str, *, option: str = "activation") -> nn.Module:
    """Make an activation by name.

    Raises:
        ConfigError: Unknown name.
    """
    choice(option, name, list(ACTIVATIONS))
    return ACTIVATIONS[name]()


class SamePad2d(nn.Module):
    """Zeros around an image as TensorFlow's "SAME" puts them before a convolution: one more below and to the right.

    From (N, C, H, W) to the size at which the convolution, itself without padding, gives ceil(H / stride) x
    ceil(W / stride). A padding of torch's own is symmetric and reads other pixels.

    Args:
        kernel: Height and width of the kernel.
        stride: Of the convolution.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """The padded images."""
        height, width = (max((-(-n // self.stride) - 1) * self.stride + self.kernel - n, 0) for n in x.shape[-2:])
        return F.pad(x, (width // 2, -(-width // 2), height // 2, -(-height // 2)))

    def extra_repr(self) -> str:
        """What printing shows."""
        return f"kernel={self.kernel}, stride={self.stride}"


def add_convolution(
    layers: OrderedDict[str, nn.Module],
    number: int,
    channels: tuple[int, int],
    *,
    activation: nn.Module,
    norm: Callable[[int], nn.Module] | None,
    bias: bool,
    kernel: int = 3,
    stride: int = 1,
    pool: int | None = None,
) -> None:
    """Append ``conv{number}``, ``bn_conv{number}``, ``pool{pool}`` and ``act_conv{number}``; the map is ceil(size / stride).

    The activation stands after the max-pool, not before: ReLU and ELU never decrease, so the outputs are the same
    numbers, and a quarter of the activations is computed.

    Args:
        layers: What a sequence is made of; extended in place.
        number: Of the layer, for the names.
        channels: Channels in and out.
        activation: The module.
        norm: Makes a normalisation of the given channels; None: no normalisation.
        bias: Whether the convolution has one.
        kernel: Height and width, odd.
        stride: From 2 on, ``pad_conv{number}`` comes first: see :class:`SamePad2d`.
        pool: Number of the 2x2 max-pool; None: no pool.
    """
    if stride > 1:
        layers[f"pad_conv{number}"] = SamePad2d(kernel, stride)
    padding = kernel // 2 if stride == 1 else 0
    layers[f"conv{number}"] = nn.Conv2d(*channels, kernel, stride=stride, padding=padding, bias=bias)
    if norm is not None:
        layers[f"bn_conv{number}"] = norm(channels[1])
    if pool is not None:
        layers[f"pool{pool}"] = nn.MaxPool2d(2)
    layers[f"act_conv{number}"] = activation


def add_linear(
    layers: OrderedDict[str, nn.Module],
    widths: Sequence[int],
    *,
    activation: Callable[[], nn.Module],
    norm: Callable[[int], nn.Module] | None,
    bias: bool,
) -> None:
    """Append ``flatten``, then ``fc1``, ``bn_fc1``, ``act_fc1``, ``fc2``, …; the last linear layer stands alone.

    Args:
        layers: What a sequence is made of; extended in place.
        widths: Inputs, hidden layers, outputs.
        activation: Makes the module.
        norm: Makes a normalisation of the given features; None: no normalisation.
        bias: Whether the layers have one.
    """
    layers["flatten"] = nn.Flatten()
    for number, (before, after) in enumerate(pairwise(widths), start=1):
        layers[f"fc{number}"] = nn.Linear(before, after, bias=bias)
        if number < len(widths) - 1:
            if norm is not None:
                layers[f"bn_fc{number}"] = norm(after)
            layers[f"act_fc{number}"] = activation()


def batch_norm_2d(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation of images, (N, ``channels``, H, W)."""
    return nn.BatchNorm2d(channels, eps=BATCHNORM_EPS, momentum=BATCHNORM_MOMENTUM)


def batch_norm_1d(features: int) -> nn.BatchNorm1d:
    """Batch normalisation of vectors, (N, ``features``)."""
    return nn.BatchNorm1d(features, eps=BATCHNORM_EPS, momentum=BATCHNORM_MOMENTUM)


def count(option: str, value: Any) -> int:
    """Return ``value`` if it is an integer >= 1, else raise.

    Raises:
        ConfigError: It is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{option} must be an integer >= 1, got {value!r}")
    return value


def counts(option: str, values: Any) -> list[int]:
    """Return ``values`` as a list if it is a list or tuple of integers >= 1, else raise.

    Raises:
        ConfigError: It is not.
    """
    if not isinstance(values, list | tuple):
        raise ConfigError(f"{option} must be a list of widths such as [300, 100], got {values!r}")
    return [count(option, value) for value in values]


def choice(option: str, value: Any, known: Sequence[Any]) -> None:
    """Raise unless ``value`` is one of ``known``.

    Raises:
        ConfigError: It is not.
    """
    if value not in known:
        raise ConfigError(f"{option} must be one of {', '.join(map(str, known))}, got {value!r}")


def flag(option: str, value: Any) -> bool:
    """Return ``value`` if it is True or False, else raise.

    Raises:
        ConfigError: It is not.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{option} must be true or false, got {value!r}")
    return value


def scaled(channels: int, width: Any) -> int:
    """``channels`` times the multiplier ``width``, rounded down.

    Raises:
        ConfigError: ``width`` is not a positive number, or leaves no channel.
    """
    is_number = isinstance(width, int | float) and not isinstance(width, bool) and math.isfinite(width)
    if not is_number or int(channels * width) < 1:
        raise ConfigError(f"width must be a number that leaves at least one channel of {channels}, got {width!r}")
    return int(channels * width)
