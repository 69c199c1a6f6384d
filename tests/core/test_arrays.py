"""Files of named arrays: what goes in comes out, and nothing else ever does."""

from __future__ import annotations

import os
import pickle
import random
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from supermask import load_arrays, save_arrays
from supermask.core.arrays import atomic_write, check_shapes, load_arrays_and_metadata
from supermask.errors import MaskError, MissingExtraError

from .helpers import noise

ENDINGS = (".npz", ".safetensors")
BOTH = pytest.mark.parametrize("ending", ENDINGS)


@BOTH
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.int8, torch.int64, torch.uint8, torch.bool]
)
def test_every_dtype_comes_back(tmp_path: Path, ending: str, dtype: torch.dtype) -> None:
    value = torch.tensor([[0.0, 1.0], [1.5, -0.0]]).to(dtype)
    save_arrays(tmp_path / f"a{ending}", {"x": value, "y": value.numpy()})
    loaded = load_arrays(tmp_path / f"a{ending}")
    for name in ("x", "y"):
        assert torch.equal(loaded[name], value)
        assert loaded[name].dtype == dtype


@BOTH
def test_bfloat16_is_saved_exactly_as_float32(tmp_path: Path, ending: str) -> None:
    value = noise(20).bfloat16()
    save_arrays(tmp_path / f"a{ending}", {"x": value})
    loaded = load_arrays(tmp_path / f"a{ending}")["x"]
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded.bfloat16(), value)


def test_bfloat16_files_of_others_are_read(tmp_path: Path) -> None:
    save_file({"x": torch.ones(3, dtype=torch.bfloat16)}, tmp_path / "a.safetensors")
    assert load_arrays(tmp_path / "a.safetensors")["x"].dtype == torch.bfloat16


@BOTH
def test_shapes_layouts_and_names(tmp_path: Path, ending: str) -> None:
    arrays = {
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
        "transposed": noise(3, 4).t(),
        "channels_last": noise(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "a.b/c d": torch.ones(1),
        "file": torch.ones(1),
        "allow_pickle": torch.ones(1),
        "gradient": torch.ones(2, requires_grad=True),
    }
    save_arrays(tmp_path / f"a{ending}", arrays, {"note": "ä\n"})
    loaded, notes = load_arrays_and_metadata(tmp_path / f"a{ending}")
    assert notes == {"note": "ä\n"}
    assert loaded.keys() == arrays.keys()
    for name, value in arrays.items():
        assert loaded[name].shape == value.shape, name
        assert torch.equal(loaded[name], value.detach()), name


@BOTH
def test_loaded_arrays_can_be_written_to(tmp_path: Path, ending: str) -> None:
    save_arrays(tmp_path / f"a{ending}", {"x": torch.zeros(3)})
    load_arrays(tmp_path / f"a{ending}")["x"].add_(1.0)
    assert not bool(load_arrays(tmp_path / f"a{ending}")["x"].any())


@BOTH
def test_tensorflow_layout(tmp_path: Path, ending: str) -> None:
    linear, conv, bias = noise(3, 5), noise(4, 2, 3, 1), noise(4)
    save_arrays(
        tmp_path / f"a{ending}",
        {"linear": linear.t(), "conv": conv.permute(2, 3, 1, 0), "bias": bias},  # (in, out), (*kernel, in, out)
    )
    loaded = load_arrays(tmp_path / f"a{ending}", layout="tf")
    assert torch.equal(loaded["linear"], linear)
    assert torch.equal(loaded["conv"], conv)
    assert loaded["conv"].is_contiguous()
    assert torch.equal(loaded["bias"], bias)
    with pytest.raises(MaskError, match="layout must be 'torch' or 'tf', got 'keras'"):
        load_arrays(tmp_path / f"a{ending}", layout="keras")  # type: ignore[arg-type]


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match="array files end in .safetensors or .npz, got 'a.pt'"):
        save_arrays(tmp_path / "a.pt", {"x": torch.ones(1)})
    (tmp_path / "a.pt").write_bytes(b"")
    with pytest.raises(MaskError, match="array files end in .safetensors or .npz, got 'a.pt'"):
        load_arrays(tmp_path / "a.pt")


@BOTH
def test_a_missing_file_is_named(tmp_path: Path, ending: str) -> None:
    with pytest.raises(MaskError, match=f"no such file: .*gone{ending}"):
        load_arrays(tmp_path / f"gone{ending}")
    (tmp_path / f"folder{ending}").mkdir()
    with pytest.raises(MaskError, match="no such file"):
        load_arrays(tmp_path / f"folder{ending}")


# ---------------------------------------------------------------------- damaged and foreign files


def damaged(path: Path) -> None:
    with pytest.raises(MaskError, match=r"is damaged or not an? (npz|safetensors) file"):
        load_arrays(path)


