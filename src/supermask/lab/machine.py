"""What a result depends on beside its spec: versions, processor, threads, the code's commit; and the memory it took."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from supermask._version import __version__
from supermask.lab.memory import peak_rss, reset_peak

_CPU_INFO: Final = Path("/proc/cpuinfo")


def environment(
    device: torch.device, threads: int, commit: dict[str, Any] | None, processes: int = 1
) -> dict[str, Any]:
    """Versions and machine, JSON-able.

    Args:
        device: Where the run trains.
        threads: Threads of torch in this process.
        commit: What :func:`checkout` found.
        processes: That train a run together.
    """
    return {
        "supermask": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "host": platform.node(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": threads,
        "processes": processes,
        "cuda_arithmetic": _cuda_arithmetic() if device.type == "cuda" else None,
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY"),
        "git": commit,
    }


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(device: str) -> int:
    """Worker processes where no number is given: one a core, or one on a GPU, as all of them would share it."""
    return 1 if device.startswith("cuda") else usable_cores()


@contextlib.contextmanager
def repeatable(device: torch.device, *, exact: bool) -> Iterator[None]:
    """Inside, CUDA computes so that a run can be repeated; on other devices nothing changes.

    cuDNN takes its deterministic algorithms, chosen without timing them.

    Args:
        device: Where the run trains.
        exact: Products and convolutions of float32 are computed in float32 too, not in TF32.
    """
    if device.type != "cuda":
        yield
        return
    cudnn, products = _backends()
    before = cudnn.deterministic, cudnn.benchmark, [kind.fp32_precision for kind in products]
    try:
        cudnn.deterministic, cudnn.benchmark = True, False
        for kind in products if exact else ():
            kind.fp32_precision = "ieee"
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before[:2]
        for kind, precision in zip(products, before[2], strict=True):
            kind.fp32_precision = precision


def _backends() -> tuple[Any, tuple[Any, Any, Any]]:
    """What holds the flags of cuDNN, and of the precision of matrix products, convolutions and recurrent layers."""
    cudnn: Any = torch.backends.cudnn
    return cudnn, (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)


def _cuda_arithmetic() -> dict[str, Any]:
    cudnn, (products, convolutions, recurrent) = _backends()
    return {
        "matmul": products.fp32_precision,
        "convolution": convolutions.fp32_precision,
        "recurrent": recurrent.fp32_precision,
        "deterministic": cudnn.deterministic,
        "benchmark": cudnn.benchmark,
    }


def checkout() -> dict[str, Any] | None:
    """Commit of the package's source and whether it was changed since; None where it is not in a git checkout."""
    folder = Path(__file__).parent
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder.parent, "status", "--porcelain", "--", ".")
    return None if commit is None else {"commit": commit, "dirty": changes != ""}


def reset_peak_memory(device: torch.device) -> None:
    """Start measuring the peak memory anew, see :func:`supermask.lab.memory.reset_peak`."""
    reset_peak()
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what the run before has left over is another process's to take
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> dict[str, int | None]:
    """Bytes: ``peak_rss`` of this process since :func:`reset_peak_memory` (None where unknown), ``peak_device`` on a GPU."""
    memory: dict[str, int | None] = {"peak_rss": peak_rss()}
    if device.type == "cuda":
        memory["peak_device"] = torch.cuda.max_memory_allocated(device)
    return memory


def _cpu_name() -> str:
    if _CPU_INFO.exists():
        for line in _CPU_INFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command; None when there is no git, or the command fails."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
