"""What a loaded data set is: tensors, how batches are taken from them, and a checksum that pins their raw content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from supermask.data.inputs import Inputs

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Targets = Labels | npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set.

    Attributes:
        x: Images, shape (N, C, H, W): normalised and floating point, or bytes that ``inputs`` normalises batch by batch.
            Bytes may be mapped from a file, which must not be written to.
        y: Class numbers, shape (n,), int64; or, of an own data set, K numbers to predict, shape (n, K), floating point.
            On the device of the run.
        inputs: How bytes become inputs; None where ``x`` are inputs.
        rows: The images of ``x`` that belong to this split, shape (n,), on the device of ``x``; None: all, in order.
    """

    x: Tensor
    y: Tensor
    inputs: Inputs | None = None
    rows: Tensor | None = None

    def __len__(self) -> int:
        """Number of images."""
        return int(self.y.shape[0])

    def to(self, device: torch.device) -> Split:
        """The same split on a device."""
        rows = None if self.rows is None else self.rows.to(device)
        return replace(self, x=self.x.to(device), y=self.y.to(device), rows=rows)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W) of one input as it is evaluated."""
        channels, *size = self.x.shape[1:]
        crop = None if self.inputs is None else self.inputs.crop
        return (channels, *size) if crop is None else (channels, crop, crop)

    def batch(self, index: slice | Tensor, *, whole: bool = False) -> tuple[Tensor, Tensor]:
        """Inputs and targets of some images, on the device of ``y``.

        Args:
            index: A slice, or numbers of images on the device of ``y``. The inputs of a slice may be a part of the data.
            whole: Give stored images whole where they would be evaluated by their middle.
        """
        if isinstance(index, slice):
            rows: slice | Tensor = index if self.rows is None else self.rows[index]
            y = self.y[index]
        else:
            rows = index.to(self.x.device) if self.rows is None else self.rows[index.to(self.x.device)]
            y = self.y.index_select(0, index)
        x = self.x[rows] if isinstance(rows, slice) else self.x.index_select(0, rows)
        if self.inputs is None:
            return x, y
        return self.inputs(x.to(y.device), whole=whole), y

    def batches(self, size: int, *, first: int = 0, every: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """All images in order, ``size`` at once; the last batch may be smaller.

        Args:
            size: Images of a batch.
            first: Number of the first batch that is wanted.
            every: Distance to the next one.
        """
        for start in range(first * size, len(self), every * size):
            yield self.batch(slice(start, start + size))


@dataclass(frozen=True, eq=False)
class DataSet:
    """A whole data set, ready to be indexed in batches.

    Attributes:
        name: Its name in the catalogue.
        train: What a model is trained on.
        test: What it is measured on; never used to choose anything.
        validation: Training images held out to choose by, see :func:`supermask.data.split.hold_out`; None for none.
        classes: Class names; ``classes[y]`` is the name of label ``y``. Empty where ``y`` are numbers to predict.
        checksum: SHA-256 of the raw content, see :func:`content_checksum`; independent of normalisation and device.
        normalization: How inputs are made from the raw pixels, in JSON-able values, see :mod:`supermask.data.normalize`.
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
