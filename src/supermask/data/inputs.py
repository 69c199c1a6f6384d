"""Stored bytes to network inputs, a batch at a time, on the device of the batch: for sets too large to be kept as floats.

The numbers are those that :func:`supermask.data.normalize.normalize` computes for whole sets, bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """How stored images become inputs: the middle is cut out, and the pixels are normalised.

    Args:
        offset: What is subtracted from each channel, in pixel values; None: each image is standardised by itself, by
            the statistics of the whole stored image.
        divisor: What each channel is then divided by; None where ``offset`` is.
        crop: Height and width of the middle that is cut out; None: all of the image.
        dtype: Floating-point type of the inputs.
    """

    offset: tuple[float, ...] | None
    divisor: tuple[float, ...] | None
    crop: int | None
    dtype: torch.dtype

    def __call__(self, x: Tensor, *, whole: bool = False) -> Tensor:
        """Make inputs.

        Args:
            x: Shape (B, C, H, W), uint8; not changed.
            whole: Keep all of each image: an augmentation cuts out its own part.

        Returns:
            Shape (B, C, crop, crop), or (B, C, H, W), on the device of ``x``.
        """
        work = torch.float64 if self.dtype == torch.float64 else torch.float32
        if self.offset is None or self.divisor is None:
            offset, divisor = _image_statistics(x)
        else:
            offset, divisor = (
                torch.tensor(values, dtype=torch.float64)[None, :, None, None].to(x.device)
                for values in (self.offset, self.divisor)
            )
        if self.crop is not None and not whole:
            top, left = ((side - self.crop) // 2 for side in x.shape[-2:])
            x = x[:, :, top : top + self.crop, left : left + self.crop]
        return x.to(work).sub_(offset.to(work)).div_(divisor.to(work)).to(self.dtype)


def _image_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and floored population standard deviation of each image, shape (B, 1, 1, 1), float64; from exact sums."""
    count = math.prod(x.shape[1:])
    flat = x.flatten(1)
    total = flat.sum(1, dtype=torch.int64)
    squares = flat.to(torch.int32).square_().sum(1, dtype=torch.int64)
    mean = total.double() / count
    variance = (count * squares - total * total).double() / float(count) ** 2
    std = variance.sqrt().clamp_min(1 / math.sqrt(count))
    return mean[:, None, None, None], std[:, None, None, None]
