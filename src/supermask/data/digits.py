"""scikit-learn's optical digits: 1,797 real images of 8 x 8, no download."""

from __future__ import annotations

import numpy as np

from supermask.data.dataset import RawData
from supermask.data.split import stratified
from supermask.errors import MissingExtraError

TEST_COUNT = 360


def read() -> RawData:
    """Read the digits that scikit-learn ships and split them.

    The split is fixed: 1,437 training and 360 test images, stratified, ``stratified(labels, 360, seed=0)``.

    Returns:
        Images (N, 1, 8, 8) uint8 with values 0 to 16.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "data", "the data set 'digits'") from error
    source = load_digits()
    images = np.asarray(source.images).astype(np.uint8)[:, None]
    labels = np.asarray(source.target).astype(np.int64)
    train, test = stratified(labels, TEST_COUNT)
    classes = tuple(str(digit) for digit in range(10))
    return RawData(images[train], labels[train], images[test], labels[test], classes, scale=16.0)
