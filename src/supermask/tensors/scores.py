"""Scores of weights from weights and derivatives; higher is kept. Computed in float32 at least, float64 stays float64."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of scores and summed gradients for weights of a dtype: float32, or float64."""
    return torch.promote_types(dtype, torch.float32)


def sensitivity(weight: Tensor, gradient: Tensor) -> Tensor:
    """``|weight * gradient|``: to first order, by how much the objective changes when the weight is removed.

    The score of SNIP, iterative SNIP and FORCE, where the objective is the loss, and of SynFlow, where it is the network's
    flow. Dividing by the sum, as SNIP's paper does, would change no rank.

    Args:
        weight: Any shape and floating-point dtype.
        gradient: Derivative of the objective by the effective weight, same shape; summed over examples.

    Returns:
        Same shape, >= 0. NaN where an input is NaN; ties are left to the selection.
    """
    kind = wide(weight.dtype)
    return (weight.detach().to(kind) * gradient.to(kind)).abs_()


def gradient_flow(weight: Tensor, hessian_gradient: Tensor, *, absolute: bool = False) -> Tensor:
    """``weight * Hg``: to first order, half of what the gradient's squared norm loses when the weight is removed.

    The negative of GraSP's S, whose largest are removed.

    Args:
        weight: Any shape and floating-point dtype.
        hessian_gradient: Product of Hessian and gradient of the loss, same shape.
        absolute: Give the absolute value: any change of the flow counts.

    Returns:
        Same shape, of either sign unless ``absolute``. NaN where an input is NaN.
    """
    kind = wide(weight.dtype)
    score = weight.detach().to(kind) * hessian_gradient.to(kind)
    return score.abs_() if absolute else score
