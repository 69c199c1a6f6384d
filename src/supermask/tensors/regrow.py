"""Moving the connections of one tensor: which remain when some are dropped, and which take their place. Exact counts.

Positions are flat indices in the logical order of the tensor, int64, on its device.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from supermask.tensors.philox import Stream
from supermask.tensors.topk import topk_mask


def drop_count(fraction: float, active: int) -> int:
    """Number of connections that a fraction of the active ones stands for, rounded down (0.29 of 100 is 29)."""
    return min(active, math.floor(fraction * active + 1e-9))


def active_positions(mask: Tensor) -> Tensor:
    """Positions that remain, ascending."""
    flat = mask.reshape(-1)
    if mask.is_cpu:  # numpy is several times as fast there, also than indexing by a mask
        return torch.from_numpy(np.flatnonzero(flat.numpy()))
    return flat.nonzero().squeeze(1)


def keep_largest(weight: Tensor, active: Tensor, n: int) -> Tensor:
    """Drop the active connections of smallest magnitude.

    Args:
        weight: Any shape.
        active: Positions of the active connections, ascending.
        n: How many to drop, in [0, active.numel()].

    Returns:
        Positions of those that stay, ascending; among equal magnitudes the earlier stay.

    Raises:
        ValueError: A weight is NaN.
    """
    values = weight.detach().reshape(-1)[active]
    return active[active_positions(topk_mask(values, active.numel() - n, magnitude=True))]


def keep_largest_by_sign(weight: Tensor, active: Tensor, fraction: float) -> Tensor:
    """Drop a fraction of the positive connections, the smallest, and one of the negative ones, the largest.

    Args:
        weight: Any shape.
        active: Positions of the active connections, ascending.
        fraction: Of each sign, in [0, 1]; rounded down by :func:`drop_count`. A weight of 0 counts as positive.

    Returns:
        Positions of those that stay, ascending.

    Raises:
        ValueError: A weight is NaN.
    """
    values = weight.detach().reshape(-1)[active]
    stays = torch.empty_like(active, dtype=torch.bool)
    negative = values < 0
    for part in map(active_positions, (negative, ~negative)):
        own = values[part]
        stays[part] = topk_mask(own, own.numel() - drop_count(fraction, own.numel()), magnitude=True)
    return active[active_positions(stays)]


def grow_largest(score: Tensor, kept: Tensor, n: int) -> Tensor:
    """Add the positions of largest magnitude of a score, among all that are not kept.

    Args:
        score: For example the dense gradient; its shape is that of the tensor.
        kept: Positions that stay.
        n: How many to add, in [0, score.numel() - kept.numel()].

    Returns:
        Bool mask of the score's shape: kept and added, ``kept.numel() + n`` entries; among equal magnitudes the earlier are
        added.

    Raises:
        ValueError: A score is NaN.
    """
    magnitude = score.detach().reshape(-1).abs()
    magnitude[kept] = -1.0
    mask = topk_mask(magnitude, n)
    mask[kept] = True
    return mask.reshape(score.shape)


def grow_random(shape: torch.Size, kept: Tensor, n: int, stream: Stream) -> Tensor:
    """Add positions at random, among all that are not kept.

    Args:
        shape: Shape of the tensor.
        kept: Positions that stay, ascending.
        n: How many to add, in [0, shape.numel() - kept.numel()].
        stream: Where the random numbers come from.

    Returns:
        Bool mask of that shape: kept and added, ``kept.numel() + n`` entries.
    """
    free = shape.numel() - kept.numel()
    ranks = torch.from_numpy(random_subset(stream, free, n)).to(kept.device)
    # the free position of rank r has as many kept ones before it as have at most r free ones before them
    before = kept - torch.arange(kept.numel(), device=kept.device)
    mask = torch.zeros(shape.numel(), dtype=torch.bool, device=kept.device)
    mask[ranks + torch.searchsorted(before, ranks, right=True)] = True
    mask[kept] = True
    return mask.reshape(shape)


def random_subset(stream: Stream, size: int, n: int) -> npt.NDArray[np.int64]:
    """Some different numbers out of range(size), ascending; every subset is equally likely.

    It costs in proportion to n, or to size - n where that is less, and not to the size.

    Args:
        stream: Where the random numbers come from.
        size: How many there are to choose from.
        n: How many to choose, in [0, size].
    """
    if 2 * n > size:
        rest = np.ones(size, dtype=np.bool_)
        rest[random_subset(stream, size, size - n)] = False
        return np.flatnonzero(rest)
    drawn = n + n // 2 + 16  # with repetitions; enough in nearly all cases
    while True:
        values = ((stream.bits64(drawn) >> np.uint64(11)) * 2.0**-53 * size).astype(np.int64)
        order = np.arange(drawn)
        place = np.empty(max(1, size), dtype=np.int64)  # of what was not drawn it is never read
        place[values[::-1]] = order[::-1]  # of equal ones the first draw is written last
        found = values[place[values] == order]
        if len(found) >= n:  # those that came first
            return np.sort(found[:n])
        drawn *= 2
