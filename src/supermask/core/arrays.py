"""Named arrays in ``.safetensors`` and ``.npz`` files (weights, scores, masks), and the one safe way to write a file.

Neither format can carry code: safetensors holds plain bytes, and npz files are read with pickling switched off.
"""

from __future__ import annotations

import errno
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from supermask.errors import MaskError, MissingExtraError

Layout = Literal["torch", "tf"]
ArrayLike = Tensor | npt.NDArray[np.generic]
_METADATA = "__metadata__"  # the key that holds the metadata, as JSON text, inside an npz file


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file so that it holds either its old or its new content, even if power fails in between.

    Writes to a temporary file in the same folder, flushes it to the disk, renames it over ``path``, and flushes the
    folder.

    Raises:
        OSError: As the operating system reports it (disk full, no permission, a file where a folder is wanted); the old file
            is then untouched and the temporary one removed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(f"{path} cannot be written: {error.filename} is a file, not a folder") from error
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files only their owner can read
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Flush a folder's list of names to the disk, where the file system can do that (some network ones refuse)."""
    if os.name != "posix":
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(folder)


def save_arrays(path: str | Path, arrays: Mapping[str, ArrayLike], metadata: Mapping[str, str] | None = None) -> None:
    """Save named arrays.

    Args:
        path: Ends in ``.safetensors`` (needs the extra ``lab``) or ``.npz``.
        arrays: Name -> tensor or numpy array; bfloat16, which numpy lacks, is saved as float32.
        metadata: Name -> text.

    Raises:
        MaskError: The ending is neither of the two.
    """
    path = Path(path)
    plain = {name: _to_numpy(value) for name, value in arrays.items()}
    notes = dict(metadata or {})
    if path.suffix == ".safetensors":
        try:
            from safetensors.numpy import save
        except ImportError as error:
            raise MissingExtraError("safetensors", "lab", "writing .safetensors files") from error
        data = save(plain, metadata=notes or None)
    elif path.suffix == ".npz":
        extra = {_METADATA: np.frombuffer(json.dumps(notes).encode(), np.uint8)} if notes else {}
        data = _npz_bytes({**plain, **extra})
    else:
        raise MaskError(_wrong_ending(path))
    atomic_write(path, data)


def load_arrays(path: str | Path, *, layout: Layout = "torch") -> dict[str, Tensor]:
    """Load named arrays.

    Args:
        path: A ``.safetensors`` or ``.npz`` file.
        layout: ``torch``: as stored. ``tf``: matrices stored (in, out) and kernels stored (*kernel, in, out) are
            transposed to (out, in, *kernel).

    Returns:
        Name -> CPU tensor.

    Raises:
        MaskError: The file is missing, damaged, or of another format.
    """
    return load_arrays_and_metadata(path, layout=layout)[0]


def load_arrays_and_metadata(path: str | Path, *, layout: Layout = "torch") -> tuple[dict[str, Tensor], dict[str, str]]:
    """As :func:`load_arrays`, with the metadata that was saved beside the arrays."""
    path = Path(path)
    if layout not in ("torch", "tf"):
        raise MaskError(f"layout must be 'torch' or 'tf', got {layout!r}")
    if not path.is_file():
        raise MaskError(f"no such file: {path}")
    if path.suffix == ".safetensors":
        tensors, metadata = _read_safetensors(path)
    elif path.suffix == ".npz":
        tensors, metadata = _read_npz(path)
    else:
        raise MaskError(_wrong_ending(path))
    if layout == "tf":
        tensors = {name: _from_tf(value) for name, value in tensors.items()}
    return tensors, metadata


def as_tensors(arrays: Mapping[str, Any], what: str) -> dict[str, Tensor]:
    """Arrays, or nested lists, as tensors.

    Raises:
        MaskError: A value cannot be made into one; the message names it.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in arrays.items():
        try:
            tensors[name] = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise MaskError(f"the {what} of {name} are not an array: {error}") from error
    return tensors


def check_shapes(arrays: Mapping[str, ArrayLike], shapes: Mapping[str, torch.Size], what: str) -> None:
    """Check that arrays have exactly the wanted names and shapes.

    Raises:
        MaskError: Names the missing, the unknown, or the first of another shape.
    """
    missing, unknown = sorted(shapes.keys() - arrays.keys()), sorted(arrays.keys() - shapes.keys())
    if missing or unknown:
        parts = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"unknown: {', '.join(unknown)}"] * bool(unknown)
        raise MaskError(f"the {what} do not fit the model's targets; {'; '.join(parts)}; known: {', '.join(shapes)}")
    for name, shape in shapes.items():
        got = tuple(arrays[name].shape)
        if got != tuple(shape):
            hint = "; is the file in TensorFlow's layout? then load it with layout='tf'" if got[::-1] == shape else ""
            raise MaskError(f"the {what} of {name} must have shape {tuple(shape)}, got {got}{hint}")


def _from_tf(value: Tensor) -> Tensor:
    if value.dim() < 2:
        return value
    return value.permute(value.dim() - 1, value.dim() - 2, *range(value.dim() - 2)).contiguous()


def _to_numpy(value: ArrayLike) -> npt.NDArray[np.generic]:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return np.asarray(value, order="C")  # not ascontiguousarray, which turns a scalar into a vector


def _npz_bytes(arrays: Mapping[str, npt.NDArray[np.generic]]) -> bytes:
    """What ``np.savez_compressed`` writes, for any name (it takes none called "file") and without a way to pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, value in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980: equal arrays make equal files
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, value, allow_pickle=False)
    return buffer.getvalue()


def _wrong_ending(path: Path) -> str:
    return f"array files end in .safetensors or .npz, got {path.name!r}"


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise MissingExtraError("safetensors", "lab", "reading .safetensors files") from error
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except Exception as error:  # whatever damaged bytes make the reader raise
        raise MaskError(f"{path} is damaged or not a safetensors file: {error}") from error


def _read_npz(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:  # numpy leaves a damaged file open
            arrays = {name: file[name] for name in file.files}
        notes = arrays.pop(_METADATA, None)
        metadata = {} if notes is None else dict(json.loads(notes.tobytes()))
        return {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}, metadata
    except Exception as error:  # zip, zlib, json and numpy raise a dozen kinds for damaged bytes
        raise MaskError(f"{path} is damaged or not an npz file of plain arrays: {error}") from error
