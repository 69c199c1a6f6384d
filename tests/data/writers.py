"""Writes small data sets in the official formats, and the catalogue entries that hold their checksums."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from supermask.data.catalog import CIFAR10, CIFAR100, FASHION_MNIST, DataFile, DataInfo, Layout

Bytes = npt.NDArray[np.uint8]


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def idx(values: Bytes) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@dataclass(frozen=True)
class Small:
    """A small data set: the content of its files by official name, and its catalogue entry."""

    info: DataInfo
    files: dict[str, bytes]
    train_images: Bytes
    train_labels: Bytes
    test_images: Bytes
    test_labels: Bytes

    def write(self, folder: Path, *, compress: bool = False, dot: bool = False) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            name = name.replace("-idx", ".idx") if dot else name
            path = folder / (f"{name}.gz" if compress else name)
            path.write_bytes(gzip.compress(content) if compress else content)
        return folder


def with_layout(info: DataInfo, files: Mapping[str, bytes], archive: bytes | None = None) -> DataInfo:
    """The entry with the checksums of these files, for the one layout that has them."""
    (layout,) = (entry for entry in info.layouts if {file.name for file in (*entry.train, *entry.test)} == files.keys())
    return replace(info, layouts=(_signed(layout, files, archive),))


def _signed(layout: Layout, files: Mapping[str, bytes], archive: bytes | None) -> Layout:
    def signed(group: tuple[DataFile, ...]) -> tuple[DataFile, ...]:
        return tuple(DataFile(file.name, sha256(files[file.name])) for file in group)

    packed = layout.archive
    if packed is not None and archive is not None:
        packed = DataFile(packed.name, sha256(archive))
    return replace(layout, train=signed(layout.train), test=signed(layout.test), archive=packed)


def fashion(train: int = 30, test: int = 10) -> Small:
    """A Fashion-MNIST of a few random images."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (train, 28, 28), np.uint8), (np.arange(train) % 10).astype(np.uint8)
    tx, ty = rng.integers(0, 256, (test, 28, 28), np.uint8), (np.arange(test) % 10).astype(np.uint8)
    names = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    files = dict(zip(names, (idx(x), idx(y), idx(tx), idx(ty))))
    info = replace(with_layout(FASHION_MNIST, files), sizes=(train, test))
    return Small(info, files, x, y, tx, ty)


def cifar(classes: int, version: str, batch: int = 20) -> Small:
    """A CIFAR-10 or CIFAR-100 of a few random images a batch, version "binary", "python2" or "python3"."""
    rng = np.random.default_rng(classes)
    original = CIFAR10 if classes == 10 else CIFAR100
    batches = 6 if classes == 10 else 2
    x = rng.integers(0, 256, (batches, batch, 3072), np.uint8)
    y = rng.integers(0, classes, (batches, batch), np.uint8)
    reader = "cifar-binary" if version == "binary" else "cifar-python"
    (layout,) = (entry for entry in original.layouts if entry.reader == reader)
    names = [file.name for file in (*layout.train, *layout.test)]
    coarse = y // 5
    files = {}
    for name, pixels, labels, groups in zip(names, x, y, coarse):
        if version == "binary":
            columns = [labels[:, None], pixels] if classes == 10 else [groups[:, None], labels[:, None], pixels]
            files[name] = np.concatenate(columns, axis=1).tobytes()
        else:
            entries: dict[str, Any] = {"batch_label": "a small batch", "data": pixels}
            listed = [int(label) for label in labels]
            entries |= (
                {"labels": listed}
                if classes == 10
                else {"fine_labels": listed, "coarse_labels": [int(group) for group in groups]}
            )
            entries["filenames"] = [f"image_{i}.png" for i in range(len(labels))]
            files[name] = dumps_python2(entries) if version == "python2" else pickle.dumps(entries, protocol=2)
    packed = archive(f"{layout.folders[0]}/", files)
    info = replace(with_layout(original, files, packed), sizes=((batches - 1) * batch, batch))
    images = x.reshape(batches * batch, 3, 32, 32)
    cut = (batches - 1) * batch
    return Small(info, files, images[:cut], y.reshape(-1)[:cut], images[cut:], y.reshape(-1)[cut:])


def archive(prefix: str, files: Mapping[str, bytes]) -> bytes:
    """A .tar.gz of files, with a folder entry and one file more, as the official ones have."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        folder = tarfile.TarInfo(prefix)
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in {**files, "readme.html": b"<html></html>"}.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)


def dumps_python2(value: object) -> bytes:
    """Pickle by the operations and the names that Python 2 used for the official files, at its protocol 2."""
    return b"\x80\x02" + _python2(value) + b"."


def _python2(value: object) -> bytes:
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        return b"K" + bytes([value]) if 0 <= value < 256 else b"J" + struct.pack("<i", value)
    if isinstance(value, str):
        return _python2(value.encode("latin-1"))
    if isinstance(value, bytes):
        length = b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))
        return length + value + b"q\x01"
    if isinstance(value, list):
        return b"]q\x02(" + b"".join(map(_python2, value)) + b"e"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_python2, value)) + b"t"
    if isinstance(value, dict):
        return b"}q\x03(" + b"".join(_python2(key) + _python2(item) for key, item in value.items()) + b"u"
    if not isinstance(value, np.ndarray):
        raise TypeError(type(value))
    start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + _python2((0,)) + _python2(b"b") + b"tR"
    kind = b"cnumpy\ndtype\n" + _python2((b"u1", 0, 1)) + b"R" + _python2((3, b"|", None, None, None, -1, -1, 0)) + b"b"
    return (
        start + b"(" + _python2(1) + _python2(value.shape) + kind + _python2(False) + _python2(value.tobytes()) + b"tb"
    )
