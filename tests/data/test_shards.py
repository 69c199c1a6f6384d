from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data import trees

from supermask.data import DataSet, decoding, load, pictures, shards
from supermask.errors import ConfigError, DamagedDataError, MissingDataError, MissingExtraError


def sample(key: str, seed: int, cls: int | bytes | None, suffix: str = "jpg") -> tuple[str, dict[str, bytes]]:
    parts = {suffix: trees.encoded(seed, (40, 30)), "json": b"{}"}
    if cls is not None:
        parts["cls"] = cls if isinstance(cls, bytes) else str(cls).encode()
    return key, parts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "flowers"
    trees.shard(folder / "flowers-train-000.tar", [sample("a/0001", 1, 1), sample("a/0002", 2, b"0\n")])
    trees.shard(folder / "flowers-train-001.tar", [sample("0003", 3, 1, "JPEG")])
    trees.shard(folder / "flowers-val-000.tar", [sample("0001", 4, 0), sample("0002", 5, 1, "png")])
    return folder


def read(root: Path, **options: object) -> DataSet:
    given = {"shards": "flowers", "classes": 2, "size": 16, "crop": 16, "processes": 1, **options}
    return load("webdataset", root=root, normalize="none", dtype=torch.float64, **given)


def wanted(seed: int) -> trees.Bytes:
    with Image.open(io.BytesIO(trees.encoded(seed, (40, 30)))) as image:
        scaled = image.resize((21, 16), Image.Resampling.BILINEAR).crop((2, 0, 18, 16))
    return np.asarray(scaled).transpose(2, 0, 1)


def test_samples_in_the_order_of_the_shards(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = read(tmp_path)
    assert data.train.y.tolist() == [1, 0, 1]
    assert data.test.y.tolist() == [0, 1]
    assert np.array_equal(data.train.x.numpy(), np.stack([wanted(seed) for seed in (1, 2, 3)]))
    assert np.array_equal(data.test.x.numpy(), np.stack([wanted(seed) for seed in (4, 5)]))
    assert data.classes == ("0", "1")
    (folder / "classes.txt").write_text("rose\ntulip\n")
    monkeypatch.setattr(decoding.Workers, "work", lambda *_: pytest.fail("it was decoded before"))
    again = read(tmp_path, shards=str(folder))
    assert (again.classes, again.checksum) == (("rose", "tulip"), data.checksum)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([sample("k1", 1, None)], "(k1): no .cls; each image needs a class number >= 0 in KEY.cls"),
        ([sample("k1", 1, b"rose")], "(k1): the .cls b'rose'; each image needs a class number"),
    ],
)
def test_samples_without_a_class(tmp_path: Path, samples: list[tuple[str, dict[str, bytes]]], message: str) -> None:
    file = trees.shard(tmp_path / "a.tar", samples)
    with pytest.raises(DamagedDataError, match=re.escape(f"{file} {message}")):
        pictures.labels(str(file))


def test_members_without_an_image_are_left_alone(tmp_path: Path) -> None:
    samples = [("k1", {"cls": b"0"}), sample("k2", 1, 7, "JPEG"), sample("k3", 2, 8, "png")]
    assert pictures.labels(str(trees.shard(tmp_path / "a.tar", samples))) == [7, 8]


def test_a_shard_that_is_cut_off(tmp_path: Path) -> None:
    file = trees.shard(tmp_path / "a.tar", [sample("k1", 1, 0)])
    file.write_bytes(file.read_bytes()[:700])
    with pytest.raises(DamagedDataError, match=rf"{file}: not a whole tar file of samples \(.*\)\. Copy it anew"):
        pictures.labels(str(file))


class Listing:
    """Stands in for the decoding processes while labels are listed."""

    def work(self, requests: list[dict[str, str]]) -> Iterator[tuple[int, dict[str, list[int]]]]:
        return ((number, {"labels": pictures.labels(request["shard"])}) for number, request in enumerate(requests))


@pytest.mark.parametrize(
    ("samples", "classes", "message"),
    [
        ([sample("k1", 1, 2)], 2, "flowers-val-000.tar: label 2 of image 0 is out of range; labels must be 0 to 1"),
        ([("k1", {"cls": b"0"})], 2, "flowers-val-000.tar: no image in this shard; samples are KEY.jpg and KEY.cls"),
        ([sample("k1", 1, 1)], 3, "flowers: class 2 has no training image, but data.classes is 3"),
    ],
)
def test_labels_that_do_not_fit(
    folder: Path, tmp_path: Path, samples: list[tuple[str, dict[str, bytes]]], classes: int, message: str
) -> None:
    trees.shard(folder / "flowers-val-000.tar", samples)
    source = shards.source(tmp_path, shards="flowers", classes=classes)
    with pytest.raises(DamagedDataError, match=re.escape(message)):
        source.parts(Listing())  # type: ignore[arg-type]


def test_a_bad_image_is_named(folder: Path, tmp_path: Path) -> None:
    file = trees.shard(folder / "flowers-val-000.tar", [("k1", {"jpg": b"nothing", "cls": b"0"})])
    with pytest.raises(DamagedDataError, match=rf"{file} \(k1\): not a readable image \("):
        read(tmp_path)


def test_what_is_missing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"there is no folder 'trees' in the data folders \(searched: .*trees"):
        read(tmp_path, shards="trees")
    with pytest.raises(MissingDataError, match=r"data\.test: no file in .*flowers matches '\*test\*\.tar'"):
        read(tmp_path, test="*test*.tar")
    (folder / "classes.txt").write_text("rose\n")
    with pytest.raises(DamagedDataError, match=r"classes\.txt: holds 1 different names, but data\.classes is 2"):
        read(tmp_path)


@pytest.mark.usefixtures("folder")
def test_bad_options(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.train and data\.test both match flowers-train-000\.tar; make the"):
        read(tmp_path, test="*.tar")
    with pytest.raises(ConfigError, match=r"data\.train must be text, got 3"):
        read(tmp_path, train=3)
    with pytest.raises(ConfigError, match="data set webdataset needs the option 'classes': .*classes: NUMBER"):
        load("webdataset", root=tmp_path, shards="flowers")


@pytest.mark.usefixtures("folder")
def test_without_webdataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = decoding.importlib.util.find_spec
    monkeypatch.setattr(decoding.importlib.util, "find_spec", lambda name: None if name == "webdataset" else real(name))
    with pytest.raises(
        MissingExtraError, match=r"'webdataset' needs the package 'webdataset': .*supermask\[webdataset\]"
    ):
        read(tmp_path)
