from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from tests.data import trees
from tests.data.trees import WNIDS

from supermask.data import DataSet, load, status
from supermask.errors import ConfigError, DamagedDataError, DataError, MissingDataError

ORDER = ("n01440764", "n01443537", "n02002724")  # of the classes: 0, 1, 2


def tiny(root: Path, **options: object) -> DataSet:
    return load("tiny-imagenet", root=root, normalize="none", dtype=torch.float64, classes=3, processes=1, **options)


def imagenet(root: Path, **options: object) -> DataSet:
    given = {"classes": 3, "size": 16, "crop": 12, "processes": 1, **options}
    return load("imagenet", root=root, normalize="none", dtype=torch.float64, **given)


def test_the_layout_of_tiny_imagenet(tmp_path: Path) -> None:
    folder = trees.tiny(tmp_path / "tiny-imagenet-200")
    data = tiny(tmp_path)
    assert data.classes == ("tench, Tinca tinca", "goldfish (n01443537)", "goldfish (n02002724)")
    assert data.train.y.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert data.test.y.tolist() == [0, 1, 2, 0, 1, 2]
    assert (data.train.x.dtype, data.train.x.shape) == (torch.uint8, (9, 3, 64, 64))
    for split, number, file in (
        (data.train, 4, folder / "train" / "n01443537" / "images" / "n01443537_1.JPEG"),
        (data.test, 5, folder / "val" / "images" / "val_5.JPEG"),
    ):
        x, y = split.batch(slice(number, number + 1))
        assert np.array_equal((x[0] * 255).round().numpy(), trees.pixels(file))
        assert y.tolist() == [int(split.y[number])]
    assert data.train.input_shape == (3, 64, 64)


def test_validation_images_in_class_folders(tmp_path: Path) -> None:
    folder = trees.tiny(tmp_path / "tiny-imagenet", annotations=False)
    for i, file in enumerate(sorted((folder / "val" / "images").iterdir())):
        (folder / "val" / WNIDS[i % 3] / "images").mkdir(parents=True, exist_ok=True)
        name = file.with_suffix(".jpeg" if i else ".JPG").name
        file.rename(folder / "val" / WNIDS[i % 3] / "images" / name)
    (folder / "val" / "images").rmdir()
    (folder / "wnids.txt").unlink()
    assert tiny(tmp_path).test.y.tolist() == [0, 0, 1, 1, 2, 2]
    assert tiny(folder).checksum == tiny(tmp_path).checksum  # its own folder is found, too: "tiny" is in its name


def in_folders(folder: Path) -> None:
    pass


def kaggle(folder: Path) -> None:
    with (folder / "LOC_val_solution.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ImageId", "PredictionString"])
        for name in reversed(names(folder)):
            writer.writerow([name.removesuffix(".JPEG"), f"{shown(name)} 85 1 499 272 {shown(name)} 1 2 3 4 "])
    lines = [f"{wnid} {word}\n" for wnid, word in zip(WNIDS, ("tench", "goldfish", "black stork"))]
    (folder / "LOC_synset_mapping.txt").write_text("".join(lines))


def tensorflow(folder: Path) -> None:
    (folder / "imagenet_2012_validation_synset_labels.txt").write_text("".join(f"{shown(n)}\n" for n in names(folder)))


def devkit(folder: Path) -> None:
    """Numbers of the development kit, in another order than the WNIDs, and an inner node of its tree."""
    data = folder / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    numbers = {"n02002724": 1, "n01440764": 2, "n01443537": 3}
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(number, wnid, "a word", 0) for wnid, number in numbers.items()] + [(1001, "n00001740", "entity", 3)]
    savemat(data / "meta.mat", {"synsets": np.array(rows, dtype=kind).reshape(-1, 1)})
    lines = [f"{numbers[shown(name)]}\n" for name in names(folder)]
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(lines))


def annotations(folder: Path) -> None:
    (folder / "val" / "val_annotations.txt").write_text("".join(f"{n}\t{shown(n)}\n" for n in names(folder)))


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / "val").glob("*.JPEG"))


def shown(name: str) -> str:
    """The class of a validation image that trees.imagenet wrote."""
    return WNIDS[(int(name[-9:-5]) - 1) % 3]


