"""The IDX format of MNIST and Fashion-MNIST, as defined on the page of MNIST.

Big-endian: two zero bytes, a type byte (8 = unsigned byte), the number of dimensions, one 32-bit length a dimension,
and then the values in C order.
"""

from __future__ import annotations

import math
import struct

import numpy as np
import numpy.typing as npt

from supermask.data.dataset import Labels
from supermask.errors import DamagedDataError

_UNSIGNED_BYTE = 8


def parse(where: str, content: bytes, dimensions: int) -> npt.NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes.

    Args:
        where: Name of the file, for messages.
        content: Its bytes, not compressed.
        dimensions: How many dimensions it must have: 3 for images, 1 for labels.

    Returns:
        uint8 array with the shape that the file states.

    Raises:
        DamagedDataError: Wrong magic number, or a length that does not fit the stated shape.
    """
    magic = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    header = 4 + 4 * dimensions
    if content[:4] != magic or len(content) < header:
        raise DamagedDataError(
            f"{where}: not an IDX file of {dimensions} dimension(s): it starts with {content[:4].hex()!r}, "
            f"expected {magic.hex()!r}. Replace it by the official file"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise DamagedDataError(
            f"{where}: states the shape {shape}, that is {math.prod(shape)} bytes, but holds {len(content) - header}. "
            "Replace it by the official file"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def pair(images: tuple[str, bytes], labels: tuple[str, bytes], classes: int) -> tuple[npt.NDArray[np.uint8], Labels]:
    """Read an image file and its label file.

    Args:
        images: Name and content of the image file.
        labels: Name and content of the label file.
        classes: Number of classes; every label must be below it.

    Returns:
        Images (N, 1, H, W) uint8 and labels (N,) int64.

    Raises:
        DamagedDataError: Either file is damaged, their lengths differ, or a label is out of range.
    """
    x, y = parse(*images, dimensions=3), parse(*labels, dimensions=1)
    if len(x) != len(y):
        raise DamagedDataError(f"{images[0]} holds {len(x)} images but {labels[0]} holds {len(y)} labels")
    check_labels(labels[0], y, classes)
    return x[:, None], y.astype(np.int64)


def check_labels(where: str, labels: npt.NDArray[np.integer], classes: int) -> None:
    """Raise DamagedDataError unless all labels are in 0..classes-1; the message names the first that is not."""
    bad = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(bad):
        raise DamagedDataError(
            f"{where}: label {int(labels[bad[0]])} of image {int(bad[0])} is out of range; labels must be 0 to "
            f"{classes - 1}"
        )
