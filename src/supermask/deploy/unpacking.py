"""Reading packed files with numpy alone: the state dict, and what else the file says.

``docs/packed-format.md`` is the specification; :mod:`supermask.deploy.packing` writes such files. A file may come from
anywhere: its checksums, its directory and the size of what it decodes to are checked when it is opened, before memory is
taken for a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from supermask.deploy import container
from supermask.deploy.cursor import Cursor
from supermask.errors import PackedFileError
from supermask.kernels.rice import LARGEST_UNIVERSE
from supermask.tensors.philox import Stream

if TYPE_CHECKING:
    from torch import Tensor

# number in the file -> name in safetensors, and the unsigned integer that holds its bits
DTYPES: Final[dict[str, type[np.unsignedinteger[Any]]]] = {
    "F64": np.uint64,
    "F32": np.uint32,
    "F16": np.uint16,
    "BF16": np.uint16,
    "I64": np.uint64,
    "I32": np.uint32,
    "I16": np.uint16,
    "I8": np.uint8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.uint8,
}
FLOATS: Final = ("F64", "F32", "F16", "BF16")
NUMPY: Final[dict[str, npt.DTypeLike]] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
CODINGS: Final = ("dense", "constant", "alias", "sparse")
KINDS: Final = ("signs", "values", "float16", "int8")  # of the remaining weights of a sparse tensor
SWAPPED: Final = 4
BITS: Final = 8
PER_ROW: Final = 16
SIDES: Final = 32
DEFAULT_LIMIT: Final = 1 << 30
MOST_AXES: Final = 32
_CHUNK: Final = 1 << 16  # weights decoded at once: what that takes does not grow with the tensor
_NAMES: Final = tuple(DTYPES)

Raw = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Entry:
    """A tensor of a packed file, as its directory describes it.

    Attributes:
        name: Its key in the state dict.
        coding: ``dense``, ``constant``, ``alias`` (equal to an earlier tensor) or ``sparse``.
        dtype: As safetensors names it: ``F32``, ...
        shape: Its shape.
        start: First byte of its payload.
        size: Bytes of its payload.
        alias: The earlier tensor of an alias; its own name otherwise.
    """

    name: str
    coding: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int
    alias: str

    @property
    def numel(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def dense_bytes(self) -> int:
        """Bytes of the decoded tensor."""
        return self.numel * np.dtype(DTYPES[self.dtype]).itemsize


@dataclass(frozen=True, eq=False)
class Packed:
    """A packed file that was opened and checked; tensors are decoded when they are asked for.

    Attributes:
        source: Where it is from, for messages.
        entries: Name -> entry, in the order of the state dict.
        sections: What else the file says, by name: JSON objects, ``classes`` a list.
        size: Bytes of the file.
        description_bytes: Bytes of its header, which holds the sections.
    """

    source: str
    entries: Mapping[str, Entry]
    sections: Mapping[str, container.Section]
    size: int
    description_bytes: int
    _body: memoryview

    @property
    def architecture(self) -> dict[str, Any] | None:
        """``name`` and ``options`` of a model, to be built by who knows it; None if the file has none."""
        return self._object("architecture")

    @property
    def graph(self) -> dict[str, Any] | None:
        """The network as data (:mod:`supermask.deploy.graph`); None if the file has none."""
        return self._object("graph")

    @property
    def normalization(self) -> dict[str, Any] | None:
        """How inputs are made from raw pixels, as :mod:`supermask.data.normalize` describes it; None if unknown."""
        return self._object("normalization")

    @property
    def certificate(self) -> dict[str, Any] | None:
        """What ``supermask verify`` found; None before it ran."""
        return self._object("certificate")

    @property
    def provenance(self) -> dict[str, Any] | None:
        """Where the weights are from; None if the file does not say."""
        return self._object("provenance")

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes; None if the file does not say."""
        found = self.sections.get("classes")
        return list(found) if found is not None else None

    def array(self, name: str) -> npt.NDArray[Any]:
        """A tensor by its key in the state dict; bfloat16, which numpy lacks, as float32 (exact).

        Beside the result, memory is taken for the lists that are in the file (at most 100 times its bytes), an eighth of a byte
        for each sign that is drawn again, and for some 65,536 weights at once.

        Raises:
            PackedFileError: There is none of this name, or it is damaged.
        """
        if name not in self.entries:
            raise PackedFileError(f"{self.source} has no tensor {name!r}; it has {', '.join(self.entries)[:500]}")
        entry = self.entries[name]
        raw = self._raw(self.entries[entry.alias]).reshape(entry.shape)
        if entry.dtype == "BF16":
            return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return raw.view(NUMPY[entry.dtype])

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All tensors, see :meth:`array`."""
        return {name: self.array(name) for name in self.entries}

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors as torch has them: what ``load_state_dict`` of the module takes."""
        import torch

        found = {}
        for name, entry in self.entries.items():
            tensor = torch.from_numpy(self.array(name))
            found[name] = tensor.to(torch.bfloat16) if entry.dtype == "BF16" else tensor
        return found

    def _object(self, name: str) -> dict[str, Any] | None:
        found = self.sections.get(name)
        assert found is None or isinstance(found, dict)
        return found

    def _raw(self, entry: Entry) -> Raw:
        """The bits of a tensor, flat."""
        cursor = Cursor(self._body[entry.start : entry.start + entry.size])
        kind = DTYPES[entry.dtype]
        try:
            if entry.coding == "sparse":
                raw = decode_sparse(cursor, entry.dtype, entry.shape)
            elif entry.coding == "constant":
                raw = np.repeat(cursor.array(kind, 1), entry.numel)
            else:
                raw = cursor.array(kind, entry.numel).copy()
            if cursor.left:
                raise PackedFileError(f"{cursor.left} bytes are left over")
            if entry.dtype == "BOOL" and (raw > 1).any():
                raise PackedFileError("a bool is neither 0 nor 1")
        except PackedFileError as error:
            raise PackedFileError(f"{self.source}: the tensor {entry.name!r} is damaged: {error}") from error
        return raw