@pytest.mark.parametrize("write", [in_folders, kaggle, tensorflow, devkit, annotations])
def test_every_list_of_imagenet_says_the_same(tmp_path: Path, write: Callable[[Path], None]) -> None:
    folder = trees.imagenet(tmp_path / "ILSVRC2012", flat=write is not in_folders)
    write(folder)
    data = imagenet(tmp_path)
    assert data.train.y.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.test.y.tolist() == ([0, 0, 1, 1, 2, 2] if write is in_folders else [0, 1, 2, 0, 1, 2])
    assert data.classes == (("tench", "goldfish", "black stork") if write is kaggle else ORDER)
    assert data.train.x.shape == (6, 3, 16, 16)
    assert data.test.batch(slice(0, 2))[0].shape == (2, 3, 12, 12)
    assert data.test.input_shape == (3, 12, 12)
    assert data.test.batch(slice(0, 1), whole=True)[0].shape == (1, 3, 16, 16)
    assert data.normalization == {"kind": "none", "scale": 255.0, "crop": 12}


def test_a_crop_of_none_takes_it_all(tmp_path: Path) -> None:
    trees.imagenet(tmp_path / "imagenet")
    assert imagenet(tmp_path, crop=16).test.input_shape == (3, 16, 16)


def test_validation_is_held_out_without_a_copy(tmp_path: Path) -> None:
    trees.tiny(tmp_path / "tiny-imagenet")
    whole, part = tiny(tmp_path), tiny(tmp_path, validation=4)
    assert part.validation is not None
    assert (len(part.train), len(part.validation)) == (5, 4)
    assert part.train.x.data_ptr() == part.validation.x.data_ptr()
    both = torch.cat([split.batch(slice(0, 9))[0] for split in (part.train, part.validation)])
    every = whole.train.batch(slice(0, 9))[0]
    assert sorted(both.flatten(1).sum(1).tolist()) == sorted(every.flatten(1).sum(1).tolist())
    assert part.validation.rows is not None
    assert torch.equal(part.validation.y, whole.train.y[part.validation.rows])


def test_the_statistics_of_the_training_images(tmp_path: Path) -> None:
    folder = trees.tiny(tmp_path / "tiny-imagenet")
    files = sorted((folder / "train").rglob("*.JPEG"))
    values = np.stack([trees.pixels(file) for file in files]) / 255
    data = load("tiny-imagenet", root=tmp_path, normalize="dataset", classes=3, processes=1)
    assert data.normalization["mean"] == pytest.approx(values.mean(axis=(0, 2, 3)), rel=1e-12)
    assert data.normalization["std"] == pytest.approx(values.std(axis=(0, 2, 3)), rel=1e-12)
    x, _ = data.train.batch(slice(0, 9))
    assert x.mean(dim=(0, 2, 3)).abs().max() < 1e-6


def test_what_is_missing(tmp_path: Path) -> None:
    message = f"the files of data set 'imagenet' were not found. Searched: {tmp_path}, "
    with pytest.raises(MissingDataError, match=re.escape(message)) as caught:
        imagenet(tmp_path)
    for words in (
        "not downloaded",
        "https://image-net.org/download",
        str(tmp_path / "imagenet" / "train"),
        "--data-dir",
    ):
        assert words in str(caught.value)
    assert {line.name for line in status(tmp_path) if "says how" in line.hint} == {"tiny-imagenet", "imagenet"}
    (tmp_path / "imagenet" / "val").mkdir(parents=True)
    (tmp_path / "imagenet" / "train").mkdir()
    (line,) = (line for line in status(tmp_path) if line.name == "imagenet")
    assert (line.ready, line.where, line.hint) == (True, str(tmp_path / "imagenet"), "")
    with pytest.raises(MissingDataError, match="no class folder such as n01440764 in it; unpack the archive of each"):
        imagenet(tmp_path)
    folder = trees.imagenet(tmp_path / "imagenet", flat=True)
    with pytest.raises(
        MissingDataError, match="no list says what they show. Put val_annotations.txt, LOC_val_solution"
    ):
        imagenet(tmp_path)
    shutil.rmtree(folder / "val")
    (folder / "val").mkdir()
    with pytest.raises(MissingDataError, match="val: neither class folders nor images in it"):
        imagenet(tmp_path)
    for file in (folder / "train" / WNIDS[1]).iterdir():
        file.unlink()
    with pytest.raises(MissingDataError, match=rf"{WNIDS[1]}: no image of this class \(looked for \.png, \.jpg"):
        imagenet(tmp_path)


