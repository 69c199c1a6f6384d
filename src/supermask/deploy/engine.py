"""Fast inference on a CPU: a model or a packed file becomes a plain callable, each layer run the way that is fastest here."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from supermask.deploy.choosing import Choice, Way, batch_of, executor, measure, units_of
from supermask.deploy.dense import torch_threads
from supermask.deploy.network import Network, prepare
from supermask.deploy.plan import LayerPlan, Plan
from supermask.deploy.planning import GIVEN, Executor, Unit
from supermask.deploy.programs import Array
from supermask.deploy.runtime import from_packed
from supermask.deploy.tracing import trace
from supermask.deploy.unpacking import Packed, read
from supermask.errors import EngineError
from supermask.kernels.library import variant

SECTION: Final = "plan"  # of a packed file
VERSION: Final = 1
X = TypeVar("X", Tensor, Array)


class Engine:
    """A network ready to run: ``engine(x)`` gives a tensor for a tensor, an array for an array.

    Made by :func:`compile`. It holds no state that a call changes: several threads may call it at once.

    Attributes:
        network: What runs.
        input_shape: Of one example.
        threads: That a batch of more than one example may use.
    """

    def __init__(self, network: Network, choices: Mapping[int, Choice], threads: int) -> None:
        self.network = network
        self.input_shape = network.graph.input_shape
        self.threads = threads
        self._choices = dict(choices)
        self._executors: dict[int, Executor] = {n: executor(network, choice.way) for n, choice in choices.items()}
        self._dtype = np.dtype(network.graph.input_dtype)
        self._torch_dtype = getattr(torch, network.graph.input_dtype)

    def __call__(self, x: X) -> X:
        """Results for a batch.

        Args:
            x: (N, *input_shape), a tensor on the CPU or a numpy array, of the type that the model was traced with
                (float32, or int64 indices).

        Returns:
            (N, ...), of the kind of ``x``. No gradient flows through it.

        Raises:
            EngineError: ``x`` has another shape, type or device.
        """
        if isinstance(x, np.ndarray):
            found: Array = self._run(x)
            return found
        if not isinstance(x, Tensor) or x.device.type != "cpu":
            got = f"a tensor on {x.device}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise EngineError(f"x: must be a tensor on the CPU or a numpy array, got {got}")
        if x.layout != torch.strided:
            raise EngineError(f"x: must be a plain tensor, got the layout {x.layout}; x.to_dense() is one")
        if x.dtype != self._torch_dtype:  # numpy does not have all of torch's
            raise EngineError(self._refusal(x.dtype, x.shape))
        return torch.from_numpy(self._run(x.detach().resolve_neg().numpy()))

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        """Itself: nothing in it changes."""
        return self

    def __reduce__(self) -> Any:
        raise EngineError("an engine cannot be pickled: give the other process the packed file, and compile it there")

    def _run(self, x: Array) -> Array:
        if x.dtype != self._dtype or x.shape[1:] != self.input_shape or x.ndim == 0:
            raise EngineError(self._refusal(x.dtype, x.shape))
        examples = len(x)
        if not examples:
            return self._run(np.zeros((1, *self.input_shape), self._dtype))[:0]
        ready = self._executors[self.planned_for(examples)]
        threads = self.threads if examples > 1 else 1
        x = np.ascontiguousarray(x)
        if ready.only is not None:
            return ready.only(x, threads)
        with torch.no_grad(), torch_threads(threads):
            if not x.flags.writeable:  # torch has no tensors that cannot be written to
                x = x.copy()
            out: Array = ready.run(torch.from_numpy(x), examples, threads).contiguous().numpy()
        return out

    def _refusal(self, dtype: object, shape: Sequence[int]) -> str:
        wanted = f"{self._dtype} of shape (N, {', '.join(map(str, self.input_shape))})"
        return f"x: must be {wanted}, got {dtype} of shape {tuple(shape)}"

    def planned_for(self, examples: int) -> int:
        """The batch size, of those that were asked for, whose plan is used for so many examples: the nearest ratio."""
        if examples in self._executors:
            return examples
        return min(self._executors, key=lambda size: abs(math.log(size / max(examples, 1))))

    def units(self, examples: int) -> list[tuple[Unit, bool]]:
        """The units of the plan for so many examples, each with whether it is a sparse program."""
        way = self._choices[self.planned_for(examples)].way
        units = units_of(self.network, way.whole_blocks)
        return [(unit, unit.result in way.sparse and unit.program is not None) for unit in units]

    def plan(self) -> Plan:
        """What runs how and why; prints as a table."""
        chosen: dict[str, dict[int, tuple[str, str]]] = {layer.name: {} for layer in self.network.layers}
        others: dict[int, list[tuple[str, str]]] = {}
        for size, choice in self._choices.items():
            others[size] = []
            for unit, is_sparse in self.units(size):
                kind, why = "sparse" if is_sparse else "dense", _why(unit, is_sparse, choice)
                for layer in unit.layers:
                    chosen[layer.name][size] = kind, why
                if not unit.layers and not is_sparse:
                    others[size] += [
                        (n.name, n.attributes.get("target", n.op)) for n in unit.nodes if n.op not in GIVEN
                    ]
        rows = [LayerPlan(layer, chosen[layer.name]) for layer in self.network.layers]
        totals = {size: (choice.seconds, choice.dense_seconds) for size, choice in self._choices.items()}
        return Plan(tuple(rows), totals, others, self.threads, variant())

    def save_plan(self, path: str | Path) -> None:
        """Keep what was chosen in a packed file: :func:`compile` on a machine like this one then measures nothing.

        Raises:
            PackedFileError: The file is missing or damaged.
            EngineError: It holds no graph, so that nothing can be compiled from it.
        """
        from supermask.deploy.packing import annotate

        if read(path).graph is None:
            raise EngineError(f"{path} holds no graph, so nothing is compiled from it that could use a plan")
        batches = {
            str(size): {
                "whole_blocks": choice.way.whole_blocks,
                "channels_last": choice.way.channels_last,
                "sparse": sorted(choice.way.sparse),
                "seconds": choice.seconds,
                "dense_seconds": choice.dense_seconds,
                "units": {name: list(times) for name, times in choice.units.items()},
            }
            for size, choice in self._choices.items()
        }
        annotate(path, **{SECTION: {"version": VERSION, "machine": _machine(self.threads), "batches": batches}})


def _why(unit: Unit, is_sparse: bool, choice: Choice) -> str:
    if unit.program is None:
        return f"no sparse form: {unit.refusal}"
    dense, sparse = choice.units[unit.result]
    assert sparse is not None
    block = f" (with {len(unit.layers) - 1} more in its block)" if len(unit.layers) > 1 else ""
    text = f"sparse {1e3 * sparse:.3g} ms, dense {1e3 * dense:.3g} ms{block}"
    if is_sparse != (sparse < dense):
        text += "; alone the other is faster, in the whole network this"
    return text


def compile(
    model: nn.Module | Packed | str | Path,
    example: Tensor | Array | None = None,
    *,
    batch_sizes: Sequence[int] = (1, 128),
    threads: int | None = None,
    seconds: float = 0.2,
    remeasure: bool = False,
) -> Engine:
    """Make an engine: fold, take out dead structure, and run each layer the way that is fastest on this machine.

    Args:
        model: A finalized module, or a packed file that holds its graph.
        example: A batch that it takes; for a packed file it may be left out.
        batch_sizes: Sizes to be fast at; other sizes use the plan of the nearest.
        threads: For batches of more than one example; None: as many as torch uses. One example is one thread.
        seconds: About how long a candidate is timed.
        remeasure: Whether to measure although a packed file holds a plan of a machine like this one.

    Raises:
        EngineError: The model cannot be compiled, or an argument is out of range.
        GraphError: The file's graph is damaged.
        PackedFileError: The file is.
    """
    listed = list(batch_sizes) if isinstance(batch_sizes, Iterable) else []
    if not listed or not all(isinstance(size, int) and size >= 1 for size in listed):
        raise EngineError(f"batch_sizes: must be a list of integers from 1 on, at least one, got {batch_sizes!r}")
    sizes = sorted(set(listed))
    threads = torch.get_num_threads() if threads is None else threads
    if not isinstance(threads, int) or threads < 1:
        raise EngineError(f"threads: must be an integer from 1 on, got {threads!r}")
    if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise EngineError(f"seconds: must be a positive number, got {seconds!r}")
    if not isinstance(example, Tensor | np.ndarray | None):
        raise EngineError(f"example: must be a tensor or an array, got a {type(example).__name__}")
    if not isinstance(model, nn.Module | Packed | str | Path):
        raise EngineError(f"model: must be a module, a packed file or its path, got a {type(model).__name__}")
    given = None if example is None else torch.as_tensor(example)
    kept: dict[int, Choice] = {}
    if isinstance(model, nn.Module):
        if given is None:
            raise EngineError("example: a module needs a batch that it takes, to be traced with")
        network = prepare(*trace(model, given))
    else:
        packed = model if isinstance(model, Packed) else read(model)
        network = from_packed(packed)
        kept = {} if remeasure else _kept(packed, network, threads)
        if given is None:
            given = torch.randn(1, *network.graph.input_shape, generator=torch.Generator().manual_seed(0))
            given = given.to(getattr(torch, network.graph.input_dtype))
    dtype, shape = getattr(torch, network.graph.input_dtype), network.graph.input_shape
    if given.dtype != dtype or tuple(given.shape[1:]) != shape or not given.dim() or not len(given):
        wanted = f"{network.graph.input_dtype} of shape (N, {', '.join(map(str, shape))}), N >= 1"
        raise EngineError(f"example: must be {wanted}, got {given.dtype} of shape {tuple(given.shape)}")
    choices = {}
    for size in sizes:
        if size in kept:
            choices[size] = kept[size]
        else:
            choices[size] = measure(network, batch_of(given, size), threads if size > 1 else 1, seconds)
    return Engine(network, choices, threads)


def _machine(threads: int) -> dict[str, Any]:
    """What a measured plan depends on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "kernels": variant(),
        "torch": torch.__version__,
        "threads": threads,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.processor()} {platform.machine()}"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _kept(packed: Packed, network: Network, threads: int) -> dict[int, Choice]:
    """Choices that the file holds of a machine like this; none if they are of another, or not what they should be."""
    section = packed.sections.get(SECTION)
    if (
        not isinstance(section, dict)
        or section.get("version") != VERSION
        or section.get("machine") != _machine(threads)
    ):
        return {}
    try:
        return {int(size): _read_choice(value, network) for size, value in section["batches"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise EngineError(
            f"{packed.source}: its plan is damaged ({error!r}); compile with remeasure=True and save_plan() again"
        ) from error


def _read_choice(value: Mapping[str, Any], network: Network) -> Choice:
    way = Way(value["whole_blocks"] is True, frozenset(value["sparse"]), value["channels_last"] is True)
    known = {unit.result: unit.program is not None for unit in units_of(network, way.whole_blocks)}
    units = {
        name: (float(dense), None if sparse is None else float(sparse))
        for name, (dense, sparse) in value["units"].items()
    }
    if not way.sparse <= known.keys() or {name: sparse is not None for name, (_, sparse) in units.items()} != known:
        raise ValueError("it names other layers")
    return Choice(way, float(value["seconds"]), float(value["dense_seconds"]), units)
