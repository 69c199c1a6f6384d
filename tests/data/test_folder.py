from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from supermask.data import load
from supermask.errors import ConfigError, DamagedDataError, DataError, MissingDataError, MissingExtraError


def picture(path: Path, value: int, *, mode: str = "L", size: tuple[int, int] = (5, 4)) -> None:
    """Write an image of one colour; ``size`` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = value if mode in ("L", "P", "I;16") else (value, value + 1, value + 2, 128)[: len(mode)]
    Image.new(mode, size, colour).save(path)


def test_train_and_test_folders(tmp_path: Path) -> None:
    for cls, value in [("dog", 10), ("cat", 100)]:
        picture(tmp_path / "train" / cls / "b.png", value)
        picture(tmp_path / "train" / cls / "a.PNG", value + 1)
        picture(tmp_path / "train" / cls / "deeper" / "c.bmp", value + 2)
        picture(tmp_path / "test" / cls / "x.png", value + 3)
        (tmp_path / "train" / cls / "notes.txt").write_text("left alone")
        (tmp_path / "train" / cls / ".hidden.png").write_text("left alone")
    (tmp_path / "train" / ".cache").mkdir()
    data = load("folder", path=str(tmp_path), normalize="none", dtype=torch.float64)
    assert data.classes == ("cat", "dog")
    assert data.train.x.shape == (6, 1, 4, 5)
    assert (data.train.x[:, 0, 0, 0] * 255).round().tolist() == [101, 100, 102, 11, 10, 12]
    assert data.train.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert (data.test.x[:, 0, 0, 0] * 255).round().tolist() == [103, 13]


def test_val_stands_in_for_test(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for cls in "ab":
            picture(tmp_path / split / cls / "x.png", 7)
    assert len(load("folder", path=tmp_path).test) == 2
    for cls in "ab":
        for name in ("x", "y"):
            picture(tmp_path / "test" / cls / f"{name}.png", 7)
    assert len(load("folder", path=tmp_path).test) == 4


@pytest.mark.parametrize("below", [".", "train"])
def test_one_level_is_split(tmp_path: Path, below: str) -> None:
    for cls in "ab":
        for i in range(5):
            picture(tmp_path / below / cls / f"{i}.png", i)
    data = load("folder", path=tmp_path)
    assert data.test.y.tolist() == [0, 1]
    assert load("folder", path=tmp_path).checksum == data.checksum
    assert len(load("folder", path=tmp_path, test_fraction=0.4, split_seed=3).test) == 4


def test_colour_grey_and_transparency(tmp_path: Path) -> None:
    for split in ("train", "test"):
        picture(tmp_path / split / "a" / "grey.png", 50)
        picture(tmp_path / split / "b" / "colour.png", 60, mode="RGB")
        picture(tmp_path / split / "b" / "transparent.png", 70, mode="RGBA")
    data = load("folder", path=tmp_path, normalize="none", dtype=torch.float64)
    assert (data.train.x[:, :, 0, 0] * 255).round().tolist() == [[50, 50, 50], [60, 61, 62], [70, 71, 72]]
    grey = load("folder", path=tmp_path, channels=1, normalize="none", dtype=torch.float64)
    assert (grey.train.x[:, :, 0, 0] * 255).round().tolist() == [[50], [61], [71]]
    for file in (tmp_path / "train" / "b", tmp_path / "test" / "b"):
        for image in file.iterdir():
            picture(image, 9)
    assert load("folder", path=tmp_path).train.x.shape[1] == 1
    assert load("folder", path=tmp_path, channels=3).train.x.shape[1] == 3


def test_jpeg_and_resize(tmp_path: Path) -> None:
    for split in ("train", "test"):
        picture(tmp_path / split / "a" / "x.jpg", 50, mode="RGB", size=(16, 12))
        picture(tmp_path / split / "b" / "y.JPEG", 90, mode="RGB", size=(20, 30))
    data = load("folder", path=tmp_path, size=[8, 6], normalize="none")
    assert data.train.x.shape == (2, 3, 8, 6)
    assert float((data.train.x[0] * 255 - 51).abs().max()) < 4
    assert load("folder", path=tmp_path, size=7).train.x.shape == (2, 3, 7, 7)


def test_sizes_that_differ(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png", 0, size=(5, 4))
    picture(tmp_path / "b" / "2.png", 0, size=(4, 4))
    message = (
        f"{tmp_path / 'b' / '2.png'}: 4 x 4 (height x width), but {tmp_path / 'a' / '1.png'} has 4 x 5; all images must "
        "have one size: set data.size, for example `size: [4, 5]`"
    )
    with pytest.raises(DamagedDataError, match=re.escape(message)):
        load("folder", path=tmp_path)


@pytest.mark.parametrize("content", [b"", b"<html></html>", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_damaged_image(tmp_path: Path, content: bytes) -> None:
    picture(tmp_path / "a" / "1.png", 0)
    picture(tmp_path / "b" / "1.png", 0)
    (tmp_path / "b" / "2.png").write_bytes(content)
    with pytest.raises(DamagedDataError, match=r"2\.png: not a readable image \(.*\)\. Replace or remove it"):
        load("folder", path=tmp_path)


def test_cut_off_image(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.jpg", 0, mode="RGB", size=(64, 64))
    file = tmp_path / "a" / "1.jpg"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(DamagedDataError, match=r"1\.jpg: not a readable image \("):
        load("folder", path=tmp_path)


def test_sixteen_bits(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png", 1000, mode="I;16")
    with pytest.raises(
        DamagedDataError, match=r"1\.png: more than 8 bits a channel \(mode I;16\); save it with 8 bits"
    ):
        load("folder", path=tmp_path)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"data\.path: there is no folder .*nowhere \(looked from "):
        load("folder", path=tmp_path / "nowhere")
    with pytest.raises(MissingDataError, match=r"no class folder in it; expected .*CLASS.* one folder a class"):
        load("folder", path=tmp_path)
    picture(tmp_path / "a" / "1.png", 0)
    (tmp_path / "b").mkdir()
    with pytest.raises(MissingDataError, match="b: no image in this class folder"):
        load("folder", path=tmp_path)


def test_unknown_test_class(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a" / "1.png", 0)
    picture(tmp_path / "test" / "z" / "1.png", 0)
    with pytest.raises(DamagedDataError, match=r"z: the training folder .*train has no class 'z'"):
        load("folder", path=tmp_path)


def test_class_too_small(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png", 0)
    with pytest.raises(DataError, match="cannot split off 0 of 1 images: class 0 has 1"):
        load("folder", path=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "data.size must be a number of pixels or [height, width], got 0"),
        ({"size": True}, "data.size must be a number of pixels or [height, width], got True"),
        ({"size": [4]}, "data.size must be a number of pixels or [height, width], got [4]"),
        ({"size": "big"}, "data.size must be a number of pixels or [height, width], got 'big'"),
        ({"channels": 2}, "data.channels must be 1 (grey) or 3 (RGB), got 2"),
        ({"test_fraction": 1.0}, "data.test_fraction must be in (0, 1)"),
        ({"path": 5}, "data.path must be the path of a folder, got 5"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load("folder", **{"path": tmp_path, **options})


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a" / "1.png", 0)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"image files needs the package 'pillow': .*supermask\[data\]"):
        load("folder", path=tmp_path)


def test_real_photographs(tiny_imagenet: Path) -> None:
    data = load("folder", path=tiny_imagenet)
    assert data.train.x.shape == (10000, 3, 64, 64)
    assert data.test.y.bincount().tolist() == [50] * 20
    assert data.classes[0].startswith("n0")
    x = data.test.x.flatten(1).double()
    assert float(x.mean(1).abs().max()) < 1e-6
    assert np.allclose(x.std(1, correction=0), 1.0, atol=1e-5)
