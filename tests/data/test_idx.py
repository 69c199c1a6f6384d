from __future__ import annotations

import re

import numpy as np
import pytest

from supermask.data import idx
from supermask.errors import DamagedDataError

from . import writers


def test_reads_shape_and_values_in_c_order() -> None:
    content = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3]) + bytes(range(6))
    assert idx.parse("f", content, 3).tolist() == [[[0, 1, 2]], [[3, 4, 5]]]


def test_pair_gives_channels_and_int64_labels() -> None:
    images = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    x, y = idx.pair(("x", writers.idx(images)), ("y", writers.idx(np.array([2, 0, 1], np.uint8))), classes=3)
    assert x.shape == (3, 1, 2, 2)
    assert x[:, 0].tolist() == images.tolist()
    assert y.dtype == np.int64
    assert y.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "f.idx: not an IDX file of 1 dimension(s): it starts with '', expected '00000801'"),
        (b"\x00\x00\x08\x03" + bytes(12), "it starts with '00000803', expected '00000801'"),
        (b"\x00\x00\x0d\x01" + bytes(4), "it starts with '00000d01'"),
        (b"\x00\x00\x08\x01\x00\x00", "f.idx: not an IDX file"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x05\x01\x02", "f.idx: states the shape (5,), that is 5 bytes, but holds 2"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x01\x01\x02", "states the shape (1,), that is 1 bytes, but holds 2"),
    ],
)
def test_damage_is_named(content: bytes, message: str) -> None:
    with pytest.raises(DamagedDataError, match=re.escape(message)):
        idx.parse("f.idx", content, 1)


def test_label_out_of_range_and_counts_that_differ() -> None:
    images = ("x.idx", writers.idx(np.zeros((2, 2, 2), np.uint8)))
    with pytest.raises(
        DamagedDataError, match=re.escape("y.idx: label 3 of image 1 is out of range; labels must be 0 to 2")
    ):
        idx.pair(images, ("y.idx", writers.idx(np.array([0, 3], np.uint8))), classes=3)
    with pytest.raises(DamagedDataError, match=re.escape("x.idx holds 2 images but y.idx holds 3 labels")):
        idx.pair(images, ("y.idx", writers.idx(np.zeros(3, np.uint8))), classes=3)
