"""ImageNet and Tiny-ImageNet as they are unpacked: one folder of JPEG files for each class, named by its WordNet id.

    train/WNID/*.JPEG                     ImageNet
    train/WNID/images/*.JPEG              Tiny-ImageNet
    val/WNID/*.JPEG                       sorted by a script, or
    val/*.JPEG and a list of their classes, one of
      val/val_annotations.txt (images in val/images)          Tiny-ImageNet's
      LOC_val_solution.csv                                    Kaggle's
      imagenet_2012_validation_synset_labels.txt              TensorFlow's: a WNID a line, in the order of the file names
      ILSVRC2012_validation_ground_truth.txt and meta.mat     the development kit's: numbers, and what they mean
    wnids.txt                             the classes; without it, the folders in train
    words.txt, LOC_synset_mapping.txt, synset_words.txt or classes.txt    their names; without them, their WNIDs

Classes are numbered in the alphabetical order of their WNIDs, as everywhere.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from supermask.data.catalog import DataInfo
from supermask.data.decoding import Part, Source
from supermask.data.folder import SUFFIXES
from supermask.data.locate import find_tree, how_to_get
from supermask.data.workers import Workers
from supermask.errors import ConfigError, DamagedDataError, DataError, MissingDataError, MissingExtraError

BATCH: Final = 256  # images of one request to a decoding process
_WNID: Final = re.compile(r"n\d{8}")
_NAMES: Final = ("words.txt", "LOC_synset_mapping.txt", "synset_words.txt", "classes.txt")
_DEVKIT: Final = "ILSVRC2012_devkit_t12/data"
_TRUTH: Final = "ILSVRC2012_validation_ground_truth.txt"
_LABELS: Final = "imagenet_2012_validation_synset_labels.txt"
_SOLUTION: Final = "LOC_val_solution.csv"


@dataclass(frozen=True, slots=True)
class _Image:
    """One of a million: kept small."""

    folder: str
    name: str
    bytes: int
    label: int

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.name}"


def source(
    info: DataInfo, root: str | os.PathLike[str] | None, *, classes: int, size: int, exact: bool = False
) -> Source:
    """Find the files of a set and list them; nothing is decoded.

    Args:
        info: Its catalogue entry.
        root: Data folder to search first.
        classes: How many classes there must be.
        size: Height and width at which images are kept.
        exact: See :class:`~supermask.data.decoding.Source`.

    Raises:
        ConfigError: There are more or fewer classes.
        MissingDataError: Nothing was found, or files are missing; the message says what to put where.
        DamagedDataError: A list does not fit the files.
        DataError: A folder cannot be read.
    """
    folder = find_tree(info, root)
    if folder is None:
        raise MissingDataError(f"the files of data set {info.name!r} were not found. {how_to_get(info, root)}")
    try:
        wnids = _wnids(folder)
        if len(wnids) != classes:
            raise ConfigError(
                f"data.classes is {classes}, but {folder} has {len(wnids)} classes. To train on these, set "
                f"`data: {{name: {info.name}, classes: {len(wnids)}}}` and as many model.classes; otherwise complete it"
            )
        numbers = {wnid: number for number, wnid in enumerate(wnids)}
        train, test = _train(folder, numbers), _validation(folder, numbers)
        names = _names(folder, wnids)
    except OSError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot read {error.filename or folder}: {error.strerror or error}") from error
    return Source(
        name=info.name,
        where=folder,
        classes=names,
        size=size,
        exact=exact,
        fingerprint=_fingerprint(folder, wnids, (train, test)),
        parts=functools.partial(_parts, train, test),
        packages={"PIL": ("pillow", "data")},
    )


def _parts(train: list[_Image], test: list[_Image], _: Workers) -> tuple[Part, Part]:
    return _part(train), _part(test)


def _part(images: list[_Image]) -> Part:
    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    requests = [{"do": "files", "files": [image.path for image in batch]} for batch in batches]
    return Part(np.array([image.label for image in images], np.int64), requests, [len(batch) for batch in batches])


def _fingerprint(folder: Path, wnids: list[str], splits: Iterable[list[_Image]]) -> str:
    digest = hashlib.sha256("\n".join(wnids).encode())
    for images in splits:
        digest.update(b"\n\n")
        for image in images:
            name = image.path.removeprefix(str(folder))
            digest.update(f"{image.label}\0{name}\0{image.bytes}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _wnids(folder: Path) -> list[str]:
    listed = folder / "wnids.txt"
    if listed.is_file():
        wnids = listed.read_text().split()
        if wrong := [wnid for wnid in wnids if not _WNID.fullmatch(wnid)] or (len(set(wnids)) < len(wnids)):
            shown = "the same class twice" if wrong is True else repr(wrong[0])
            raise DamagedDataError(f"{listed}: holds {shown}; expected is one WNID a line, such as n01443537")
        return sorted(wnids)
    found = sorted(
        entry.name for entry in os.scandir(folder / "train") if _WNID.fullmatch(entry.name) and entry.is_dir()
    )
    if not found:
        raise MissingDataError(
            f"{folder / 'train'}: no class folder such as n01440764 in it; unpack the archive of each class into a folder "
            "of its name"
        )
    return found


def _pictures(folder: Path, label: int) -> list[_Image]:
    """The images of a folder, in the order of their names."""
    images = [
        _Image(str(folder), entry.name, entry.stat().st_size, label)
        for entry in os.scandir(folder)
        if Path(entry.name).suffix.lower() in SUFFIXES and not entry.name.startswith(".") and entry.is_file()
    ]
    return sorted(images, key=lambda image: image.name)


def _class_folder(folder: Path, label: int) -> list[_Image]:
    inner = folder / "images"
    images = _pictures(inner if inner.is_dir() else folder, label) if folder.is_dir() else []
    if not images:
        raise MissingDataError(f"{folder}: no image of this class (looked for {', '.join(SUFFIXES)})")
    return images


def _train(folder: Path, numbers: Mapping[str, int]) -> list[_Image]:
    return [image for wnid, number in numbers.items() for image in _class_folder(folder / "train" / wnid, number)]


def _validation(folder: Path, numbers: Mapping[str, int]) -> list[_Image]:
    val = folder / "val"
    if any((val / wnid).is_dir() for wnid in numbers):
        return [image for wnid, number in numbers.items() for image in _class_folder(val / wnid, number)]
    images = _pictures(val / "images" if (val / "images").is_dir() else val, -1)
    if not images:
        raise MissingDataError(f"{val}: neither class folders nor images in it")
    where, labels = _ground_truth(folder, [image.name for image in images])
    if unknown := sorted({wnid for wnid in labels.values() if wnid not in numbers}):
        raise DamagedDataError(f"{where}: names the class {unknown[0]!r}, which has no training images")
    if extra := sorted(labels.keys() - {image.name for image in images}):
        raise DamagedDataError(f"{where}: lists {extra[0]}, which is not in {images[0].folder}")
    missing = next((image for image in images if image.name not in labels), None)
    if missing is not None:
        raise DamagedDataError(f"{where}: does not list {missing.path}")
    return [dataclasses.replace(image, label=numbers[labels[image.name]]) for image in images]


def _ground_truth(folder: Path, names: list[str]) -> tuple[Path, dict[str, str]]:
    """A list of the validation images' classes, and what it says: file name -> WNID."""
    around = (folder, folder / "val", folder / _DEVKIT, folder.parent / _DEVKIT, *list(folder.parents)[:3])
    readers = {"val_annotations.txt": _annotations, _SOLUTION: _solution, _LABELS: _in_order, _TRUTH: _numbered}
    for name, read in readers.items():
        for place in around:
            if (path := place / name).is_file():
                return path, read(path, names)
    raise MissingDataError(
        f"{folder / 'val'}: the images are not in class folders, and no list says what they show. Put {', '.join(readers)} "
        f"(this one with meta.mat) into {folder}, or move the images into folders val/WNID"
    )


