from __future__ import annotations

import json
import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from supermask.data import normalize
from supermask.data.dataset import Pixels, RawData


def raw(train: Pixels, test: Pixels | None = None, scale: float = 255.0) -> RawData:
    test = train if test is None else test
    return RawData(
        train, np.zeros(len(train), np.int64), test, np.zeros(len(test), np.int64), classes=("0",), scale=scale
    )


def pixels(values: object, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    return np.array(values, np.uint8).reshape(shape)


def apply(data: RawData, kind: str, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return normalize.normalize(data, kind, dtype)[0]


def test_image_by_hand() -> None:
    # mean 1, variance (1 + 1 + 1 + 9) / 4 = 3
    out = apply(raw(pixels([0, 0, 0, 4], (1, 1, 2, 2))), "image")
    assert out.flatten().tolist() == [-1 / math.sqrt(3)] * 3 + [3 / math.sqrt(3)]


def test_image_statistics_span_all_channels() -> None:
    # values 0, 0 | 6, 6: mean 3, standard deviation 3; a statistic for each channel would give zeros
    out = apply(raw(pixels([0, 0, 6, 6], (1, 2, 1, 2))), "image")
    assert out.flatten().tolist() == [-1.0, -1.0, 1.0, 1.0]


def test_image_floor_is_one_over_root_n() -> None:
    # mean 1/4, standard deviation sqrt(3)/4 = 0.433, below the floor of 1/2
    out = apply(raw(pixels([0, 0, 0, 1], (1, 1, 2, 2))), "image")
    assert out.flatten().tolist() == [-0.5, -0.5, -0.5, 1.5]
    assert apply(raw(pixels([9] * 4, (1, 1, 2, 2))), "image").flatten().tolist() == [0.0] * 4


def test_image_treats_each_image_alone() -> None:
    both = pixels([0, 0, 0, 4, 0, 0, 6, 6], (2, 1, 2, 2))
    out = apply(raw(both), "image")
    for i in range(2):
        assert torch.equal(out[i : i + 1], apply(raw(both[i : i + 1]), "image"))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_image_against_numpy_in_float64(dtype: type) -> None:
    rng = np.random.default_rng(1)
    images: Pixels = rng.integers(0, 256, (700, 3, 32, 32)).astype(dtype)  # more than one chunk
    wide = images.astype(np.float64)
    mean, std = wide.mean(axis=(1, 2, 3), keepdims=True), wide.std(axis=(1, 2, 3), keepdims=True)
    expected = torch.from_numpy((wide - mean) / std)
    torch.testing.assert_close(apply(raw(images), "image"), expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(apply(raw(images), "image", torch.float32), expected.float(), rtol=1e-6, atol=1e-6)


def test_dataset_by_hand() -> None:
    # channel 0: 0, 0, 0, 4 -> mean 1, std sqrt(3); channel 1: 5, 5, 9, 9 -> mean 7, std 2
    train = pixels([0, 0, 5, 5, 0, 4, 9, 9], (2, 2, 1, 2))
    test = pixels([1, 4, 7, 11], (1, 2, 1, 2))
    x, y, description = normalize.normalize(raw(train, test), "dataset", torch.float64)
    assert x[1].flatten().tolist() == [-1 / math.sqrt(3), 3 / math.sqrt(3), 1.0, 1.0]
    assert y.flatten().tolist() == [0.0, 3 / math.sqrt(3), 0.0, 2.0]  # the test split by the statistics of training
    assert description == {
        "kind": "dataset",
        "scale": 255.0,
        "mean": [1 / 255, 7 / 255],
        "std": [math.sqrt(3) / 255, 2 / 255],
    }


def test_dataset_of_floats() -> None:
    rng = np.random.default_rng(2)
    images = rng.normal(3, 5, (600, 2, 32, 32)).astype(np.float32)
    wide = images.astype(np.float64)
    mean, std = wide.mean(axis=(0, 2, 3)), wide.std(axis=(0, 2, 3))
    out, _, description = normalize.normalize(raw(images, scale=1.0), "dataset", torch.float64)
    expected = (wide - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(out, torch.from_numpy(expected), rtol=1e-10, atol=1e-10)
    assert np.allclose(np.array(description["mean"]), mean, rtol=1e-12)


def test_constant_channel_becomes_zero() -> None:
    train = pixels([7, 7, 0, 2], (1, 2, 1, 2))
    assert apply(raw(train), "dataset").flatten().tolist() == [0.0, 0.0, -1.0, 1.0]


def test_none_divides_by_the_full_scale() -> None:
    assert apply(raw(pixels([0, 51, 255], (1, 1, 1, 3))), "none").flatten().tolist() == [0.0, 0.2, 1.0]
    assert apply(raw(pixels([4, 16], (1, 1, 1, 2)), scale=16.0), "none").flatten().tolist() == [0.25, 1.0]


@pytest.mark.parametrize("kind", normalize.KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_result_and_description(kind: str, dtype: torch.dtype) -> None:
    images = np.random.default_rng(3).integers(0, 256, (5, 3, 4, 4), np.uint8)
    before = images.copy()
    train, test, description = normalize.normalize(raw(images, images[:2]), kind, dtype)
    assert train.dtype == test.dtype == dtype
    assert (train.shape, test.shape) == ((5, 3, 4, 4), (2, 3, 4, 4))
    assert train.is_contiguous()
    assert np.array_equal(images, before)
    assert json.loads(json.dumps(description)) == description
    assert description["kind"] == kind
