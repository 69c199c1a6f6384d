from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data import trees

from supermask.data import DataSet, decoding, imagenet, load, open_stored, workers
from supermask.data.workers import Workers
from supermask.errors import DamagedDataError, DataError, MissingExtraError


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Tiny-ImageNet of 9 + 6 images, decoded two at once."""
    monkeypatch.setattr(imagenet, "BATCH", 2)
    return trees.tiny(tmp_path / "tiny-imagenet")


def tiny(tree: Path, **options: object) -> DataSet:
    return load("tiny-imagenet", root=tree, classes=3, **options)


def cached(tmp_path: Path) -> list[str]:
    folder = tmp_path / "cache" / "supermask" / "decoded"
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.exists() else []


class Counted:
    """Stands in for the decoding processes: counts requests, and can stop in the middle."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> None:
        self.requests = 0
        real = Workers.work

        def work(pool: Workers, requests):  # type: ignore[no-untyped-def]
            for answered in real(pool, requests):
                if self.requests == stop_after:
                    raise KeyboardInterrupt
                self.requests += 1
                yield answered

        monkeypatch.setattr(Workers, "work", work)


@pytest.mark.parametrize("processes", [1, 2])
def test_every_image_is_in_its_place(tree: Path, processes: int) -> None:
    seen: list[tuple[str, int, int | None]] = []
    data = tiny(tree, processes=processes, progress=lambda *told: seen.append(told))
    files = sorted((tree / "train").rglob("*.JPEG"))
    assert np.array_equal(data.train.x.numpy(), np.stack([trees.pixels(file) for file in files]))
    files = [tree / "val" / "images" / f"val_{i}.JPEG" for i in range(6)]
    assert np.array_equal(data.test.x.numpy(), np.stack([trees.pixels(file) for file in files]))
    assert seen[-1] == ("tiny-imagenet", 15, 15)
    assert len(seen) == 5 + 3
    assert sorted(done for _, done, _ in seen) == [done for _, done, _ in seen]


