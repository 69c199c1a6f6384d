"""The shortest payload of one tensor: dense, constant, or sparse with or without its dead rows and columns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from supermask.deploy.cursor import members
from supermask.deploy.unpacking import BITS, FLOATS, KINDS, PER_ROW, SIDES, SWAPPED, Raw, grid
from supermask.errors import PackError
from supermask.tensors.entropy import entropy_bits
from supermask.tensors.philox import Stream

Values = Literal["exact", "float16", "int8"]
Origin = tuple[int, Stream]
_Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Coded:
    """One tensor's payload.

    Attributes:
        coding: As in the file's directory.
        label: The same, with the kind of values of a sparse tensor.
        payload: The bytes.
        entropy_bytes: Of a sparse tensor, the entropy of its symbols and the bytes of its values or scales.
        largest_error: Largest absolute difference of an unpacked value.
    """

    coding: str
    label: str
    payload: bytes
    entropy_bytes: int
    largest_error: float = 0.0


@dataclass(frozen=True)
class _Places:
    """Where a tensor's remaining weights are.

    Attributes:
        code: The sets of rows, columns and positions.
        swapped: Whether columns come before rows.
        flat: Places in the flat tensor, in the order of the code.
        row: Rows of these places, among those that the code keeps.
        rows: How many rows the code keeps.
    """

    code: bytes
    swapped: bool
    flat: _Indices
    row: _Indices
    rows: int


@dataclass(frozen=True)
class _Body:
    """Values of the remaining weights: what follows the places, and what it adds to the form."""

    kind: str
    flags: int
    header: bytes
    code: bytes
    symbols: list[int]
    value_bytes: int
    largest_error: float = 0.0


def code_tensor(name: str, dtype: str, raw: Raw, origin: Origin | None, values: Values) -> Coded:
    """The shortest payload of a tensor.

    Args:
        name: For messages.
        dtype: As safetensors names it.
        raw: Its bits.
        origin: Seed and stream that its signs may be from.
        values: How float32 weights of many magnitudes are stored; biases and other vectors stay exact.

    Raises:
        PackError: The values cannot be stored that way.
    """
    content = raw.astype(raw.dtype.newbyteorder("<")).tobytes()
    dense = Coded("dense", "dense", content, len(content))
    if not raw.ndim or raw.size < 2:
        return dense
    if bool((raw == raw.flat[0]).all()):
        return Coded("constant", "constant", content[: raw.itemsize], raw.itemsize)
    sparse = _code_sparse(name, dtype, raw, origin, values if raw.ndim > 1 and dtype == "F32" else "exact")
    return sparse if len(sparse.payload) < len(content) else dense


def magnitudes(dtype: str, raw: Raw) -> Raw:
    """The bits without the sign of floating-point numbers: 0 exactly where the value is 0."""
    return raw & np.array((1 << (8 * raw.itemsize - 1)) - 1, raw.dtype) if dtype in FLOATS else raw


def _code_sparse(name: str, dtype: str, raw: Raw, origin: Origin | None, values: Values) -> Coded:
    places = _best_places(np.flatnonzero(magnitudes(dtype, raw)), raw.shape)
    bits = raw.reshape(-1)[places.flat]
    bodies = list(_signs(dtype, bits, places, origin, raw.size)) if dtype in FLOATS else []
    if values == "exact":
        bodies.append(_Body("values", 0, b"", _little(bits), [len(bits)], bits.nbytes))
    elif not bodies:
        bodies.append((_float16 if values == "float16" else _int8)(name, bits.view(np.float32), places))
    body = min(bodies, key=lambda body: len(body.header) + len(body.code))
    form = KINDS.index(body.kind) | (SWAPPED if places.swapped else 0) | body.flags
    entropy = math.ceil(entropy_bits([raw.size - len(bits), *body.symbols]) / 8) + body.value_bytes
    payload = bytes([form]) + body.header + places.code + body.code
    return Coded("sparse", f"sparse {body.kind}", payload, entropy, body.largest_error)


def _best_places(flat: _Indices, shape: tuple[int, ...]) -> _Places:
    """The shortest code: with or without dead rows and columns, rows or columns first."""
    height, width, depth = grid(shape)
    rest, inner = np.divmod(flat, depth)
    row, column = np.divmod(rest, width)
    best: _Places | None = None
    for rows, new_row in _renumbered(row, height):
        for columns, new_column in _renumbered(column, width):
            down, across = len(rows), len(columns)
            head = members(rows, height) + members(columns, width)
            for swapped in (False, True) if down > 1 and across > 1 else (False,):
                if swapped:
                    positions = (new_column * down + new_row) * depth + inner
                    order = np.argsort(positions)
                    found = flat[order], new_row[order]
                    positions = positions[order]
                else:
                    positions, found = (new_row * across + new_column) * depth + inner, (flat, new_row)
                code = head + members(positions, down * across * depth)
                if best is None or len(code) < len(best.code):
                    best = _Places(code, swapped, *found, down)
    assert best is not None
    return best


def _renumbered(index: _Indices, size: int) -> Iterator[tuple[_Indices, _Indices]]:
    """All rows (or columns) with the places' own; and, if some are dead, the live ones with their numbers among those."""
    yield np.arange(size), index
    alive = np.zeros(size, bool)
    alive[index] = True
    if not alive.all():
        yield np.flatnonzero(alive), (np.cumsum(alive) - 1)[index]


