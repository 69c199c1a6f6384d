"""The two official formats of CIFAR-10 and CIFAR-100: binary records, and Python pickles.

A pickle is a program; unpickling runs it. The reader here does not unpickle: it walks the list of operations, follows
the few that build lists, tuples, dictionaries, numbers and strings, records a call without making it, and refuses the
rest.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from supermask.data.dataset import Labels
from supermask.data.idx import check_labels
from supermask.errors import DamagedDataError

Batch = tuple[npt.NDArray[np.uint8], Labels]
_SHAPE: Final = (3, 32, 32)
_PIXELS: Final = 3 * 32 * 32


def parse_binary(where: str, content: bytes, classes: int) -> Batch:
    """Read a binary batch: per image the label bytes and 3,072 pixel bytes (R, G, B planes, row-major).

    Args:
        where: Name of the file, for messages.
        content: Its bytes.
        classes: 10: one label byte. 100: a coarse and a fine label byte, of which the fine one is used.

    Returns:
        Images (N, 3, 32, 32) uint8 and labels (N,) int64.

    Raises:
        DamagedDataError: The length is no multiple of a record, or a label is out of range.
    """
    label_bytes = 1 if classes == 10 else 2
    record = label_bytes + _PIXELS
    if not content or len(content) % record:
        raise DamagedDataError(
            f"{where}: {len(content)} bytes are not a whole number of records of {record} bytes. "
            "Replace it by the official file"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    labels = records[:, label_bytes - 1].astype(np.int64)
    check_labels(where, labels, classes)
    return records[:, label_bytes:].reshape(-1, *_SHAPE), labels


def parse_python(where: str, content: bytes, classes: int) -> Batch:
    """Read a batch of the Python version without unpickling it.

    Args:
        where: Name of the file, for messages.
        content: Its bytes.
        classes: 10: the labels are under the key ``labels``. 100: under ``fine_labels``.

    Returns:
        Images (N, 3, 32, 32) uint8 and labels (N,) int64.

    Raises:
        DamagedDataError: The file holds anything but the arrays, lists and strings of an official batch.
    """
    try:
        batch = _structure(content)
        entries = {_text(key): value for key, value in batch.items()}
        pixels = _array(entries["data"])
        listed = entries["labels" if classes == 10 else "fine_labels"]
        if not isinstance(listed, list) or not all(type(label) is int for label in listed):
            raise _RefusedError("its labels are not a list of integers")
        labels = np.array(listed, np.int64)
        if pixels.shape != (len(labels), _PIXELS):
            raise _RefusedError(f"it holds {len(labels)} labels but pixels of shape {pixels.shape}")
    except (_RefusedError, ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        raise DamagedDataError(
            f"{where}: not a batch of the Python version of CIFAR ({error}). Replace it by the official file"
        ) from error
    check_labels(where, labels, classes)
    return pixels.reshape(-1, *_SHAPE), labels


class _RefusedError(Exception):
    """The pickle does what a batch of CIFAR has no need to do."""


@dataclass
class _Call:
    """A call that a pickle asks for. It is never made."""

    function: str
    arguments: Any
    state: Any = None


@dataclass(frozen=True)
class _Global:
    name: str


_MARK: Final = object()
_RECONSTRUCT: Final = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_GLOBALS: Final = {*_RECONSTRUCT, "numpy ndarray", "numpy dtype", "_codecs encode"}
_IGNORED: Final = {"PROTO", "FRAME"}
_CONSTANTS: Final[dict[str, Any]] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS: Final = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_TUPLES: Final = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_EMPTY: Final[dict[str, type]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_PUTS: Final = {"PUT", "BINPUT", "LONG_BINPUT"}
_GETS: Final = {"GET", "BINGET", "LONG_BINGET"}


def _structure(content: bytes) -> Any:
    """Follow the operations of a pickle and return what it would build, with calls recorded instead of made."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        items: list[Any] = []
        while (item := stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    argument: Any
    for operation, argument, _ in pickletools.genops(content):
        name: str = operation.name
        if name in _LITERALS:
            stack.append(argument)
        elif name in _PUTS:
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in _GETS:
            stack.append(memo[argument])
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name in _TUPLES:
            items = stack[-_TUPLES[name] :]
            del stack[-_TUPLES[name] :]
            stack.append(tuple(items))
        elif name == "LIST":
            stack.append(since_mark())
        elif name == "DICT":
            items = since_mark()
            stack.append(dict(zip(items[::2], items[1::2], strict=True)))
        elif name == "APPEND":
            value = stack.pop()
            stack[-1].append(value)
        elif name == "APPENDS":
            items = since_mark()
            stack[-1].extend(items)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            stack[-1][key] = value
        elif name == "SETITEMS":
            items = since_mark()
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            wanted = argument if name == "GLOBAL" else " ".join(reversed([stack.pop(), stack.pop()]))
            if wanted not in _GLOBALS:
                raise _RefusedError(f"it asks for {wanted.replace(' ', '.')}, which no batch needs")
            stack.append(_Global(wanted))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_Call(function.name, arguments))
        elif name == "BUILD":
            state = stack.pop()
            stack[-1].state = state
        elif name == "STOP":
            return stack.pop()
        elif name not in _IGNORED:
            raise _RefusedError(f"it uses the operation {name}, which no batch needs")
    raise _RefusedError("it has no end")


def _text(value: Any) -> str:
    if not isinstance(value, bytes | str):
        raise _RefusedError(f"one of its keys is no string but {type(value).__name__}")
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _raw(value: Any) -> bytes:
    """Bytes as Python 2 (a string), Python 3 (bytes) and Python 3 at protocol 2 (a call of encode) write them."""
    if isinstance(value, _Call) and value.function == "_codecs encode" and value.arguments[1] in ("latin1", "latin-1"):
        value = value.arguments[0]
    if isinstance(value, str):
        return value.encode("latin-1")
    if not isinstance(value, bytes):
        raise _RefusedError("its pixels are not bytes")
    return value


def _array(value: Any) -> npt.NDArray[np.uint8]:
    """The uint8 array that a recorded call of numpy's reconstruction describes."""
    if not isinstance(value, _Call) or value.function not in _RECONSTRUCT:
        raise _RefusedError("its pixels are not a numpy array")
    _, shape, kind, fortran, raw = value.state
    if not isinstance(kind, _Call) or kind.function != "numpy dtype" or kind.arguments[0] not in ("u1", "|u1"):
        raise _RefusedError("its pixels are not of type uint8")
    flat = np.frombuffer(_raw(raw), np.uint8)
    return flat.reshape(tuple(shape), order="F" if fortran else "C")
