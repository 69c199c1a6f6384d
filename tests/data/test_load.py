from __future__ import annotations

import gzip
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from supermask.data import DATASETS, DataSet, catalog, load, locate, status
from supermask.data.dataset import RawData, content_checksum
from supermask.data.split import hold_out
from supermask.errors import ConfigError, DamagedDataError, DataError, MissingDataError

from . import writers

MNIST = "0a361b927eb62b7c48e9b306604065c769193ced7a7dcd96edbc8a0f7f873626"
FASHION_MNIST = "4ff60ec3070334763de23912de3f6bd6143d879093c383698bdd047d98eaaa05"
CIFAR10 = "7d101d13a1d05f86b258c9cf27b4b73cf1f1e64beb88f33c14f631edf1c98a86"
DEBIAN = Path("/usr/share/datasets")
NAMES = [file.name for file in DATASETS["mnist"].files]


@pytest.fixture
def fashion(monkeypatch: pytest.MonkeyPatch) -> writers.Small:
    """A small Fashion-MNIST in place of the real one."""
    small = writers.fashion()
    monkeypatch.setitem(DATASETS, "fashion-mnist", small.info)
    return small


def content(small: writers.Small) -> str:
    shape = small.info.input_shape
    assert shape is not None
    images = [images.reshape(-1, *shape) for images in (small.train_images, small.test_images)]
    labels = [labels.astype(np.int64) for labels in (small.train_labels, small.test_labels)]
    return content_checksum(RawData(images[0], labels[0], images[1], labels[1], small.info.classes))


# ---------------------------------------------------------------------------------------------------- the real files


def test_mnist(mnist_root: Path) -> None:
    data = load("mnist", root=mnist_root, normalize="none")
    assert data.checksum == MNIST
    assert data.train.x.shape == (60000, 1, 28, 28)
    assert (data.train.x.dtype, data.train.y.dtype) == (torch.float32, torch.int64)
    assert len(data.test) == 10000
    assert data.train.y.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert data.train.y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert float(data.train.x.double().mean()) == pytest.approx(0.1307, abs=5e-5)
    assert float(data.train.x.double().std()) == pytest.approx(0.3081, abs=5e-5)


def test_mnist_is_standardised_image_by_image(mnist_root: Path) -> None:
    data = load("mnist", root=mnist_root)
    assert data.train.x.flatten(1).mean(1).abs().max() < 1e-5
    assert (data.train.x.flatten(1).std(1, correction=0) - 1).abs().max() < 1e-5


def test_cifar10(cifar10_root: Path) -> None:
    data = load("cifar10", root=cifar10_root, normalize="dataset")
    assert data.checksum == CIFAR10
    assert data.train.x.shape == (50000, 3, 32, 32)
    assert data.test.y.bincount().tolist() == [1000] * 10
    assert [data.classes[y] for y in data.train.y[:5]] == ["frog", "truck", "truck", "deer", "automobile"]
    assert data.normalization["mean"] == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)
    assert data.normalization["std"] == pytest.approx([0.2470, 0.2435, 0.2616], abs=5e-5)