def _signs(dtype: str, bits: Raw, places: _Places, origin: Origin | None, size: int) -> Iterator[_Body]:
    """Signs and one scale, or one a row; none if magnitudes differ otherwise."""
    scale = magnitudes(dtype, bits)
    scales, flags = scale[:1], 0
    if bool((scale != scales).any()):
        scales, flags = np.zeros(places.rows, bits.dtype), PER_ROW
        scales[places.row] = scale
        if bool((scales[places.row] != scale).any()):
            return
    stored, negative = _little(scales), bits != scale
    yield _sign_body(flags, b"", stored, negative)
    if origin is not None:
        seed, stream = origin
        header = seed.to_bytes(8, "little") + stream.number.to_bytes(8, "little")
        for flag, draw in ((BITS, stream.signs), (SIDES, stream.sides)):
            yield _sign_body(flags | flag, header, stored, negative ^ (draw(size)[places.flat] < 0))


def _sign_body(flags: int, header: bytes, scales: bytes, negative: npt.NDArray[np.bool_]) -> _Body:
    inverted = np.flatnonzero(negative)
    symbols = [len(negative) - len(inverted), len(inverted)]
    return _Body("signs", flags, header, scales + members(inverted, len(negative)), symbols, len(scales))


def _float16(name: str, values: npt.NDArray[np.float32], places: _Places) -> _Body:  # noqa: ARG001
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    if bool((np.isfinite(values) != np.isfinite(halves)).any()):
        raise PackError(f"{name} holds {_extreme(values)}, which is too large for float16; pack it with values='exact'")
    error = _difference(values, halves.astype(np.float32))
    return _Body("float16", 0, b"", _little(halves), [len(values)], halves.nbytes, error)


def _int8(name: str, values: npt.NDArray[np.float32], places: _Places) -> _Body:
    if not bool(np.isfinite(values).all()):
        raise PackError(f"{name} holds values that are not finite; pack it with values='exact'")
    largest = np.zeros(places.rows, np.float32)
    np.maximum.at(largest, places.row, np.abs(values))
    scales = largest / np.float32(127)
    scales = np.where(scales > 0, scales, largest)  # a tiny one is not rounded to zero
    codes = np.clip(np.rint(values / scales[places.row]), -127, 127).astype(np.int8)
    error = _difference(values, codes.astype(np.float32) * scales[places.row])
    return _Body(
        "int8", PER_ROW, b"", _little(scales) + codes.tobytes(), [len(values)], scales.nbytes + codes.nbytes, error
    )


def _difference(values: npt.NDArray[np.float32], stored: npt.NDArray[np.float32]) -> float:
    finite = np.isfinite(values)
    return float(np.abs(values[finite].astype(np.float64) - stored[finite]).max(initial=0.0))


def _extreme(values: npt.NDArray[np.float32]) -> float:
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def _little(values: npt.NDArray[Any]) -> bytes:
    """The bytes of numbers, the lowest first."""
    return values.astype(values.dtype.newbyteorder("<")).tobytes()
