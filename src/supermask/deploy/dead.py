"""Rows, columns and channels that change nothing are taken out, with all that only they needed.

A channel goes when nobody reads it (every weight on it is zero), or when it always holds the same number (all weights that
make it are zero: its bias, run through what follows) and that number can move into the biases of those who read it.
Behind a zero padding a number other than 0 cannot: the padding is not that number. What is exact stays exact: zeros are
left out of sums; only a constant that moves into a bias may change the last bit of a result. All values are taken to be
finite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from supermask.deploy.evaluate import apply
from supermask.deploy.folding import LAYERS, Arrays
from supermask.deploy.graph import Graph, Node
from supermask.deploy.operations import ACTIVATIONS, BINARY
from supermask.deploy.shapes import Shape, infer, shapes_of

Array = NDArray[Any]
_POOLS: Final = ("max_pool", "avg_pool", "adaptive_avg_pool")


@dataclass(frozen=True)
class _Channels:
    """Where the channels of a value are.

    Attributes:
        group: Number of the set of values whose channels stay or go together.
        axis: Of the value.
        block: How many entries along that axis belong to one channel (more than one behind a ``flatten``).
    """

    group: int
    axis: int
    block: int = 1


def drop_dead(graph: Graph, tensors: Mapping[str, Array]) -> tuple[Graph, Arrays]:
    """Take out what changes nothing, until nothing is left to take out.

    Args:
        graph: Folded (:func:`supermask.deploy.folding.fold`): every layer has arrays of its own.
        tensors: The arrays beside it; not changed.

    Returns:
        The smaller graph and its arrays. Input and output keep their shapes; a layer keeps at least one channel.
    """
    arrays = {name: tensors[name] for name in graph.tensors()}
    while True:
        before = graph, sum(array.size for array in arrays.values()), _nonzeros(arrays)
        graph = _Pass(graph, arrays).run()
        arrays = {name: arrays[name] for name in graph.tensors()}
        if (graph, sum(array.size for array in arrays.values()), _nonzeros(arrays)) == before:
            return graph, arrays


def _nonzeros(arrays: Arrays) -> int:
    return sum(int(np.count_nonzero(array)) for array in arrays.values())


class _Pass:
    """One look at the whole graph."""

    def __init__(self, graph: Graph, arrays: Arrays) -> None:
        self.graph = graph
        self.arrays = arrays
        self.shapes: dict[str, Shape] = infer(graph, shapes_of(arrays))
        self.channels: dict[str, _Channels] = {}
        self.fixed: set[int] = set()  # groups that keep all
        self.merged: dict[int, int] = {}
        self.constant: dict[str, Array] = {}  # value -> number of each channel, NaN where it is not constant

    def run(self) -> Graph:
        for node in self.graph.nodes:
            self._place(node)
        if self.graph.output in self.channels:
            self._fix(self.graph.output)
        for node in self.graph.nodes:
            self._find_constants(node)
        for node in self.graph.nodes:
            self._move_constants(node)
        self._cut()
        return self._without_dead_terms()

    # ------------------------------------------------------------------ which channels belong together

    def _root(self, group: int) -> int:
        while group in self.merged:
            group = self.merged[group]
        return group

    def _fix(self, name: str) -> None:
        if name in self.channels:
            self.fixed.add(self.channels[name].group)

    def _place(self, node: Node) -> None:
        source = self.channels.get(node.inputs[0]) if node.inputs else None
        shape = self.shapes.get(node.name, ())
        if node.op == "conv" and node["groups"] > 1:
            if source is not None and self._depthwise(node):
                self.channels[node.name] = source
            else:
                self._fix(node.inputs[0])
        elif node.op in LAYERS:
            last = len(self.shapes[node.inputs[0]]) - 1
            if source is not None and source.axis != (1 if node.op == "conv" else last):
                self._fix(node.inputs[0])
            self.channels[node.name] = _Channels(len(self.channels), 1 if node.op == "conv" else len(shape) - 1)
        elif source is not None and self._follows(node, source):
            self.channels[node.name] = source
            if node.op == "flatten":
                inside = math.prod(self.shapes[node.inputs[0]][2:])
                self.channels[node.name] = _Channels(source.group, 1, source.block * inside)
        elif node.op in BINARY and self._agree(node):
            first, second = (self.channels[name] for name in node.inputs)
            if self._root(first.group) != self._root(second.group):
                self.merged[self._root(second.group)] = self._root(first.group)
            self.channels[node.name] = first
        else:
            for name in node.inputs:
                self._fix(name)

    def _depthwise(self, node: Node) -> bool:
        return bool(self.arrays[node["weight"]].shape[0] == node["groups"] == self.shapes[node.inputs[0]][1])

    def _follows(self, node: Node, source: _Channels) -> bool:
        """Whether a node of one input keeps the channels of its input apart."""
        if node.op in ACTIVATIONS:
            return True
        if node.op == "scale_shift":
            return source.axis == source.block == 1
        if node.op in ("flatten", *_POOLS):
            return source.axis == 1
        return node.op == "mean" and source.block == 1 and min(node["axes"]) > source.axis

    def _agree(self, node: Node) -> bool:
        places = [self.channels.get(name) for name in node.inputs]
        first, second = places
        same = self.shapes[node.inputs[0]] == self.shapes[node.inputs[1]]
        return (
            first is not None
            and second is not None
            and same
            and (first.axis, first.block) == (second.axis, second.block)
        )

    def _count(self, name: str) -> int:
        """Number of channels of a value."""
        place = self.channels[name]
        return self.shapes[name][place.axis] // place.block

    # ------------------------------------------------------------------ what is constant

    def _find_constants(self, node: Node) -> None:
        if node.name not in self.channels:
            return
        inputs = [self.constant[name] for name in node.inputs if name in self.constant]
        if node.op in LAYERS:
            weight = self.arrays[node["weight"]]
            bias = np.zeros(len(weight)) if node["bias"] is None else self.arrays[node["bias"]]
            dead = ~(weight.reshape(len(weight), -1) != 0).any(1)
            if node.attributes.get("groups", 1) > 1:  # depthwise: no other channel reaches this one
                dead |= inputs[0] == 0
            found = np.where(dead, bias, np.nan)
        elif node.op == "avg_pool" and node["count_include_pad"] and any(node["padding"]):
            found = np.where(inputs[0] == 0, 0.0, np.nan)
        elif node.op in ("flatten", "mean", *_POOLS):
            found = inputs[0]
        else:
            with np.errstate(all="ignore"):
                found = apply(node, self.arrays, [known.astype(np.float32)[None] for known in inputs])[0]
            unknown = np.logical_or.reduce([np.isnan(known) for known in inputs]) | ~np.isfinite(found)
            found = np.where(unknown, np.nan, found.astype(np.float64))
            if node.op == "multiply":
                found = np.where((inputs[0] == 0) | (inputs[1] == 0), 0.0, found)
        self.constant[node.name] = found

    def _move_constants(self, node: Node) -> None:
        """Constants that a layer reads go into its bias, and their weights become zero."""
        known = self.constant.get(node.inputs[0]) if node.inputs else None
        if node.op not in LAYERS or known is None or self._strange(node):
            return
        weight = self.arrays[node["weight"]]
        values = np.repeat(known, weight.shape[1] // len(known))
        movable = values == 0 if any(node.attributes.get("padding", ())) else ~np.isnan(values)
        movable &= (weight.reshape(len(weight), weight.shape[1], -1) != 0).any((0, 2))
        if not movable.any():
            return
        sums = weight.reshape(len(weight), weight.shape[1], -1).astype(np.float64).sum(2)
        gain = sums[:, movable] @ values[movable]
        weight = weight.copy()
        weight[:, movable] = 0
        self.arrays[node["weight"]] = weight
        if gain.any():
            name = f"{node.name}/bias" if node["bias"] is None else node["bias"]
            before = 0.0 if node["bias"] is None else self.arrays[name]
            self.arrays[name] = (before + gain).astype(np.float32)
            changed = replace(node, attributes={**node.attributes, "bias": name})
            self.graph = self.graph.with_nodes(changed if n.name == node.name else n for n in self.graph.nodes)

    def _strange(self, node: Node) -> bool:
        """Whether a layer does not mix the channels of its input, or reads them along another axis."""
        place = self.channels[node.inputs[0]]
        last = len(self.shapes[node.inputs[0]]) - 1
        return node.attributes.get("groups", 1) > 1 or place.axis != (1 if node.op == "conv" else last)

    # ------------------------------------------------------------------ taking out

    def _cut(self) -> None:
        fixed = {self._root(group) for group in self.fixed}
        needed: dict[int, Array] = {}
        for name, place in self.channels.items():
            needed.setdefault(self._root(place.group), np.zeros(self._count(name), np.bool_))
        for node in self.graph.nodes:
            if node.op in LAYERS and node.inputs[0] in self.channels and not self._strange(node):
                place = self.channels[node.inputs[0]]
                weight = self.arrays[node["weight"]]
                read = (weight.reshape(len(weight), weight.shape[1], -1) != 0).any((0, 2))
                needed[self._root(place.group)] |= read.reshape(-1, place.block).any(1)
        for group, keep in needed.items():
            if group in fixed:
                keep[:] = True
            elif not keep.any():
                keep[0] = True
        if all(keep.all() for keep in needed.values()):
            return
        self.graph = self.graph.with_nodes([self._smaller(node, needed) for node in self.graph.nodes])

    def _smaller(self, node: Node, needed: Mapping[int, Array]) -> Node:
        own = self.channels.get(node.name)
        source = self.channels.get(node.inputs[0]) if node.inputs else None
        rows = None if own is None else needed[self._root(own.group)]
        if node.op in LAYERS:
            assert rows is not None or node["groups"] > 1
            weight = self.arrays[node["weight"]]
            if source is not None and not self._strange(node):
                weight = weight[:, np.repeat(needed[self._root(source.group)], source.block)]
            if rows is not None:
                weight = weight[rows]
                if node["bias"] is not None:
                    self.arrays[node["bias"]] = self.arrays[node["bias"]][rows]
            self.arrays[node["weight"]] = weight
            if node.attributes.get("groups", 1) > 1 and rows is not None:  # depthwise
                return replace(node, attributes={**node.attributes, "groups": int(rows.sum())})
        elif node.op == "scale_shift" and rows is not None:
            for key in ("scale", "shift"):
                self.arrays[node[key]] = self.arrays[node[key]][rows]
        return node

    def _without_dead_terms(self) -> Graph:
        """Leave out sums with a term that is zero everywhere: what computes the term goes as well."""
        graph = self.graph
        for node in self.graph.nodes:
            if node.op != "add" or node.name not in self.channels:
                continue
            inputs = graph.node(node.name).inputs
            zero = [name in self.constant and bool((self.constant[name] == 0).all()) for name in inputs]
            if any(zero):
                kept = inputs[0] if zero[1] else inputs[1]
                nodes = [
                    replace(n, inputs=tuple(kept if i == node.name else i for i in n.inputs))
                    for n in graph.nodes
                    if n.name != node.name
                ]
                graph = graph.with_nodes(nodes, kept if graph.output == node.name else graph.output)
        return graph