def read(
    path: str | Path,
    *,
    limit: int = DEFAULT_LIMIT,
    check_graph: Callable[[dict[str, Any]], object] | None = None,
) -> Packed:
    """Open a packed file.

    Args:
        path: The file.
        limit: The most bytes that all its tensors may have when decoded; by default 1 GiB.
        check_graph: Called with the network's graph if there is one; raises what it finds wrong.

    Raises:
        PackedFileError: The file is missing, damaged, truncated, of a newer format, or decodes to more than ``limit``.
    """
    return from_bytes(container.read_bytes(path, limit), source=str(path), limit=limit, check_graph=check_graph)


def from_bytes(
    data: bytes,
    *,
    source: str = "the packed file",
    limit: int = DEFAULT_LIMIT,
    check_graph: Callable[[dict[str, Any]], object] | None = None,
) -> Packed:
    """:func:`read`, from the bytes of a file."""
    try:
        body, sections, description = container.from_bytes(data)
        entries = _read_directory(Cursor(body), limit)
    except PackedFileError as error:
        raise PackedFileError(f"{source}: {error}") from error
    packed = Packed(source, entries, sections, len(data), description, body)
    if check_graph is not None and packed.graph is not None:
        check_graph(packed.graph)
    return packed


def unpack(path: str | Path, *, limit: int = DEFAULT_LIMIT) -> dict[str, Tensor]:
    """The plain state dict of a packed file: ``model.load_state_dict(unpack(path))``.

    ``read(path).arrays()`` gives the same as numpy arrays and needs no torch.

    Args:
        path: The file.
        limit: The most bytes that all tensors may have; by default 1 GiB.

    Raises:
        PackedFileError: The file is missing, damaged, truncated, of a newer format, or decodes to more than ``limit``.
    """
    return read(path, limit=limit).state_dict()


def _read_directory(cursor: Cursor, limit: int) -> dict[str, Entry]:
    """The entries; afterwards every payload lies within the file, and all tensors together within the limit."""
    found: list[tuple[str, str, str, tuple[int, ...], int]] = []
    for _ in range(cursor.varint()):
        name, coding, dtype = cursor.text(), cursor.byte(), cursor.byte()
        if coding >= len(CODINGS) or dtype >= len(_NAMES):
            raise PackedFileError(f"the tensor {name!r} has the unknown coding {coding} or type {dtype}")
        axes = cursor.byte()
        if axes > MOST_AXES:
            raise PackedFileError(f"the tensor {name!r} has {axes} axes; at most {MOST_AXES} are allowed")
        shape = tuple(cursor.varint() for _ in range(axes))
        found.append((name, CODINGS[coding], _NAMES[dtype], shape, cursor.varint()))
    total, entries, order = 0, {}, list[Entry]()
    for name, coding_name, dtype_name, shape, size in found:
        start = cursor.at
        payload = Cursor(cursor.take(size))
        alias = _alias(payload, order, name, dtype_name, shape) if coding_name == "alias" else name
        entry = Entry(name, coding_name, dtype_name, shape, start, size, alias)
        if name in entries:
            raise PackedFileError(f"the tensor {name!r} is there twice")
        if math.prod(axis or 1 for axis in shape) > LARGEST_UNIVERSE:
            raise PackedFileError(f"the tensor {name!r} has the shape {shape}, which is too large")
        total += entry.dense_bytes
        if total > limit:
            raise PackedFileError(
                f"it would decode to more than {limit:,} bytes (the tensor {name!r} has the shape {shape}); if it is trusted, "
                "pass a larger limit"
            )
        wanted = {"dense": entry.dense_bytes, "constant": np.dtype(DTYPES[dtype_name]).itemsize}.get(coding_name, size)
        if size != wanted or (coding_name in ("constant", "sparse") and not (entry.numel and shape)):
            raise PackedFileError(
                f"the tensor {name!r} of shape {shape} has {size} bytes, which its coding does not allow"
            )
        order.append(entry)
        entries[name] = entry
    if cursor.left:
        raise PackedFileError(f"{cursor.left} bytes are left over after the last tensor")
    return entries


