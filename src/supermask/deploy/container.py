"""The outside of a packed file: a safetensors file with one blob, its checksums, and sections of JSON beside it.

``docs/packed-format.md`` is the specification. Everything that is read may come from anywhere: sizes are checked before
memory is taken for them, and whatever is wrong is a :class:`~supermask.errors.PackedFileError`.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from supermask.errors import PackedFileError, PackError

VERSION: Final = 1
TENSOR: Final = "packed"  # the one tensor of the file
METADATA_KEY: Final = "supermask"
_MAGIC: Final = b"SMKP"
_BLOB_HEADER: Final = struct.Struct("<4sHHII")
_LARGEST_HEADER: Final = 100_000_000  # as safetensors' own readers

Section = dict[str, Any] | list[Any]


def to_bytes(body: bytes, sections: Mapping[str, Section]) -> bytes:
    """The content of a file.

    Args:
        body: Directory and payloads.
        sections: Name -> JSON.

    Raises:
        PackError: A section is not JSON (NaN and infinities are not).
    """
    for name, section in sections.items():
        try:
            check_section(name, section)
            _encode(section).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise PackError(f"{name} cannot be written as JSON: {error}") from error
    text = _encode(dict(sections))
    header = _BLOB_HEADER.pack(_MAGIC, VERSION, 0, zlib.crc32(body), zlib.crc32(text.encode()))
    blob = header + body
    tensor = {"dtype": "U8", "shape": [len(blob)], "data_offsets": [0, len(blob)]}
    outer = _encode({"__metadata__": {METADATA_KEY: text}, TENSOR: tensor}).encode()
    outer += b" " * (-len(outer) % 8)
    return struct.pack("<Q", len(outer)) + outer + blob


def from_bytes(data: bytes) -> tuple[memoryview, dict[str, Section], int]:
    """The content of a file: the inverse of :func:`to_bytes`.

    Returns:
        Directory and payloads, the sections by name, and the bytes of all before the blob.

    Raises:
        PackedFileError: It is something else, damaged, truncated, or of another version.
    """
    if len(data) < 8:
        raise PackedFileError(f"it has {len(data)} bytes: not a packed file, or cut off")
    (length,) = struct.unpack_from("<Q", data)
    if length > min(len(data) - 8, _LARGEST_HEADER):
        raise PackedFileError(
            f"its header should have {length:,} bytes of {len(data):,}: not a packed file, or cut off"
        )
    outer = parse_json(data[8 : 8 + length], "its header")
    start = 8 + length
    tensor, description = _find(outer)
    try:
        text = description.encode()
    except UnicodeEncodeError as error:
        raise PackedFileError(f"its description is no text ({error}): it is damaged") from error
    size = len(data) - start
    if tensor != {"dtype": "U8", "shape": [tensor_size(tensor)], "data_offsets": [0, tensor_size(tensor)]}:
        raise PackedFileError(f"its tensor {TENSOR!r} is not a row of bytes that starts at 0: {str(tensor)[:200]}")
    if tensor_size(tensor) != size:
        raise PackedFileError(f"it should hold {tensor_size(tensor):,} bytes after its header, there are {size:,}")
    if size < _BLOB_HEADER.size:
        raise PackedFileError(f"its blob has {size} bytes, which is too few for a header")
    magic, version, reserved, crc_body, crc_text = _BLOB_HEADER.unpack_from(data, start)
    if magic != _MAGIC:
        raise PackedFileError(f"its blob starts with {magic!r}, not with {_MAGIC!r}: not a packed file")
    if version != VERSION:
        newer = "install a newer version of supermask" if version > VERSION else "it is damaged"
        raise PackedFileError(f"it has format {version}, this version of supermask reads {VERSION}; {newer}")
    body = memoryview(data)[start + _BLOB_HEADER.size :]
    for what, found, wanted in (
        ("weights", zlib.crc32(body), crc_body),
        ("description", zlib.crc32(text), crc_text),
    ):
        if found != wanted:
            raise PackedFileError(f"its {what} have the checksum {found:08x}, not {wanted:08x}: it is damaged")
    if reserved:
        raise PackedFileError(f"bytes 6 and 7 of its blob are {reserved}, not 0: it is damaged")
    sections = parse_json(text, "its description")
    for name, section in sections.items():
        try:
            check_section(name, section)
        except TypeError as error:
            raise PackedFileError(f"its {name} is damaged: {error}") from error
    return body, sections, start


def tensor_size(tensor: Mapping[str, Any]) -> int:
    """Bytes that a tensor of the header says it has; -1 where it says nothing that could be right."""
    offsets = tensor.get("data_offsets")
    end = offsets[1] if isinstance(offsets, list) and len(offsets) == 2 else None
    return end if isinstance(end, int) and not isinstance(end, bool) else -1


def check_section(name: str, section: object) -> None:
    """Check what is promised of a section; of others, that it is an object or a list.

    Raises:
        TypeError: Says what it should be.
    """
    if name == "classes":
        if not isinstance(section, list) or not all(isinstance(entry, str) for entry in section):
            raise TypeError("it should be a list of names")
    elif not isinstance(section, dict):
        raise TypeError(f"it should be an object, is {type(section).__name__}")
    elif name == "architecture" and not (
        section.keys() == {"name", "options"}
        and isinstance(section["name"], str)
        and isinstance(section["options"], dict)
    ):
        raise TypeError("it should have a name (text) and options (an object), and nothing else")


def read_bytes(path: str | Path, limit: int | None = None) -> bytes:
    """The bytes of a file.

    Args:
        path: The file.
        limit: The most bytes that its tensors may have when decoded; None: any number. A packed file is never larger than
            that and its header and directory, so that one which is gets refused before memory is taken for it.

    Raises:
        PackedFileError: There is none, or it is too large.
    """
    path = Path(path)
    if not path.is_file():
        raise PackedFileError(f"{path} is a folder" if path.is_dir() else f"no such file: {path}")
    size = path.stat().st_size
    if limit is not None and size > limit + 2 * _LARGEST_HEADER:
        raise PackedFileError(
            f"{path}: it has {size:,} bytes, more than a packed file of tensors of {limit:,} bytes; if it is trusted, pass a "
            "larger limit"
        )
    return path.read_bytes()


def parse_json(text: bytes, what: str) -> dict[str, Any]:
    """A JSON object: no repeated keys, no NaN.

    Raises:
        PackedFileError: It is something else.
    """
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_no_repeats, parse_constant=_no_constants)
    except (ValueError, RecursionError) as error:
        raise PackedFileError(f"{what} is not JSON ({str(error)[:200]}): not a packed file, or damaged") from error
    if not isinstance(value, dict):
        raise PackedFileError(f"{what} is no JSON object: not a packed file, or damaged")
    return value


def _find(outer: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The tensor's entry and the description's text."""
    notes = outer.get("__metadata__")
    text = notes.get(METADATA_KEY) if isinstance(notes, dict) else None
    tensor = outer.get(TENSOR)
    if outer.keys() != {"__metadata__", TENSOR} or not isinstance(text, str) or not isinstance(tensor, dict):
        raise PackedFileError(
            f"it is a safetensors file, but not a packed one: that has the one tensor {TENSOR!r} and the metadata key "
            f"{METADATA_KEY!r}; it has {', '.join(sorted(outer))[:200]}"
        )
    return tensor, text


def _encode(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _no_constants(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