def test_the_installed_package_of_debian(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (DEBIAN / "fashion-mnist").is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    monkeypatch.setattr(locate, "_SYSTEM", DEBIAN)
    data = load("fashion-mnist", normalize="none")
    assert data.checksum == FASHION_MNIST
    assert data.train.y.bincount().tolist() == [6000] * 10
    assert data.classes[data.train.y[0]] == "Ankle boot"


@pytest.mark.parametrize("dotted", [False, True])
def test_unpacked_files_as_torchvision_keeps_them(mnist_root: Path, tmp_path: Path, dotted: bool) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in NAMES:
        target = name.removesuffix(".gz")
        target = target.replace("-idx", ".idx") if dotted else target
        (raw / target).write_bytes(gzip.decompress((mnist_root / "mnist" / name).read_bytes()))
    for root in (tmp_path, tmp_path / "MNIST", raw):
        assert load("mnist", root=root, normalize="none").checksum == MNIST


# ------------------------------------------------------------------------------------------------------- where it looks


@pytest.mark.parametrize("folder", ["fashion-mnist", "FashionMNIST/raw", "FashionMNIST", "fashion_mnist", "."])
@pytest.mark.parametrize("compress", [False, True])
def test_folders_of_fashion_mnist(fashion: writers.Small, tmp_path: Path, folder: str, compress: bool) -> None:
    fashion.write(tmp_path / folder, compress=compress)
    data = load("fashion-mnist", root=str(tmp_path), normalize="none", dtype=torch.float64)
    assert torch.equal((data.train.x * 255).round()[:, 0], torch.from_numpy(fashion.train_images.copy()).double())
    assert data.test.y.tolist() == fashion.test_labels.tolist()
    assert data.checksum == content(fashion)


def test_some_files_packed_and_some_not(fashion: writers.Small, tmp_path: Path) -> None:
    folder = fashion.write(tmp_path / "fashion-mnist", compress=True)
    packed = folder / "train-images-idx3-ubyte.gz"
    (folder / "train-images-idx3-ubyte").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    assert load("fashion-mnist", root=tmp_path).checksum == content(fashion)


def test_order_of_the_data_folders(fashion: writers.Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = fashion.info
    named, variable, cache, system = (tmp_path / name for name in ("named", "variable", "cache/supermask", "system"))
    monkeypatch.setenv("SUPERMASK_DATA", str(variable))
    for root in (system, cache, variable, named):
        folder = fashion.write(root / "fashion-mnist")
        found = locate.find(info, named)
        assert found is not None
        assert found.where == folder
    assert locate.download_folder(named) == named
    assert locate.download_folder() == variable
    monkeypatch.delenv("SUPERMASK_DATA")
    assert locate.download_folder() == cache
    assert load("fashion-mnist").checksum == content(fashion)


def test_named_folders_come_before_the_data_folder_itself(fashion: writers.Small, tmp_path: Path) -> None:
    fashion.write(tmp_path)
    below = fashion.write(tmp_path / "cache" / "supermask" / "fashion-mnist")
    found = locate.find(fashion.info, tmp_path)
    assert found is not None
    assert found.where == below


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("version", ["binary", "python2", "python3"])
@pytest.mark.parametrize("place", ["folder", "nested", "bare", "archive", "nested archive"])
def test_cifar_layouts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, classes: int, version: str, place: str) -> None:
    small = writers.cifar(classes, version)
    name = small.info.name
    monkeypatch.setitem(DATASETS, name, small.info)
    (layout,) = small.info.layouts
    if "archive" in place:
        assert layout.archive is not None
        folder = tmp_path / name if "nested" in place else tmp_path
        folder.mkdir(exist_ok=True)
        (folder / layout.archive.name).write_bytes(writers.archive(f"{layout.folders[0]}/", small.files))
    else:
        small.write(tmp_path / {"folder": layout.folders[0], "nested": layout.folders[1], "bare": "."}[place])
    data = load(name, root=tmp_path, normalize="none", dtype=torch.float64)
    assert torch.equal((data.train.x * 255).round(), torch.from_numpy(small.train_images.copy()).double())
    assert torch.equal((data.test.x * 255).round(), torch.from_numpy(small.test_images.copy()).double())
    assert data.train.y.tolist() == small.train_labels.tolist()
    assert data.test.y.tolist() == small.test_labels.tolist()
    assert data.checksum == content(small)  # the same for every version


def test_status(fashion: writers.Small, tmp_path: Path) -> None:
    def line(name: str) -> locate.DataStatus:
        return next(entry for entry in status(tmp_path) if entry.name == name)

    known = ["mnist", "fashion-mnist", "cifar10", "cifar100", "digits", "tiny-imagenet", "imagenet"]
    assert [entry.name for entry in status()] == known
    assert line("fashion-mnist") == locate.DataStatus("fashion-mnist", False, "", "supermask data get fashion-mnist")
    folder = fashion.write(tmp_path / "fashion-mnist")
    assert line("fashion-mnist") == locate.DataStatus("fashion-mnist", True, str(folder), "")
    assert line("digits").ready


# -------------------------------------------------------------------------------------------------------------- errors


def test_missing_files_say_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError) as caught:
        load("mnist", root=tmp_path / "nowhere")
    message = str(caught.value)
    assert message.startswith("the files of data set 'mnist' were not found. Searched: ")
    assert f"{tmp_path / 'nowhere'} (no such folder)" in message
    assert f"{tmp_path / 'nowhere' / 'mnist'}" in message
    assert "train-images-idx3-ubyte" in message
    assert "supermask data get mnist" in message
    assert "SUPERMASK_DATA" in message
    with pytest.raises(MissingDataError, match=r"cifar-100-python\.tar\.gz"):
        load("cifar100", root=tmp_path)
    with pytest.raises(MissingDataError, match="install Debian's package dataset-fashion-mnist"):
        load("fashion-mnist", root=tmp_path)


