from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from supermask.data import load
from supermask.data.split import unstratified
from supermask.errors import ConfigError, DamagedDataError, DataError, MissingDataError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 6, 5), np.uint8)
COLOUR = RNG.integers(0, 256, (20, 6, 5, 3), np.uint8)
LABELS = np.arange(20) % 4


def save(folder: Path, **arrays: Any) -> Path:
    np.savez_compressed(folder / "own.npz", **arrays)
    return folder / "own.npz"


def test_train_and_test(tmp_path: Path) -> None:
    file = save(tmp_path, train_images=GREY, train_labels=LABELS, test_images=GREY[:3], test_labels=LABELS[:3])
    data = load("npz", file=file, normalize="none")
    assert data.name == "npz"
    assert torch.equal((data.train.x * 255).round()[:, 0], torch.from_numpy(GREY).float())
    assert data.test.x.shape == (3, 1, 6, 5)
    assert data.train.y.tolist() == LABELS.tolist()
    assert data.classes == ("0", "1", "2", "3")


@pytest.mark.parametrize("keys", [("images", "labels"), ("train_images", "train_labels")])
def test_split_is_stratified_and_reproducible(tmp_path: Path, keys: tuple[str, str]) -> None:
    file = save(tmp_path, **dict(zip(keys, (GREY, LABELS))))
    data = load("npz", file=str(file), normalize="none")
    assert (len(data.train), len(data.test)) == (16, 4)
    assert data.test.y.bincount().tolist() == [1, 1, 1, 1]
    assert load("npz", file=file).checksum == data.checksum
    assert load("npz", file=file, split_seed=1).checksum != data.checksum
    assert len(load("npz", file=file, test_fraction=0.5).test) == 10


def test_layouts(tmp_path: Path) -> None:
    first = np.ascontiguousarray(COLOUR.transpose(0, 3, 1, 2))
    expected = torch.from_numpy(first).float()
    for images, layout in [(COLOUR, "auto"), (COLOUR, "NHWC"), (first, "auto"), (first, "NCHW")]:
        file = save(tmp_path, train_images=images, train_labels=LABELS, test_images=images, test_labels=LABELS)
        assert torch.equal((load("npz", file=file, layout=layout, normalize="none").train.x * 255).round(), expected)


def test_floats_are_taken_as_they_are(tmp_path: Path) -> None:
    images = RNG.normal(size=(20, 6, 5))
    file = save(tmp_path, images=images, labels=LABELS.astype(np.uint8))
    data = load("npz", file=file, normalize="none")
    assert data.normalization == {"kind": "none", "scale": 1.0}
    train = {tuple(image.ravel()) for image in images.astype(np.float32)}
    assert all(tuple(image.numpy().ravel()) in train for image in data.train.x)


def test_class_names(tmp_path: Path) -> None:
    file = save(tmp_path, images=GREY, labels=LABELS, classes=np.array(["a", "b", "c", "d"]))
    assert load("npz", file=file).classes == ("a", "b", "c", "d")


BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"pictures": GREY}, {}, "holds the arrays pictures; expected are train_images and train_labels"),
    ({"images": GREY}, {}, "holds the arrays images; expected are"),
    ({"images": GREY, "labels": LABELS, "extra": LABELS}, {}, "holds the arrays extra, images, labels; expected"),
    ({"images": GREY.astype(np.int64), "labels": LABELS}, {}, "own.npz (images): images are int64; they must be uint8"),
    ({"images": GREY[0], "labels": LABELS}, {}, "images have the shape (6, 5); they must be NHW, NHWC or NCHW"),
    ({"images": GREY[:0], "labels": LABELS[:0]}, {}, "images have the shape (0, 6, 5)"),
    ({"images": GREY, "labels": LABELS[:-1]}, {}, "labels are int64 of shape (19,); they must be integers of shape (20,)"),
    ({"images": GREY, "labels": LABELS * 1j}, {}, "(labels): labels are complex128 of shape (20,)"),
    ({"images": GREY, "labels": LABELS[:, None, None] * 1.0}, {}, "labels are float64 of shape (20, 1, 1); they must be"),
    ({"images": GREY, "labels": LABELS[:-1] * 1.0}, {}, "or, to predict numbers, floating point of shape (20,) or (20, K)"),
    ({"images": GREY, "labels": np.where(LABELS == 0, np.nan, 1.0)}, {}, "the label of image 0 holds NaN, infinity, or a"),
    ({"images": GREY, "labels": LABELS * 1e300}, {}, "the label of image 1 holds NaN, infinity, or a number beyond float32"),
    ({"images": GREY, "labels": LABELS * 1.0, "classes": np.array(["a", "b"])}, {}, "the labels are numbers to predict"),
    (
        {"train_images": GREY, "train_labels": LABELS, "test_images": GREY, "test_labels": LABELS * 1.0},
        {},
        "train_labels are classes but 1 numbers an image in test_labels; both must agree",
    ),
    ({"images": GREY, "labels": LABELS[:, None]}, {}, "(labels): labels are int64 of shape (20, 1)"),
    ({"images": GREY, "labels": LABELS - 1}, {}, "label -1 of image 0 is out of range; labels must be 0 to 2"),
    ({"images": GREY, "labels": LABELS * 2}, {}, "class 1 has no training image; labels must number the classes 0 to K-1"),
    ({"images": COLOUR[:, :3], "labels": LABELS}, {}, "shape (20, 3, 5, 3): both the second and the last axis could be"),
    ({"images": np.zeros((20, 5, 6, 7), np.uint8), "labels": LABELS}, {}, "neither the second nor the last axis could be"),
    ({"images": GREY, "labels": LABELS}, {"layout": "NCHW"}, "data.layout is NCHW, but the images have the shape (20, 6, 5)"),
    ({"images": np.full((20, 2, 2), np.nan), "labels": LABELS}, {}, "image 0 holds NaN, infinity, or a number beyond float32"),
    ({"images": np.full((20, 2, 2), 1e300), "labels": LABELS}, {}, "image 0 holds NaN, infinity, or a number beyond float32"),
    ({"images": GREY, "labels": LABELS, "classes": np.arange(4)}, {}, "(classes): must be a list of different strings"),
    ({"images": GREY, "labels": LABELS, "classes": np.array(["a", "b"])}, {}, "label 2 of image 2 is out of range"),
    ({"images": GREY, "labels": LABELS, "classes": np.array(["a", "a"])}, {}, "(classes): must be a list of different"),
    (
        {"train_images": GREY, "train_labels": LABELS, "test_images": COLOUR, "test_labels": LABELS},
        {},
        "train_images are uint8 of shape (C, H, W) = (1, 6, 5) but uint8 of shape (C, H, W) = (3, 6, 5) in test_images",
    ),
    (
        {"train_images": GREY, "train_labels": LABELS, "test_images": GREY, "test_labels": LABELS + 1},
        {},
        "(test labels): label 4 of image 3 is out of range; labels must be 0 to 3",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("arrays", "options", "message"), BAD)
