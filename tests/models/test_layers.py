from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from supermask.models.layers import SamePad2d


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "before", "after"),
    [
        (32, 11, 2, 4, 5),
        (16, 5, 2, 1, 2),
        (8, 3, 2, 0, 1),
        (4, 3, 2, 0, 1),
        (2, 3, 2, 0, 1),
        (64, 11, 4, 3, 4),
        (64, 3, 2, 0, 1),
        (7, 3, 2, 1, 1),
        (5, 1, 2, 0, 0),
    ],
)
def test_padding_of_tensorflow(size: int, kernel: int, stride: int, before: int, after: int) -> None:
    x = torch.ones(1, 1, size, 7, dtype=torch.float64)
    out = SamePad2d(kernel, stride)(x)
    height = out.shape[2]
    assert height == size + before + after
    rows = out.amax(3).flatten()
    assert rows.tolist() == [0.0] * before + [1.0] * size + [0.0] * after
    assert F.conv2d(out, torch.ones(1, 1, kernel, 1, dtype=torch.float64), stride=stride).shape[2] == -(-size // stride)


def test_columns_are_padded_by_their_own_size() -> None:
    assert SamePad2d(3, 2)(torch.ones(1, 2, 8, 7)).shape == (1, 2, 9, 9)


def test_padding_shows_what_it_does() -> None:
    assert repr(SamePad2d(11, 4)) == "SamePad2d(kernel=11, stride=4)"
