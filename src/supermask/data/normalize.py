"""Raw pixels to network inputs: the same bits on every device.

Most sets are computed once, whole, on the CPU; sets that are kept as bytes batch by batch (:mod:`supermask.data.inputs`).

``image``    per-image standardisation (x - mean) / max(std, 1/sqrt(N)), with mean and population standard deviation
             over all N = C·H·W raw values of that image; what the signed-supermask paper trains on
``dataset``  per channel (x - mean) / std, mean and population standard deviation over the training split
``imagenet`` per channel (x - mean) / std with the constants that ImageNet's published models use
``none``     x / scale, so that images lie in [0, 1]; scale is 255 (16 for the digits, 1 for floating-point images)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from supermask.data.dataset import Pixels, RawData
from supermask.data.inputs import Inputs
from supermask.errors import ConfigError

KINDS: Final = ("image", "dataset", "imagenet", "none")
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)  # of RGB, in units of scale
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
_CHUNK: Final = 1 << 18  # values worked on at once: small enough for the cache
_Reals = npt.NDArray[np.float64]


def normalize(raw: RawData, kind: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, dict[str, object]]:
    """Normalise both splits.

    Statistics of uint8 images are exact (integer sums, one rounding). The arithmetic is in float64 for
    ``dtype=torch.float64`` and in float32 otherwise.

    Args:
        raw: The data set.
        kind: One of :data:`KINDS`.
        dtype: Floating-point type of the result.

    Returns:
        Training images, test images, both (N, C, H, W) on the CPU, and a JSON-able description: ``kind``, ``scale``,
        for ``image`` also ``values`` (N) and ``floor``, for ``dataset`` also ``mean`` and ``std`` a channel, in units
        of ``scale`` (``imagenet`` too). A channel that is constant over the training split becomes zero there by
        ``dataset`` (its std is given as 1).

    Raises:
        ConfigError: ``imagenet`` is asked for images that have not three channels.
    """
    transform: Callable[[Pixels], tuple[_Reals, _Reals]]
    if kind == "image":
        description = _describe_image(raw)
        transform = _image_statistics
    else:
        statistics = channel_statistics(raw.train_images) if kind == "dataset" else None
        mean, std, description = _channels(raw, kind, statistics)
        offset, divisor = mean[None, :, None, None], std[None, :, None, None]

        def transform(_: Pixels) -> tuple[_Reals, _Reals]:
            return offset, divisor

    train, test = (_apply(images, transform, dtype) for images in (raw.train_images, raw.test_images))
    return train, test, description


def inputs_of(
    raw: RawData, kind: str, dtype: torch.dtype, statistics: tuple[_Reals, _Reals], crop: int | None
) -> tuple[Inputs, dict[str, object]]:
    """What normalises batches of images that stay bytes.

    Args:
        raw: The data set; its pixels are not looked at.
        kind: One of :data:`KINDS`.
        dtype: Floating-point type of the inputs.
        statistics: Mean and standard deviation of each channel over the training images, in pixel values.
        crop: See :class:`~supermask.data.inputs.Inputs`.

    Returns:
        The inputs, and the same description as :func:`normalize`.
    """
    if kind == "image":
        return Inputs(None, None, crop, dtype), _describe_image(raw)
    mean, std, description = _channels(raw, kind, statistics)
    return Inputs(tuple(mean.tolist()), tuple(std.tolist()), crop, dtype), description


def _describe_image(raw: RawData) -> dict[str, object]:
    values = math.prod(raw.train_images.shape[1:])
    return {"kind": "image", "scale": raw.scale, "values": values, "floor": 1 / math.sqrt(values)}


def _channels(
    raw: RawData, kind: str, statistics: tuple[_Reals, _Reals] | None
) -> tuple[_Reals, _Reals, dict[str, object]]:
    """Offset and divisor of each channel in pixel values, and their description."""
    channels = raw.train_images.shape[1]
    description: dict[str, object] = {"kind": kind, "scale": raw.scale}
    if kind == "none":
        return np.zeros(channels), np.full(channels, float(raw.scale)), description
    if kind == "imagenet":
        if channels != len(IMAGENET_MEAN):
            raise ConfigError(f"data.normalize: imagenet needs images of 3 channels (RGB), got {channels}")
        mean, std = np.array(IMAGENET_MEAN) * raw.scale, np.array(IMAGENET_STD) * raw.scale
    else:
        assert statistics is not None
        mean, std = statistics
        std = np.where(std == 0, raw.scale, std)
    description |= {"mean": (mean / raw.scale).tolist(), "std": (std / raw.scale).tolist()}
    return mean, std, description


def _chunks(images: Pixels) -> Iterator[slice]:
    size = max(1, _CHUNK // math.prod(images.shape[1:]))
    return (slice(start, start + size) for start in range(0, len(images), size))


def _apply(images: Pixels, transform: Callable[[Pixels], tuple[_Reals, _Reals]], dtype: torch.dtype) -> Tensor:
    work = torch.float64 if dtype == torch.float64 else torch.float32
    out = torch.empty(images.shape, dtype=dtype)
    for part in _chunks(images):
        chunk = images[part].copy()
        offset, divisor = (torch.from_numpy(values).to(work) for values in transform(chunk))
        out[part] = torch.from_numpy(chunk).to(work).sub_(offset).div_(divisor)
    return out


def _image_statistics(images: Pixels) -> tuple[_Reals, _Reals]:
    """Mean and floored population standard deviation of each image, shape (B, 1, 1, 1)."""
    count = math.prod(images.shape[1:])
    flat = images.reshape(len(images), count)
    if flat.dtype == np.uint8:
        values = torch.from_numpy(flat).to(torch.float64)  # sums of integers below 2**53: exact in any order
        total = values.sum(1).to(torch.int64).numpy()
        squares = values.square_().sum(1).to(torch.int64).numpy()
        mean = total / count
        # exact as well: both terms stay below 2**63 up to ten million values an image
        variance = (count * squares - total * total) / float(count) ** 2
    else:
        wide = flat.astype(np.float64)
        mean = wide.mean(1)
        variance = np.square(wide - mean[:, None]).mean(1)
    std = np.maximum(np.sqrt(variance), 1 / math.sqrt(count))
    return mean.reshape(-1, 1, 1, 1), std.reshape(-1, 1, 1, 1)


def channel_statistics(images: Pixels) -> tuple[_Reals, _Reals]:
    """Mean and population standard deviation of each channel over all images, shape (C,)."""
    channels = images.shape[1]
    count = images.size // channels
    if images.dtype == np.uint8:
        sums = torch.zeros(2, channels, dtype=torch.int64)
        for part in _chunks(images):
            values = torch.from_numpy(images[part].copy()).to(torch.float64)  # exact sums, as above
            sums[0] += values.sum((0, 2, 3)).to(torch.int64)
            sums[1] += values.square_().sum((0, 2, 3)).to(torch.int64)
        totals, squares = sums.tolist()  # Python's integers: no overflow
        variance = [(count * square - total * total) / count**2 for total, square in zip(totals, squares)]
        return np.array(totals) / count, np.sqrt(np.array(variance))
    mean = images.mean(axis=(0, 2, 3), dtype=np.float64)
    total_square = np.zeros(channels)
    for part in _chunks(images):
        total_square += np.square(images[part] - mean[None, :, None, None]).sum(axis=(0, 2, 3))
    return mean, np.sqrt(total_square / count)
