"""From located files to verified bytes, and from those to raw images and labels."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import zlib
from pathlib import Path

import numpy as np

from supermask.data import cifar, idx
from supermask.data.catalog import DATASETS, DataFile, DataInfo
from supermask.data.dataset import Labels, Pixels, RawData
from supermask.data.locate import Found
from supermask.errors import DamagedDataError, DataError

Contents = dict[str, tuple[str, bytes]]  # official name -> where it was read from, and its verified bytes


def read(info: DataInfo, found: Found) -> RawData:
    """Verify and read a data set.

    Args:
        info: Its catalogue entry.
        found: Where its files are.

    Returns:
        Images and labels.

    Raises:
        DamagedDataError: A file is not what it should be; the message names it and says what to do.
        DataError: A file cannot be read (permissions, disk).
    """
    layout = found.layout
    try:
        contents = _contents(info, found)
    except OSError as error:
        raise DataError(f"cannot read {error.filename or found.where}: {error.strerror or error}") from error
    count = len(info.classes)
    parts: list[tuple[Pixels, Labels]] = []
    for split in (layout.train, layout.test):
        named = [contents[file.name] for file in split]
        if layout.reader == "idx":
            images, labels = named
            parts.append(idx.pair(images, labels, count))
        else:
            parse = cifar.parse_binary if layout.reader == "cifar-binary" else cifar.parse_python
            parts.append(_joined([parse(where, content, count) for where, content in named]))
    train, test = parts
    raw = RawData(train[0], train[1], test[0], test[1], info.classes)
    _check_shape(info, found, raw)
    return raw


def _joined(batches: list[cifar.Batch]) -> tuple[Pixels, Labels]:
    return np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches])


def _check_shape(info: DataInfo, found: Found, raw: RawData) -> None:
    sizes = (len(raw.train_labels), len(raw.test_labels))
    shapes = {raw.train_images.shape[1:], raw.test_images.shape[1:]}
    if sizes != info.sizes or shapes != {info.input_shape}:
        raise DamagedDataError(
            f"{found.where}: {sizes[0]} training and {sizes[1]} test images of shape {sorted(shapes)}, but {info.name} "
            f"has {info.sizes} of {info.input_shape}. {_cure(info)}"
        )


def _contents(info: DataInfo, found: Found) -> Contents:
    wanted = {file.name: file for file in (*found.layout.train, *found.layout.test)}
    if not found.paths:
        return _archived(info, found, wanted)
    contents = {}
    for name, path in found.paths.items():
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = _gunzip(info, path, content)
        _verify(info, path, wanted[name].checksum, content)
        contents[name] = (str(path), content)
    return contents


def _archived(info: DataInfo, found: Found, wanted: dict[str, DataFile]) -> Contents:
    """Read the wanted files out of the archive in memory; nothing is unpacked onto the disk."""
    assert found.layout.archive is not None
    verify_file(found.where, found.layout.archive.checksum, _cure(info))
    contents = {}
    try:
        with tarfile.open(found.where, "r:gz") as archive:
            for member in archive:
                name = Path(member.name).name
                stream = archive.extractfile(member) if name in wanted else None
                if stream is not None:
                    content = stream.read()
                    where = f"{found.where} ({member.name})"
                    _verify(info, where, wanted[name].checksum, content)
                    contents[name] = (where, content)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DamagedDataError(f"{found.where}: damaged archive ({error}). {_cure(info)}") from error
    if missing := sorted(wanted.keys() - contents.keys()):
        raise DamagedDataError(f"{found.where}: the archive lacks {', '.join(missing)}. {_cure(info)}")
    return contents


def _gunzip(info: DataInfo, path: Path, content: bytes) -> bytes:
    try:
        return gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DamagedDataError(f"{path}: damaged or cut-off gzip file ({error}). {_cure(info)}") from error


def _cure(info: DataInfo) -> str:
    return f"Delete it and get it again: `supermask data get {info.name}`, or copy the official file there"


def _verify(info: DataInfo, where: str | Path, checksum: str | None, content: bytes) -> None:
    if checksum is not None:
        kind, expected = checksum.split(":")
        _compare(where, kind, hashlib.new(kind, content).hexdigest(), expected, _cure(info))


def verify_file(path: Path, checksum: str | None, cure: str) -> None:
    """Raise DamagedDataError unless the file has the checksum; None always passes. Reads it in pieces."""
    if checksum is not None:
        kind, expected = checksum.split(":")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, kind).hexdigest()
        _compare(path, kind, found, expected, cure)


def _compare(where: str | Path, kind: str, found: str, expected: str, cure: str) -> None:
    if found != expected:
        owner = _owner(f"{kind}:{found}")
        hint = f"it is a file of {owner}" if owner else "it is damaged, incomplete, or another file"
        raise DamagedDataError(f"{where}: wrong checksum ({kind} {found}, expected {expected}): {hint}. {cure}")


def _owner(checksum: str) -> str | None:
    """The data set that a file with this checksum belongs to."""
    for info in DATASETS.values():
        for layout in info.layouts:
            if any(file.checksum == checksum for file in (*layout.train, *layout.test)):
                return info.name
    return None
