"""Functions that turn a real parameter into a factor in [0, 1], and what is asked of many factors together."""

from __future__ import annotations

import math
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Opening = Literal["sigmoidal", "exponential"]

_GUARD: Final = 1e-8  # of a mean of factors, which is divided by


def hard_sigmoid(m: Tensor, noise: Tensor | None, *, slope: float = 1.0) -> Tensor:
    """``clip(slope * m + 1/2, 0, 1)``; its gradient is ``slope`` inside, and 0 at and beyond both ends.

    Args:
        m: Any shape.
        noise: Added to ``m`` first; same shape, or None.
        slope: Greater than 0.

    Returns:
        Same shape and dtype; NaN where an input is NaN.
    """
    return F.hardtanh(slope * (m if noise is None else m + noise) + 0.5, 0.0, 1.0)


def hard_concrete(m: Tensor, noise: Tensor | None, *, temperature: float, stretch: float) -> Tensor:
    """``clip(s * (1 + 2 * stretch) - stretch, 0, 1)``, ``s = sigmoid((m + noise) / temperature)``; without, ``s = sigmoid(m)``.

    With noise ``ln u - ln(1 - u)``, u uniform in (0, 1), the factor is exactly 0 with probability
    ``1 - sigmoid(m + temperature * ln((1 + stretch) / stretch))``; see :func:`chance_open`.

    Source: Louizos, Welling and Kingma, "Learning sparse neural networks through L0 regularization", ICLR 2018.

    Args:
        m: Any shape.
        noise: Same shape, or None.
        temperature: Greater than 0.
        stretch: How far the sigmoid is stretched beyond 0 and 1, greater than 0.

    Returns:
        Same shape and dtype; NaN where an input is NaN.
    """
    s = torch.sigmoid(m) if noise is None else torch.sigmoid((m + noise) / temperature)
    return F.hardtanh(s * (1.0 + 2.0 * stretch) - stretch, 0.0, 1.0)


def chance_open(m: Tensor, *, temperature: float, stretch: float) -> Tensor:
    """Probability that a :func:`hard_concrete` factor with noise is above 0; same shape as ``m``."""
    return torch.sigmoid(m + temperature * math.log((1.0 + stretch) / stretch))


def moments(factors: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and variance over mean, of factors of which each counts several times.

    The variance is the unbiased one (divided by the number less one; of a single factor it is 0); the mean is guarded
    against 0 where it divides.

    Args:
        factors: (n,).
        counts: (n,), whole numbers > 0.

    Returns:
        Two scalars of the factors' dtype.
    """
    counts = counts.to(factors)
    total = counts.sum()
    mean = (counts * factors).sum() / total
    variance = (counts * (factors - mean).square()).sum() / (total - 1.0).clamp(min=1.0)
    return mean, variance / (mean + _GUARD)


def opening(progress: float, kind: Opening, *, steepness: float) -> float:
    """How far a transition is, 0 at the beginning and 1 at the end.

    Args:
        progress: In [0, 1].
        kind: ``sigmoidal``: ``(sigmoid(a * (p - 1/2)) - c) / (1 - 2 * c)`` with ``c = sigmoid(-a / 2)``; ``exponential``:
            ``(1 - exp(-a * p)) / (1 - exp(-a))``.
        steepness: The a, greater than 0.
    """
    if kind == "exponential":
        return math.expm1(-steepness * progress) / math.expm1(-steepness)
    low = _sigmoid(-steepness / 2.0)
    return (_sigmoid(steepness * (progress - 0.5)) - low) / (1.0 - 2.0 * low)


def barrier(used: float, low: float, high: float, *, cap: float) -> float:
    """``t**2 / (1 - t)`` with ``t = (used - low) / (high - low)``: 0 up to ``low``, and ``cap`` from ``high`` on.

    Args:
        used: What is limited.
        low: Where the barrier begins.
        high: The limit; where it does not lie above ``low``, there is only 0 or the cap.
        cap: The most that is returned.
    """
    if used <= low:
        return 0.0
    if used >= high:
        return cap
    return min(cap, (used - low) ** 2 / ((high - low) * (high - used)))


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0.0 else math.exp(x) / (1.0 + math.exp(x))
