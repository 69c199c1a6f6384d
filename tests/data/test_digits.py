from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from supermask.data import DATASETS, digits, load
from supermask.data.dataset import content_checksum
from supermask.errors import MissingExtraError

CHECKSUM = "48fedf5dd525ab4871a6d7d79ccfc18984cb48e8784a5d43d5a47a8b877c12f4"


def test_content_is_pinned() -> None:
    raw = digits.read()
    assert content_checksum(raw) == CHECKSUM == DATASETS["digits"].checksum
    assert raw.train_images.shape == (1437, 1, 8, 8)
    assert raw.test_images.shape == (360, 1, 8, 8)
    assert np.bincount(raw.train_labels).tolist() == [142, 145, 142, 146, 145, 146, 145, 143, 139, 144]
    assert np.bincount(raw.test_labels).tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]


def test_train_and_test_are_the_whole_without_overlap() -> None:
    raw = digits.read()
    from sklearn.datasets import load_digits

    both = np.concatenate([raw.train_images, raw.test_images])[:, 0].astype(float)
    assert sorted(map(bytes, both)) == sorted(map(bytes, load_digits().images))


def test_loads() -> None:
    data = load("digits", normalize="none")
    assert len(data.train) == 1437
    assert (float(data.train.x.min()), float(data.train.x.max())) == (0.0, 1.0)
    assert data.train.x.dtype == torch.float32
    assert data.test.y.dtype == torch.int64
    assert data.classes == tuple("0123456789")


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"'digits' needs the package 'scikit-learn': .*supermask\[data\]"):
        load("digits")
