"""An own data set in one ``.npz`` file, and what it shares with a folder of images."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from supermask.data.dataset import Labels, Pixels, RawData, Targets
from supermask.data.idx import check_labels
from supermask.data.split import stratified, unstratified
from supermask.errors import ConfigError, DamagedDataError, DataError, MissingDataError

LAYOUTS: Final = ("auto", "NHW", "NHWC", "NCHW")
_DEFAULT_FRACTION: Final = 0.2
_CHANNELS: Final = (1, 2, 3, 4)  # numbers of channels that "auto" recognises
_SPLIT: Final = ("train_images", "train_labels", "test_images", "test_labels")


def read_npz(
    *,
    file: str | os.PathLike[str],
    layout: str = "auto",
    test_fraction: float | None = None,
    split_seed: int = 0,
) -> RawData:
    """Read an own data set from an ``.npz`` file.

    Keys: ``train_images``, ``train_labels`` and, if there is a test split, ``test_images``, ``test_labels``; or
    ``images`` and ``labels``. Without a test split one is split off, stratified and reproducible. Optional
    ``classes``: the names, an array of strings.

    Images are uint8 (0 to 255) or floating point (used as they are), shaped NHW (grey), NHWC or NCHW. Labels are
    integers 0 to K-1 of shape (N,); every class must occur in the training split. Or they are floating point, shape (N,)
    or (N, K): K numbers to predict for each image, which have no classes, and are split without them.

    Args:
        file: Path of the file.
        layout: ``auto`` takes the axis of size 1 to 4 for the channels and refuses when both or none could be;
            ``NHW``, ``NHWC`` and ``NCHW`` say it.
        test_fraction: Share of the images to split off where the file has no test split, in (0, 1); default 0.2.
        split_seed: Which split, an integer >= 0.

    Returns:
        The data set.

    Raises:
        ConfigError: An option is wrong.
        MissingDataError: There is no such file.
        DamagedDataError: The file is no npz file, or its arrays do not fit the description above.
        DataError: The file cannot be read, or a class is too small to be split.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"data.layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if not isinstance(file, str | os.PathLike):
        raise ConfigError(f"data.file must be the path of an .npz file, got {file!r}")
    check_split_options(test_fraction, split_seed)
    path = Path(file).expanduser()
    arrays = _arrays(path)
    names = _class_names(path, arrays.pop("classes", None))
    single = "images" in arrays
    wanted: tuple[str, ...] = ("images", "labels") if single else _SPLIT if "test_images" in arrays else _SPLIT[:2]
    if set(arrays) != set(wanted):
        raise DamagedDataError(
            f"{path}: holds the arrays {', '.join(sorted(arrays)) or '(none)'}; expected are train_images and "
            "train_labels (with or without test_images and test_labels), or images and labels; and, optionally, classes"
        )
    parts = [
        (_images(f"{path} ({wanted[i]})", arrays[wanted[i]], layout), arrays[wanted[i + 1]])
        for i in range(0, len(wanted), 2)
    ]
    checked = [(x, _labels(f"{path} ({wanted[2 * i + 1]})", y, len(x))) for i, (x, y) in enumerate(parts)]
    first, last = checked[0][1], checked[-1][1]
    if first.shape[1:] != last.shape[1:]:
        described = " but ".join(_describe(y) for _, y in checked)
        raise DamagedDataError(f"{path}: train_labels are {described} in test_labels; both must agree")
    if names and first.ndim == 2:
        raise DamagedDataError(f"{path}: there are classes, but the labels are numbers to predict; leave classes out")
    if len(checked) == 2 and (
        checked[0][0].shape[1:] != checked[1][0].shape[1:] or checked[0][0].dtype != checked[1][0].dtype
    ):
        described = " but ".join(f"{x.dtype} of shape (C, H, W) = {x.shape[1:]}" for x, _ in checked)
        raise DamagedDataError(f"{path}: train_images are {described} in test_images; both must agree")
    return assemble(str(path), checked, names, test_fraction, split_seed)


def assemble(
    where: str,
    parts: list[tuple[Pixels, Targets]],
    names: tuple[str, ...] | None,
    test_fraction: float | None,
    split_seed: int,
) -> RawData:
    """Make a data set of one part, which is then split, or of a training and a test part.

    Args:
        where: The source, for messages.
        parts: One or two pairs of images (N, C, H, W) and labels (N,), or numbers to predict (N, K).
        names: Class names; None for the numbers of the classes.
        test_fraction: As in :func:`read_npz`.
        split_seed: As in :func:`read_npz`.

    Raises:
        ConfigError: ``test_fraction`` is given although there is a test part.
        DamagedDataError: A label is out of range, or a class does not occur.
        DataError: A class is too small to be split.
    """
    classes = () if parts[0][1].ndim == 2 else _classes(where, [np.asarray(y, np.int64) for _, y in parts], names)
    scale = 255.0 if parts[0][0].dtype == np.uint8 else 1.0
    if len(parts) == 2:
        if test_fraction is not None:
            raise ConfigError(
                f"data.test_fraction is {test_fraction}, but {where} has a test split already; remove the key"
            )
        return RawData(*parts[0], *parts[1], classes, scale)
    images, labels = parts[0]
    fraction = _DEFAULT_FRACTION if test_fraction is None else test_fraction
    try:
        test_count = int(len(labels) * fraction + 0.5)
        if labels.ndim == 2:
            train, test = unstratified(len(labels), test_count, split_seed)
        else:
            train, test = stratified(np.asarray(labels, np.int64), test_count, split_seed)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    return RawData(images[train], labels[train], images[test], labels[test], classes, scale)


