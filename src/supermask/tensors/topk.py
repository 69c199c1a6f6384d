"""Exact selection: masks with a promised number of entries, whatever ties there are.

Selection is by index, never by comparing with a threshold, so that ties cannot change the count: among equal scores the
lower index wins. NaN scores are refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def keep_count(density: float, size: int) -> int:
    """Number of entries a density stands for: ``density * size`` rounded half up, in [0, size]."""
    return min(size, math.floor(density * size + 0.5))


def topk_mask(scores: Tensor, k: int) -> Tensor:
    """Mask of the k largest scores.

    Args:
        scores: Any shape and real dtype.
        k: Number of entries to keep, in [0, scores.numel()].

    Returns:
        Bool tensor of the same shape with exactly k True entries; among ties the lower flat index is kept.

    Raises:
        ValueError: k is out of range or a score is NaN.
    """
    return topk_masks([scores], k)[0]


def topk_masks(scores: Sequence[Tensor], k: int) -> list[Tensor]:
    """Masks of the k largest scores over several tensors together.

    Args:
        scores: Tensors of any shapes, one real dtype and one device.
        k: Number of entries to keep over all tensors.

    Returns:
        One bool tensor per input; their True entries sum to exactly k. Among ties the earlier tensor and the lower flat
        index is kept.

    Raises:
        ValueError: k is out of range or a score is NaN.
    """
    flat = torch.cat([s.detach().reshape(-1) for s in scores])
    if not 0 <= k <= flat.numel():
        raise ValueError(f"k must be in [0, {flat.numel()}] (the number of scores), got {k}")
    if bool(torch.isnan(flat).any()):
        raise ValueError("a score is NaN: scores must be numbers to be ranked")
    mask = _select(flat, k)
    parts = mask.split([s.numel() for s in scores])
    return [part.reshape(s.shape).clone() for part, s in zip(parts, scores, strict=True)]


def _select(flat: Tensor, k: int) -> Tensor:
    """Exactly the k largest of a flat tensor without NaN; ties by lower index."""
    if k == 0 or k == flat.numel():
        return torch.full_like(flat, k > 0, dtype=torch.bool)
    threshold = kth_largest(flat, k)
    mask = flat > threshold
    ties = (flat == threshold).nonzero().squeeze(1)
    mask[ties[: k - int(mask.sum())]] = True
    return mask


def kth_largest(scores: Tensor, k: int) -> Tensor:
    """The k-th largest entry (k = 1 is the maximum), as a 0-dim tensor of the same dtype and device.

    On the CPU numpy's introselect is used, which is faster than ``torch.kthvalue`` on large tensors.
    """
    flat = scores.detach().reshape(-1)
    position = flat.numel() - k
    if flat.device.type == "cpu" and flat.dtype in (torch.float32, torch.float64):
        value = np.partition(flat.numpy(), position)[position]
        return torch.tensor(value.item(), dtype=flat.dtype)
    return torch.kthvalue(flat, position + 1).values