@BOTH
def test_truncated_files(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    save_arrays(path, {"x": noise(30), "y": noise(4, 4)}, {"note": "x"})
    data = path.read_bytes()
    for length in [*range(0, len(data), max(1, len(data) // 60)), len(data) - 1]:
        path.write_bytes(data[:length])
        damaged(path)


@BOTH
def test_flipped_bytes_give_an_error_of_ours_or_arrays(tmp_path: Path, ending: str) -> None:
    """safetensors has no checksum; but nothing other than MaskError may come out."""
    path = tmp_path / f"a{ending}"
    save_arrays(path, {"x": noise(30), "y": noise(4, 4)}, {"note": "x"})
    data = path.read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(300):
        broken = bytearray(data)
        broken[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        try:
            load_arrays(path)
        except MaskError:
            refused += 1
    assert refused > 50


FOREIGN: dict[str, Any] = {
    "text.npz": b"hello",
    "text.safetensors": b"hello, this is a longer text that is no safetensors file",
    "pickle.npz": pickle.dumps({"x": 1}),
    "zip.npz": b"PK\x05\x06" + bytes(18),
}


@pytest.mark.parametrize("name", [name for name in FOREIGN if name != "zip.npz"])
def test_files_of_other_formats(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FOREIGN[name])
    damaged(tmp_path / name)


def test_an_empty_archive_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "zip.npz").write_bytes(FOREIGN["zip.npz"])
    assert load_arrays(tmp_path / "zip.npz") == {}


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "exploded").write_text, ("boom",))

    np.savez(tmp_path / "a.npz", x=np.array([Bomb()], dtype=object))
    damaged(tmp_path / "a.npz")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "array",
    [np.array(["text"]), np.array([1.0], ">f4"), np.array(["2020"], "datetime64[Y]")],
    ids=["text", "big", "date"],
)
def test_arrays_that_torch_cannot_hold(tmp_path: Path, array: Any) -> None:
    np.savez(tmp_path / "a.npz", x=array)
    damaged(tmp_path / "a.npz")


def test_a_single_array_in_an_npz_name(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(3))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    damaged(tmp_path / "a.npz")


def test_foreign_metadata(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones(3), __metadata__=np.ones(3))
    damaged(tmp_path / "a.npz")


def test_without_safetensors_the_pip_line_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"")
    for name in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'supermask\[lab\]'"):
        save_arrays(tmp_path / "b.safetensors", {"x": torch.ones(1)})
    with pytest.raises(MissingExtraError, match=r"reading .safetensors files needs the package 'safetensors'"):
        load_arrays(tmp_path / "a.safetensors")
    save_arrays(tmp_path / "b.npz", {"x": torch.ones(1)})  # needs none


# ---------------------------------------------------------------------- names and shapes

SHAPES = {"a": torch.Size((2, 3)), "b": torch.Size((4,))}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": torch.ones(2, 3)}, "the weights do not fit the model's targets; missing: b; known: a, b"),
        (
            {"a": torch.ones(2, 3), "c": torch.ones(1)},
            "the weights do not fit the model's targets; missing: b; unknown: c; known: a, b",
        ),
        ({"a": torch.ones(2, 4), "b": torch.ones(4)}, r"the weights of a must have shape \(2, 3\), got \(2, 4\)$"),
        (
            {"a": torch.ones(3, 2), "b": torch.ones(4)},
            r"the weights of a must have shape \(2, 3\), got \(3, 2\); is the file in TensorFlow's layout\? then load",
        ),
        ({"a": np.ones((2, 3)), "b": np.ones((4, 1))}, r"the weights of b must have shape \(4,\), got \(4, 1\)$"),
    ],
)
def test_names_and_shapes_are_checked(arrays: Any, message: str) -> None:
    with pytest.raises(MaskError, match=message):
        check_shapes(arrays, SHAPES, "weights")


def test_right_names_and_shapes_pass_in_any_order() -> None:
    check_shapes({"b": np.ones(4), "a": torch.ones(2, 3)}, SHAPES, "weights")


# ---------------------------------------------------------------------- the one safe way to write a file


def test_atomic_write_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "file.bin"
    atomic_write(path, b"one")
    atomic_write(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file.bin"]  # noqa: PTH208


def test_atomic_write_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(NotADirectoryError, match=r"file/new\.bin cannot be written: .*file is a file, not a folder"):
        atomic_write(tmp_path / "file" / "new.bin", b"x")
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_atomic_write_respects_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        atomic_write(tmp_path / "file", b"x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert os.umask(old) == old


class DiskFullError(OSError):
    """No space left on the device."""


def fail(*args: Any, **kwargs: Any) -> Any:
    raise DiskFullError


class FullFile:
    """A file whose disk is full."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __enter__(self) -> FullFile:
        return self

    def __exit__(self, *args: object) -> None:
        os.close(self.descriptor)

    write = flush = fail


@pytest.mark.parametrize("stage", ["write", "fsync", "chmod", "rename"])
def test_a_failure_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    path = tmp_path / "file"
    atomic_write(path, b"old")
    if stage == "write":
        monkeypatch.setattr(os, "fdopen", lambda descriptor, mode: FullFile(descriptor))
    elif stage == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "chmod" if stage == "chmod" else "replace", fail)
    with pytest.raises(DiskFullError):
        atomic_write(path, b"new")
    with pytest.raises(DiskFullError):
        save_arrays(tmp_path / "file.npz", {"x": torch.ones(1)})
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_interrupt_cleans_up_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "file", b"x")
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: order.append("fsync") or fsync(fd))
    monkeypatch.setattr(Path, "replace", lambda self, to: order.append("rename") or replace(self, to))
    atomic_write(tmp_path / "file", b"x")
    assert order == ["fsync", "rename", "fsync"]  # the file, its name, the folder


def test_an_unwritable_array_leaves_the_old_file(tmp_path: Path) -> None:
    for ending in ENDINGS:
        path = tmp_path / f"a{ending}"
        save_arrays(path, {"x": torch.ones(1)})
        with pytest.raises(Exception, match="(?i)object"):
            save_arrays(path, {"x": np.array([object()])})
        assert load_arrays(path)["x"].item() == 1.0