def test_bad_arrays(tmp_path: Path, arrays: dict[str, Any], options: dict[str, Any], message: str) -> None:
    file = save(tmp_path, **arrays)
    with pytest.raises(DamagedDataError, match=re.escape(message)) as caught:
        load("npz", file=file, **options)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "HWC"}, "data.layout must be one of auto, NHW, NHWC, NCHW, got 'HWC'"),
        ({"test_fraction": 20}, "data.test_fraction must be in (0, 1), the share of images for testing, got 20"),
        ({"test_fraction": True}, "data.test_fraction must be in (0, 1)"),
        ({"test_fraction": "half"}, "data.test_fraction must be in (0, 1)"),
        ({"split_seed": -1}, "data.split_seed must be an integer >= 0, got -1"),
        ({"file": 3}, "data.file must be the path of an .npz file, got 3"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    file = save(tmp_path, images=GREY, labels=LABELS)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load("npz", **{"file": file, **options})


def test_a_fraction_where_there_is_a_test_split(tmp_path: Path) -> None:
    file = save(tmp_path, train_images=GREY, train_labels=LABELS, test_images=GREY, test_labels=LABELS)
    with pytest.raises(
        ConfigError, match=r"data.test_fraction is 0.2, but .* has a test split already; remove the key"
    ):
        load("npz", file=file, test_fraction=0.2)


def test_a_class_too_small_to_split(tmp_path: Path) -> None:
    file = save(tmp_path, images=GREY[:5], labels=np.array([0, 0, 0, 0, 1]))
    with pytest.raises(
        DataError, match=r"own\.npz: cannot split off 1 of 5 images: class 1 has 1, of which 0 would be test"
    ):
        load("npz", file=file)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"data\.file: there is no file .*nothing\.npz \(looked from "):
        load("npz", file=tmp_path / "nothing.npz")
    with pytest.raises(DataError, match=r"cannot read .*: Is a directory"):
        load("npz", file=tmp_path)


def test_damaged_files(tmp_path: Path) -> None:
    file = save(tmp_path, images=GREY, labels=LABELS)
    whole = file.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 3] ^= 255
    for content in (b"", b"hello", whole[: len(whole) // 2], bytes(changed)):
        file.write_bytes(content)
        with pytest.raises(DamagedDataError, match=r"own\.npz: not a readable \.npz file \("):
            load("npz", file=file)
    np.save(tmp_path / "single.npy", GREY)
    with pytest.raises(DamagedDataError, match=r"not an .npz file but a single array"):
        load("npz", file=tmp_path / "single.npy")


def test_objects_are_refused_without_unpickling(tmp_path: Path) -> None:
    file = save(tmp_path, images=np.array([{"a": 1}], dtype=object), labels=LABELS)
    with pytest.raises(DamagedDataError, match=r"Write it by numpy.savez or savez_compressed, without objects"):
        load("npz", file=file)


def test_numbers_to_predict(tmp_path: Path) -> None:
    wanted = np.linspace(-1, 1, 40).reshape(20, 2)
    file = save(tmp_path, images=GREY, labels=wanted)
    data = load("npz", file=file, test_fraction=0.25)
    train, test = unstratified(20, 5)
    assert torch.equal(data.train.y, torch.from_numpy(wanted[train].astype(np.float32)))
    assert torch.equal(data.test.y, torch.from_numpy(wanted[test].astype(np.float32)))
    assert data.classes == ()
    assert load("npz", file=file, dtype=torch.float64).train.y.dtype == torch.float64
    other = load("npz", file=save(tmp_path, images=GREY, labels=wanted + 1), test_fraction=0.25)
    assert other.checksum != data.checksum


def test_one_number_to_predict_is_a_column(tmp_path: Path) -> None:
    file = save(tmp_path, train_images=GREY, train_labels=LABELS / 2, test_images=GREY, test_labels=LABELS / 3)
    assert load("npz", file=file).train.y.shape == (20, 1)
