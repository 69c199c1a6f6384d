"""A graph made ready to run: folded, without dead structure, with all shapes known; and what was done to its layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from supermask.deploy.dead import drop_dead
from supermask.deploy.folding import LAYERS, fold
from supermask.deploy.graph import Graph
from supermask.deploy.programs import Array, positions
from supermask.deploy.shapes import Shape, infer, shapes_of
from supermask.errors import EngineError, GraphError


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer.

    Attributes:
        name: Of its module.
        op: ``conv`` or ``linear``.
        before: Shape of its weight in the model.
        after: Shape of it after dead structure is gone; None: the whole layer is gone.
        weights: Weights that are not zero, in the model.
        macs: Multiply-accumulates for one example if it were dense, in the model.
        additions: Those that its remaining weights need.
    """

    name: str
    op: str
    before: Shape
    after: Shape | None
    weights: int
    macs: int
    additions: int


@dataclass(frozen=True)
class Network:
    """What engines run.

    Attributes:
        graph: Folded, and without dead structure.
        arrays: Beside it.
        shapes: Of its values.
        layers: Of the model, in order.
    """

    graph: Graph
    arrays: Mapping[str, Array]
    shapes: Mapping[str, Shape]
    layers: tuple[Layer, ...]

    @property
    def output_shape(self) -> Shape | None:
        """Shape of one result, where it is known."""
        shape = self.shapes.get(self.graph.output)
        return None if shape is None else shape[1:]


def prepare(graph: Graph, tensors: Mapping[str, Array]) -> Network:
    """Fold a graph and take out what changes nothing.

    Raises:
        GraphError: The tensors do not fit the graph.
        EngineError: A weight is not finite.
    """
    floats = {name: tensors[name] for name in graph.tensors() if name in tensors}
    for node in graph.nodes:
        for name in node.tensors() if node.op != "constant" else ():
            if name in floats and floats[name].dtype != np.float32:
                raise GraphError(f"graph: {node.name} ({node.op}): {name} must be float32, got {floats[name].dtype}")
    before = infer(graph, shapes_of(floats))
    _check_finite(floats, "")
    folded, arrays = fold(graph, floats)
    _check_finite(arrays, " after the batch norm behind it was multiplied into it")
    smaller, arrays = drop_dead(folded, arrays)
    shapes = infer(smaller, shapes_of(arrays))
    kept = {node.name: node for node in smaller.nodes}
    layers = []
    for node in graph.nodes:
        if node.op not in LAYERS:
            continue
        weight, after = floats[node["weight"]], kept.get(node.name)
        additions = 0
        if after is not None:
            additions = int(np.count_nonzero(arrays[after["weight"]])) * positions(after, shapes)
        layers.append(
            Layer(
                node.name,
                node.op,
                tuple(weight.shape),
                None if after is None else tuple(arrays[after["weight"]].shape),
                int(np.count_nonzero(weight)),
                weight.size * positions(node, before),
                additions,
            )
        )
    return Network(smaller, arrays, shapes, tuple(layers))


def _check_finite(arrays: Mapping[str, Array], when: str) -> None:
    """Refuse NaN and infinities: zeros are left out of sums, and zero times these is not zero."""
    for name, array in arrays.items():
        if array.dtype == np.float32 and not np.isfinite(array).all():
            raise EngineError(
                f"{name} holds NaN or infinity{when}; engines leave out zeros, which needs finite weights"
            )
