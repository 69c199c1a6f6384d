"""Which library is loaded, which variant of it, and what is said where there is none."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supermask.errors import KernelError
from supermask.kernels import build, library

COMPILER = sys.platform != "win32" and any(map(shutil.which, ("cc", "gcc", "clang")))
needs_compiler = pytest.mark.skipif(not COMPILER, reason="there is no C compiler here")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing loaded and nothing forced at first; afterwards what was before."""
    monkeypatch.delenv(library.SETTING, raising=False)
    library.loaded.cache_clear()
    yield
    library.loaded.cache_clear()


@needs_compiler
def test_a_checkout_with_a_compiler_has_the_kernels() -> None:
    """After `pip install -e .` or `make kernels`."""
    found = library.loaded()
    assert found.library is not None, found.reason
    assert library.variant() in library.VARIANTS


@needs_compiler
@pytest.mark.parametrize("variant", build.variants(build.platform.machine()))
def test_a_variant_can_be_forced(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.SETTING, variant)
    opened = library._open()[0]
    assert opened is not None
    if opened.smk_variants() >> library.VARIANTS.index(variant) & 1:
        assert library.variant() == variant
    else:
        with pytest.raises(KernelError, match=f"SUPERMASK_KERNELS={variant} cannot run on this processor, which has"):
            library.variant()


def test_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.SETTING, "off")
    assert library.library() is None
    assert library.variant() == "numpy"
    assert library.kernel("smk_variants", ()) is None


def test_an_unknown_variant_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.SETTING, "avx3")
    with pytest.raises(KernelError, match=r"must be one of off, generic, .*got 'avx3'"):
        library.loaded()


@needs_compiler
def test_a_variant_of_another_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = "neon" if build.variants(build.platform.machine()) != build.variants("arm64") else "avx2"
    monkeypatch.setenv(library.SETTING, other)
    with pytest.raises(
        KernelError, match=f"SUPERMASK_KERNELS={other} cannot run on this processor, which has: generic"
    ):
        library.loaded()


def test_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "_kernels.so")
    found = library.loaded()
    assert (found.library, found.variant) == (None, "numpy")
    assert "not compiled when the package was installed" in found.reason
    assert "python -m supermask.kernels.build" in found.reason
    library.loaded.cache_clear()
    monkeypatch.setenv(library.SETTING, "generic")
    with pytest.raises(KernelError, match="SUPERMASK_KERNELS=generic needs the compiled kernels: they were not"):
        library.loaded()


def test_a_file_that_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "_kernels.so")
    (tmp_path / "_kernels.so").write_text("no library")
    assert library.loaded().reason.startswith("_kernels.so cannot be loaded (")


@needs_compiler
def test_a_library_of_other_declarations_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its functions may take other arguments."""
    header = tmp_path / "kernels.h"
    header.write_text(build.HEADER.read_text() + "/* changed */\n")
    changed = build.declarations(header)
    monkeypatch.setattr(library, "declarations", lambda: changed)
    found = library.loaded()
    assert found.library is None
    assert "was built from other sources" in found.reason


@needs_compiler
def test_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small set of sources: compiled, replaced at once, an old library kept where the new one fails."""
    sources = tmp_path / "csrc"
    sources.mkdir()
    for name in ("kernels.h", "support.c", "ternary_simd.c"):
        shutil.copy(build.SOURCES / name, sources)
    monkeypatch.setattr(build, "SOURCES", sources)
    output = tmp_path / build.LIBRARY.name
    assert build.compile_library(output) is None
    first = output.read_bytes()
    (sources / "support.c").write_text("this is not C")
    failure = build.compile_library(output)
    assert failure is not None
    assert "support.c" in failure
    assert "ended with 1" in failure
    assert output.read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["csrc", output.name])


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.sys, "platform", "linux")
    monkeypatch.setenv("CC", "no-such-compiler -O9")
    assert build.compile_library(tmp_path / "x") == "no C compiler was found (CC='no-such-compiler -O9')"
    monkeypatch.delenv("CC")
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    assert build.compile_library(tmp_path / "x") == "no C compiler was found"
    monkeypatch.setattr(build.sys, "platform", "win32")
    assert build.compile_library(tmp_path / "x") == "the kernels are not built on Windows"


def test_variants_of_architectures() -> None:
    assert list(build.variants("x86_64")) == ["generic", "avx2", "avx512"]
    assert list(build.variants("arm64")) == list(build.variants("aarch64")) == ["generic", "neon"]
    assert list(build.variants("riscv64")) == ["generic"]


def test_the_build_needs_nothing_but_python(tmp_path: Path) -> None:
    """As a script in a checkout, where the folder of the kernels comes first among the modules."""
    command = [sys.executable, "-I", "-S", str(build.__file__)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"CC": "no-such-compiler"})
    assert done.returncode == 1
    assert done.stderr == "the kernels were not built: no C compiler was found (CC='no-such-compiler')\n"
