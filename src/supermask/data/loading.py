"""One door to every data set: find, verify, read, normalise, move to the device."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from supermask.data import digits, files, folder, normalize, own
from supermask.data.catalog import DATASETS, DataInfo
from supermask.data.dataset import DataSet, RawData, Split, content_checksum
from supermask.data.download import Progress, get
from supermask.data.locate import find, how_to_get
from supermask.data.split import hold_out
from supermask.errors import ConfigError, DamagedDataError, MissingDataError


def load(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    normalize: str = "image",
    download: bool = False,
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
    validation: int = 0,
    **options: Any,
) -> DataSet:
    """Load a data set into the memory of a device.

    Args:
        name: ``mnist``, ``fashion-mnist``, ``cifar10``, ``cifar100``, ``digits``, or an own one: ``npz`` (option
            ``file``) or ``folder`` (option ``path``).
        root: Data folder to search first; see :func:`supermask.data.locate.search_folders` for the others.
        device: Where the tensors shall live.
        normalize: ``image`` (per-image standardisation), ``dataset`` (channel mean and std of the training split) or
            ``none`` (pixels scaled to [0, 1]); see :mod:`supermask.data.normalize`.
        download: Whether to download what is not found.
        dtype: Floating-point type of the images.
        progress: Passed on to :func:`supermask.data.download.get`.
        validation: How many training images to hold out, see :func:`supermask.data.split.hold_out`. The channel
            statistics of ``dataset`` are those of all training images, so that an image stays the same.
        **options: Of own data sets: see :func:`supermask.data.own.read_npz` and
            :func:`supermask.data.folder.read_folder`.

    Returns:
        The data set; its images are the same bits on every device.

    Raises:
        ConfigError: Unknown name, option or normalisation, with the closest known ones; or ``validation`` is negative
            or leaves no training image.
        MissingDataError: Files are missing; the message says what to put where.
        DamagedDataError: A file is there but not what it should be.
        DataError: A file cannot be read.
        MissingExtraError: The data set needs a package that is not installed.
    """
    info = DATASETS.get(name) if isinstance(name, str) else None
    if info is None:
        raise ConfigError(f"unknown data set {name!r}{_closest(name, DATASETS)}; known are {', '.join(DATASETS)}")
    _check_options(info, normalize, dtype, options)
    if validation < 0:
        raise ConfigError(f"data.validation must be a number of training images >= 0, got {validation}")
    raw = _read(info, root, download, progress, options)
    checksum = content_checksum(raw)
    if info.checksum is not None and checksum != info.checksum:
        raise DamagedDataError(
            f"{name}: the content has the checksum {checksum}, expected {info.checksum}; its package or files were "
            "changed: install or copy them anew"
        )
    return _finish(name, raw, checksum, torch.device(device), normalize, dtype, validation)


def _check_options(info: DataInfo, kind: str, dtype: torch.dtype, options: Mapping[str, Any]) -> None:
    if kind not in normalize.KINDS:
        raise ConfigError(
            f"data.normalize must be one of {', '.join(normalize.KINDS)}, got {kind!r}{_closest(kind, normalize.KINDS)}"
        )
    if not dtype.is_floating_point:
        raise ConfigError(f"dtype must be a floating-point type, got {dtype}")
    for key in options:
        if key not in info.options:
            known = f"it takes {', '.join(info.options)}" if info.options else "it takes none"
            raise ConfigError(f"data set {info.name} has no option {key!r}{_closest(key, info.options)}; {known}")
    for key, default in info.options.items():
        if default is ... and key not in options:
            raise ConfigError(
                f"data set {info.name} needs the option {key!r}: data: {{name: {info.name}, {key}: PATH}}"
            )


def _closest(value: object, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(str(value), list(known), n=1)
    return f"; did you mean {match[0]!r}?" if match else ""


def _read(
    info: DataInfo,
    root: str | os.PathLike[str] | None,
    download: bool,
    progress: Progress | None,
    options: Mapping[str, Any],
) -> RawData:
    if info.name == "digits":
        return digits.read()
    if info.name == "npz":
        return own.read_npz(**options)
    if info.name == "folder":
        return folder.read_folder(**options)
    found = find(info, root)
    if found is None and download:
        get(info.name, root=root, progress=progress)
        found = find(info, root)
    if found is None:
        raise MissingDataError(f"the files of data set {info.name!r} were not found. {how_to_get(info, root)}")
    return files.read(info, found)


def _finish(
    name: str, raw: RawData, checksum: str, device: torch.device, kind: str, dtype: torch.dtype, validation: int
) -> DataSet:
    train, test, description = normalize.normalize(raw, kind, dtype)
    y, test_y = (torch.from_numpy(labels) for labels in (raw.train_labels, raw.test_labels))
    if y.is_floating_point():
        y, test_y = y.to(dtype), test_y.to(dtype)
    whole, held_out = Split(train, y), None
    if validation:
        left, chosen = (torch.from_numpy(part) for part in hold_out(len(whole), validation))
        whole, held_out = Split(whole.x[left], whole.y[left]), Split(whole.x[chosen], whole.y[chosen])
    return DataSet(
        name=name,
        train=whole.to(device),
        test=Split(test, test_y).to(device),
        classes=raw.classes,
        checksum=checksum,
        normalization=description,
        validation=None if held_out is None else held_out.to(device),
    )
