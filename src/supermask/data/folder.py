"""An own data set as a folder of images for each class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from supermask.data.dataset import Pixels, RawData, Targets
from supermask.data.own import assemble, check_split_options
from supermask.data.pictures import BILINEAR, picture
from supermask.errors import ConfigError, DamagedDataError, MissingDataError

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp")
_TEST_NAMES: Final = ("test", "val")

Size = tuple[int, int]


def read_folder(
    *,
    path: str | os.PathLike[str],
    size: int | Sequence[int] | None = None,
    channels: int | None = None,
    test_fraction: float | None = None,
    split_seed: int = 0,
) -> RawData:
    """Read an own data set from a folder of images.

    Either ``path/train/CLASS/*`` and ``path/test/CLASS/*`` (``val`` where there is no ``test``), or ``path/CLASS/*``,
    from which a test split is split off, stratified and reproducible. Classes are numbered in the alphabetical order of
    their folders, images in that of their paths; images in folders below a class belong to it. Read are .png, .jpg,
    .jpeg, .bmp, .ppm, .pgm and .webp in any case; other files and hidden ones are left alone.

    Args:
        path: The folder.
        size: Height and width to which all images are resized (bilinear, antialiased), or one number for both; default:
            none, then all images must have one size.
        channels: 1 (grey) or 3 (RGB; transparency is dropped); default: 1 if every image is grey, else 3.
        test_fraction: Share of the images to split off where there is no test folder, in (0, 1); default 0.2.
        split_seed: Which split, an integer >= 0.

    Returns:
        The data set, images (N, C, H, W) uint8.

    Raises:
        ConfigError: An option is wrong.
        MissingExtraError: Pillow is not installed.
        MissingDataError: The folder, or images in it, are missing.
        DamagedDataError: An image cannot be read or has another size than the first, or a test class is no training
            class.
        DataError: A class is too small to be split.
    """
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(f"data.path must be the path of a folder, got {path!r}")
    if channels not in (None, 1, 3):
        raise ConfigError(f"data.channels must be 1 (grey) or 3 (RGB), got {channels!r}")
    check_split_options(test_fraction, split_seed)
    target = _size(size)
    root = Path(path).expanduser()
    if not root.is_dir():
        raise MissingDataError(f"data.path: there is no folder {root} (looked from {Path.cwd()})")
    parts = [root]
    if (root / "train").is_dir():
        test = next((root / name for name in _TEST_NAMES if (root / name).is_dir()), None)
        parts = [root / "train"] if test is None else [root / "train", test]
    listed = [_classes(part) for part in parts]
    names = tuple(listed[0])
    unknown = sorted(set(listed[-1]) - set(names))
    if unknown:
        raise DamagedDataError(f"{parts[-1] / unknown[0]}: the training folder {parts[0]} has no class {unknown[0]!r}")
    files = [[(file, names.index(name)) for name, found in part.items() for file in found] for part in listed]
    images = _load([file for part in files for file, _ in part], target, channels)
    labels = np.array([label for part in files for _, label in part], np.int64)
    count = len(files[0])
    pairs: list[tuple[Pixels, Targets]] = [(images[:count], labels[:count])]
    if len(parts) == 2:
        pairs.append((images[count:], labels[count:]))
    return assemble(str(root), pairs, names, test_fraction, split_seed)


def _size(size: Any) -> Size | None:
    pair = (size, size) if isinstance(size, int) else size
    if pair is None:
        return None
    if not isinstance(pair, Sequence) or len(pair) != 2 or any(type(n) is not int or n < 1 for n in pair):
        raise ConfigError(f"data.size must be a number of pixels or [height, width], got {size!r}")
    return pair[0], pair[1]


def _classes(folder: Path) -> dict[str, list[Path]]:
    """Class name -> its images, both in order."""
    classes = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir() and not entry.name.startswith("."):
            found = [
                file
                for file in entry.rglob("*")
                if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
            ]
            if not found:
                raise MissingDataError(f"{entry}: no image in this class folder (looked for {', '.join(SUFFIXES)})")
            classes[entry.name] = sorted(found, key=lambda file: file.relative_to(entry).as_posix())
    if not classes:
        raise MissingDataError(
            f"{folder}: no class folder in it; expected {folder / 'CLASS'}{os.sep}*.png (or .jpg, ...), one folder a "
            "class"
        )
    return classes


def _load(files: list[Path], size: Size | None, channels: int | None) -> npt.NDArray[np.uint8]:
    """Read images into one array, (N, 1, H, W) if all are grey or ``channels`` is 1, else (N, 3, H, W)."""
    read: list[npt.NDArray[np.uint8]] = []
    first: Size | None = None
    for file in files:
        pixels = _pixels(file, size, channels)
        if first is None:
            first = pixels.shape[:2]
        if pixels.shape[:2] != first:
            raise DamagedDataError(
                f"{file}: {_by(pixels.shape)} (height x width), but {files[0]} has {_by(first)}; all images must have "
                f"one size: set data.size, for example `size: [{first[0]}, {first[1]}]`, to resize them"
            )
        read.append(pixels)
    depth = max(pixels.shape[2] for pixels in read)
    assert first is not None
    out = np.empty((len(read), depth, *first), np.uint8)
    for target, pixels in zip(out, read):
        target[...] = pixels.transpose(2, 0, 1)  # a grey image among coloured ones gets three equal channels
    return out


def _by(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} x {shape[1]}"


def _pixels(file: Path, size: Size | None, channels: int | None) -> npt.NDArray[np.uint8]:
    """One image, (H, W, 1) or (H, W, 3)."""
    image = picture(file, str(file), channels)
    if size is not None:
        image = image.resize((size[1], size[0]), BILINEAR)
    pixels = np.asarray(image, np.uint8)
    return pixels.reshape(*pixels.shape[:2], -1)