def _alias(payload: Cursor, earlier: list[Entry], name: str, dtype: str, shape: tuple[int, ...]) -> str:
    """The tensor that an alias is equal to."""
    index = payload.varint()
    target = earlier[index] if index < len(earlier) and not payload.left else None
    if target is None or target.coding == "alias" or (target.dtype, target.shape) != (dtype, shape):
        raise PackedFileError(f"the tensor {name!r} should be equal to tensor {index}, which it cannot be")
    return target.name


def decode_sparse(cursor: Cursor, dtype: str, shape: tuple[int, ...]) -> Raw:
    """The bits of a sparse tensor, flat.

    Args:
        cursor: At its payload.
        dtype: Its type.
        shape: Its shape, with at least one axis and one entry.
    """
    form = cursor.byte()
    kind = KINDS[form & 3]
    floating, single = dtype in FLOATS, dtype == "F32"
    if (
        form >> 6
        or (form & (BITS | SIDES) and kind != "signs")
        or (form & BITS and form & SIDES)
        or (form & PER_ROW and kind not in ("signs", "int8"))
        or not {"signs": floating, "values": True, "float16": single, "int8": single}[kind]
    ):
        raise PackedFileError(f"its form {form} is unknown or does not go with {dtype}")
    generator = cursor.array(np.uint64, 2) if form & (BITS | SIDES) else None
    height, width, depth = grid(shape)
    rows, columns = cursor.members(height), cursor.members(width)
    down, across = rows.count, columns.count
    positions = cursor.members(down * across * depth)
    bits = DTYPES[dtype]
    scales, stored = np.ones(1, bits), np.empty(0, bits)
    if kind in ("signs", "int8"):
        scales = cursor.array(bits, down if form & PER_ROW else 1)
    if kind == "signs":
        inverted = cursor.members(positions.count)
    else:
        stored = cursor.array({"values": bits, "float16": np.float16, "int8": np.int8}[kind], positions.count)
    drawn = _drawn(generator, height * width * depth, sides=bool(form & SIDES)) if generator is not None else None
    out = np.zeros(height * width * depth, bits)
    for start in range(0, positions.count, _CHUNK):
        stop = min(start + _CHUNK, positions.count)
        flat = positions.at(np.arange(start, stop))
        scale = scales
        if form & (SWAPPED | PER_ROW) or down < height or across < width:
            place, inner = np.divmod(flat, depth)
            row, column = np.divmod(place, down)[::-1] if form & SWAPPED else np.divmod(place, across)
            flat = (rows.at(row) * width + columns.at(column)) * depth + inner
            scale = scales[row] if form & PER_ROW else scales
        if kind == "signs":
            negative = inverted.flags(start, stop).astype(bits)
            if drawn is not None:
                negative ^= (drawn[flat >> 3] >> (flat & 7).astype(np.uint8) & 1).astype(bits)
            out[flat] = scale ^ (negative << bits(8 * scales.itemsize - 1))
        else:
            out[flat] = _values(kind, stored[start:stop], scale)
    return out


def _values(kind: str, stored: npt.NDArray[Any], scale: Raw) -> Raw:
    """The bits of stored values."""
    if kind == "values":
        return stored
    with np.errstate(all="ignore"):  # infinities and NaN of a damaged file are results like others
        values: npt.NDArray[np.float32] = stored.astype(np.float32)
        return (values * scale.view(np.float32) if kind == "int8" else values).view(np.uint32)


def _drawn(generator: npt.NDArray[np.uint64], n: int, *, sides: bool) -> npt.NDArray[np.uint8]:
    """A generator's first ``n`` signs, eight a byte from the lowest bit on: set where the sign is -1."""
    stream = Stream.numbered(int(generator[0]), int(generator[1]))
    if not sides:
        return ~stream.bits32(-(-n // 32)).astype("<u4").view(np.uint8)
    parts = [
        np.packbits(stream.bits32(min(_CHUNK, n - start), start // 4) >> np.uint32(31), bitorder="little")
        for start in range(0, n, _CHUNK)
    ]
    return ~np.concatenate(parts)


def grid(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Rows, columns and depth of a tensor: its first axis, its second, all others."""
    return shape[0], shape[1] if len(shape) > 1 else 1, math.prod(shape[2:])
