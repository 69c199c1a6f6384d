"""A sparse network beside the same network dense: times, memory, bytes, and one sentence on what it gains.

Every contender runs in a process of its own on the same random inputs; in every round each of them is timed once.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from supermask.core.clock import CLOCKS, Clock
from supermask.deploy import export, read
from supermask.errors import ConfigError, SupermaskError
from supermask.kernels.library import variant
from supermask.lab.artefact import Artefact, load_artefact
from supermask.lab.contender import Contender
from supermask.lab.machine import environment
from supermask.lab.packing import pack_artefact
from supermask.lab.verdict import verdict
from supermask.measure import latency, macs

SCHEMA: Final = 1
ENGINE: Final = "engine"
RUNTIME: Final = "runtime"
_HOME: Final = "supermask.lab.contenders"
_START_SECONDS: Final = 120.0
_MACHINE: Final = ("supermask", "python", "torch", "numpy", "platform", "cpu", "cores", "threads")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a benchmark is run.

    Args:
        batches: Batch sizes, each >= 1.
        threads: Threads of every contender, >= 1.
        clock: ``wall``; ``cpu`` on a machine that others use too, with one thread.
        rounds: Rounds of each batch size, >= 5.
        max_seconds: No round of a batch size begins after that time.
        compile_seconds: What ``torch.compile`` may take at each batch size before it is left out; 0: do not try.

    Raises:
        ConfigError: One of them is out of range.
    """

    batches: tuple[int, ...] = (1, 32, 128)
    threads: int = 1
    clock: Clock = "wall"
    rounds: int = 30
    max_seconds: float = 60.0
    compile_seconds: float = 120.0

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1 or len(set(self.batches)) < len(self.batches):
            raise ConfigError(
                f"batches must be different numbers >= 1, got {', '.join(map(str, self.batches)) or 'none'}"
            )
        if self.threads < 1:
            raise ConfigError(f"threads must be at least 1, got {self.threads}")
        if self.clock not in CLOCKS:
            raise ConfigError(f"clock must be 'wall' or 'cpu', got {self.clock!r}")
        if self.clock == "cpu" and self.threads > 1:
            raise ConfigError(
                f"clock 'cpu' adds up the time of {self.threads} threads, which is no latency: take 'wall'"
            )


