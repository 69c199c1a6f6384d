"""One door to every data set: find, verify, read, normalise, move to the device."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import torch

from supermask.data import decoding, digits, files, folder, imagenet, normalize, own, shards
from supermask.data.catalog import DATASETS, DataInfo
from supermask.data.dataset import DataSet, Pixels, RawData, Split, content_checksum
from supermask.data.download import Progress, get
from supermask.data.locate import find, how_to_get
from supermask.data.split import hold_out
from supermask.errors import ConfigError, DamagedDataError, MissingDataError

RESIDENT_BYTES: Final = 4 << 30  # sets of stored images up to this size go onto an accelerator as a whole


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
    processes: int | None = None,
    **options: Any,
) -> DataSet:
    """Load a data set.

    Most sets are normalised at once and live in the memory of the device. Those of many photographs (``tiny-imagenet``,
    ``imagenet``, ``webdataset``) are decoded once into the cache folder, stay bytes, and are normalised batch by batch on
    the device; on the CPU, and where they are larger than :data:`RESIDENT_BYTES`, their bytes are mapped from the file.

    Args:
        name: ``mnist``, ``fashion-mnist``, ``cifar10``, ``cifar100``, ``digits``, ``tiny-imagenet``, ``imagenet``, or an own
            one: ``npz`` (option ``file``), ``folder`` (option ``path``) or ``webdataset`` (option ``shards``).
        root: Data folder to search first; see :func:`supermask.data.locate.search_folders` for the others.
        device: Where batches shall live.
        normalize: ``image`` (per-image standardisation), ``dataset`` (channel mean and std of the training split),
            ``imagenet`` (ImageNet's usual constants) or ``none`` (pixels scaled to [0, 1]); see
            :mod:`supermask.data.normalize`.
        download: Whether to download what is not found.
        dtype: Floating-point type of the images.
        progress: Called with (what, done, in all) while bytes are downloaded or images are decoded.
        validation: How many training images to hold out, see :func:`supermask.data.split.hold_out`. The channel
            statistics of ``dataset`` are those of all training images, so that an image stays the same.
        processes: Processes that decode images, where there are any to decode; None: one a core.
        **options: ``classes`` of Tiny-ImageNet; ``classes``, ``size`` and ``crop`` of ImageNet (see :func:`open_stored`);
            of own data sets, see :func:`supermask.data.own.read_npz`, :func:`supermask.data.folder.read_folder` and
            :func:`supermask.data.shards.source`.

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
    if info.folders or name == "webdataset":
        stored, crop = open_stored(name, root=root, processes=processes, progress=progress, **options)
        return _finish_stored(name, stored, crop, torch.device(device), normalize, dtype, validation)
    raw = _read(info, root, download, progress, options)
    checksum = content_checksum(raw)
    if info.checksum is not None and checksum != info.checksum:
        raise DamagedDataError(
            f"{name}: the content has the checksum {checksum}, expected {info.checksum}; its package or files were "
            "changed: install or copy them anew"
        )
    return _finish(name, raw, checksum, torch.device(device), normalize, dtype, validation)


def open_stored(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    processes: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> tuple[decoding.Decoded, int | None]:
    """Find a set of many images, and decode it unless that was done before.

    Args:
        name: ``tiny-imagenet``, ``imagenet`` or ``webdataset``.
        root: As in :func:`load`, as the others.
        processes: The same.
        progress: The same.
        **options: ``classes``: how many there must be. ``size``: height and width at which images are kept, in pixels:
            the shorter side is resized to it and the middle kept. ``crop``: height and width of the middle with which a
            model is tested, and trained unless ``augment`` says otherwise. Those of Tiny-ImageNet are kept as they are.

    Returns:
        The images, and ``crop``.

    Raises:
        ConfigError: An option is unknown, missing or out of range, or the set is kept in another way.
        MissingDataError: Files are missing; the message says what to put where.
        DamagedDataError: An image, a list or the cache is damaged.
        DataError: A file cannot be read, or the cache not written.
        MissingExtraError: Pillow or webdataset is not installed.
    """
    info = DATASETS.get(name)
    if info is None or not (info.folders or name == "webdataset"):
        raise ConfigError(f"data set {name!r} has no images to decode; tiny-imagenet, imagenet and webdataset have")
    _check_names(info, options)
    given = {**info.options, **options}
    for key in {"classes", "size", "crop"} & given.keys():
        if isinstance(given[key], bool) or not isinstance(given[key], int) or given[key] < 1:
            raise ConfigError(f"data.{key} must be a whole number >= 1, got {given[key]!r}")
    crop = given.pop("crop", None)
    if crop is not None and crop > given["size"]:
        raise ConfigError(f"data.crop is {crop}, but images are kept at data.size = {given['size']} pixels")
    if name == "webdataset":
        source = shards.source(root, **given)
    elif name == "imagenet":
        source = imagenet.source(info, root, **given)
    else:
        source = imagenet.source(info, root, size=64, exact=True, **given)
    return decoding.decoded(source, processes=processes, progress=progress), crop


def _check_options(info: DataInfo, kind: str, dtype: torch.dtype, options: Mapping[str, Any]) -> None:
    if kind not in normalize.KINDS:
        raise ConfigError(
            f"data.normalize must be one of {', '.join(normalize.KINDS)}, got {kind!r}{_closest(kind, normalize.KINDS)}"
        )
    if not dtype.is_floating_point:
        raise ConfigError(f"dtype must be a floating-point type, got {dtype}")
    _check_names(info, options)


def _check_names(info: DataInfo, options: Mapping[str, Any]) -> None:
    for key in options:
        if key not in info.options:
            known = f"it takes {', '.join(info.options)}" if info.options else "it takes none"
            raise ConfigError(f"data set {info.name} has no option {key!r}{_closest(key, info.options)}; {known}")
    for key, default in info.options.items():
        if default is ... and key not in options:
            shown = "NUMBER" if key == "classes" else "PATH"
            raise ConfigError(
                f"data set {info.name} needs the option {key!r}: data: {{name: {info.name}, {key}: {shown}}}"
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


def _finish_stored(
    name: str,
    stored: decoding.Decoded,
    crop: int | None,
    device: torch.device,
    kind: str,
    dtype: torch.dtype,
    validation: int,
) -> DataSet:
    raw = stored.raw
    statistics = np.array(stored.mean), np.array(stored.std)
    inputs, description = normalize.inputs_of(raw, kind, dtype, statistics, crop)
    resident = raw.train_images.nbytes + raw.test_images.nbytes <= RESIDENT_BYTES
    place = device if resident else torch.device("cpu")
    train_x, test_x = (_mapped(images).to(place) for images in (raw.train_images, raw.test_images))
    y, test_y = (torch.from_numpy(labels).to(device) for labels in (raw.train_labels, raw.test_labels))
    train, held_out = Split(train_x, y, inputs), None
    if validation:
        left, chosen = (torch.from_numpy(part) for part in hold_out(len(train), validation))
        train, held_out = (Split(train_x, y[rows.to(device)], inputs, rows.to(place)) for rows in (left, chosen))
    return DataSet(
        name=name,
        train=train,
        test=Split(test_x, test_y, inputs),
        classes=raw.classes,
        checksum=stored.checksum,
        normalization=description | ({} if crop is None else {"crop": crop}),
        validation=held_out,
    )


def _mapped(images: Pixels) -> torch.Tensor:
    """A tensor over a read-only file, which Split only copies from."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(images)
