"""Threshold, sign and scale in as few passes over memory as torch offers.

All functions are pure: they return new tensors and touch no gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def ternary(score: Tensor, threshold: float, scale: float) -> Tensor:
    """``scale * sign(score)`` where ``|score| > threshold``, else 0.

    Args:
        score: Any shape, floating.
        threshold: Non-negative; a score exactly on it gives 0.
        scale: Factor of the result.

    Returns:
        Tensor like ``score`` with entries in {-scale, 0, scale}. A NaN score gives 0.
    """
    return F.hardshrink(score, threshold).sign_().mul_(scale)


def ternary_between(score: Tensor, low: Tensor, high: Tensor, weight: Tensor) -> Tensor:
    """``weight`` where ``score > high``, ``-weight`` where ``score < low``, else 0.

    Args:
        score: Any shape, floating.
        low: 0-dim tensor; ``-inf`` never inverts (a binary mask).
        high: 0-dim tensor.
        weight: Same shape as ``score``, or broadcastable; same dtype as the result.

    Returns:
        Tensor of the dtype of ``weight``. A NaN score gives 0.
    """
    code = (score > high).to(weight.dtype) - (score < low).to(weight.dtype)
    return code.mul_(weight)


def ternary_codes(score: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The ternary mask itself: int8, +1 where ``score > high``, -1 where ``score < low``, else 0."""
    return (score > high).to(torch.int8) - (score < low).to(torch.int8)