def bench(
    source: Mapping[str, Any],
    *,
    against: Mapping[str, Any] | None = None,
    options: Options | None = None,
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Compare.

    Args:
        source: The sparse network: arguments of :func:`supermask.lab.artefact.load_artefact`.
        against: The dense one, likewise; None: the same network, its zeros multiplied like any other weight.
        options: How; None: the defaults.
        tell: Called with what begins.

    Returns:
        What ``supermask bench --json`` prints; ``docs/json.md`` has the schema.

    Raises:
        ConfigError: A model is unknown, or the shape of its inputs is.
        RunError: Even plain torch could not be run.
    """
    options, tell = options or Options(), tell or (lambda _: None)
    sparse = load_artefact(**source)
    dense = sparse if against is None else load_artefact(**against)
    if sparse.input_shape is None or sparse.input_shape != dense.input_shape:
        raise ConfigError(
            f"the shape of one input must be known and the same for both networks, got {sparse.input_shape} and "
            f"{dense.input_shape}; say it: --input 3,32,32"
        )
    x = np.random.default_rng(0).standard_normal((max(options.batches), *sparse.input_shape)).astype(np.float32)
    folder = Path(tempfile.mkdtemp(prefix="supermask-bench-"))
    try:
        with ExitStack() as stack:
            entries = _Entries(stack, options, x, tell)
            entries.add_dense(dense, against or source, folder)
            packed = entries.add_engine(sparse, source, folder)
            rows = entries.measure()
    finally:
        shutil.rmtree(folder)
    masks = {name: p.detach() != 0 for name, p in sparse.model.named_parameters() if p.dim() > 1}
    counted = macs(sparse.model, sparse.input_shape, masks)
    ratio = counted["dense"] / counted["remaining"] if counted["remaining"] else None
    result = {
        "schema": SCHEMA,
        "name": sparse.name,
        "against": dense.name if against is not None else None,
        "input_shape": list(sparse.input_shape),
        "options": asdict(options) | {"batches": list(options.batches)},
        "machine": _machine(options.threads),
        "weights": _weights(sparse.model),
        "macs": counted | {"ratio": ratio},
        "bytes": {"dense_float32": 4 * _weights(dense.model)["total"], "packed": packed},
        "rows": rows,
        "differences": _differences(entries.outputs) if against is None else None,
        "skipped": [{"contender": name, "reason": reason} for name, reason in entries.skipped.items()],
    }
    return result | {"verdict": verdict(result)}


class _Entries:
    """The contenders that run, and why others do not."""

    def __init__(self, stack: ExitStack, options: Options, x: NDArray[np.float32], tell: Callable[[str], None]) -> None:
        self.stack, self.options, self.x, self.tell = stack, options, x, tell
        self.running: dict[str, Contender] = {}
        self.outputs: dict[str, NDArray[np.float32]] = {}
        self.skipped: dict[str, str] = {}

    def add_dense(self, artefact: Artefact, source: Mapping[str, Any], folder: Path) -> None:
        arguments = {"model": dict(source)}
        self.start("eager", arguments, optional=False)
        if any(isinstance(module, nn.Conv2d) for module in artefact.model.modules()):
            self.start("channels_last", arguments)
        else:
            self.skipped["channels_last"] = "the network has no convolution in two dimensions"
        if not self.options.compile_seconds:
            self.skipped["compiled"] = "not asked for"
        elif not any(map(shutil.which, ("cc", "gcc", "clang", "g++", "clang++"))):
            self.skipped["compiled"] = "torch.compile needs a C++ compiler, and there is none"
        else:
            self.start("compiled", arguments, max_seconds=self.options.compile_seconds)
        self.tell("exporting to ONNX")
        try:
            path = folder / "dense.onnx"
            export(artefact.model, path, example=torch.from_numpy(self.x[:2] if len(self.x) > 1 else self.x))
        except SupermaskError as error:
            self.skipped["onnxruntime"] = str(error)
        else:
            self.start("onnxruntime", {"path": path})

    def add_engine(self, artefact: Artefact, source: Mapping[str, Any], folder: Path) -> int | None:
        """Start the engine, with torch and without it; the bytes of the packed file, None where there is none."""
        path, size, refusal = _pack(artefact, folder)
        asked = tuple(sorted(self.options.batches))
        self.start(ENGINE, {"path": path, "model": dict(source), "batches": asked})
        if path is None:
            self.skipped[RUNTIME] = refusal
        else:
            self.start(RUNTIME, {"path": path})
        return size

    def start(
        self, name: str, arguments: Mapping[str, Any], *, optional: bool = True, max_seconds: float | None = None
    ) -> None:
        """Start a contender and run it at each batch size, so that all that happens once has happened."""
        self.tell(f"starting {name}")
        factory, threads = f"{_HOME}:{name}", self.options.threads
        contender = None
        try:
            contender = Contender(
                factory, {**arguments, "threads": threads}, threads=threads, max_seconds=_START_SECONDS
            )
            for batch in sorted(self.options.batches):
                output = contender.run(self.x[:batch], max_seconds=max_seconds)
        except SupermaskError as error:
            if contender is not None:
                contender.close()
            if not optional:
                raise
            self.skipped[name] = str(error)
            return
        self.stack.enter_context(contender)
        self.running[name], self.outputs[name] = contender, output

    def measure(self) -> list[dict[str, Any]]:
        """One row a contender and batch size."""
        rows = []
        for batch in self.options.batches:
            self.tell(f"measuring batch {batch}")
            for contender in self.running.values():
                contender.run(self.x[:batch])
            timers = {name: contender.timer() for name, contender in self.running.items()}
            found = latency(
                timers, rounds=self.options.rounds, max_seconds=self.options.max_seconds, clock=self.options.clock
            )
            for name, times in found.items():
                over = None if ENGINE not in found else asdict(times.ratio(found[ENGINE]))
                rows.append(
                    {
                        "contender": name,
                        "batch": batch,
                        "p50": times.p50,
                        "p95": times.p95,
                        "per_second": batch / times.p50,
                        "calls": times.calls,
                        "ratio_to_engine": over,
                        "peak_memory": self.running[name].peak(),
                    }
                )
        return rows


def _machine(threads: int) -> dict[str, Any]:
    found = environment(torch.device("cpu"), threads, None)
    return {key: found[key] for key in _MACHINE} | {"kernels": variant()}


def _pack(artefact: Artefact, folder: Path) -> tuple[Path | None, int | None, str]:
    """A packed file that holds the network's graph, if there can be one; the bytes of its packed file; and why not."""
    if artefact.packed is not None and read(artefact.packed).graph is not None:
        return artefact.packed, artefact.packed.stat().st_size, ""
    path = folder / "packed.smk.safetensors"
    try:
        done = pack_artefact(artefact, path)
    except SupermaskError as error:
        return None, None, str(error)
    size = done.report.size if artefact.packed is None else artefact.packed.stat().st_size
    return (path, size, "") if read(path).graph is not None else (None, size, "; ".join(done.notes))


def _differences(outputs: Mapping[str, NDArray[np.float32]]) -> dict[str, float]:
    """Largest difference of each contender's outputs to those of plain torch."""
    return {name: float(np.abs(output - outputs["eager"]).max()) for name, output in outputs.items() if name != "eager"}


def _weights(model: nn.Module) -> dict[str, int]:
    """All numbers of a model, and those that are not zero."""
    parameters = list(model.parameters())
    return {
        "total": sum(p.numel() for p in parameters),
        "nonzero": sum(int(p.count_nonzero()) for p in parameters),
    }