def test_an_incomplete_folder_is_not_taken(fashion: writers.Small, tmp_path: Path) -> None:
    folder = fashion.write(tmp_path / "fashion-mnist")
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(MissingDataError):
        load("fashion-mnist", root=tmp_path)


def damaged(root: Path, file: Path, reason: str) -> None:
    with pytest.raises(DamagedDataError) as caught:
        load("fashion-mnist", root=root)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert reason in message
    assert "Delete it and get it again: `supermask data get fashion-mnist`" in message


def test_cut_off_gzip(fashion: writers.Small, tmp_path: Path) -> None:
    file = fashion.write(tmp_path / "fashion-mnist", compress=True) / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-100])
    damaged(tmp_path, file, "damaged or cut-off gzip file (")
    file.write_bytes(b"<html>not found</html>")
    damaged(tmp_path, file, "damaged or cut-off gzip file (")


def test_one_changed_byte(fashion: writers.Small, tmp_path: Path) -> None:
    file = fashion.write(tmp_path / "fashion-mnist") / "t10k-images-idx3-ubyte"
    changed = bytearray(file.read_bytes())
    changed[5000] ^= 1
    file.write_bytes(changed)
    damaged(tmp_path, file, "wrong checksum (sha256 ")


def test_file_of_another_data_set_is_recognised(fashion: writers.Small, mnist_root: Path, tmp_path: Path) -> None:
    folder = fashion.write(tmp_path / "fashion-mnist")
    file = folder / "train-labels-idx1-ubyte.gz"
    (folder / "train-labels-idx1-ubyte").unlink()
    file.write_bytes((mnist_root / "mnist" / file.name).read_bytes())
    damaged(tmp_path, file, "it is a file of mnist")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", b"\x00\x00\x08\x01" + bytes(20), "not an IDX file of 3 dimension(s)"),
        ("t10k-labels-idx1-ubyte", writers.idx(np.full(10, 10, np.uint8)), "label 10 of image 0 is out of range"),
    ],
)
def test_right_checksum_but_wrong_content(
    fashion: writers.Small, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    files = {**fashion.files, name: content}
    monkeypatch.setitem(DATASETS, "fashion-mnist", writers.with_layout(fashion.info, files))
    replace(fashion, files=files).write(tmp_path / "fashion-mnist")
    with pytest.raises(DamagedDataError, match=re.escape(message)) as caught:
        load("fashion-mnist", root=tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "fashion-mnist" / name))


