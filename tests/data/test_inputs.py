"""Bytes that are normalised batch by batch give the numbers of a set that is normalised as a whole, bit for bit."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from supermask.data import Split, load
from supermask.data.dataset import RawData
from supermask.data.inputs import Inputs
from supermask.data.normalize import IMAGENET_MEAN, IMAGENET_STD, KINDS, channel_statistics, inputs_of, normalize
from supermask.errors import ConfigError


def raw(channels: int = 3, side: int = 6) -> RawData:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, channels, side, side), np.uint8)
    images[3] = 7  # no spread at all: the floor of the standard deviation
    images[:, 1] = 90  # a channel without spread
    labels = np.arange(20) % 2
    return RawData(images[:15], labels[:15], images[15:], labels[15:], ("a", "b"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_batches_equal_the_whole(kind: str, dtype: torch.dtype) -> None:
    data = raw()
    train, test, description = normalize(data, kind, dtype)
    inputs, same = inputs_of(data, kind, dtype, channel_statistics(data.train_images), None)
    assert same == description
    for images, wanted in ((data.train_images, train), (data.test_images, test)):
        x = torch.from_numpy(images)
        before = x.clone()
        assert torch.equal(inputs(x), wanted)
        assert torch.equal(torch.cat([inputs(x[:7]), inputs(x[7:])]), wanted)
        assert torch.equal(x, before)


def test_the_middle_is_cut_out_and_normalised_as_part_of_the_whole() -> None:
    x = torch.from_numpy(raw(side=7).train_images)
    for offset, divisor in ((None, None), ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))):
        whole = Inputs(offset, divisor, None, torch.float64)(x)
        cut = Inputs(offset, divisor, 4, torch.float64)
        assert torch.equal(cut(x), whole[:, :, 1:5, 1:5])
        assert torch.equal(cut(x, whole=True), whole)


def test_imagenet_constants_by_hand() -> None:
    data = raw()
    train, _, description = normalize(data, "imagenet", torch.float64)
    value = int(data.train_images[0, 2, 1, 1])
    assert float(train[0, 2, 1, 1]) == pytest.approx((value / 255 - 0.406) / 0.225, rel=1e-12)
    assert description["mean"] == pytest.approx(IMAGENET_MEAN)
    assert description["std"] == pytest.approx(IMAGENET_STD)
    with pytest.raises(
        ConfigError, match=re.escape("data.normalize: imagenet needs images of 3 channels (RGB), got 1")
    ):
        load("digits", normalize="imagenet")


def test_rows_and_slices_of_a_split() -> None:
    data = raw()
    x, y = torch.from_numpy(data.train_images), torch.from_numpy(data.train_labels)
    rows = torch.tensor([1, 4, 5, 9, 14])
    inputs = Inputs((0.0,) * 3, (255.0,) * 3, 4, torch.float32)
    split = Split(x, y[rows], inputs, rows)
    assert (len(split), split.input_shape) == (5, (3, 4, 4))
    wanted = inputs(x[rows])
    assert torch.equal(split.batch(slice(1, 4))[0], wanted[1:4])
    got, labels = split.batch(torch.tensor([3, 0]))
    assert torch.equal(got, wanted[[3, 0]])
    assert torch.equal(labels, y[[9, 1]])
    assert [len(part) for part, _ in split.batches(2)] == [2, 2, 1]
    assert torch.equal(torch.cat([part for part, _ in split.batches(2)]), wanted)
    assert torch.equal(torch.cat([part for _, part in split.batches(2)]), y[rows])
    assert split.batch(slice(0, 2), whole=True)[0].shape == (2, 3, 6, 6)
    moved = split.to(torch.device("meta"))
    assert {moved.x.device.type, moved.y.device.type, moved.batch(slice(0, 2))[0].device.type} == {"meta"}


def test_a_split_of_floats_gives_its_own_numbers() -> None:
    x, y = torch.randn(6, 1, 2, 2), torch.arange(6)
    split = Split(x, y)
    assert split.input_shape == (1, 2, 2)
    assert split.batch(slice(0, 2))[0].data_ptr() == x.data_ptr()
    assert torch.equal(split.batch(torch.tensor([5, 2]))[0], x[[5, 2]])
