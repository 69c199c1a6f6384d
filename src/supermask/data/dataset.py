"""What a loaded data set is: tensors on one device, and a checksum that pins their raw content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Targets = Labels | npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set.

    Attributes:
        x: Normalised images, shape (N, C, H, W), floating point.
        y: Class numbers, shape (N,), int64; or, of an own data set, K numbers to predict, shape (N, K), floating point.
            On the device of ``x``.
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        """Number of images."""
        return int(self.y.shape[0])

    def to(self, device: torch.device) -> Split:
        """The same split on a device."""
        return Split(self.x.to(device), self.y.to(device))


@dataclass(frozen=True, eq=False)
class DataSet:
    """A whole data set in memory, ready to be indexed in batches.

    Attributes:
        name: Its name in the catalogue.
        train: What a model is trained on.
        test: What it is measured on; never used to choose anything.
        validation: Training images held out to choose by, see :func:`supermask.data.split.hold_out`; None for none.
        classes: Class names; ``classes[y]`` is the name of label ``y``. Empty where ``y`` are numbers to predict.
        checksum: SHA-256 of the raw content, see :func:`content_checksum`; independent of normalisation and device.
        normalization: How ``x`` was made from the raw pixels, in JSON-able values, see :mod:`supermask.data.normalize`.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    checksum: str
    normalization: Mapping[str, object]
    validation: Split | None = None


@dataclass(frozen=True, eq=False)
class RawData:
    """A data set as its files have it, before normalisation.

    Attributes:
        train_images: Shape (N, C, H, W); uint8, or float32 for an own data set.
        train_labels: Class numbers, shape (N,), int64; or numbers to predict, shape (N, K), float32.
        test_images: Like ``train_images``, same C, H, W and dtype.
        test_labels: Like ``train_labels``.
        classes: Class names; empty where the labels are numbers to predict.
        scale: The value of a pixel at full brightness: 255, 16 for the digits, 1 for floating-point images.
    """

    train_images: Pixels
    train_labels: Targets
    test_images: Pixels
    test_labels: Targets
    classes: tuple[str, ...]
    scale: float = 255.0


def content_checksum(raw: RawData) -> str:
    """SHA-256 over the raw labels and pixels, in hexadecimal.

    Hashed are, for the training and then the test split: the ASCII line ``"N C H W dtype\\n"``, the labels as
    little-endian int64 (numbers to predict as little-endian float32), and the pixels in C order (floats
    little-endian).
    """
    digest = hashlib.sha256()
    for images, labels in ((raw.train_images, raw.train_labels), (raw.test_images, raw.test_labels)):
        digest.update(f"{' '.join(map(str, images.shape))} {images.dtype.name}\n".encode())
        digest.update(labels.astype("<f4" if labels.dtype.kind == "f" else "<i8").tobytes())
        ordered = np.ascontiguousarray(images.astype(images.dtype.newbyteorder("<"), copy=False))
        digest.update(ordered.data.cast("B"))
    return digest.hexdigest()
