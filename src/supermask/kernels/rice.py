"""The Rice coder of packed files: the positions of the members of a set of whole numbers, in few bits.

A position is stored as its gap, the number of non-members before it since the last member. A gap g of a block with
parameter k takes k bits for g mod 2**k and g // 2**k zeros and a one. The three parts are kept apart, so that numpy decodes
them without a loop over members: the blocks' parameters, all low bits, all zeros and ones. Bits fill bytes from the lowest.

::

    byte 0       base, the smallest k, 0 to 30
    byte 1       low half: width w, 0 to 4; high half: b, a block has 16 * 2**b members, the last one the rest
    parameters   w bits a block: k - base
    low bits     k bits a member
    ones         the zeros and ones of all members, to the end; the last byte is not 0
"""

from __future__ import annotations

import ctypes
from typing import Final

import numpy as np
import numpy.typing as npt

from supermask.errors import PackedFileError
from supermask.kernels.library import kernel

LARGEST_UNIVERSE: Final = 1 << 48
_LARGEST_K: Final = 30
_WIDEST: Final = 4
_SMALLEST_BLOCK: Final = 16

Positions = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
_ARGUMENTS: Final = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


def encode(positions: Positions) -> bytes:
    """The code of a set.

    Args:
        positions: Shape (n,), n >= 1, int64, strictly increasing, from 0.
    """
    gaps = np.diff(positions, prepend=-1) - 1
    base, width, log_block, ks = _parameters(gaps)
    k = np.repeat(ks, _SMALLEST_BLOCK << log_block)[: len(gaps)]
    parameters = _pack_numbers(ks - base, np.full(len(ks), width))
    ones = np.cumsum((gaps >> k) + 1) - 1
    unary = np.zeros(int(ones[-1]) + 1, np.uint8)
    unary[ones] = 1
    parts = (parameters, _pack_numbers(gaps, k), np.packbits(unary, bitorder="little"))
    return bytes([base, width | log_block << 4]) + b"".join(part.tobytes() for part in parts)


def decode(code: Bytes, count: int, universe: int) -> Positions:
    """The set of a code: the inverse of :func:`encode`, for codes from anywhere.

    Args:
        code: The bytes, uint8, contiguous.
        count: Number of members, >= 1.
        universe: Members are below it; at most 2**48.

    Returns:
        Shape (count,), int64, strictly increasing.

    Raises:
        PackedFileError: The code is damaged, or does not hold that many members below ``universe``.
    """
    # each member has a one, so that more than eight a byte cannot be: no memory is taken for them
    if not 1 <= count <= min(universe, 8 * len(code)) or universe > LARGEST_UNIVERSE:
        raise PackedFileError(f"{len(code)} bytes cannot hold the positions of {count:,} of {universe:,} weights")
    function = kernel("smk_rice_decode", _ARGUMENTS)
    if function is None:
        return _decode(code, count, universe)
    positions = np.empty(count, np.int64)
    if function(code.ctypes.data, len(code), count, universe, positions.ctypes.data):
        raise _damaged()
    return positions


def _decode(code: Bytes, count: int, universe: int) -> Positions:
    """:func:`decode` in numpy."""
    if len(code) < 2:
        raise _damaged()
    base, width, block = int(code[0]), int(code[1]) & 15, _SMALLEST_BLOCK << (int(code[1]) >> 4)
    blocks = -(-count // block)
    low_start = 2 + (blocks * width + 7) // 8
    if base > _LARGEST_K or width > _WIDEST or low_start > len(code):
        raise _damaged()
    ks = base + _unpack_numbers(code[2:low_start], np.full(blocks, width))
    k = np.repeat(ks, block)[:count] if blocks > 1 else np.full(count, ks[0])
    ones_start = low_start + (int(k.sum()) + 7) // 8
    if int(ks.max()) > _LARGEST_K or ones_start >= len(code):
        raise _damaged()
    ones = np.flatnonzero(np.unpackbits(code[ones_start:], bitorder="little"))
    if len(ones) != count or not code[-1]:
        raise _damaged()
    quotients = np.diff(ones, prepend=-1) - 1
    if bool((quotients > universe >> k).any()):
        raise _damaged()
    gaps = (quotients << k) + _unpack_numbers(code[low_start:ones_start], k)
    if float(gaps.sum(dtype=np.float64)) + count > universe:  # exact below 2**53, and no sum overflows
        raise _damaged()
    return np.cumsum(gaps + 1) - 1


def _damaged() -> PackedFileError:
    return PackedFileError("the positions of its weights are damaged")


def _pack_numbers(numbers: Positions, widths: Positions) -> Bytes:
    """The lowest ``widths`` bits of each number, one after the other."""
    start = np.cumsum(widths) - widths
    bits = np.zeros(int(widths.sum()), np.uint8)
    for bit in range(int(widths.max())):
        has = widths > bit
        bits[start[has] + bit] = numbers[has] >> bit & 1
    return np.packbits(bits, bitorder="little")


def _unpack_numbers(code: Bytes, widths: Positions) -> Positions:
    """The inverse of :func:`_pack_numbers`; the code must be long enough."""
    start = np.cumsum(widths) - widths
    bits = np.unpackbits(code, bitorder="little")
    numbers = np.zeros(len(widths), np.int64)
    for bit in range(int(widths.max())):
        has = widths > bit
        numbers[has] |= bits[start[has] + bit].astype(np.int64) << bit
    return numbers


def _parameters(gaps: Positions) -> tuple[int, int, int, Positions]:
    """The cheapest (base, width, log2 of the block over 16, k of each block)."""
    largest = min(int(gaps.max()).bit_length(), _LARGEST_K)
    starts = np.arange(0, len(gaps), _SMALLEST_BLOCK)
    members = np.diff(starts, append=len(gaps))
    # bits of each block (columns) with each k (rows)
    bits = np.stack([np.add.reduceat(gaps >> k, starts) + (k + 1) * members for k in range(largest + 1)])
    totals = bits.sum(axis=1)
    base = int(totals.argmin())
    best = int(totals[base])
    base, width, log_block, ks = base, 0, 15, np.full(-(-len(gaps) // (_SMALLEST_BLOCK << 15)), base)
    for log in range(16):
        if log:
            if bits.shape[1] == 1:
                break
            bits = np.add.reduceat(bits, np.arange(0, bits.shape[1], 2), axis=1)
        lowest = bits
        for w in range(1, _WIDEST + 1):
            half = 1 << (w - 1)
            if half >= len(lowest):
                break
            # the cheapest of 2**w neighbouring k, from each base on
            lowest = np.concatenate([np.minimum(lowest[:-half], lowest[half:]), lowest[-half:]])
            totals = lowest.sum(axis=1) + w * bits.shape[1]
            first = int(totals.argmin())
            if totals[first] < best:
                best, base, width, log_block = int(totals[first]), first, w, log
                ks = first + bits[first : first + (1 << w)].argmin(axis=0)
    return base, width, log_block, ks
