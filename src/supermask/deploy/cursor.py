"""Reading and writing the parts of a packed file's body: numbers, texts, sets."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from supermask.errors import PackedFileError
from supermask.kernels import rice

NONE: Final = 0
ALL: Final = 1
BITMAP: Final = 2
MEMBERS: Final = 3
OTHERS: Final = 4

Scalar = TypeVar("Scalar", bound="np.generic[Any]")
_VARINT_BYTES: Final = 7  # 49 bits


class Cursor:
    """A place in bytes that may hold anything; every step is checked against their end.

    Args:
        data: The bytes.
    """

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes that were not taken yet."""
        return len(self._data) - self._at

    @property
    def at(self) -> int:
        """Bytes that were taken."""
        return self._at

    def take(self, size: int) -> memoryview:
        """The next bytes.

        Raises:
            PackedFileError: There are fewer.
        """
        if size > self.left:
            raise PackedFileError(f"{size:,} bytes should follow, there are {self.left:,}")
        self._at += size
        return self._data[self._at - size : self._at]

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def varint(self) -> int:
        """A number of up to 49 bits: seven bits a byte, the lowest first, the top bit set on all bytes but the last."""
        value = 0
        for index in range(_VARINT_BYTES):
            byte = self.byte()
            value |= (byte & 127) << (7 * index)
            if byte < 128:
                return value
        raise PackedFileError(f"a number has more than {_VARINT_BYTES} bytes")

    def text(self) -> str:
        """A varint, and so many bytes of UTF-8."""
        try:
            return bytes(self.take(self.varint())).decode("utf-8")
        except UnicodeDecodeError as error:
            raise PackedFileError(f"a name is not UTF-8: {error}") from error

    def array(self, dtype: type[Scalar], count: int) -> npt.NDArray[Scalar]:
        """``count`` numbers, stored from the lowest byte."""
        kind = np.dtype(dtype)
        content = self.take(count * kind.itemsize)
        return np.frombuffer(content, kind.newbyteorder("<")).astype(dtype, copy=False)

    def members(self, universe: int) -> Members:
        """A set of numbers below ``universe``."""
        mode = self.byte()
        if mode in (NONE, ALL):
            return Members(universe, np.empty(0, np.int64), inverted=mode == ALL)
        if mode == BITMAP:
            bits = np.unpackbits(self.array(np.uint8, -(-universe // 8)), bitorder="little")
            if bits[universe:].any():
                raise PackedFileError("a bitmap has members beyond its end")
            return Members(universe, np.flatnonzero(bits), inverted=False)
        if mode not in (MEMBERS, OTHERS):
            raise PackedFileError(f"a set has the unknown mode {mode}")
        count = self.varint()
        found = rice.decode(self.array(np.uint8, self.varint()), count, universe)
        return Members(universe, found, inverted=mode == OTHERS)


class Members:
    """A set of numbers below ``universe``, kept as it was stored: what is asked of it takes memory, not what it stands for.

    Args:
        universe: Numbers are below it.
        stored: Members, or what is no member; increasing.
        inverted: Whether what is stored are those that are no members.
    """

    def __init__(self, universe: int, stored: rice.Positions, *, inverted: bool) -> None:
        self._stored = stored
        self._inverted = inverted
        self._before = stored - np.arange(len(stored)) if inverted else stored  # how many members come before
        self.count = universe - len(stored) if inverted else len(stored)

    def at(self, ranks: rice.Positions) -> rice.Positions:
        """The members of these ranks: 0 is the smallest one's."""
        if not self._inverted:
            return self._stored[ranks]
        return ranks + np.searchsorted(self._before, ranks, side="right") if len(self._stored) else ranks

    def flags(self, start: int, stop: int) -> npt.NDArray[np.bool_]:
        """Which numbers from ``start`` to ``stop`` (without it) are members."""
        first, last = np.searchsorted(self._stored, (start, stop))
        found = np.full(stop - start, self._inverted)
        found[self._stored[first:last] - start] = not self._inverted
        return found


def varint(value: int) -> bytes:
    """The inverse of :meth:`Cursor.varint`."""
    assert 0 <= value < 1 << (7 * _VARINT_BYTES)
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def text(value: str) -> bytes:
    """The inverse of :meth:`Cursor.text`."""
    content = value.encode()
    return varint(len(content)) + content


def members(positions: rice.Positions, universe: int) -> bytes:
    """What :meth:`Cursor.members` reads, for increasing positions: the shortest of its modes."""
    count = len(positions)
    if count in (0, universe):
        return bytes([ALL if count else NONE])
    many = 2 * count > universe
    coded = np.flatnonzero(Members(universe, positions, inverted=True).flags(0, universe)) if many else positions
    code = rice.encode(coded)
    if len(code) >= universe // 8:
        bits = np.zeros(universe, np.uint8)
        bits[positions] = 1
        bitmap = np.packbits(bits, bitorder="little").tobytes()
        if len(bitmap) <= len(code) + 2:
            return bytes([BITMAP]) + bitmap
    return bytes([OTHERS if many else MEMBERS]) + varint(len(coded)) + varint(len(code)) + code
