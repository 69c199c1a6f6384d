"""Where the files of a data set are on this machine, and what to say when they are not."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supermask.data.catalog import DATASETS, DataFile, DataInfo, Layout

# Debian's package dataset-fashion-mnist puts its files into fashion-mnist below it
_SYSTEM: Final = Path("/usr/share/datasets")


@dataclass(frozen=True)
class Found:
    """The files of one data set on this machine.

    Attributes:
        layout: The layout they are in.
        where: The folder they are in, or the archive.
        paths: Official name -> path; empty where ``where`` is an archive.
    """

    layout: Layout
    where: Path
    paths: dict[str, Path]


@dataclass(frozen=True)
class DataStatus:
    """One line of ``supermask data``.

    Attributes:
        name: Name of the data set.
        ready: Whether it can be loaded now; the files were found, their checksums not yet computed.
        where: Folder, archive or package it was found in; empty if not found.
        hint: What to do if it was not found; empty if it was.
    """

    name: str
    ready: bool
    where: str
    hint: str


def cache_folder() -> Path:
    """The folder for downloads when none is given: ``supermask`` in $XDG_CACHE_HOME or in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "supermask"


def download_folder(root: str | os.PathLike[str] | None = None) -> Path:
    """Where downloads go: ``root``, else $SUPERMASK_DATA, else :func:`cache_folder`."""
    return search_folders(root)[0]


def search_folders(root: str | os.PathLike[str] | None = None) -> list[Path]:
    """Data folders in the order of search: ``root``, $SUPERMASK_DATA, the cache folder, the system's data folder."""
    named = [root, os.environ.get("SUPERMASK_DATA") or None]
    return [Path(folder).expanduser() for folder in named if folder is not None] + [cache_folder(), _SYSTEM]


def find(info: DataInfo, root: str | os.PathLike[str] | None = None) -> Found | None:
    """Find the files of a data set, without reading them.

    The named folders and archives of all data folders come first. After them, a data folder that itself holds the files
    is taken too, so that ``root`` may also name the innermost folder.

    Returns:
        The first complete layout, or None.
    """
    roots = search_folders(root)
    places = [(folder, layout) for folder in roots for layout in info.layouts]
    candidates = (
        found for search in (_below, _itself) for folder, layout in places for found in search(folder, layout)
    )
    return next(candidates, None)


def _below(root: Path, layout: Layout) -> Iterator[Found]:
    for name in layout.folders:
        yield from _inside(root / name, layout)
    if layout.archive is not None:
        parents = (root, *(root / name for name in layout.folders))
        yield from (Found(layout, path, {}) for parent in parents if (path := parent / layout.archive.name).is_file())


def _itself(root: Path, layout: Layout) -> Iterator[Found]:
    yield from _inside(root, layout)
    if layout.reader == "idx":
        yield from _inside(root / "raw", layout)  # torchvision's folder MNIST or FashionMNIST


def _inside(folder: Path, layout: Layout) -> Iterator[Found]:
    paths = {file.name: path for file in (*layout.train, *layout.test) if (path := _form(folder, layout, file))}
    if len(paths) == len(layout.train) + len(layout.test):
        yield Found(layout, folder, paths)


def _form(folder: Path, layout: Layout, file: DataFile) -> Path | None:
    """The file in one of the forms it is passed on in: for IDX also with gzip, and with a dot before ``idx``."""
    names = [file.name]
    if layout.reader == "idx":
        dotted = file.name.replace("-idx", ".idx")
        names = [file.name, f"{file.name}.gz", dotted, f"{dotted}.gz"]
    return next((path for name in names if (path := folder / name).is_file()), None)


def find_tree(info: DataInfo, root: str | os.PathLike[str] | None = None) -> Path | None:
    """Find the folder of a set of image files: one that has ``train`` and ``val``.

    As in :func:`find`, a data folder that itself is such a folder comes after the named ones. It is Tiny-ImageNet if it
    holds wnids.txt or has "tiny" in its name, otherwise ImageNet.
    """
    roots = search_folders(root)
    itself = (folder for folder in roots if _is_tiny(folder) == (info.name == "tiny-imagenet"))
    candidates = (*(folder / name for folder in roots for name in info.folders), *itself)
    return next((folder for folder in candidates if (folder / "train").is_dir() and (folder / "val").is_dir()), None)


def _is_tiny(folder: Path) -> bool:
    return "tiny" in folder.name.lower() or (folder / "wnids.txt").is_file()


def how_to_get(info: DataInfo, root: str | os.PathLike[str] | None = None) -> str:
    """Say what to put where, for a data set of files that was not found."""
    folders = search_folders(root)
    target = folders[0]
    searched = ", ".join(f"{folder}" + ("" if folder.is_dir() else " (no such folder)") for folder in folders)
    if info.folders:
        below = target / info.folders[0]
        return (
            f"Searched: {searched}.\nIt is not downloaded, as its terms ask each user to agree. Get it from {info.source} and "
            f"unpack it to\n  {below / 'train'} with a folder for each class\n  {below / 'val'} with the same folders, or "
            "with images and the list of their classes\n"
            "or name the folder around it by --data-dir, root= or the environment variable SUPERMASK_DATA. The folder may "
            f"also be called {' or '.join(info.folders[1:])}."
        )
    wanted = []
    for layout in info.layouts:
        names = ", ".join(file.name for file in (*layout.train, *layout.test))
        suffix = " (each with or without .gz)" if layout.reader == "idx" else ""
        wanted.append(f"  {target / layout.folders[0]}{os.sep} with {names}{suffix}")
        if layout.archive is not None:
            wanted.append(f"  {target / layout.archive.name}")
    debian = "\nor install Debian's package dataset-fashion-mnist" if info.name == "fashion-mnist" else ""
    return (
        f"Searched: {searched}.\nWith a network, `supermask data get {info.name}` or load(..., download=True) "
        f"downloads it. Otherwise put the official files ({info.source}) there:\n"
        + "\n  or\n".join(wanted)
        + debian
        + "\n"
        "or name the folder that has them by --data-dir, root= or the environment variable SUPERMASK_DATA "
        "(torchvision's folders are understood as they are)."
    )


def status(root: str | os.PathLike[str] | None = None) -> list[DataStatus]:
    """Say for every data set that has files whether they are on this machine.

    Args:
        root: Data folder to search first.

    Returns:
        One entry a data set, in the order of the catalogue, without the own data sets.
    """
    lines = []
    for info in DATASETS.values():
        if info.layouts:
            found = find(info, root)
            hint = "" if found else f"supermask data get {info.name}"
            lines.append(DataStatus(info.name, found is not None, str(found.where) if found else "", hint))
        elif info.folders:
            tree = find_tree(info, root)
            hint = "" if tree else f"supermask data {info.name} says how"
            lines.append(DataStatus(info.name, tree is not None, str(tree or ""), hint))
        elif info.name == "digits":
            ready = importlib.util.find_spec("sklearn") is not None
            hint = "" if ready else "python -m pip install 'supermask[data]'"
            lines.append(DataStatus(info.name, ready, "scikit-learn" if ready else "", hint))
    return lines
