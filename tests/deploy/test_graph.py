from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supermask.deploy.graph import Graph, Node
from supermask.deploy.shapes import infer
from supermask.errors import GraphError

CONV = {"weight": "c.weight", "bias": None, "stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1}
POOL = {"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0], "ceil": False, "dilation": [1, 1]}
NODES = (
    Node("conv", "c", ("input",), CONV),
    Node("elu", "act", ("c",), {"alpha": 1.0}),
    Node("max_pool", "pool", ("act",), POOL),
    Node("flatten", "flat", ("pool",)),
    Node("linear", "fc", ("flat",), {"weight": "fc.weight", "bias": "fc.bias"}),
)
SHAPES = {"c.weight": (4, 3, 3, 3), "fc.weight": (5, 64), "fc.bias": (5,)}


def _graph() -> Graph:
    return Graph((3, 8, 8), NODES, "fc")


def test_json_and_back() -> None:
    graph = _graph()
    assert Graph.from_json(graph.to_json()) == graph
    assert Graph.from_dict(json.loads(graph.to_json())) == graph
    assert graph.tensors() == ["c.weight", "fc.weight", "fc.bias"]
    assert [node.name for node in graph.users()["c"]] == ["act"]
    assert infer(graph, SHAPES)["pool"] == (-1, 4, 4, 4)
    assert infer(graph, SHAPES)["fc"] == (-1, 5)


def test_nodes_that_nobody_needs_are_left_out() -> None:
    graph = _graph()
    extra = (*graph.nodes, Node("relu", "unused", ("c",)))
    assert graph.with_nodes(extra) == graph
    assert [n.name for n in graph.with_nodes(graph.nodes, "act").nodes] == ["c", "act"]


def test_what_only_torch_can_run_fits_in_no_file() -> None:
    node = Node("torch", "strange", ("input",), {"target": "aten.strange", "shape": None}, lambda n, x: x)
    graph = Graph((3,), (node,), "strange")
    with pytest.raises(GraphError, match=r"strange is aten.strange, which only torch can run"):
        graph.to_json()
    with pytest.raises(GraphError, match="known op"):
        Graph.from_dict({**_whole(), "nodes": [{"op": "torch", "name": "t", "inputs": ["input"]}]})


def _whole() -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(_graph().to_json())
    return whole


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("version",), 2, "version must be 1, got 2; a newer supermask"),
        (("version",), None, "version"),
        (("more",), 1, "'more'"),
        (("input", "shape"), [3, 0, 8], "input.shape"),
        (("input", "shape"), [3, True, 8], "input.shape"),
        (("input", "shape"), "388", "input.shape must be a list"),
        (("input", "shape"), [1] * 9, "input.shape"),
        (("input", "dtype"), "object", "input.dtype"),
        (("output",), "nowhere", "output"),
        (("output",), ["fc"], "output"),
        (("nodes",), {}, "nodes must be a list"),
        (("nodes", 0), 3, "known op"),
        (("nodes", 0, "op"), "system", "known op"),
        (("nodes", 0, "op"), ["conv"], "known op"),
        (("nodes", 0, "name"), "input", "name must be"),
        (("nodes", 0, "name"), "a\x00b", "name must be"),
        (("nodes", 0, "name"), "x" * 600, "name must be"),
        (("nodes", 1, "name"), "c", "no earlier node"),
        (("nodes", 0, "inputs"), ["fc"], "names of earlier nodes"),
        (("nodes", 0, "inputs"), [["input"]], "names of earlier nodes"),
        (("nodes", 0, "inputs"), [], "takes 1 inputs"),
        (("nodes", 0, "inputs"), "input", "inputs must be a list"),
        (("nodes", 0, "stride"), [0, 1], "stride must be a list"),
        (("nodes", 0, "stride"), [1 << 40, 1], "stride must be a list"),
        (("nodes", 0, "stride"), [1.5, 1], "stride must be a list"),
        (("nodes", 0, "weight"), 7, "weight must be the name"),
        (("nodes", 0, "groups"), True, "groups must be an integer"),
        (("nodes", 0, "surprise"), 1, "surprise"),
        (("nodes", 1, "alpha"), float("inf"), "alpha must be a finite number"),
        (("nodes", 1, "alpha"), "1", "alpha must be a finite number"),
        (("nodes", 2, "ceil"), 1, "ceil must be true or false"),
    ],
)
def test_hostile_graphs_are_refused_by_place(path: tuple[Any, ...], value: Any, problem: str) -> None:
    whole = _whole()
    place = whole
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(GraphError, match=problem):
        Graph.from_dict(whole)


