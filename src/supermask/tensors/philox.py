"""A pinned counter-based generator: the same numbers on every device, platform, numpy and torch version.

"Seed plus mask" is what a signed supermask ships, so the numbers behind a seed may never change. torch and numpy promise
no such thing for their own distributions; this file therefore fixes every bit: Philox4x32 with 10 rounds (Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011), and transforms built only from operations that IEEE 754 rounds
exactly (+, -, *, /, square root).
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
import numpy.typing as npt

_M0: Final = np.uint64(0xD2511F53)
_M1: Final = np.uint64(0xCD9E8D57)
_W0: Final = 0x9E3779B9
_W1: Final = 0xBB67AE85
_LOW: Final = np.uint64(0xFFFFFFFF)
_SHIFT: Final = np.uint64(32)
_CHUNK: Final = 1 << 16  # blocks of four words worked on at once: small enough for the cache

Words = npt.NDArray[np.uint32]
Reals = npt.NDArray[np.float64]


def philox4x32(counter: npt.NDArray[np.uint64], key: tuple[int, int], rounds: int = 10) -> Words:
    """Encrypt counters with Philox4x32.

    Args:
        counter: Shape (n, 4), 32-bit words held in uint64.
        key: Two 32-bit words.
        rounds: Number of rounds; 10 is the standard.

    Returns:
        Shape (n, 4), uint32.
    """
    c0, c1, c2, c3 = (np.ascontiguousarray(counter[:, i]) for i in range(4))
    k0, k1 = key
    for _ in range(rounds):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c2 = (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0), (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1)
        c1, c3 = p1 & _LOW, p0 & _LOW
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


class Stream:
    """A named stream of random numbers: ``Stream(seed, "weights", "conv1.weight")``.

    Streams with different seeds or names are independent; the same seed and name give the same numbers, whatever was
    drawn before. A stream holds no position: every method starts at its first element.

    Args:
        seed: Integer in [0, 2**64).
        *path: Parts of the name, strings or integers.
    """

    def __init__(self, seed: int, *path: str | int) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
            raise ValueError(f"seed must be an integer in [0, 2**64), got {seed!r}")
        self._key = (seed & 0xFFFFFFFF, seed >> 32)
        # repr keeps 1 and "1" apart; the unit separator keeps ("a", "b") and ("ab",) apart
        name = "\x1f".join(repr(part) for part in path).encode()
        digest = hashlib.blake2b(name, digest_size=8).digest()
        self._high = (int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little"))

    @classmethod
    def numbered(cls, seed: int, number: int) -> Stream:
        """The stream of a seed whose name has this :attr:`number`."""
        stream = cls(seed)
        stream._high = (number & 0xFFFFFFFF, number >> 32)
        return stream

    @property
    def number(self) -> int:
        """What the name becomes, 64 bits: seed and number are all there is to a stream."""
        return self._high[0] | self._high[1] << 32

    def bits32(self, n: int, skip: int = 0) -> Words:
        """``n`` words, uint32, shape (n,): the first ones, or those after ``4 * skip`` others."""
        blocks = -(-n // 4)
        out = np.empty((blocks, 4), np.uint32)
        for start in range(0, blocks, _CHUNK):
            index = np.arange(skip + start, skip + min(start + _CHUNK, blocks), dtype=np.uint64)
            counter = np.empty((len(index), 4), np.uint64)
            counter[:, 0], counter[:, 1] = index & _LOW, index >> _SHIFT
            counter[:, 2], counter[:, 3] = self._high
            out[start : start + len(index)] = philox4x32(counter, self._key)
        return out.reshape(-1)[:n]

    def bits64(self, n: int) -> npt.NDArray[np.uint64]:
        """The first ``n`` 64-bit words, shape (n,): pairs of 32-bit words, the earlier one lower."""
        words = self.bits32(2 * n).astype(np.uint64)
        return words[0::2] | (words[1::2] << _SHIFT)

    def integer(self) -> int:
        """One integer in [0, 2**63), fit to seed a ``torch.Generator``."""
        return int(self.bits64(1)[0] >> np.uint64(1))

    def uniform(self, n: int) -> Reals:
        """``n`` numbers in the open interval (0, 1), float64: odd multiples of 2**-33."""
        return (self.bits32(n).astype(np.float64) + 0.5) * 2.0**-32

    def normal(self, n: int) -> Reals:
        """``n`` standard normal numbers, float64, by inversion of :meth:`uniform`."""
        return normal_quantile(self.uniform(n))

    def truncated_normal(self, n: int) -> Reals:
        """``n`` standard normal numbers conditioned on lying within (-2, 2), float64, by inversion."""
        low = 0.022750131948179207  # normal distribution function at -2
        return normal_quantile(low + self.uniform(n) * (1.0 - 2.0 * low))

    def signs(self, n: int) -> npt.NDArray[np.int8]:
        """``n`` fair signs, int8 in {-1, +1}: the bits of the words from low to high, a set bit is +1."""
        words = self.bits32(-(-n // 32)).astype("<u4")
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")[:n]
        return (bits.astype(np.int8) << 1) - np.int8(1)

    def sides(self, n: int) -> npt.NDArray[np.int8]:
        """``n`` fair signs, int8 in {-1, +1}: the signs of what :meth:`normal` gives, from the top bits of the words."""
        return ((self.bits32(n) >> np.uint32(31)).astype(np.int8) << 1) - np.int8(1)

    def permutation(self, n: int) -> npt.NDArray[np.int64]:
        """A permutation of range(n): the stable order of ``n`` 64-bit words."""
        return np.argsort(self.bits64(n), kind="stable").astype(np.int64)


_LN2: Final = 0.6931471805599453


def _log(x: Reals) -> Reals:
    """Natural logarithm of positive normal numbers, from exactly rounded operations only (error below 4e-16 relative)."""
    mantissa, exponent = np.frexp(x)
    low = mantissa < 0.7071067811865476
    mantissa = np.where(low, mantissa * 2.0, mantissa)
    exponent = np.where(low, exponent - 1, exponent)
    t = (mantissa - 1.0) / (mantissa + 1.0)
    square = t * t
    total = np.full_like(t, 1.0 / 25.0)
    for k in range(23, 0, -2):
        total = total * square + 1.0 / k
    return np.asarray(exponent * _LN2 + 2.0 * t * total, np.float64)


def _ratio(numerator: tuple[float, ...], denominator: tuple[float, ...], x: Reals) -> Reals:
    """Quotient of two polynomials given from the highest power down."""
    top, bottom = np.full_like(x, numerator[0]), np.full_like(x, denominator[0])
    for a in numerator[1:]:
        top = top * x + a
    for b in denominator[1:]:
        bottom = bottom * x + b
    return top / bottom


# Coefficients of Wichura, "Algorithm AS 241: The percentage points of the normal distribution", Applied Statistics 37
# (1988), routine PPND16: relative accuracy about 1e-16.
_CENTRAL: Final = (
    (2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457,
     13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608),
    (5226.495278852545925, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867,
     5394.1960214247511077, 687.1870074920579083, 42.313330701600911252, 1.0),
)  # fmt: skip
_MIDDLE: Final = (
    (7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258,
     3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734),
    (1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
     0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1.0),
)  # fmt: skip
_TAIL: Final = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 0.0012426609473880784386, 0.026532189526576123093,
     0.29656057182850489123, 1.7848265399172913358, 5.4637849111641143699, 6.6579046435011037772),
    (2.04426310338993978564e-15, 1.4215117583164458887e-7, 1.8463183175100546818e-5, 7.868691311456132591e-4,
     0.0148753612908506148525, 0.13692988092273580531, 0.59983220655588793769, 1.0),
)  # fmt: skip


def normal_quantile(p: Reals) -> Reals:
    """Inverse of the standard normal distribution function.

    Args:
        p: Probabilities strictly between 0 and 1, float64, any shape.

    Returns:
        Quantiles, float64, same shape; bitwise the same everywhere.
    """
    q = p - 0.5
    central = np.abs(q) <= 0.425
    out = np.empty_like(q)
    out[central] = q[central] * _ratio(*_CENTRAL, 0.180625 - q[central] * q[central])
    outer = ~central
    r = np.sqrt(-_log(np.minimum(p[outer], 1.0 - p[outer])))
    magnitude = np.where(r <= 5.0, _ratio(*_MIDDLE, r - 1.6), _ratio(*_TAIL, r - 5.0))
    out[outer] = np.where(q[outer] < 0, -magnitude, magnitude)
    return out
