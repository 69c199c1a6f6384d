"""What ``supermask doctor`` looks at, one function a subject."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LEAST_PYTHON: Final = (3, 11)
LEAST_TORCH: Final = (2, 11)
LEAST_SPACE: Final = 500_000_000  # bytes: some runs of a large network with their checkpoints
#: Distribution -> module, of every optional dependency, by extra.
EXTRAS: Final = {
    "lab": {"pydantic": "pydantic", "pyyaml": "yaml", "typer": "typer", "rich": "rich", "safetensors": "safetensors"},
    "data": {"scikit-learn": "sklearn", "scipy": "scipy", "pillow": "PIL"},
    "webdataset": {"webdataset": "webdataset"},
}
_FLAGS: Final = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "neon", "asimd", "sve")


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Attributes:
        name: What was looked at.
        value: What was found.
        problem: What is wrong and the way out; None when nothing is.
        hint: What could be had in addition; None when there is nothing to say.
    """

    name: str
    value: str
    problem: str | None = None
    hint: str | None = None


def examine(out: Path, data_dir: Path | None) -> list[Finding]:
    """Look at everything."""
    return [*versions(), *machine(), results_folder(out), *data_folders(data_dir), *data_sets(data_dir)]


def versions() -> Iterator[Finding]:
    """Python, torch, numpy and the extras."""
    from supermask._version import __version__

    yield Finding("supermask", __version__)
    python = platform.python_version()
    old = None if sys.version_info >= LEAST_PYTHON else f"{python} is too old: install Python 3.11 or newer"
    yield Finding("python", python, old)
    for package in ("torch", "numpy"):
        yield package_version(package, package)
    for extra, packages in EXTRAS.items():
        for package, module in packages.items():
            yield package_version(package, module, extra)


def package_version(package: str, module: str, extra: str | None = None) -> Finding:
    """Whether a package is installed, can be imported, and (torch) is new enough."""
    way = f"python -m pip install 'supermask[{extra}]'" if extra else f"python -m pip install {package}"
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        if extra:
            return Finding(package, "not installed", hint=f"{way} adds it")
        return Finding(package, "not installed", f"it is required: {way}")
    try:
        importlib.import_module(module)
    except Exception as error:  # noqa: BLE001  (a broken installation may raise anything)
        return Finding(package, version, f"import {module} fails ({error}): {way} --force-reinstall")
    if package == "torch" and release(version) < LEAST_TORCH:
        return Finding(package, version, "too old: python -m pip install 'torch>=2.11'")
    return Finding(package, version)


def release(version: str) -> tuple[int, ...]:
    """The numbers at the start of a version: "2.13.0+cpu" is (2, 13, 0)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match.group().split("."))) if match else ()


def machine() -> Iterator[Finding]:
    """Processor, devices, threads and kernels."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    level = torch.backends.cpu.get_cpu_capability()
    yield Finding("processor", f"{platform.machine()}, {cores} usable cores, torch uses {level}")
    if flags := cpu_flags():
        yield Finding("processor flags", " ".join(flags))
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    yield Finding("devices", ", ".join(["cpu", *(f"cuda:{index} ({name})" for index, name in enumerate(gpus))]))
    yield Finding("threads", f"{torch.get_num_threads()} here; `run` gives each worker --threads (1)")
    policy = os.environ.get("OMP_WAIT_POLICY", "not set")
    spins = (
        "`run` sets it to passive for its workers; do so for programs of your own: spinning threads slow others down"
    )
    yield Finding("OMP_WAIT_POLICY", policy, hint=None if policy.lower() == "passive" else spins)
    yield kernels()


def kernels() -> Finding:
    """Whether the compiled kernels are used."""
    from supermask.errors import KernelError
    from supermask.kernels.library import loaded

    try:
        found = loaded()
    except KernelError as error:
        return Finding("kernels", "none", str(error))
    if found.library is None:
        return Finding("kernels", "plain numpy and torch", hint=found.reason)
    return Finding("kernels", f"compiled, {found.variant}")


def cpu_flags() -> list[str]:
    """Instruction sets that matter for speed, where Linux tells them."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return []
    lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", info.read_text(), re.MULTILINE)
    present = " ".join(lines[:1]).split()
    return [flag for flag in _FLAGS if flag in present]


def results_folder(out: Path) -> Finding:
    """Whether runs can be written; leaves nothing behind."""
    place = out.resolve()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.NamedTemporaryFile(dir=place) as file:
            file.write(b"supermask")
            file.flush()
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Finding("results folder", str(out), f"cannot be written ({error.strerror}): choose another by --out")
    value = f"{out} ({'exists' if out.exists() else 'will be made'}, writable, {free / 1e9:,.1f} GB free)"
    full = f"{free / 1e6:,.0f} MB are left on its disk, and a run that cannot write fails: make room, or choose another"
    return Finding("results folder", value, f"{full} by --out" if free < LEAST_SPACE else None)


def data_folders(root: Path | None) -> Iterator[Finding]:
    """The folders that the user named for data sets; a wrong name shows only as missing data otherwise."""
    named = {"--data-dir": root, "SUPERMASK_DATA": os.environ.get("SUPERMASK_DATA") or None}
    for origin, folder in named.items():
        if folder is None:
            continue
        path = Path(folder).expanduser()
        try:
            count = len(list(path.iterdir()))
        except OSError as error:
            way = "name the folder that holds the data sets"
            yield Finding(f"data folder ({origin})", str(path), f"cannot be read ({error.strerror}): {way}")
        else:
            yield Finding(f"data folder ({origin})", f"{path} ({count} entries)")


def data_sets(root: Path | None) -> Iterator[Finding]:
    """Data sets that were found, and how to get the others."""
    from supermask.data import status

    try:
        entries = status(root)
    except OSError as error:  # below a data folder
        yield Finding(
            "data", "not known", f"{error.filename} cannot be read ({error.strerror}): change its permissions"
        )
        return
    for entry in entries:
        value = entry.where if entry.ready else f"missing; to get it: {entry.hint}"
        yield Finding(f"data: {entry.name}", value)