def test_wrong_number_of_images(fashion: writers.Small, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(DATASETS, "fashion-mnist", replace(fashion.info, sizes=(60000, 10000)))
    fashion.write(tmp_path / "fashion-mnist")
    with pytest.raises(DamagedDataError, match=r"30 training and 10 test images .* has \(60000, 10000\)"):
        load("fashion-mnist", root=tmp_path)


def test_damaged_archives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = writers.cifar(10, "binary")
    (layout,) = small.info.layouts
    assert layout.archive is not None
    path = tmp_path / layout.archive.name
    whole = writers.archive("cifar-10-batches-bin/", small.files)
    lacking = writers.archive("", {"data_batch_1.bin": small.files["data_batch_1.bin"]})
    for packed, trusted, message in [
        (whole[:-50], False, "wrong checksum (sha256 "),
        (whole[: len(whole) // 2], True, "damaged archive ("),
        (b"<html></html>", True, "damaged archive ("),
        (lacking, True, "the archive lacks data_batch_2.bin, data_batch_3.bin"),
    ]:
        path.write_bytes(packed)
        info = writers.with_layout(catalog.CIFAR10, small.files, packed if trusted else whole)
        monkeypatch.setitem(DATASETS, "cifar10", info)
        with pytest.raises(DamagedDataError, match=re.escape(message)) as caught:
            load("cifar10", root=tmp_path)
        assert str(caught.value).startswith(str(path))
        assert "supermask data get cifar10" in str(caught.value)


def test_damaged_member_of_an_archive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = writers.cifar(10, "binary")
    packed = writers.archive("x/", {**small.files, "test_batch.bin": bytes(3073)})
    monkeypatch.setitem(DATASETS, "cifar10", writers.with_layout(catalog.CIFAR10, small.files, packed))
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(packed)
    with pytest.raises(DamagedDataError, match=re.escape(f"{path} (x/test_batch.bin): wrong checksum")):
        load("cifar10", root=tmp_path)


def test_unreadable_file(fashion: writers.Small, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = fashion.write(tmp_path / "fashion-mnist") / "train-images-idx3-ubyte"

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=re.escape(f"cannot read {file}: Permission denied")):
        load("fashion-mnist", root=tmp_path)


def test_changed_content_of_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS, "digits", replace(DATASETS["digits"], checksum="0" * 64))
    with pytest.raises(DamagedDataError, match=r"digits: the content has the checksum 48fe.*, expected 0000"):
        load("digits")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("minst", {}, "unknown data set 'minst'; did you mean 'mnist'?; known are mnist, fashion-mnist, cifar10,"),
        ("speech-commands", {}, "unknown data set 'speech-commands'; known are mnist"),
        (None, {}, "unknown data set None"),
        (
            "mnist",
            {"normalize": "images"},
            "data.normalize must be one of image, dataset, imagenet, none, got 'images'; did you mean",
        ),
        ("mnist", {"path": "x"}, "data set mnist has no option 'path'; it takes none"),
        (
            "npz",
            {"file": "x", "test_fractoin": 1},
            "has no option 'test_fractoin'; did you mean 'test_fraction'?; it takes",
        ),
        ("npz", {}, "data set npz needs the option 'file': data: {name: npz, file: PATH}"),
        ("folder", {"size": 3}, "data set folder needs the option 'path'"),
        ("digits", {"dtype": torch.int64}, "dtype must be a floating-point type, got torch.int64"),
    ],
)
def test_bad_requests(name: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(name, **options)


# --------------------------------------------------------------------------------------------------------------- habits


def test_the_catalogue_is_complete() -> None:
    known = ["mnist", "fashion-mnist", "cifar10", "cifar100", "digits", "tiny-imagenet", "imagenet"]
    assert list(DATASETS) == [*known, "npz", "folder", "webdataset"]
    for name, info in DATASETS.items():
        assert info.name == name
        assert info.summary
        assert info.source
        assert info.licence
        assert len(set(info.classes)) == len(info.classes)
        digests = [
            file.checksum for layout in info.layouts for file in (*layout.train, *layout.test, layout.archive) if file
        ]
        for checksum in [*digests, *(file.checksum for file in info.files)]:
            assert checksum is None or re.fullmatch("md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", checksum)
    assert len(catalog.CIFAR100.classes) == 100
    assert sorted(catalog.CIFAR100.classes) == list(catalog.CIFAR100.classes)


def test_extras_are_imported_only_by_the_data_sets_that_need_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", images=np.zeros((10, 4, 4), np.uint8), labels=np.arange(10) % 2)
    code = (
        "import sys, supermask.data\n"
        f"supermask.data.load('npz', file={str(tmp_path / 'own.npz')!r})\n"
        "print(sorted({'sklearn', 'PIL', 'scipy', 'torchvision', 'webdataset'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_loading_draws_nothing_from_the_global_generators(fashion: writers.Small, tmp_path: Path) -> None:
    fashion.write(tmp_path / "fashion-mnist")
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    first: DataSet = load("fashion-mnist", root=tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[index]
    assert torch.equal(first.train.x, load("fashion-mnist", root=tmp_path).train.x)


def test_validation_images_are_those_of_the_training_split() -> None:
    whole, part = load("digits", normalize="dataset"), load("digits", normalize="dataset", validation=400)
    left, chosen = (torch.from_numpy(index) for index in hold_out(1437, 400))
    assert whole.validation is None
    assert part.validation is not None
    assert torch.equal(part.train.x, whole.train.x[left])
    assert torch.equal(part.train.y, whole.train.y[left])
    assert torch.equal(part.validation.x, whole.train.x[chosen])
    assert torch.equal(part.validation.y, whole.train.y[chosen])
    assert torch.equal(part.test.x, whole.test.x)
    assert part.checksum == whole.checksum
    assert part.normalization == whole.normalization


def test_a_negative_number_of_validation_images() -> None:
    with pytest.raises(ConfigError, match=r"data\.validation must be a number of training images >= 0, got -1"):
        load("digits", validation=-1)
