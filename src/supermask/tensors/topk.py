"""Exact selection: masks with a promised number of entries, whatever ties there are.

Selection is by index, never by comparing with a threshold, so that ties cannot change the count: among equal scores the
lower index wins. NaN scores are refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from supermask.kernels import selection


def keep_count(density: float, size: int) -> int:
    """Number of entries a density stands for: ``density * size`` rounded half up, in [0, size]."""
    return min(size, math.floor(density * size + 0.5))


def topk_mask(scores: Tensor, k: int, *, magnitude: bool = False) -> Tensor:
    """Mask of the k largest scores.

    Args:
        scores: Any shape and real dtype.
        k: Number of entries to keep, in [0, scores.numel()].
        magnitude: Rank by ``|score|``: the same mask as that of ``scores.abs()``, without the copy where kernels do it.

    Returns:
        Bool tensor of the same shape with exactly k True entries; among ties the lower flat index is kept.

    Raises:
        ValueError: k is out of range or a score is NaN.
    """
    return topk_masks([scores], k, magnitude=magnitude)[0]


def topk_masks(scores: Sequence[Tensor], k: int, *, magnitude: bool = False) -> list[Tensor]:
    """Masks of the k largest scores over several tensors together.

    Args:
        scores: Tensors of any shapes, one real dtype and one device.
        k: Number of entries to keep over all tensors.
        magnitude: Rank by ``|score|``.

    Returns:
        One bool tensor per input; their True entries sum to exactly k. Among ties the earlier tensor and the lower flat
        index is kept.

    Raises:
        ValueError: k is out of range or a score is NaN.
    """
    flats = [s.detach().reshape(-1) for s in scores]
    flat = flats[0] if len(flats) == 1 else torch.cat(flats)
    if not 0 <= k <= flat.numel():
        raise ValueError(f"k must be in [0, {flat.numel()}] (the number of scores), got {k}")
    mask = _select(flat, k, magnitude)
    if len(flats) == 1:
        return [mask.reshape(scores[0].shape)]
    parts = mask.split([s.numel() for s in scores])
    return [part.reshape(s.shape).clone() for part, s in zip(parts, scores, strict=True)]


def topk_masks_by_keys(keys: Sequence[Sequence[Tensor]], k: int) -> list[Tensor]:
    """Masks of the k largest entries over several tensors together, ranked by several keys.

    Args:
        keys: The first key decides, the next one among its ties, and so on. A key is one tensor per masked tensor, of its
            shape, without NaN; all of one key have one real dtype and one device.
        k: Number of entries to keep over all tensors.

    Returns:
        One bool tensor per masked tensor; their True entries sum to exactly k. What is equal in every key is kept as by
        :func:`topk_masks`.
    """
    flat = [torch.cat([tensor.detach().reshape(-1) for tensor in key]) for key in keys]
    mask = torch.zeros_like(flat[0], dtype=torch.bool)
    tied = ~mask
    for key in flat:
        missing = k - int(mask.sum())
        if missing == 0:
            break
        cut = kth_largest(key[tied], missing)
        mask |= tied & (key > cut)
        tied &= key == cut
    mask[tied.nonzero().squeeze(1)[: k - int(mask.sum())]] = True
    parts = mask.split([tensor.numel() for tensor in keys[0]])
    return [part.reshape(tensor.shape).clone() for part, tensor in zip(parts, keys[0], strict=True)]


def _select(flat: Tensor, k: int, magnitude: bool) -> Tensor:
    """Exactly the k largest of a flat tensor, or of its magnitudes; ties by lower index."""
    if k in (0, flat.numel()):
        _refuse_nan(flat)
        return torch.full_like(flat, k > 0, dtype=torch.bool)
    if _for_numpy(flat):
        return torch.from_numpy(selection.largest(_numpy(flat), k, magnitude=magnitude))
    _refuse_nan(flat)
    if magnitude:
        flat = flat.abs()
    threshold = kth_largest(flat, k)
    mask = flat >= threshold
    if int(mask.sum()) > k:
        mask, ties = flat > threshold, flat == threshold
        ties[_end_of_first(ties, k - int(mask.sum())) :] = False
        mask |= ties
    return mask


def _end_of_first(entries: Tensor, n: int) -> int:
    """Length of the shortest beginning that holds n True entries, n >= 1; found by halving."""
    low, high = 0, entries.numel()
    while high - low > 1:
        middle = (low + high) // 2
        count = int(entries[low:middle].sum())
        if count >= n:
            high = middle
        else:
            low, n = middle, n - count
    return high


def holds_nan(values: Tensor) -> bool:
    """Whether an entry is NaN: the maximum is one then, found in one pass without a temporary."""
    return values.numel() > 0 and bool(torch.isnan(values.detach().max()))


def _refuse_nan(values: Tensor) -> None:
    if holds_nan(values):
        raise ValueError(selection.NAN_REFUSED)


def _for_numpy(flat: Tensor) -> bool:
    return flat.device.type == "cpu" and flat.dtype in (torch.float32, torch.float64)


def _numpy(flat: Tensor) -> NDArray[Any]:
    return flat.resolve_neg().contiguous().numpy()


def kth_largest(scores: Tensor, k: int) -> Tensor:
    """The k-th largest entry (k = 1 is the maximum), as a 0-dim tensor of the same dtype and device.

    NaN ranks above every number.
    """
    flat = scores.detach().reshape(-1)
    if _for_numpy(flat):
        return torch.tensor(selection.kth_largest(_numpy(flat), k), dtype=flat.dtype)
    return torch.kthvalue(flat, flat.numel() - k + 1).values