def _annotations(path: Path, names: list[str]) -> dict[str, str]:  # noqa: ARG001  (the other readers need them)
    rows = [line.split("\t") for line in path.read_text().splitlines() if line.strip()]
    if bad := next((row for row in rows if len(row) < 2), None):
        raise DamagedDataError(f"{path}: the line {bad[0]!r} is not an image's name, a tab, and a WNID")
    return {row[0]: row[1] for row in rows}


def _solution(path: Path, names: list[str]) -> dict[str, str]:
    with path.open(newline="") as file:
        table = {row["ImageId"]: row["PredictionString"].split()[0] for row in _rows(path, file)}
    return {name: table.pop(Path(name).stem) for name in names if Path(name).stem in table} | table


def _rows(path: Path, file: Iterable[str]) -> list[dict[str, str]]:
    rows = list(csv.DictReader(file))
    if not rows or any(not row.get("ImageId") or not (row.get("PredictionString") or "").split() for row in rows):
        raise DamagedDataError(f"{path}: expected the columns ImageId and PredictionString, a WNID and a box")
    return rows


def _in_order(path: Path, names: list[str]) -> dict[str, str]:
    return _aligned(path, names, path.read_text().split())


def _aligned(path: Path, names: list[str], wnids: list[str]) -> dict[str, str]:
    if len(wnids) != len(names):
        raise DamagedDataError(f"{path}: has {len(wnids)} lines for {len(names)} images; all images must be there")
    return dict(zip(names, wnids))


def _numbered(path: Path, names: list[str]) -> dict[str, str]:
    meta = path.with_name("meta.mat")
    if not meta.is_file():
        raise MissingDataError(
            f"{path}: its numbers follow the development kit's order, not that of the WNIDs; put meta.mat beside it"
        )
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise MissingExtraError("scipy", "data", f"reading {meta}") from error
    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        known = {int(entry["ILSVRC2012_ID"]): str(entry["WNID"]) for entry in np.atleast_1d(synsets)}
        wnids = [known[int(line)] for line in path.read_text().split()]
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise DamagedDataError(
            f"{path} and {meta} do not fit together ({error!r}); copy the development kit's"
        ) from error
    return _aligned(path, names, wnids)


def _names(folder: Path, wnids: list[str]) -> tuple[str, ...]:
    """What the classes are called; two of the same name get their WNIDs."""
    places = (folder, *list(folder.parents)[:3])
    path = next((place / name for name in _NAMES for place in places if (place / name).is_file()), None)
    words = {}
    for line in [] if path is None else path.read_text(encoding="utf-8").splitlines():
        wnid, *rest = line.split(maxsplit=1)[:2] if line.strip() else [""]
        words[wnid] = rest[0].strip() if rest else wnid
    names = [words.get(wnid, wnid) for wnid in wnids]
    return tuple(name if names.count(name) == 1 else f"{name} ({wnid})" for name, wnid in zip(names, wnids))
