"""WebDataset shards: tar files of images and class numbers.

A sample is KEY.jpg (.jpeg or .png) and KEY.cls, a class number from 0 on. A file classes.txt beside the shards names the
classes, one a line. Shards are decoded once, into the cache folder; the shorter side of an image is resized to size, and
the middle kept.

Options:
    shards: The folder of the shards, looked for in the data folders. The id of a run holds this name, and neither where it
        was found nor what the shards hold: give another set another name.
    classes: Number of classes.
    train: Which files are for training, a pattern.
    test: Which are for testing, a pattern.
    size: Height and width at which images are kept, in pixels.
    crop: Height and width of the middle with which a model is tested, and trained unless augment says otherwise, in
        pixels.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from supermask.data.decoding import Part, Source
from supermask.data.idx import check_labels
from supermask.data.locate import search_folders
from supermask.data.workers import Workers
from supermask.errors import ConfigError, DamagedDataError, DataError, MissingDataError


def source(
    root: str | os.PathLike[str] | None,
    *,
    shards: str,
    classes: int,
    train: str = "*train*.tar",
    test: str = "*val*.tar",
    size: int = 256,
) -> Source:
    """Find the shards of a data set; nothing is decoded.

    Args:
        root: Data folder to search first.
        shards: See above, as the others.
        classes: The same.
        train: The same.
        test: The same.
        size: The same.

    Returns:
        The images.

    Raises:
        ConfigError: An option is wrong.
        MissingDataError: The folder or the shards are missing.
        DataError: The folder cannot be read.
    """
    for key, value in {"shards": shards, "train": train, "test": test}.items():
        if not isinstance(value, str) or not value:
            raise ConfigError(f"data.{key} must be text, got {value!r}")
    candidates = [folder / shards for folder in search_folders(root)]
    folder = next((candidate for candidate in candidates if candidate.is_dir()), None)
    if folder is None:
        searched = ", ".join(map(str, candidates))
        raise MissingDataError(
            f"data.shards: there is no folder {shards!r} in the data folders (searched: {searched}). Put it there, or name "
            "the folder around it by --data-dir, root= or the environment variable SUPERMASK_DATA"
        )
    try:
        found = [_matching(folder, key, pattern) for key, pattern in (("train", train), ("test", test))]
        if both := set(found[0]) & set(found[1]):
            raise ConfigError(
                f"data.train and data.test both match {min(both).name}; make the patterns exclude each other"
            )
        digest = hashlib.sha256()
        for part in found:
            digest.update("\n".join(f"{path.name}\0{path.stat().st_size}" for path in part).encode() + b"\n\n")
        names = _names(folder / "classes.txt", classes)
    except OSError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot read {error.filename or folder}: {error.strerror or error}") from error
    return Source(
        name="webdataset",
        where=folder,
        classes=names,
        size=size,
        exact=False,
        fingerprint=f"{digest.hexdigest()} {classes}",
        parts=functools.partial(_parts, found, classes),
        packages={"PIL": ("pillow", "webdataset"), "webdataset": ("webdataset", "webdataset")},
    )


def _matching(folder: Path, key: str, pattern: str) -> list[Path]:
    found = sorted(path for path in folder.glob(pattern) if path.is_file())
    if not found:
        raise MissingDataError(f"data.{key}: no file in {folder} matches {pattern!r}")
    return found


def _names(path: Path, classes: int) -> tuple[str, ...]:
    if not path.is_file():
        return tuple(str(number) for number in range(classes))
    names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if len(names) != classes or len(set(names)) < classes:
        raise DamagedDataError(f"{path}: holds {len(set(names))} different names, but data.classes is {classes}")
    return names


def _parts(shards: Sequence[Sequence[Path]], classes: int, workers: Workers) -> tuple[Part, Part]:
    """List the labels of all shards, by the decoding processes."""
    paths = [str(path) for part in shards for path in part]
    listed: dict[str, list[int]] = {}
    for number, reply in workers.work([{"do": "labels", "shard": path} for path in paths]):
        listed[paths[number]] = reply["labels"]
    train, test = (_part([str(path) for path in part], listed, classes) for part in shards)
    if len(missing := np.setdiff1d(np.arange(classes), train.labels)):
        raise DamagedDataError(
            f"{shards[0][0].parent}: class {int(missing[0])} has no training image, but data.classes is {classes}"
        )
    return train, test


def _part(paths: list[str], listed: dict[str, list[int]], classes: int) -> Part:
    for path in paths:
        if not listed[path]:
            raise DamagedDataError(f"{path}: no image in this shard; samples are KEY.jpg and KEY.cls")
        check_labels(path, np.array(listed[path], np.int64), classes)
    requests: list[dict[str, Any]] = [{"do": "shard", "shard": path} for path in paths]
    labels = np.concatenate([np.array(listed[path], np.int64) for path in paths])
    return Part(labels, requests, [len(listed[path]) for path in paths])
