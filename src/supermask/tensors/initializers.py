"""Initial values of weights and scores, drawn from the pinned generator.

Every distribution is described by its standard deviation ``gain / sqrt(fan)``, the convention of ``torch.nn.init``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from supermask.errors import HyperparameterError
from supermask.tensors.philox import Stream

Distribution = Literal["uniform", "normal", "truncated-normal", "signed-constant"]
Rule = Literal["he", "he-out", "xavier", "elu", "elus", "lecun", "fixed"]
Fan = Literal["in", "out", "average"]

# rule -> (default gain, fan): std = gain / sqrt(fan)
_RULES: Final[dict[str, tuple[float, Fan]]] = {
    "he": (math.sqrt(2.0), "in"),
    "he-out": (math.sqrt(2.0), "out"),
    "xavier": (1.0, "average"),
    "elu": (math.sqrt(1.5), "in"),
    "elus": (math.sqrt(3.0), "in"),
    "lecun": (1.0, "in"),
}
_TRUNCATED_STD: Final = 0.87962566103423978  # of a standard normal cut at two standard deviations


@dataclass(frozen=True, kw_only=True)
class Initializer:
    """How a tensor is drawn: a distribution and a rule for its standard deviation.

    With ``fan_in`` and ``fan_out`` the numbers of connections into and out of a unit, ``std = gain / sqrt(fan)``:

    ==========  =============  ======================  =======================================
    rule        default gain   fan                     source
    ==========  =============  ======================  =======================================
    he          sqrt(2)        fan_in                  He et al. 2015
    he-out      sqrt(2)        fan_out                 the same, for the backward pass
    xavier      1              (fan_in + fan_out) / 2  Glorot and Bengio 2010
    elu         sqrt(1.5)      fan_in                  Signed Supermask, ICLR 2022 (baselines)
    elus        sqrt(3)        fan_in                  Signed Supermask, ICLR 2022 (masks)
    lecun       1              fan_in                  TensorFlow's variance_scaling default
    fixed       (required)     none: std = gain        SNIP's initialisation study
    ==========  =============  ======================  =======================================

    Distributions: ``uniform`` on (-sqrt(3)·std, sqrt(3)·std); ``normal``; ``truncated-normal``, cut at two standard
    deviations of the untruncated normal, whose width is corrected so that ``std`` is what remains after the cut, except
    with the rule ``fixed``, where ``gain`` is the width before the cut (both as TensorFlow does);
    ``signed-constant``: ±std with a fair sign.

    Args:
        distribution: One of the four above.
        rule: One of the seven above.
        gain: Positive number that replaces the rule's default gain; required for ``fixed``.

    Raises:
        HyperparameterError: A name is unknown, or the gain is missing or not positive.
    """

    distribution: Distribution
    rule: Rule
    gain: float | None = None

    def __post_init__(self) -> None:
        for field, value, known in (
            ("distribution", self.distribution, get_args(Distribution)),
            ("rule", self.rule, get_args(Rule)),
        ):
            if value not in known:
                raise HyperparameterError(f"initializer {field} must be one of {', '.join(known)}; got {value!r}")
        if self.gain is None:
            if self.rule == "fixed":
                raise HyperparameterError("initializer rule 'fixed' needs a gain (the standard deviation)")
        elif isinstance(self.gain, bool) or not isinstance(self.gain, int | float) or not 0 < self.gain < math.inf:
            raise HyperparameterError(f"initializer gain must be a positive number, got {self.gain!r}")

    def std(self, fan_in: int, fan_out: int) -> float:
        """Standard deviation for a tensor with these fans (for a fixed truncated normal: before the cut)."""
        if self.rule == "fixed":
            assert self.gain is not None
            return self.gain
        gain, fan = _RULES[self.rule]
        connections = {"in": float(fan_in), "out": float(fan_out), "average": (fan_in + fan_out) / 2}[fan]
        return (gain if self.gain is None else self.gain) / math.sqrt(connections)

    def draw(self, shape: torch.Size | tuple[int, ...], fans: tuple[int, int], stream: Stream) -> Tensor:
        """Draw a tensor.

        Args:
            shape: Shape of the result; elements are filled in row-major order.
            fans: (fan_in, fan_out), each at least 1.
            stream: Where the numbers come from.

        Returns:
            Float64 CPU tensor of that shape; cast it to the dtype of the weight.
        """
        n, std = math.prod(shape), self.std(*fans)
        if self.distribution == "signed-constant":
            values = stream.signs(n).astype(np.float64) * std
        elif self.distribution == "uniform":
            values = (stream.uniform(n) * 2.0 - 1.0) * (math.sqrt(3.0) * std)
        elif self.distribution == "normal":
            values = stream.normal(n) * std
        else:
            width = std if self.rule == "fixed" else std / _TRUNCATED_STD
            values = stream.truncated_normal(n) * width
        return torch.from_numpy(values).reshape(tuple(shape))


DensityScale = Literal["none", "kept", "pruned-bug"]


def density_factor(scale: DensityScale, density: float) -> float:
    """Factor on initial weights of which only a share remains.

    Args:
        scale: ``none``: 1. ``kept``: sqrt(1 / density), which keeps the variance of a unit's input where the layer really
            keeps this share. ``pruned-bug``: sqrt(1 / (1 - density)), what the code of edge-popup and biprop computes
            because one option holds the kept share in one place and the pruned one in another; right at 0.5 only.
        density: Share of the layer that remains, in (0, 1].

    Raises:
        HyperparameterError: ``pruned-bug`` with a density of 1.
    """
    if scale == "none":
        return 1.0
    if scale == "pruned-bug" and density == 1.0:
        raise HyperparameterError(
            "scale 'pruned-bug' divides by 1 - density: density must be below 1, got 1; use 'kept'"
        )
    return math.sqrt(1.0 / (density if scale == "kept" else 1.0 - density))


def fans(shape: torch.Size | tuple[int, ...], *, transposed: bool = False) -> tuple[int, int]:
    """Numbers of connections into and out of one unit of a weight.

    Args:
        shape: (out, in, *kernel), as Linear and Conv store it; (in, out, *kernel) when transposed. With groups, the
            second entry counts the channels of one group, which is what a unit really sees.
        transposed: True for transposed convolutions.

    Returns:
        (fan_in, fan_out) = (in * kernel, out * kernel); a vector counts as (size, size).
    """
    if len(shape) < 2:
        size = math.prod(shape)
        return size, size
    kernel = math.prod(shape[2:])
    first, second = shape[0] * kernel, shape[1] * kernel
    return (first, second) if transposed else (second, first)
