"""A network as data: what the engine, the run time without torch, the packed file and the ONNX export share.

A graph is a list of nodes in the order in which they can be computed. A node reads earlier nodes (or ``"input"``, the
batch) and gives one value; its weights are names into a dict of arrays that lives beside the graph. As JSON::

    {"version": 1, "input": {"shape": [1, 28, 28], "dtype": "float32"}, "output": "fc1",
     "nodes": [{"op": "flatten", "name": "flatten", "inputs": ["input"]},
               {"op": "linear", "name": "fc1", "inputs": ["flatten"], "weight": "fc1.weight", "bias": null}]}

Shapes (of ``reshape``, and what :func:`supermask.deploy.shapes.infer` gives) hold the batch as well: an axis that grows
with it is a negative number, -k meaning k times the examples. The images above have the shape (-1, 1, 28, 28).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from supermask.deploy.operations import LARGEST, OPERATIONS, TORCH, is_integer, is_name
from supermask.errors import GraphError

VERSION: Final = 1
INPUT: Final = "input"
INPUT_TYPES: Final = ("float32", "int64")
MOST_NODES: Final = 1 << 16
MOST_BYTES: Final = 1 << 24  # of a graph's JSON text
MOST_AXES: Final = 8


@dataclass(frozen=True)
class Node:
    """One operation.

    Args:
        op: A key of :data:`supermask.deploy.operations.OPERATIONS`, or ``"torch"``.
        name: Of the node and of the value it gives; for a layer, the name of its module.
        inputs: Names of the values it reads.
        attributes: As the operation asks for; lists and plain values.
        call: What a ``"torch"`` node runs: ``call(examples, *inputs)``. Never in a file.
    """

    op: str
    name: str
    inputs: tuple[str, ...] = (INPUT,)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    call: Any = field(default=None, compare=False, repr=False)

    def __getitem__(self, attribute: str) -> Any:
        return self.attributes[attribute]

    def tensors(self) -> list[str]:
        """Names of the arrays it uses."""
        names = OPERATIONS[self.op].tensors if self.op != TORCH else ()
        return [self[name] for name in names if self[name] is not None]


@dataclass(frozen=True)
class Graph:
    """A network: nodes in the order of computation. Checked whole when it is made.

    Args:
        input_shape: Of one example.
        nodes: Each reads only earlier ones.
        output: Name of the value that is the result.
        input_dtype: ``float32``, or ``int64`` for indices.

    Raises:
        GraphError: Something in it breaks the rules of :data:`supermask.deploy.operations.OPERATIONS`.
    """

    input_shape: tuple[int, ...]
    nodes: tuple[Node, ...]
    output: str
    input_dtype: str = "float32"

    def __post_init__(self) -> None:
        shape = self.input_shape
        if len(shape) >= MOST_AXES or not all(is_integer(n, 1) for n in shape):
            raise GraphError(
                f"graph: input.shape must be up to {MOST_AXES - 1} integers from 1 on, got {_short(shape)}"
            )
        if self.input_dtype not in INPUT_TYPES:
            raise GraphError(f"graph: input.dtype must be {' or '.join(INPUT_TYPES)}, got {_short(self.input_dtype)}")
        if len(self.nodes) > MOST_NODES:
            raise GraphError(f"graph: nodes must be at most {MOST_NODES}, got {len(self.nodes)}")
        known = {INPUT}
        for index, node in enumerate(self.nodes):
            check_node(node, f"graph: nodes[{index}]", known)
            known.add(node.name)
        if not isinstance(self.output, str) or self.output not in known:
            raise GraphError(f"graph: output must be the name of a node, got {_short(self.output)}")

    def node(self, name: str) -> Node:
        """The node of that name.

        Raises:
            KeyError: There is none.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def users(self) -> dict[str, list[Node]]:
        """Value -> nodes that read it, in order; a node that reads it twice stands there twice."""
        users: dict[str, list[Node]] = {name: [] for name in (INPUT, *(node.name for node in self.nodes))}
        for node in self.nodes:
            for name in node.inputs:
                users[name].append(node)
        return users

    def tensors(self) -> list[str]:
        """Names of the arrays its nodes use, each once, in order."""
        return list(dict.fromkeys(name for node in self.nodes for name in node.tensors()))

    def torch_nodes(self) -> list[Node]:
        """What only torch can run; with one of them the graph fits in no file."""
        return [node for node in self.nodes if node.op == TORCH]

    def with_nodes(self, nodes: Iterable[Node], output: str | None = None) -> Graph:
        """The graph with other nodes; those that the output does not need are left out."""
        nodes, output = tuple(nodes), self.output if output is None else output
        needed = {output}
        for node in reversed(nodes):
            if node.name in needed:
                needed.update(node.inputs)
        return replace(self, nodes=tuple(node for node in nodes if node.name in needed), output=output)

    def to_json(self) -> str:
        """One line of JSON, of :meth:`to_dict`.

        Raises:
            GraphError: It holds a ``"torch"`` node; the message names the first.
        """
        return json.dumps(self.to_dict(), separators=(",", ":"), allow_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a file holds them.

        Raises:
            GraphError: It holds a ``"torch"`` node; the message names the first.
        """
        if torch_nodes := self.torch_nodes():
            first = torch_nodes[0]
            raise GraphError(
                f"the graph cannot be written to a file: {first.name} is {first['target']}, which only torch can run"
                + (f": {first['why']}" if "why" in first.attributes else "")
                + (f" (and {len(torch_nodes) - 1} more like it)" if len(torch_nodes) > 1 else "")
            )
        nodes = [{"op": n.op, "name": n.name, "inputs": list(n.inputs), **n.attributes} for n in self.nodes]
        about = {"shape": list(self.input_shape), "dtype": self.input_dtype}
        return {"version": VERSION, "input": about, "nodes": nodes, "output": self.output}

    @classmethod
    def from_json(cls, text: str | bytes) -> Graph:
        """Read what :meth:`to_json` wrote; see :meth:`from_dict`.

        Raises:
            GraphError: As there, or the text is no JSON.
        """
        if len(text) > MOST_BYTES:
            raise GraphError(f"graph: the JSON text must have at most {MOST_BYTES} bytes, got {len(text)}")
        try:
            whole = json.loads(text, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise GraphError(f"graph: not a JSON text: {error}") from error
        return cls.from_dict(whole)

    @classmethod
    def from_dict(cls, whole: Any) -> Graph:
        """Read what :meth:`to_dict` gave; everything in it is checked, and nothing in it is run.

        Raises:
            GraphError: Something is damaged, hostile, or of a newer version; the message names the place.
        """
        if isinstance(whole, dict) and whole.get("version") != VERSION:
            version = _short(whole.get("version"))
            raise GraphError(f"graph: version must be {VERSION}, got {version}; a newer supermask may read it")
        _check_keys(whole, "graph", ("version", "input", "nodes", "output"))
        _check_keys(whole["input"], "graph: input", ("shape", "dtype"))
        for key, value in (("input.shape", whole["input"]["shape"]), ("nodes", whole["nodes"])):
            if not isinstance(value, list):
                raise GraphError(f"graph: {key} must be a list, got {_short(value)}")
        nodes = tuple(_read_node(value, f"graph: nodes[{index}]") for index, value in enumerate(whole["nodes"]))
        return cls(tuple(whole["input"]["shape"]), nodes, whole["output"], whole["input"]["dtype"])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _check_keys(value: Any, where: str, keys: Iterable[str]) -> None:
    if not isinstance(value, dict):
        raise GraphError(f"{where} must be an object, got {_short(value)}")
    keys = list(keys)
    for key in keys:
        if key not in value:
            raise GraphError(f"{where} lacks {key!r}")
    if unknown := [key for key in value if key not in keys]:
        raise GraphError(f"{where} has a field {_short(unknown[0])} that version {VERSION} does not know")


def _read_node(value: Any, where: str) -> Node:
    op = value.get("op") if isinstance(value, dict) else None
    if not isinstance(op, str) or op not in OPERATIONS:
        raise GraphError(f"{where} must be an object with a known op, got {_short(op if op is not None else value)}")
    _check_keys(value, where, ("op", "name", "inputs", *OPERATIONS[op].attributes))
    if not isinstance(value["inputs"], list):
        raise GraphError(f"{where}: inputs must be a list, got {_short(value['inputs'])}")
    attributes = {key: value[key] for key in OPERATIONS[op].attributes}
    return Node(op, value["name"], tuple(value["inputs"]), attributes)


def check_node(node: Node, where: str, known: set[str]) -> None:
    """Check one node.

    Args:
        node: The node.
        where: Begins the message.
        known: Names of the input and of earlier nodes.

    Raises:
        GraphError: It breaks a rule.
    """
    if not is_name(node.name) or node.name in known:
        raise GraphError(f"{where}: name must be printable text that no earlier node has, got {_short(node.name)}")
    where = f"{where} ({node.name})"
    for name in node.inputs:
        if not isinstance(name, str) or name not in known:
            raise GraphError(f"{where}: inputs must be names of earlier nodes, got {_short(name)}")
    if node.op == TORCH:
        if not callable(node.call) or not isinstance(node.attributes.get("target"), str):
            raise GraphError(f"{where}: a torch node needs a call and a target")
        return
    if node.op not in OPERATIONS:
        raise GraphError(f"{where}: op must be known, got {_short(node.op)}")
    operation = OPERATIONS[node.op]
    if not operation.fewest <= len(node.inputs) <= operation.most:
        wanted = f"{operation.fewest}" if operation.fewest == operation.most else f"{operation.fewest} or more"
        raise GraphError(f"{where}: {node.op} takes {wanted} inputs, got {len(node.inputs)}")
    if node.attributes.keys() != operation.attributes.keys():
        wanted = ", ".join(operation.attributes) or "none"
        raise GraphError(f"{where}: {node.op} has the attributes {wanted}, got {_short(list(node.attributes))}")
    for key, check in operation.attributes.items():
        if (problem := check(node[key])) is not None:
            raise GraphError(f"{where}: {key} {problem}, got {_short(node[key])} (integers end at {LARGEST})")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