@pytest.mark.parametrize(
    "text", ["", "nothing", "[" * 100_000, '{"version": 1, "version": 1}', b"\xff\xfe", "[1]", "null"]
)
def test_texts_that_are_no_graph(text: str | bytes) -> None:
    with pytest.raises(GraphError):
        Graph.from_json(text)


def test_a_text_beyond_the_limit_is_not_parsed() -> None:
    with pytest.raises(GraphError, match="at most"):
        Graph.from_json(b" " * ((1 << 24) + 1))


def test_missing_attribute() -> None:
    whole = _whole()
    del whole["nodes"][0]["groups"]
    with pytest.raises(GraphError, match=r"nodes\[0\] lacks 'groups'"):
        Graph.from_dict(whole)


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just([]) | st.just({})


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, part in inside for p in _places(part, (*path, key)))]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_change_is_a_graph_or_a_clear_error(data: st.DataObject) -> None:
    whole: Any = copy.deepcopy(_whole())
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(_places(whole)))
        if not path:
            continue
        place = whole
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = data.draw(_LEAVES | st.integers(-3, 300))
    with contextlib.suppress(GraphError):  # any other error fails
        shapes = infer(Graph.from_dict(whole), SHAPES)
        assert shapes.keys() >= {"input", whole["output"]}


@pytest.mark.parametrize(
    ("shapes", "nodes", "problem"),
    [
        ({}, NODES, "there is no tensor 'c.weight'"),
        ({**SHAPES, "c.weight": (4, 2, 3, 3)}, NODES, "gets 3 channels"),
        ({**SHAPES, "c.weight": (4, 3, 30, 30)}, NODES, "does not fit an axis of 8"),
        ({**SHAPES, "fc.weight": (5, 63)}, NODES, "gets the shape"),
        ({**SHAPES, "fc.bias": (4,)}, NODES, "bias must have the shape"),
        (SHAPES, (Node("pad", "p", ("input",), {"padding": [1 << 27, 0], "value": 0.0}),), "more than"),
        (SHAPES, (Node("reshape", "r", ("input",), {"shape": [-1, 190]}),), "cannot give the shape"),
        (SHAPES, (Node("reshape", "r", ("input",), {"shape": [-1, -192]}),), "cannot give the shape"),
        (SHAPES, (Node("reshape", "r", ("input",), {"shape": [-1, 192, 0]}),), "cannot give the shape"),
        (SHAPES, (Node("permute", "p", ("input",), {"axes": [0, 1, 1, 2]}),), "are not the axes"),
        (
            SHAPES,
            (Node("slice", "s", ("input",), {"axis": 0, "start": 0, "stop": 1, "step": 1}),),
            "does not lie in axis",
        ),
        (SHAPES, (Node("softmax", "s", ("input",), {"axis": 0}),), "is the batch"),
        (SHAPES, (Node("mean", "m", ("input",), {"axes": [0], "keep": True}),), "cannot take the mean"),
        (SHAPES, (Node("select", "s", ("input",), {"axis": 1, "index": 3}),), "does not lie"),
    ],
)
def test_tensors_and_values_that_do_not_fit(shapes: Any, nodes: tuple[Node, ...], problem: str) -> None:
    with pytest.raises(GraphError, match=problem):
        infer(Graph((3, 8, 8), nodes, nodes[-1].name), shapes)
