"""Every random stream of a run, by name. One seed, separate streams: a change in one never shifts another.

Two methods at the same seed therefore start from the same weights and see the same batches: comparisons are paired.
"""

from __future__ import annotations

import torch
from torch import Tensor

from supermask.tensors.philox import Stream


def batch_order(seed: int, epoch: int, n: int) -> Tensor:
    """The order in which an epoch visits the training examples.

    Args:
        seed: Seed of the run, or 0 where all seeds share one order.
        epoch: Counted from 1; 0 is the one order of ``shuffle: once``.
        n: Number of training examples.

    Returns:
        Permutation of range(n), int64, shape (n,).
    """
    return torch.from_numpy(Stream(seed, "order", epoch).permutation(n))


def module_seed(seed: int) -> int:
    """Seeds torch's generator while the model is built: what ``init: {keep: true}`` starts from."""
    return Stream(seed, "init").integer()


def training_seed(seed: int, rank: int = 0) -> int:
    """Seeds torch's generator before the first step: what dropout and the like of a user's model draw from.

    Args:
        seed: Seed of the run.
        rank: Of the process, where several train the run together: each has other examples, and draws for them.
    """
    return Stream(seed, "training", rank).integer() if rank else Stream(seed, "training").integer()


def augment_seed(seed: int, epoch: int, batch: int) -> int:
    """Seeds the generator that augments one batch, so that a resumed run needs no history."""
    return Stream(seed, "augment", epoch, batch).integer()
