"""Packed networks without torch: numpy alone, and the compiled kernels where they are.

    from supermask.deploy import load
    network = load("model.smk.safetensors")
    logits = network(images)

Whatever has a sparse form runs as a sparse program, everything else in plain numpy. Nothing is measured.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from supermask.deploy.evaluate import apply
from supermask.deploy.graph import Graph, Node
from supermask.deploy.network import Network, prepare
from supermask.deploy.planning import GIVEN, Executor, schedule, split
from supermask.deploy.programs import Array
from supermask.deploy.unpacking import Packed, read
from supermask.errors import EngineError


class Runtime:
    """A packed network: ``runtime(x)`` gives an array. Made by :func:`load`; several threads may call it at once.

    Attributes:
        network: What runs.
        input_shape: Of one example.
        classes: Names of the classes, if the file has them.
        normalization: How inputs are made from raw pixels, if the file says.
        threads: For batches of more than one example.
    """

    def __init__(self, packed: Packed, threads: int) -> None:
        self.network: Network = from_packed(packed)
        self.input_shape = self.network.graph.input_shape
        self._dtype = np.dtype(self.network.graph.input_dtype)
        self.classes = packed.classes
        self.normalization = packed.normalization
        self.threads = threads
        graph, arrays, shapes = self.network.graph, self.network.arrays, self.network.shapes
        units = split(graph, shapes, arrays, whole_blocks=True)
        stages = schedule(graph, units, lambda unit: unit.program is not None, shapes, arrays)

        def compute(node: Node, examples: int, inputs: list[Any]) -> Array:  # noqa: ARG001
            return apply(node, arrays, inputs)

        given = {node.name: apply(node, arrays, []) for node in graph.nodes if node.op in GIVEN}
        self._executor = Executor(graph, stages, given, compute, _contiguous, _as_it_is)

    def __call__(self, x: Array) -> Array:
        """Results for a batch.

        Args:
            x: (N, *input_shape) float32, or int64 where the network takes that.

        Returns:
            (N, ...) float32.

        Raises:
            EngineError: ``x`` has another shape or type.
        """
        if not isinstance(x, np.ndarray) or x.dtype != self._dtype or x.ndim == 0 or x.shape[1:] != self.input_shape:
            wanted = f"a {self._dtype} array of shape (N, {', '.join(map(str, self.input_shape))})"
            got = f"{x.dtype} of shape {x.shape}" if isinstance(x, np.ndarray) else f"a {type(x).__name__}"
            raise EngineError(f"x: must be {wanted}, got {got}")
        if not len(x):
            return np.empty((0, *(self.network.output_shape or ())), np.float32)
        out = self._executor.run(x, len(x), self.threads if len(x) > 1 else 1)
        return np.ascontiguousarray(out, np.float32)

    def __deepcopy__(self, memo: dict[int, Any]) -> Runtime:
        """Itself: nothing in it changes."""
        return self

    def __reduce__(self) -> Any:
        raise EngineError("a run time cannot be pickled: give the other process the packed file, and load it there")


def load(path: str | Path | Packed, *, threads: int | None = None) -> Runtime:
    """Make a packed file that holds its graph ready to run.

    Args:
        path: The file, or what ``read`` gave of it.
        threads: For batches of more than one example; None: one a core.

    Raises:
        PackedFileError: The file is missing or damaged.
        GraphError: Its graph is damaged, or does not fit its tensors.
        EngineError: It holds no graph, or ``threads`` is below 1.
    """
    threads = available_cores() if threads is None else threads
    if not isinstance(threads, int) or threads < 1:
        raise EngineError(f"threads: must be an integer from 1 on, got {threads!r}")
    return Runtime(path if isinstance(path, Packed) else read(path), threads)


def from_packed(packed: Packed) -> Network:
    """The network that a packed file holds.

    Raises:
        EngineError: It holds no graph.
        GraphError: Its graph is damaged, or does not fit its tensors.
    """
    if packed.graph is None:
        raise EngineError(
            f"{packed.source} holds no graph: build the module, load what unpack() gives into it, and compile that"
        )
    graph = Graph.from_dict(packed.graph)
    return prepare(graph, {name: packed.array(name) for name in graph.tensors() if name in packed.entries})


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _contiguous(value: Array) -> Array:
    return np.ascontiguousarray(value, np.float32)


def _as_it_is(value: Array) -> Array:
    return value