def _classes(where: str, parts: list[Labels], names: tuple[str, ...] | None) -> tuple[str, ...]:
    """Names of the classes, after a look at the labels of each part."""
    count = len(names) if names else int(parts[0].max()) + 1
    for name, labels in zip(("training", "test"), parts):
        check_labels(f"{where} ({name} labels)", labels, count)
    missing = np.setdiff1d(np.arange(count), parts[0])
    if len(missing):
        raise DamagedDataError(
            f"{where}: class {int(missing[0])} has no training image; labels must number the classes 0 to K-1 without "
            f"a gap (here K = {count})"
        )
    return names or tuple(str(cls) for cls in range(count))


def check_split_options(test_fraction: Any, split_seed: Any) -> None:
    """Raise ConfigError unless the two options of a split are in range."""
    number = isinstance(test_fraction, int | float) and not isinstance(test_fraction, bool)
    if test_fraction is not None and not (number and 0 < test_fraction < 1):
        raise ConfigError(
            f"data.test_fraction must be in (0, 1), the share of images for testing, got {test_fraction!r}"
        )
    if isinstance(split_seed, bool) or not isinstance(split_seed, int) or split_seed < 0:
        raise ConfigError(f"data.split_seed must be an integer >= 0, got {split_seed!r}")


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DamagedDataError(
                    f"{path}: not an .npz file but a single array; save it by numpy.savez(file, images=..., labels=...)"
                )
            with file:
                return {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise MissingDataError(f"data.file: there is no file {path} (looked from {Path.cwd()})") from error
    except DamagedDataError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise DamagedDataError(
            f"{path}: not a readable .npz file ({error}). Write it by numpy.savez or savez_compressed, without objects"
        ) from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _class_names(path: Path, names: npt.NDArray[Any] | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    if names.dtype.kind != "U" or names.ndim != 1 or not len(names) or len(set(names.tolist())) != len(names):
        raise DamagedDataError(
            f"{path} (classes): must be a list of different strings, got {names.dtype} {names.shape}"
        )
    return tuple(str(name) for name in names)


def _images(where: str, images: npt.NDArray[Any], layout: str) -> Pixels:
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise DamagedDataError(
            f"{where}: images are {images.dtype}; they must be uint8 (0 to 255) or floating point: convert by .astype"
        )
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise DamagedDataError(
            f"{where}: images have the shape {images.shape}; they must be NHW, NHWC or NCHW, and not empty"
        )
    ordered = _channels_first(where, images, layout)
    if ordered.dtype == np.uint8:
        return np.ascontiguousarray(ordered)
    with np.errstate(over="ignore"):
        wide = np.ascontiguousarray(ordered, np.float32)
    bad = np.flatnonzero(~np.isfinite(wide).all(axis=(1, 2, 3)))
    if len(bad):
        raise DamagedDataError(f"{where}: image {int(bad[0])} holds NaN, infinity, or a number beyond float32")
    return wide


def _channels_first(where: str, images: npt.NDArray[Any], layout: str) -> npt.NDArray[Any]:
    shape = images.shape
    if layout == "auto" and images.ndim == 4:
        last, first = shape[3] in _CHANNELS, shape[1] in _CHANNELS
        if last == first:
            both = "both the second and the last axis" if last else "neither the second nor the last axis"
            raise DamagedDataError(
                f"{where}: shape {shape}: {both} could be the channels; set data.layout to NHWC or NCHW"
            )
        layout = "NHWC" if last else "NCHW"
    elif layout == "auto":
        layout = "NHW"
    if len(layout) != images.ndim:
        raise DamagedDataError(f"{where}: data.layout is {layout}, but the images have the shape {shape}")
    if layout == "NHW":
        return images[:, None]
    return images.transpose(0, 3, 1, 2) if layout == "NHWC" else images


def _describe(labels: Targets) -> str:
    return f"{labels.shape[1]} numbers an image" if labels.ndim == 2 else "classes"


def _labels(where: str, labels: npt.NDArray[Any], count: int) -> Targets:
    if labels.dtype.kind == "f" and labels.ndim in (1, 2) and len(labels) == count and labels.size:
        with np.errstate(over="ignore"):
            numbers = labels.reshape(count, -1).astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(numbers).all(axis=1))
        if len(bad):
            raise DamagedDataError(
                f"{where}: the label of image {int(bad[0])} holds NaN, infinity, or a number beyond float32"
            )
        return numbers
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise DamagedDataError(
            f"{where}: labels are {labels.dtype} of shape {labels.shape}; they must be integers of shape ({count},), "
            f"one an image, or, to predict numbers, floating point of shape ({count},) or ({count}, K)"
        )
    return labels.astype(np.int64)
