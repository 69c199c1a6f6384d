"""Splitting off a test or a validation set: the same on every machine and with every version of every library."""

from __future__ import annotations

import numpy as np

from supermask.data.dataset import Labels
from supermask.errors import ConfigError, DataError
from supermask.tensors.philox import Stream


def stratified(labels: Labels, test_count: int, seed: int = 0) -> tuple[Labels, Labels]:
    """Choose ``test_count`` test images so that every class keeps its share.

    A class with n of N images gives ``test_count * n / N`` of them, rounded by largest remainder (the lower class first
    on ties). Which ones is drawn from the pinned generator, stream (seed, "split"): the first of each class in a random
    order of all images.

    Args:
        labels: Shape (N,), int64, in 0..K-1.
        test_count: Number of test images, in 1..N-1.
        seed: Integer >= 0.

    Returns:
        Indices of the training and of the test images, int64, each ascending: the order of the source is kept.

    Raises:
        DataError: A class would have no training or no test image.
    """
    counts = np.bincount(labels)
    total = int(counts.sum())
    share = counts * test_count // total
    remainder = counts * test_count % total
    share[np.argsort(-remainder, kind="stable")[: test_count - int(share.sum())]] += 1
    for cls, (have, take) in enumerate(zip(counts, share)):
        if not 0 < take < have:
            raise DataError(
                f"cannot split off {test_count} of {total} images: class {cls} has {have}, of which {take} would be "
                "test images, but training and test both need one; change test_fraction or add images"
            )
    order = Stream(seed, "split").permutation(total)
    test = np.concatenate([order[labels[order] == cls][: share[cls]] for cls in range(len(counts))])
    chosen = np.zeros(total, bool)
    chosen[test] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def unstratified(total: int, test_count: int, seed: int = 0) -> tuple[Labels, Labels]:
    """Choose ``test_count`` of ``total`` images: the first of the random order that :func:`stratified` draws from.

    Args:
        total: Number of images.
        test_count: Number of test images.
        seed: Integer >= 0.

    Returns:
        Indices of the training and of the test images, int64, each ascending.

    Raises:
        DataError: There would be no training or no test image.
    """
    if not 0 < test_count < total:
        raise DataError(
            f"cannot split off {test_count} of {total} images: training and test both need one; change test_fraction or "
            "add images"
        )
    chosen = np.zeros(total, bool)
    chosen[Stream(seed, "split").permutation(total)[:test_count]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def hold_out(total: int, count: int) -> tuple[Labels, Labels]:
    """Choose the training images that are held out for validation: the same ones for all runs and seeds.

    They are the first ``count`` of one random order of all training images, the pinned generator's stream
    (0, "validation"): those of a smaller ``count`` are among those of a larger one.

    Args:
        total: Number of training images.
        count: Number of images to hold out, >= 1.

    Returns:
        Indices of the images that are left and of those held out, int64, each ascending.

    Raises:
        ConfigError: No training image would be left.
    """
    if count >= total:
        raise ConfigError(
            f"data.validation must leave images to train on: got {count}, but there are {total} training images"
        )
    chosen = np.zeros(total, bool)
    chosen[Stream(0, "validation").permutation(total)[:count]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
