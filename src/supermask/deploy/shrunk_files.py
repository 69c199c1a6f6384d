"""Shrunk models as files: safetensors with the patch and the certificate beside the tensors; no code, no pickle.

``docs/shrink.md`` describes the file; ``decoders/python/load_shrunk.py`` reads it with torch and safetensors alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import nn

from supermask.core.arrays import atomic_write
from supermask.deploy.container import parse_json
from supermask.deploy.identity import ShrinkCertificate, checksum
from supermask.deploy.patching import Patch, named
from supermask.errors import MissingExtraError, PackedFileError, PackError, StructureError

FORMAT: Final = 1
KEY: Final = "supermask-shrunk"  # the one metadata key: safetensors writes several in random order
ENDING: Final = ".safetensors"
_LARGEST_HEADER: Final = 100_000_000  # as safetensors' own readers
_SECTIONS: Final = ("format", "patch", "certificate", "checksum", "architecture")


@dataclass(frozen=True)
class ShrunkFile:
    """What a file says of itself; tensors are not read yet.

    Attributes:
        patch: What to change on the dense model.
        certificate: What was compared when it was shrunk.
        checksum: SHA-256 of the stored tensors; another than ``certificate.shrunk`` if the model was trained on afterwards.
        architecture: ``{"name": ..., "options": {...}, "input_shape": [...]}`` of the dense model, where it is one of this
            package's; or None. Files of earlier versions have no shape (of one example).
    """

    patch: Patch
    certificate: ShrinkCertificate
    checksum: str
    architecture: Mapping[str, Any] | None = None


def save_shrunk(
    model: nn.Module,
    patch: Patch,
    certificate: ShrinkCertificate,
    path: str | Path,
    *,
    architecture: Mapping[str, Any] | None = None,
) -> Path:
    """Write a shrunk model.

    Args:
        model: The smaller one, as it is now.
        patch: What makes it of the dense one.
        certificate: Stored as it is.
        path: Ends in ``.safetensors``.
        architecture: Name and options from which the dense model can be built.

    Raises:
        PackError: The name has another ending, the model is not the one that the patch makes, or it has a type that the
            format lacks.
        MissingExtraError: The package ``safetensors`` is not installed.
    """
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise MissingExtraError("safetensors", "lab", "writing shrunk models") from error
    path = Path(path)
    if path.suffix != ENDING:
        raise PackError(f"a shrunk model is written to a file that ends in {ENDING}, got {path.name!r}")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in named(model).items()}
    for name, cut in patch.tensors.items():
        if name not in tensors or tuple(tensors[name].shape) != cut.shape:
            got = tuple(tensors[name].shape) if name in tensors else "none"
            raise PackError(
                f"{name} should have the shape {cut.shape} of the patch, it has {got}: was the model changed?"
            )
    # clones: what shares memory without being tied would be refused
    stored = {name: tensor.clone() for name, tensor in tensors.items()}
    values = (FORMAT, patch.to_dict(), certificate.to_dict(), checksum(stored), architecture)
    text = json.dumps(dict(zip(_SECTIONS, values, strict=True)), sort_keys=True, separators=(",", ":"), allow_nan=False)
    try:
        content = save(stored, metadata={KEY: text})
    except KeyError as error:
        raise PackError(f"safetensors files hold no tensors of the type {error}") from error
    atomic_write(path, content)
    return path


def read_shrunk(path: str | Path) -> ShrunkFile:
    """What a file says of itself.

    Raises:
        PackedFileError: It is missing, damaged, of another version, or no shrunk model.
    """
    return _description(Path(path))


def is_shrunk(path: str | Path) -> bool:
    """Whether a file's header names a shrunk model; False for other files, also damaged ones."""
    try:
        return KEY in _notes(Path(path))
    except PackedFileError:
        return False


