"""Fewer operations with the same result: batch norm goes into the layer before it, what changes nothing goes away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supermask.deploy.graph import Graph, Node
from supermask.deploy.shapes import Shape, infer, shapes_of

Arrays = dict[str, NDArray[Any]]
LAYERS = ("conv", "linear")


def fold(graph: Graph, tensors: Mapping[str, NDArray[Any]]) -> tuple[Graph, Arrays]:
    """Fold what can be folded.

    Batch norms and scales behind a convolution or a linear layer are multiplied into it, others become a ``scale_shift``;
    zeros around an image become the padding of the convolution behind them; reshaping to the same shape is left out.
    Products are taken in float64 and rounded once, so that weights of one magnitude keep one magnitude.

    Args:
        graph: As traced or read.
        tensors: The arrays beside it; not changed.

    Returns:
        The new graph with its arrays. Every layer has arrays of its own, named after it (tied weights are separate now).
    """
    infer(graph, shapes_of(tensors))
    graph, arrays = _own_arrays(graph, tensors)
    graph = _without_identities(graph, arrays)
    with np.errstate(over="ignore"):  # what becomes infinite is refused by who runs it
        graph = _scales_into_layers(graph, arrays)
    graph = _pads_into_convolutions(graph)
    return graph, {name: arrays[name] for name in graph.tensors()}


def _own_arrays(graph: Graph, tensors: Mapping[str, NDArray[Any]]) -> tuple[Graph, Arrays]:
    """Give every layer weight and bias of its own, and every batch norm the form of a ``scale_shift``."""
    arrays = {name: tensors[name] for name in graph.tensors()}
    used: set[str] = set()
    nodes = []
    for node in graph.nodes:
        if node.op in LAYERS:
            changed = {}
            for key in ("weight", "bias"):
                name = node[key]
                if name is not None and name in used:
                    changed[key] = f"{node.name}/{key}"
                    arrays[changed[key]] = arrays[name]
                elif name is not None:
                    used.add(name)
            node = replace(node, attributes={**node.attributes, **changed})
        elif node.op == "batch_norm":
            node = _as_scale_shift(node, arrays)
        nodes.append(node)
    return graph.with_nodes(nodes), arrays


def _as_scale_shift(node: Node, arrays: Arrays) -> Node:
    mean, variance = (arrays[node[key]].astype(np.float64) for key in ("mean", "variance"))
    scale = 1 / np.sqrt(variance + node["epsilon"])
    if node["weight"] is not None:
        scale = scale * arrays[node["weight"]]
    shift = -mean * scale
    if node["bias"] is not None:
        shift = shift + arrays[node["bias"]]
    names = {"scale": f"{node.name}/scale", "shift": f"{node.name}/shift"}
    # in float64 until they are multiplied into a layer, or rounded at the end
    arrays[names["scale"]], arrays[names["shift"]] = scale, shift
    return Node("scale_shift", node.name, node.inputs, names)


def _renamed(nodes: list[Node], name: str, by: str) -> list[Node]:
    return [
        replace(n, inputs=tuple(by if i == name else i for i in n.inputs)) if name in n.inputs else n for n in nodes
    ]


def _without_identities(graph: Graph, arrays: Arrays) -> Graph:
    shapes = infer(graph, shapes_of(arrays))
    nodes, output = list(graph.nodes), graph.output
    for node in graph.nodes:
        if _changes_nothing(node, shapes):
            current = next(n for n in nodes if n.name == node.name)
            nodes = _renamed(nodes, node.name, current.inputs[0])
            output = current.inputs[0] if output == node.name else output
    return graph.with_nodes(nodes, output)


def _changes_nothing(node: Node, shapes: Mapping[str, Shape]) -> bool:
    if node.op in ("reshape", "flatten", "slice", "adaptive_avg_pool"):
        return shapes[node.name] == shapes[node.inputs[0]]
    if node.op == "permute":
        return bool(node["axes"] == sorted(node["axes"]))
    if node.op == "pad":
        return not any(node["padding"])
    return node.op == "concat" and len(node.inputs) == 1


def _scales_into_layers(graph: Graph, arrays: Arrays) -> Graph:
    shapes = infer(graph, shapes_of(arrays))
    for name in [node.name for node in graph.nodes if node.op == "scale_shift"]:
        node = graph.node(name)
        scale, shift = arrays[node["scale"]].astype(np.float64), arrays[node["shift"]].astype(np.float64)
        source = next((n for n in graph.nodes if n.name == node.inputs[0]), None)
        alone = len(graph.users()[node.inputs[0]]) == 1 and graph.output != node.inputs[0]
        if source is None or not alone or source.op not in LAYERS or not _rows_are_channels(source, shapes):
            names = {"scale": f"{node.name}/scale", "shift": f"{node.name}/shift"}
            arrays[names["scale"]], arrays[names["shift"]] = scale.astype(np.float32), shift.astype(np.float32)
            graph = graph.with_nodes(replace(n, attributes=names) if n is node else n for n in graph.nodes)
            continue
        weight, bias = arrays[source["weight"]], f"{source.name}/bias"
        shift = shift if source["bias"] is None else shift + scale * arrays[source["bias"]]
        arrays[source["weight"]] = (weight * scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.float32)
        arrays[bias] = shift.astype(np.float32)
        nodes = [
            replace(n, attributes={**n.attributes, "bias": bias}) if n.name == source.name else n
            for n in graph.nodes
            if n.name != node.name
        ]
        nodes = _renamed(nodes, node.name, source.name)
        graph = graph.with_nodes(nodes, source.name if graph.output == node.name else graph.output)
    return graph


def _rows_are_channels(layer: Node, shapes: Mapping[str, Shape]) -> bool:
    """Whether the rows of a layer's weight are what a batch norm calls channels: axis 1 of the value."""
    return layer.op == "conv" or len(shapes[layer.name]) == 2


def _pads_into_convolutions(graph: Graph) -> Graph:
    """Zeros of equal width on both sides, read by one convolution alone, become its padding."""
    for name in [node.name for node in graph.nodes if node.op == "pad"]:
        node, users = graph.node(name), graph.users()[name]
        if node["value"] != 0 or len(users) != 1 or users[0].op != "conv":
            continue
        axes, flat = len(users[0]["padding"]), node["padding"]
        pairs = list(zip(flat[::2], flat[1::2], strict=True))[::-1]
        beyond = any(map(any, pairs[:-axes]))  # channels, or the batch
        pairs = [(0, 0)] * (axes - len(pairs)) + pairs[-axes:]
        if graph.output == name or beyond or any(before != after for before, after in pairs):
            continue
        padding = [p + before for p, (before, _) in zip(users[0]["padding"], pairs, strict=True)]
        conv = replace(users[0], inputs=node.inputs, attributes={**users[0].attributes, "padding": padding})
        graph = graph.with_nodes(conv if n.name == conv.name else n for n in graph.nodes)
    return graph
