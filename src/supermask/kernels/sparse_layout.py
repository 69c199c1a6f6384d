"""Where the entries of a sparse program's values lie in the memory of the compiled kernel.

``csrc/sparse_simd.c`` says what vectors, parts and strips are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from supermask.kernels.sparse_steps import MaxPool, Shape, SparseConv

MOST_VECTORS: Final = 16
ALIGNMENT: Final = 64  # bytes, and floats: places in the working memory are multiples of both


class UnsupportedError(Exception):
    """The compiled kernel cannot run a program; the message says why."""


class Key(NamedTuple):
    """An arrangement of a value.

    Attributes:
        value: Its number.
        images: Images a vector.
        phases: Its columns are dealt to so many channels each.
        flat: Whether a vector is one entry and nothing lies between them.
        strips: Strips of rows that take the places of images.
        compact: Whether one image lies there as in the caller's arrays.
    """

    value: int
    images: int
    phases: int = 1
    flat: bool = False
    strips: int = 1
    compact: bool = False


@dataclass
class Buffer:
    """A value in one arrangement: rows of whole vectors, with rows and vectors of zeros around them."""

    size: tuple[int, int, int]  # channels, rows and columns as arranged
    images: int
    lanes: int
    above: int = 0
    below: int = 0
    left: int = 0
    row: int = 0  # vectors from the first pixel on
    first: int = -1  # operations between which it is in use
    last: int = -1
    local: bool = True
    offset: int = 0

    @property
    def vectors(self) -> int:
        """Of a row, that hold pixels."""
        return -(-self.size[2] * self.images // self.lanes)

    @property
    def row_step(self) -> int:
        """Floats from one row to the next."""
        return (self.left + max(self.row, self.vectors)) * self.lanes

    @property
    def channel_step(self) -> int:
        """Floats from one channel to the next."""
        return (self.above + self.size[1] + self.below) * self.row_step

    @property
    def floats(self) -> int:
        """Of the whole, for one part of a tile."""
        return self.size[0] * self.channel_step

    @property
    def start(self) -> int:
        """Place of its first pixel in the working memory, in floats."""
        return self.offset + self.above * self.row_step + self.left * self.lanes


def image_size(shape: Shape) -> tuple[int, int, int]:
    """(channels, rows, columns) of a value."""
    if len(shape) == 3:
        return shape[0], shape[1], shape[2]
    return (shape[0], 1, shape[1]) if len(shape) == 2 else (shape[0], 1, 1)


class ConvPlan:
    """How a convolution reads its source: rows of ``width`` columns, ``images`` a vector, dealt to ``phases`` by its stride."""

    def __init__(self, step: SparseConv, source: Shape, target: Shape, lanes: int) -> None:
        self.step, self.window = step, step.window(source)
        _, height, width = image_size(source)
        self.target, self.out = target, image_size(target)
        self.phases = self.window.stride[1]
        self.width = -(-width // self.phases)
        self.images = images_of(max(self.width, self.out[2]), lanes)
        kernel, dilation, padding = self.window.kernel, self.window.dilation, self.window.padding
        self.above = padding[0]
        reach = (self.out[1] - 1) * self.window.stride[0] + dilation[0] * (kernel[0] - 1) - padding[0]
        self.below = max(0, reach - (height - 1))
        column = np.arange(kernel[1]) * dilation[1] - padding[1]
        self.phase, self.shift = column % self.phases, column // self.phases
        self.sees = (self.shift < self.width) & (-self.shift < self.out[2])  # others see padding alone
        self.vectors = -(-max(self.width, self.out[2]) * self.images // lanes)
        self.margin = self.left = 0
        self.row = self.vectors
        if self.vectors > MOST_VECTORS:  # in pieces, each with a margin for the shifts
            largest = max(np.abs(self.shift[self.sees]), default=0) * self.images
            self.margin = self.left = -(-int(largest) // lanes)
            piece = MOST_VECTORS - 2 * self.margin
            if piece < 2:
                raise UnsupportedError(f"its kernel reaches {largest} columns to a side in rows of {width}")
            needed = -(-self.out[2] * self.images // lanes)
            self.row = -(-needed // piece) * piece + self.margin
            self.vectors = MOST_VECTORS

    def can_pool(self, pool: MaxPool) -> bool:
        """Whether the kernel does the pool that follows along with it."""
        window = pool.window(self.target)
        return (
            (window.kernel, window.stride, window.padding) == ((2, 2), (2, 2), (0, 0))
            and window.out == (self.out[1] // 2, self.out[2] // 2)
            and self.vectors <= MOST_VECTORS // 2
            and (self.vectors > 1 or self.width > 1)
        )


def images_of(width: int, lanes: int) -> int:
    """Images of a vector so that rows of ``width`` pixels fill it best."""
    return lanes // min(lanes, 1 << (width - 1).bit_length())


def allocate(buffers: Iterable[Buffer], images: Sequence[int], lanes: int, tile: int, scratch: int) -> int:
    """Give every value its place in the working memory.

    Args:
        buffers: The values.
        images: Images a vector of every operation.
        lanes: Floats of a vector.
        tile: Images that are worked on together.
        scratch: Floats at the start of the memory that no value takes.

    Returns:
        Floats of the whole.

    Raises:
        UnsupportedError: Places in a value do not fit 32 bits.
    """
    runs: list[tuple[int, int]] = []  # first and last of operations that follow each other with as many images
    for number, count in enumerate(images):
        if runs and images[number - 1] == count:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    within = {number: run for run in runs for number in range(run[0], run[1] + 1)}
    wanted: list[tuple[int, int, int, Buffer]] = []  # floats; first and last operation that uses it
    for buffer in buffers:
        first, last = within[buffer.first], within[buffer.last]
        buffer.local = tile == 1 or (first == last and (tile == lanes or buffer.images < lanes))
        parts = 1 if buffer.local else tile // buffer.images
        if buffer.floats >= 1 << 31:
            raise UnsupportedError(f"a value of {buffer.size} is too large")
        span = (buffer.first, buffer.last) if first == last else (first[0], last[1])
        wanted.append((-(-buffer.floats * parts // ALIGNMENT) * ALIGNMENT, *span, buffer))
    start = total = -(-scratch // ALIGNMENT) * ALIGNMENT
    taken: list[tuple[int, int, int, Buffer]] = []
    for size, first_use, last_use, buffer in sorted(wanted, key=lambda item: -item[0]):
        buffer.offset = start
        for other_size, other_first, other_last, other in sorted(taken, key=lambda item: item[3].offset):
            end = other.offset + other_size
            overlap = first_use <= other_last and other_first <= last_use
            if overlap and buffer.offset < end and other.offset < buffer.offset + size:
                buffer.offset = end
        taken.append((size, first_use, last_use, buffer))
        total = max(total, buffer.offset + size)
    return total