def load_shrunk(path: str | Path, model: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    """The shrunk model of a file.

    Args:
        path: What :meth:`supermask.deploy.Shrunk.save` wrote.
        model: Your class or function, which makes the dense model when called; or the dense model itself, which is changed
            in place. Its own values do not count.

    Returns:
        The smaller model: its class, mode and device are those of ``model``.

    Raises:
        PackedFileError: The file is missing, damaged, or of another version.
        StructureError: The file is of another model; ``model`` is then as it was.
        MissingExtraError: The package ``safetensors`` is not installed.
    """
    path = Path(path)
    file = _description(path)
    dense = model if isinstance(model, nn.Module) else model()
    if not isinstance(dense, nn.Module):
        raise StructureError(f"the constructor must give a torch.nn.Module, got {type(dense).__name__}")
    _check_fit(path, file, dense)
    wanted = named(dense)
    if any(tensor.is_meta for tensor in wanted.values()):
        raise StructureError(
            "the dense model has tensors on the device 'meta', which hold nothing; build it on the CPU"
        )
    with _opened(path) as content:
        tensors = {name: content.get_tensor(name) for name in wanted}
    for name, tensor in tensors.items():
        if tensor.dtype != wanted[name].dtype:
            raise StructureError(
                f"{path}: {name} has the type {tensor.dtype}, the model's has {wanted[name].dtype}; give a model of the file's "
                "type, such as Net().half()"
            )
    if (found := checksum(tensors)) != file.checksum:
        raise PackedFileError(
            f"{path}: its tensors have the checksum {found[:12]}…, not {file.checksum[:12]}…: it is damaged"
        )
    file.patch.apply(dense, {name: tensor.to(wanted[name].device) for name, tensor in tensors.items()})
    return dense


def check_shrunk(path: str | Path, model: nn.Module) -> None:
    """Check that a file is of a dense model, which may be on the device ``meta``: no tensor is read, nothing is changed.

    Raises:
        PackedFileError: The file is missing, damaged, or of another version.
        StructureError: The file is of another model.
    """
    _check_fit(Path(path), read_shrunk(path), model)


def _check_fit(path: Path, file: ShrunkFile, model: nn.Module) -> None:
    file.patch.check(model)
    wanted = {name: tuple(tensor.shape) for name, tensor in named(model).items()}
    wanted |= {name: cut.shape for name, cut in file.patch.tensors.items()}
    with _opened(path) as content:
        found = {name: tuple(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118
    for name in [*wanted, *found]:
        got, shape = found.get(name), wanted.get(name)
        if got != shape:
            raise StructureError(
                f"{path}: {name} has the shape {got}, it should have {shape}; is it the same model, with the same options?"
            )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file in safetensors' reader, which checks that all tensors lie within it."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingExtraError("safetensors", "lab", "reading shrunk models") from error
    try:
        with safe_open(path, framework="pt") as content:
            yield content
    except (SafetensorError, OSError) as error:
        raise PackedFileError(f"{path}: its tensors cannot be read ({error}): it is damaged") from error


def _description(path: Path) -> ShrunkFile:
    notes = _notes(path)
    if KEY not in notes:
        raise PackedFileError(f"{path}: it is a safetensors file, but no shrunk model: it lacks the metadata {KEY!r}")
    try:
        about = parse_json(notes[KEY].encode(), "its description")
        form = about.get("format")
        if form != FORMAT:
            newer = (
                "install a newer version of supermask" if isinstance(form, int) and form > FORMAT else "it is damaged"
            )
            raise PackedFileError(f"it has format {form!r}, this version of supermask reads {FORMAT}; {newer}")
        if about.keys() != set(_SECTIONS) or not isinstance(about["checksum"], str):
            raise PackedFileError(f"its description has {', '.join(about)}, not {', '.join(_SECTIONS)}: it is damaged")
        architecture = about["architecture"]
        if not (architecture is None or isinstance(architecture, dict)):
            raise PackedFileError("its architecture is no object: it is damaged")
        patch, certificate = Patch.from_dict(about["patch"]), ShrinkCertificate.from_dict(about["certificate"])
    except (PackedFileError, UnicodeEncodeError) as error:
        raise PackedFileError(f"{path}: {error}") from error
    return ShrunkFile(patch, certificate, about["checksum"], architecture)


def _notes(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; no tensor is read."""
    if not path.is_file():
        raise PackedFileError(f"no such file: {path}")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= min(size - 8, _LARGEST_HEADER):
            raise PackedFileError(f"{path}: its header should have {length:,} bytes of {size:,}: damaged, or cut off")
        header = file.read(length)
    try:
        notes = parse_json(header, "its header").get("__metadata__", {})
    except PackedFileError as error:
        raise PackedFileError(f"{path}: {error}") from error
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise PackedFileError(f"{path}: its metadata is damaged")
    return notes