def test_lists_that_do_not_fit(tmp_path: Path) -> None:
    folder = trees.imagenet(tmp_path / "imagenet", flat=True)
    listed = folder / "val" / "val_annotations.txt"
    first, *others = names(folder)
    lines = [f"{name}\t{shown(name)}\n" for name in (first, *others)]

    def refuse(text: str, message: str, file: Path = listed) -> None:
        file.write_text(text)
        with pytest.raises(DamagedDataError, match=message):
            imagenet(tmp_path)
        file.unlink()

    refuse("".join(lines[1:]), f"does not list .*{first}")
    refuse("".join(lines) + "more.JPEG\tn01440764\n", r"lists more\.JPEG, which is not in .*val")
    refuse("".join(lines[1:]) + f"{first}\tn99999999\n", "names the class 'n99999999', which has no training images")
    refuse(f"{first} n01440764\n", "is not an image's name, a tab, and a WNID")
    refuse("n01440764\n" * 5, "has 5 lines for 6 images", folder / "imagenet_2012_validation_synset_labels.txt")
    refuse("a,b\n1,2\n", "expected the columns ImageId and PredictionString", folder / "LOC_val_solution.csv")
    devkit(folder)
    truth = folder / "ILSVRC2012_devkit_t12" / "data" / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("1\n2\n3\n1\n2\n77\n")
    with pytest.raises(DamagedDataError, match=r"do not fit together \(KeyError\(77\)\)"):
        imagenet(tmp_path)
    truth.with_name("meta.mat").unlink()
    with pytest.raises(MissingDataError, match="follow the development kit's order, not that of the WNIDs"):
        imagenet(tmp_path)


def test_classes_that_do_not_fit(tmp_path: Path) -> None:
    folder = trees.tiny(tmp_path / "tiny-imagenet")
    message = (
        f"data.classes is 200, but {folder} has 3 classes. To train on these, set "
        "`data: {name: tiny-imagenet, classes: 3}` and as many model.classes; otherwise complete it"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        load("tiny-imagenet", root=tmp_path)
    (folder / "wnids.txt").write_text("n01440764\nfish\n")
    with pytest.raises(DamagedDataError, match="wnids.txt: holds 'fish'; expected is one WNID a line"):
        tiny(tmp_path)
    (folder / "wnids.txt").write_text("n01440764\n" * 3)
    with pytest.raises(DamagedDataError, match="wnids.txt: holds the same class twice"):
        tiny(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 0}, "data.classes must be a whole number >= 1, got 0"),
        ({"size": 16.0}, "data.size must be a whole number >= 1, got 16.0"),
        ({"crop": True}, "data.crop must be a whole number >= 1, got True"),
        ({"crop": 20}, "data.crop is 20, but images are kept at data.size = 16 pixels"),
        ({"processes": 0}, "processes must be a number of decoding processes >= 1, got 0"),
        ({"colour": 1}, "data set imagenet has no option 'colour'"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, object], message: str) -> None:
    trees.imagenet(tmp_path / "imagenet")
    with pytest.raises(ConfigError, match=re.escape(message)):
        imagenet(tmp_path, **options)


def test_a_folder_that_cannot_be_read(tmp_path: Path, ordinary_user: Callable[[], object]) -> None:
    folder = trees.tiny(tmp_path / "tiny-imagenet") / "train" / WNIDS[0] / "images"
    folder.chmod(0)
    try:
        with ordinary_user(), pytest.raises(DataError, match=rf"cannot read {folder}: Permission denied"):  # type: ignore[attr-defined]
            tiny(tmp_path)
    finally:
        folder.chmod(0o755)


def test_real_photographs(tiny_imagenet: Path, tmp_path: Path) -> None:
    """What this reader keeps is what the reader of folders reads; a batch has the same bits."""
    for split in ("train", "val"):
        for wnid in ("n01443537", "n02123045"):
            shutil.copytree(tiny_imagenet / split / wnid, tmp_path / "tiny" / split / wnid)
    shutil.copy(tiny_imagenet / "classes.txt", tmp_path / "tiny")
    data = load("tiny-imagenet", root=tmp_path / "tiny", classes=2, processes=2)
    folder = load("folder", path=tmp_path / "tiny")
    assert data.checksum == folder.checksum
    assert data.classes == ("goldfish, Carassius auratus", "tabby, tabby cat")
    assert torch.equal(data.train.y, folder.train.y)
    rows = torch.tensor([999, 0, 432])
    assert torch.equal(data.train.batch(rows)[0], folder.train.x[rows])
    assert torch.equal(data.test.batch(slice(0, 100))[0], folder.test.x)


@pytest.mark.slow
def test_all_real_photographs(tiny_imagenet: Path) -> None:
    data = load("tiny-imagenet", root=tiny_imagenet, classes=20, processes=2, normalize="dataset")
    assert data.train.x.shape == (10000, 3, 64, 64)
    assert data.train.y.bincount().tolist() == [500] * 20
    assert data.test.y.bincount().tolist() == [50] * 20
    assert data.normalization["mean"] == pytest.approx([0.4926, 0.4458, 0.3958], abs=1e-3)
    assert data.normalization["std"] == pytest.approx([0.2801, 0.2742, 0.2841], abs=1e-3)
