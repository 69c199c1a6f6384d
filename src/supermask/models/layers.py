"""What the model families share: activations, batch normalisation, and checks of build options."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from torch import nn

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
    if name not in ACTIVATIONS:
        raise ConfigError(f"{option} must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]()


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