def test_the_second_time_nothing_is_decoded(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tiny(tree, processes=1)
    counted = Counted(monkeypatch)
    second = tiny(tree)
    assert counted.requests == 0
    assert torch.equal(first.train.x, second.train.x)
    assert first.checksum == second.checksum
    (name,) = cached(tmp_path)
    assert name.startswith("tiny-imagenet-")
    files = {path.name for path in (tmp_path / "cache" / "supermask" / "decoded" / name).iterdir()}
    assert files == {"train.npy", "test.npy", "train-labels.npy", "test-labels.npy", "meta.json"}


def test_a_changed_folder_is_decoded_anew(tree: Path, tmp_path: Path) -> None:
    first = tiny(tree, processes=1)
    trees.jpeg(tree / "train" / trees.WNIDS[0] / "images" / "another.JPEG", 77)
    second = tiny(tree, processes=1)
    assert (len(first.train), len(second.train)) == (9, 10)
    assert len(cached(tmp_path)) == 2
    listed = tree / "val" / "val_annotations.txt"
    lines = listed.read_text().splitlines()
    listed.write_text("\n".join([lines[0].replace(trees.WNIDS[0], trees.WNIDS[2]), *lines[1:]]))
    assert int(tiny(tree, processes=1).test.y[0]) == 2


def test_an_interrupted_decoding_is_continued(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        Counted(patch, stop_after=3)
        with pytest.raises(KeyboardInterrupt):
            tiny(tree, processes=1)
    (name,) = cached(tmp_path)
    assert name.endswith(".part")
    part = tmp_path / "cache" / "supermask" / "decoded" / name
    assert len((part / "done").read_text().splitlines()) == 3
    with (part / "done").open("a") as file:
        file.write("tes")  # a line that the end of the power cut off
    counted = Counted(monkeypatch)
    seen: list[int] = []
    data = tiny(tree, processes=2, progress=lambda _, done, __: seen.append(done))
    assert counted.requests == 8 - 3
    assert seen[-1] == 15
    assert cached(tmp_path) == [name.removesuffix(".part")]
    files = sorted((tree / "train").rglob("*.JPEG"))
    assert np.array_equal(data.train.x.numpy(), np.stack([trees.pixels(file) for file in files]))


def test_bad_images_are_all_named(tree: Path, tmp_path: Path) -> None:
    folder = tree / "train" / trees.WNIDS[1] / "images"
    cut = folder / f"{trees.WNIDS[1]}_0.JPEG"
    cut.write_bytes(cut.read_bytes()[:-50])
    trees.jpeg(tree / "val" / "images" / "val_3.JPEG", 5, (64, 60))
    with pytest.raises(DamagedDataError) as caught:
        tiny(tree, processes=2)
    first, *lines = str(caught.value).splitlines()
    assert first == "2 images of tiny-imagenet cannot be used:"
    assert lines[0].startswith(f"{cut}: not a readable image (image file is truncated")
    assert lines[0].endswith("Replace or remove it")
    assert lines[1] == f"{tree}/val/images/val_3.JPEG: 60 x 64 pixels (height x width), expected 64 x 64"
    assert cached(tmp_path) == []
    cut.unlink()
    trees.jpeg(tree / "val" / "images" / "val_3.JPEG", 5)
    assert len(tiny(tree, processes=1).train) == 8


def test_many_bad_images_are_counted(tree: Path) -> None:
    for file in (tree / "train").rglob("*.JPEG"):
        file.write_text("no image")
    with pytest.raises(DamagedDataError, match=r"^9 images of tiny-imagenet cannot be used:\n(.*\n){5}and 4 more$"):
        tiny(tree, processes=1)


def test_grey_and_cmyk_images_become_rgb(tree: Path) -> None:
    folder = tree / "train" / trees.WNIDS[0] / "images"
    grey, ink = folder / f"{trees.WNIDS[0]}_0.JPEG", folder / f"{trees.WNIDS[0]}_1.JPEG"
    trees.jpeg(grey, 1, mode="L")
    trees.jpeg(ink, 2, mode="CMYK")
    data = tiny(tree, processes=1)
    for number, file in enumerate((grey, ink)):
        assert np.array_equal(data.train.x[number].numpy(), trees.pixels(file))
    assert torch.equal(data.train.x[0, 0], data.train.x[0, 2])


def test_a_read_only_data_folder_will_do(
    tree: Path, ordinary_user: Callable[[], AbstractContextManager[None]], tmp_path: Path
) -> None:
    folders = [path for path in (tree, *tree.rglob("*")) if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    try:
        with ordinary_user():
            assert len(tiny(tree, processes=1).train) == 9
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert len(cached(tmp_path)) == 1


def test_a_read_only_cache_is_named(
    tree: Path, ordinary_user: Callable[[], AbstractContextManager[None]], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o555)
    message = rf"cannot keep the decoded images of tiny-imagenet in {cache}.*Permission denied.*XDG_CACHE_HOME names"
    try:
        with ordinary_user(), pytest.raises(DataError, match=message):
            tiny(tree, processes=1)
    finally:
        cache.chmod(0o755)


def test_a_disk_that_is_too_small(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tree)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"take 0\.0 GB more, but .*decoded has only 0\.0 GB left: make room, or name"):
        tiny(tree, processes=1)


@pytest.mark.parametrize("harm", ["cut", "shape", "json", "gone"])
def test_a_damaged_cache_says_what_to_delete(tree: Path, tmp_path: Path, harm: str) -> None:
    tiny(tree, processes=1)
    (name,) = cached(tmp_path)
    folder = tmp_path / "cache" / "supermask" / "decoded" / name
    if harm == "cut":
        content = (folder / "train.npy").read_bytes()
        (folder / "train.npy").write_bytes(content[:-100])
    elif harm == "shape":
        np.save(folder / "test-labels.npy", np.zeros(5, np.int64))
    elif harm == "json":
        (folder / "meta.json").write_text("{")
    else:
        (folder / "test.npy").unlink()
    with pytest.raises(
        DamagedDataError, match=rf"{folder}: .* are damaged \(.*\)\. Delete that folder to decode them anew"
    ):
        tiny(tree)
    shutil.rmtree(folder)
    assert len(tiny(tree, processes=1).train) == 9


def test_two_that_want_the_same_decode_it_once(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    found: list[DataSet] = []
    threads = [threading.Thread(target=lambda: found.append(tiny(tree, processes=1))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted.requests == 8
    assert found[0].checksum == found[1].checksum


def test_the_cache_says_what_it_is(tree: Path) -> None:
    stored, crop = open_stored("tiny-imagenet", root=tree, classes=3, processes=1)
    meta = json.loads((stored.folder / "meta.json").read_text())
    assert crop is None
    assert meta["from"] == str(tree)
    assert meta["shapes"] == [[9, 3, 64, 64], [9], [6, 3, 64, 64], [6]]
    assert meta["checksum"] == stored.checksum
    assert not stored.raw.train_images.flags.writeable


def test_without_pillow(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"'tiny-imagenet' needs the package 'pillow': .*supermask\[data\]"):
        tiny(tree, processes=1)


def test_a_process_that_dies_is_told(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "dies.py"
    program.write_text("import os\ninput()\nos._exit(3)\n")
    with monkeypatch.context() as patch:
        patch.setattr(workers, "_PROGRAM", program)
        message = "a decoding process ended (exit code 3); the same command continues where it stopped"
        with pytest.raises(DataError, match=re.escape(message)):
            tiny(tree, processes=2)
    assert len(tiny(tree, processes=1).train) == 9


def test_a_script_needs_no_guard_for_its_processes(tree: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import supermask.data\n"
        f"data = supermask.data.load('tiny-imagenet', root={str(tree)!r}, classes=3, processes=2)\n"
        "print(len(data.train))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("9\n", "")


def test_sets_that_are_too_large_stay_on_the_disk(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meta = torch.device("meta")
    assert tiny(tree, processes=1, device=meta).train.x.device == meta
    monkeypatch.setattr("supermask.data.loading.RESIDENT_BYTES", 1000)
    data = tiny(tree, device=meta, validation=2)
    assert (data.train.x.device.type, data.train.y.device) == ("cpu", meta)
    x, y = data.train.batch(slice(0, 4))
    assert (x.device, y.device, x.shape) == (meta, meta, (4, 3, 64, 64))


def test_the_default_number_of_processes() -> None:
    assert Workers().processes == workers.default_processes() >= 1
    assert decoding.FORMAT == 1


def test_requests_that_were_not_sent_yet_are_thrown_away_quietly():
    with workers.Workers(1) as pool:
        process = workers._start()
        pool._running.append(process)
        process.stdin.write("not sent")  # stands in the buffer until the pipe is closed
    assert process.returncode is not None
