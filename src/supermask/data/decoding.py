"""A data set of image files, decoded once into a cache of memory-mapped bytes that later runs open at once.

``decoded/NAME-KEY`` below the cache folder holds ``train.npy`` and ``test.npy``, (N, 3, size, size) uint8, their labels,
and ``meta.json``. KEY follows from the names, sizes and labels of the files, so a changed folder is decoded anew; a file
that is replaced by another one of the same size is not noticed. An unfinished decoding is ``NAME-KEY.part``, and is
continued where it stopped.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from supermask.core.arrays import atomic_write, sync_folder
from supermask.core.locking import locked
from supermask.data.dataset import Labels, RawData, content_checksum
from supermask.data.download import Progress
from supermask.data.locate import cache_folder
from supermask.data.normalize import channel_statistics
from supermask.data.workers import Request, Workers
from supermask.errors import DamagedDataError, DataError, MissingExtraError

FORMAT: Final = 1
_SPLITS: Final = ("train", "test")
_SHOWN: Final = 5  # bad images that a message names


@dataclass(frozen=True)
class Part:
    """One split, as it is to be decoded.

    Attributes:
        labels: Class numbers, shape (N,).
        requests: What the decoding processes are asked, in order, without ``out``, ``offset``, ``size`` and ``exact``.
        counts: Images of each request.
    """

    labels: Labels
    requests: Sequence[Request]
    counts: Sequence[int]


@dataclass(frozen=True)
class Source:
    """Images that are to be decoded.

    Attributes:
        name: Name of the data set.
        where: Its folder.
        classes: Class names.
        size: Height and width at which images are kept.
        exact: Refuse images of another size, instead of resizing them; see :func:`supermask.data.pictures.square`.
        fingerprint: What the files are: names, sizes, labels.
        parts: Gives the training and the test split; called only when there is something to decode.
        packages: Import name -> (name on PyPI, extra), of what decoding needs.
    """

    name: str
    where: Path
    classes: tuple[str, ...]
    size: int
    exact: bool
    fingerprint: str
    parts: Callable[[Workers], tuple[Part, Part]]
    packages: dict[str, tuple[str, str]]

    @property
    def folder(self) -> Path:
        """Its place in the cache."""
        rule = f"{FORMAT} {self.size} {self.exact} {self.fingerprint}"
        return cache_folder() / "decoded" / f"{self.name}-{hashlib.sha256(rule.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, eq=False)
class Decoded:
    """A decoded data set.

    Attributes:
        raw: Its images are mapped from the cache and must not be written to.
        checksum: :func:`supermask.data.dataset.content_checksum` of what was decoded.
        mean: Of each channel over the training images, in [0, 255].
        std: Likewise, population standard deviation.
        folder: Where they are.
    """

    raw: RawData
    checksum: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    folder: Path


def decoded(source: Source, *, processes: int | None = None, progress: Progress | None = None) -> Decoded:
    """Open a data set in the cache; decode it first if it is not there. Processes that want the same take turns.

    Args:
        source: The images.
        processes: Decoding processes; None: one a core.
        progress: Called with (name, images done, images in all).

    Raises:
        DamagedDataError: An image or shard is damaged, or the cache is.
        DataError: The cache cannot be written, its disk is too small, or a file cannot be read.
        MissingExtraError: Pillow or webdataset is not installed.
    """
    final = source.folder
    try:
        if not (final / "meta.json").exists():
            with locked(final.with_name(f".{final.name}.lock")):
                if not (final / "meta.json").exists():
                    _decode(source, final, processes, progress)
        return _open(source, final)
    except OSError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"cannot keep the decoded images of {source.name} in {final}: {error.strerror or error}. The environment "
            "variable XDG_CACHE_HOME names another cache folder"
        ) from error


def _open(source: Source, folder: Path) -> Decoded:
    try:
        meta = json.loads((folder / "meta.json").read_text())
        arrays = [
            np.load(folder / f"{split}{suffix}.npy", mmap_mode="r" if not suffix else None)
            for split in _SPLITS
            for suffix in ("", "-labels")
        ]
        shapes = [list(array.shape) for array in arrays]
        if shapes != meta["shapes"]:
            raise ValueError(f"its arrays have the shapes {shapes}, expected {meta['shapes']}")
        raw = RawData(arrays[0], arrays[1], arrays[2], arrays[3], source.classes)
        return Decoded(raw, meta["checksum"], tuple(meta["mean"]), tuple(meta["std"]), folder)
    except (ValueError, KeyError, FileNotFoundError, EOFError) as error:
        raise DamagedDataError(
            f"{folder}: the decoded images of {source.name} are damaged ({error}). Delete that folder to decode them anew"
        ) from error


def _decode(source: Source, final: Path, processes: int | None, progress: Progress | None) -> None:
    for module, (package, extra) in source.packages.items():
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(package, extra, f"the data set {source.name!r}")
    folder = final.with_name(f"{final.name}.part")
    folder.mkdir(parents=True, exist_ok=True)
    with Workers(processes) as workers:
        parts = source.parts(workers)
        _make_room(source, folder, parts)
        bad = _write(source, folder, parts, workers, progress)
    if bad:
        shutil.rmtree(folder)
        more = f"\nand {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        what = "1 image" if len(bad) == 1 else f"{len(bad)} images"
        raise DamagedDataError(f"{what} of {source.name} cannot be used:\n" + "\n".join(sorted(bad)[:_SHOWN]) + more)
    _describe(source, folder, parts)
    folder.rename(final)
    sync_folder(final.parent)


def _make_room(source: Source, folder: Path, parts: Sequence[Part]) -> None:
    """Make the files at their full length, without the space on the disk for it yet; look whether there is enough."""
    shapes = [(len(part.labels), 3, source.size, source.size) for part in parts]
    missing = 0
    for split, shape in zip(_SPLITS, shapes):
        path = folder / f"{split}.npy"
        if not path.exists():
            temporary = folder / f"{split}.new"
            with temporary.open("wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                file.truncate(file.tell() + int(np.prod(shape)))
            temporary.rename(path)
        status = path.stat()
        missing += max(0, status.st_size - getattr(status, "st_blocks", 0) * 512)
    free = shutil.disk_usage(folder).free
    if free < missing:
        raise DataError(
            f"the decoded images of {source.name} take {missing / 1e9:,.1f} GB more, but {folder.parent} has only "
            f"{free / 1e9:,.1f} GB left: make room, or name another cache folder by the environment variable XDG_CACHE_HOME"
        )


def _write(
    source: Source, folder: Path, parts: Sequence[Part], workers: Workers, progress: Progress | None
) -> list[str]:
    """Decode what is not done yet; a line for each image that cannot be."""
    ledger = folder / "done"
    done = set(ledger.read_text().split("\n")[:-1]) if ledger.exists() else set()  # the last line may be cut off
    image, total = 3 * source.size**2, sum(len(part.labels) for part in parts)
    requests: list[Request] = []
    names: list[tuple[str, int]] = []
    for split, part in zip(_SPLITS, parts):
        path = folder / f"{split}.npy"
        offset = path.stat().st_size - len(part.labels) * image
        for number, (request, count) in enumerate(zip(part.requests, part.counts)):
            if f"{split} {number}" not in done:
                place = {"out": str(path), "offset": offset, "size": source.size, "exact": source.exact}
                requests.append(dict(request) | place)
                names.append((f"{split} {number}", count))
            offset += count * image
    ready = total - sum(count for _, count in names)
    bad: list[str] = []
    with ledger.open("a") as file:
        for number, reply in workers.work(requests):
            name, count = names[number]
            bad += reply["bad"]
            if not reply["bad"]:
                file.write(f"{name}\n")
                file.flush()
                os.fsync(file.fileno())
            ready += count
            if progress is not None:
                progress(source.name, ready, total)
    return bad


def _describe(source: Source, folder: Path, parts: Sequence[Part]) -> None:
    """Write the labels and ``meta.json``."""
    train, test = (np.load(folder / f"{split}.npy", mmap_mode="r") for split in _SPLITS)
    raw = RawData(train, parts[0].labels, test, parts[1].labels, source.classes)
    mean, std = channel_statistics(train)
    for split, part in zip(_SPLITS, parts):
        with (folder / f"{split}-labels.npy").open("wb") as file:
            np.save(file, part.labels)
    shapes = [list(array.shape) for array in (train, parts[0].labels, test, parts[1].labels)]
    meta: dict[str, Any] = {
        "format": FORMAT,
        "from": str(source.where),
        "fingerprint": source.fingerprint,
        "shapes": shapes,
        "checksum": content_checksum(raw),
        "mean": mean.tolist(),
        "std": std.tolist(),
    }
    (folder / "done").unlink()
    atomic_write(folder / "meta.json", (json.dumps(meta, indent=1) + "\n").encode())
