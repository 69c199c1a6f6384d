"""What a user installs: the wheel holds the package, its experiments, the compiled kernels and the typed marker, no more."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from supermask.kernels.build import LIBRARY

ROOT = Path(__file__).parents[1]
COMPILER = any(map(shutil.which, ("cc", "gcc", "clang")))


def build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | environment)


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def without_compiler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is made where there is no compiler."""
    folder = tmp_path_factory.mktemp("pure")
    done = build(folder, CC="no-such-compiler")
    assert done.returncode == 0, done.stderr
    assert "numpy and torch will do their work: no C compiler was found (CC='no-such-compiler')" in (
        done.stdout + done.stderr
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_contents(without_compiler: Path) -> None:
    names = names_in(without_compiler)
    with zipfile.ZipFile(without_compiler) as archive:
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    experiments = {
        f"supermask/experiments/{p.relative_to(ROOT / 'experiments')}" for p in ROOT.glob("experiments/**/*.yaml")
    }
    source = ROOT / "src" / "supermask"
    modules = {f"supermask/{p.relative_to(source)}" for p in source.glob("**/*.py")}
    kernels = {f"supermask/{p.relative_to(source)}" for p in source.glob("kernels/csrc/*")}  # to compile them later
    assert experiments
    assert experiments | modules | kernels | {"supermask/py.typed"} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"supermask"}
    required = [line for line in text.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert sorted(required) == ["Requires-Dist: numpy>=1.26", "Requires-Dist: torch>=2.11"]


def test_without_a_compiler_it_is_a_wheel_for_every_platform(without_compiler: Path) -> None:
    assert without_compiler.name.endswith("-py3-none-any.whl")
    assert not [name for name in names_in(without_compiler) if "_kernels." in name]


def test_the_package_works_without_compiled_kernels(without_compiler: Path, tmp_path: Path) -> None:
    """From the wheel, not from the checkout."""
    with zipfile.ZipFile(without_compiler) as archive:
        archive.extractall(tmp_path)
    code = """
import torch, supermask.kernels.library as library
from supermask import SignedSupermask
from supermask.tensors.topk import topk_mask
assert library.variant() == "numpy", library.variant()
assert "supermask.kernels.build" in library.loaded().reason, library.loaded().reason
model = torch.nn.Linear(8, 4)
SignedSupermask().attach(model)
model(torch.ones(2, 8)).sum().backward()
assert topk_mask(torch.arange(5.0), 2).tolist() == [False, False, False, True, True]
print(library.__file__)
"""
    environment = {key: value for key, value in os.environ.items() if key != "SUPERMASK_KERNELS"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(tmp_path))


@pytest.mark.skipif(sys.platform == "win32" or not COMPILER, reason="there is no C compiler here")
def test_with_a_compiler_it_is_a_wheel_for_this_platform(tmp_path: Path) -> None:
    done = build(tmp_path, SUPERMASK_REQUIRE_KERNELS="1")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("-any.whl")
    assert f"supermask/kernels/{LIBRARY.name}" in names_in(wheel)


def test_kernels_can_be_required(tmp_path: Path) -> None:
    done = build(tmp_path, CC="no-such-compiler", SUPERMASK_REQUIRE_KERNELS="1")
    assert done.returncode != 0
    assert "SUPERMASK_REQUIRE_KERNELS is 1: no C compiler was found" in done.stdout + done.stderr
    assert not list(tmp_path.glob("*.whl"))
