from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from supermask.cli import findings
from supermask.kernels import library

from .conftest import Invoke


def test_a_sound_machine(supermask: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    result = supermask("doctor")
    assert result.exit_code == 0
    assert result.stdout.endswith("\nnothing is wrong\n")
    lines = {line.split("  ")[0]: line for line in result.stdout.splitlines()}
    assert {"python", "torch", "devices", "threads", "kernels", "results folder", "data: digits"} <= set(lines)
    assert "missing; to get it: supermask data get mnist" in lines["data: mnist"]
    assert "OMP_WAIT_POLICY: " not in result.stdout


def test_spinning_threads_are_a_hint(supermask: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    result = supermask("doctor")
    assert result.exit_code == 0
    assert "OMP_WAIT_POLICY: `run` sets it to passive for its workers" in result.stdout


def test_a_results_folder_that_cannot_be_written(supermask: Invoke, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = supermask("doctor", "--out", tmp_path / "file" / "runs")
    assert result.exit_code == 1
    assert "WRONG results folder: cannot be written (Not a directory): choose another by --out\n" in result.stdout
    assert result.stdout.endswith("\n1 wrong\n")
    content = json.loads(supermask("doctor", "--out", tmp_path / "file" / "runs", "--json").stdout)
    assert content["healthy"] is False


def test_a_results_folder_is_left_as_it_was(tmp_path: Path) -> None:
    assert findings.results_folder(tmp_path / "runs").value.startswith(f"{tmp_path / 'runs'} (will be made, writable, ")
    assert list(tmp_path.iterdir()) == []


def without(package: str, monkeypatch: pytest.MonkeyPatch, version: str | None = None) -> None:
    real = importlib.metadata.version

    def fake(name: str) -> str:
        if name != package:
            return real(name)
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", fake)


def test_a_missing_extra_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    without("pillow", monkeypatch)
    found = findings.package_version("pillow", "PIL", "data")
    assert (found.problem, found.hint) == (None, "python -m pip install 'supermask[data]' adds it")


def test_a_missing_requirement_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    without("numpy", monkeypatch)
    assert findings.package_version("numpy", "numpy").problem == "it is required: python -m pip install numpy"


def test_an_old_torch_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    without("torch", monkeypatch, "2.10.1+cpu")
    assert findings.package_version("torch", "torch").problem == "too old: python -m pip install 'torch>=2.11'"


def test_an_old_python_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.version_info", (3, 10, 4))
    python = next(finding for finding in findings.versions() if finding.name == "python")
    assert python.problem is not None
    assert "install Python 3.11 or newer" in python.problem


def test_a_broken_installation_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise OSError("libz.so: cannot open")

    monkeypatch.setattr("importlib.import_module", broken)
    problem = findings.package_version("pillow", "PIL", "data").problem
    assert (
        problem == "import PIL fails (libz.so: cannot open): python -m pip install 'supermask[data]' --force-reinstall"
    )


@pytest.mark.parametrize(
    ("version", "numbers"), [("2.13.0+cpu", (2, 13, 0)), ("2.9", (2, 9)), ("2.14.0a0", (2, 14, 0)), ("unknown", ())]
)
def test_release(version: str, numbers: tuple[int, ...]) -> None:
    assert findings.release(version) == numbers


def test_the_space_that_is_left(supermask: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=499_000_000))
    result = supermask("doctor")
    assert result.exit_code == 1
    assert "runs (will be made, writable, 0.5 GB free)" in result.stdout
    assert (
        "WRONG results folder: 499 MB are left on its disk, and a run that cannot write fails: make room"
        in result.stdout
    )


def test_data_folders_that_are_not_there(supermask: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERMASK_DATA", str(tmp_path / "nothing"))
    (tmp_path / "file").touch()
    result = supermask("doctor", "--data-dir", tmp_path / "file")
    assert result.exit_code == 1
    way = "name the folder that holds the data sets"
    assert f"WRONG data folder (--data-dir): cannot be read (Not a directory): {way}\n" in result.stdout
    assert f"WRONG data folder (SUPERMASK_DATA): cannot be read (No such file or directory): {way}\n" in result.stdout
    monkeypatch.setenv("SUPERMASK_DATA", str(tmp_path))
    assert f"{tmp_path} (1 entries)" in supermask("doctor").stdout


def test_data_that_may_not_be_read(supermask: Invoke, tmp_path: Path, ordinary_user: Any) -> None:
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    try:
        for path, told in (
            (folder, f"WRONG data: {folder}"),
            (folder.parent, "WRONG data folder (--data-dir): cannot be read (Permission denied): name the folder"),
        ):
            path.chmod(0)
            with ordinary_user():
                result = supermask("doctor", "--data-dir", folder.parent)
            assert result.exit_code == 1
            assert told in result.stdout
            assert "Permission denied" in result.stdout
            path.chmod(0o755)
    finally:
        folder.parent.chmod(0o755)
        folder.chmod(0o755)


def test_the_kernels_in_use(supermask: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    library.loaded.cache_clear()
    monkeypatch.setattr(library, "LIBRARY", Path("nowhere"))
    assert "python -m supermask.kernels.build" in supermask("doctor").stdout
    library.loaded.cache_clear()
    monkeypatch.setenv(library.SETTING, "avx3")
    result = supermask("doctor")
    library.loaded.cache_clear()
    assert result.exit_code == 1
    assert "WRONG kernels: SUPERMASK_KERNELS must be one of off, generic" in result.stdout


@pytest.mark.skipif(library.library() is None, reason="the kernels are not compiled here")
def test_compiled_kernels_are_named(supermask: Invoke) -> None:
    assert f"compiled, {library.variant()}" in supermask("doctor").stdout
