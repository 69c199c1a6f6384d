"""A graph is cut into units, each of which can be run in one of several ways; chosen ways become stages that run.

A unit is what lies between two points at which only one value is alive: a layer with the activation and the pool behind it,
or a residual block. A unit that has no sparse form as a whole falls apart into its nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from supermask.deploy.folding import LAYERS
from supermask.deploy.graph import INPUT, Graph, Node
from supermask.deploy.programs import Array, Compiled, NoProgramError, compile_nodes
from supermask.deploy.shapes import Shape

GIVEN: Final = ("constant", "number")  # nodes without inputs: there before anything runs


@dataclass(frozen=True)
class Unit:
    """Nodes that are run one way.

    Args:
        nodes: In order.
        sources: Values from outside that they read.
        program: Their sparse form, if they have one.
        refusal: Why they have none; empty if they have.
    """

    nodes: tuple[Node, ...]
    sources: tuple[str, ...]
    program: Compiled | None
    refusal: str

    @property
    def result(self) -> str:
        """Name of the value that they give."""
        return self.nodes[-1].name

    @property
    def layers(self) -> tuple[Node, ...]:
        """The convolutions and linear layers among the nodes."""
        return tuple(node for node in self.nodes if node.op in LAYERS)


def split(graph: Graph, shapes: Mapping[str, Shape], arrays: Mapping[str, Array], *, whole_blocks: bool) -> list[Unit]:
    """Cut a graph into units.

    Args:
        graph: Folded.
        shapes: Of its values.
        arrays: Beside it.
        whole_blocks: Whether a block of several layers stays one unit where it has a sparse form; otherwise all blocks fall
            apart into their nodes.
    """
    units: list[Unit] = []
    for run in _with_layers(_atoms(graph)):
        current: Unit | None = None
        for atom in run:
            longer = _unit([*(current.nodes if current else ()), *atom], shapes, arrays)
            if current is not None and longer.program is None:
                units.append(current)
                longer = _unit(atom, shapes, arrays)
            current = longer
            if len(atom) > 1 and (longer.program is None or (len(longer.layers) > 1 and not whole_blocks)):
                units += [_unit([node], shapes, arrays) for node in longer.nodes]
                current = None
            elif longer.program is None:
                units.append(longer)
                current = None
        units += [current] if current is not None else []
    return units


def _unit(nodes: Sequence[Node], shapes: Mapping[str, Shape], arrays: Mapping[str, Array]) -> Unit:
    inside = {node.name for node in nodes}
    sources = tuple(dict.fromkeys(name for node in nodes for name in node.inputs if name not in inside))
    program, refusal = None, ""
    if len(sources) != 1:
        refusal = f"{nodes[0].name} ({nodes[0].op}) reads {len(sources)} values"
    else:
        try:
            program = compile_nodes(nodes, shapes, arrays)
        except NoProgramError as error:
            refusal = str(error)
    return Unit(tuple(nodes), sources, program, refusal)


def _atoms(graph: Graph) -> list[list[Node]]:
    """The smallest runs of nodes with one value in and one out."""
    nodes = [node for node in graph.nodes if node.op not in GIVEN]
    given = {node.name for node in graph.nodes} - {node.name for node in nodes}
    last = {name: index for index, node in enumerate(nodes) for name in node.inputs}
    atoms: list[list[Node]] = []
    current: list[Node] = []
    alive = {INPUT}
    for index, node in enumerate(nodes):
        current.append(node)
        alive = {name for name in alive | {node.name} if last.get(name, -1) > index or name == graph.output} - given
        if alive == {node.name}:
            atoms.append(current)
            current = []
    assert not current  # at the end only the output is alive
    return atoms


def _with_layers(atoms: Sequence[list[Node]]) -> list[list[list[Node]]]:
    """Runs of atoms, each with layers if there are any: what follows a layer belongs to it, a padding to what follows."""
    runs: list[list[list[Node]]] = []
    for atom in atoms:
        has_layer = any(node.op in LAYERS for node in atom)
        open_run = bool(runs) and not any(node.op in LAYERS for part in runs[-1] for node in part)
        padding = all(node.op == "pad" for node in atom)
        if runs and (open_run or not (has_layer or padding)):
            runs[-1].append(atom)
        else:
            runs.append([atom])
    return runs


@dataclass(frozen=True)
class Stage:
    """What runs as one.

    Args:
        nodes: In order.
        sources: Values that it reads.
        program: The sparse program; None: the nodes are computed one by one.
    """

    nodes: tuple[Node, ...]
    sources: tuple[str, ...]
    program: Compiled | None

    @property
    def result(self) -> str:
        """Name of the value of the last node."""
        return self.nodes[-1].name


def schedule(
    graph: Graph,
    units: Sequence[Unit],
    is_sparse: Callable[[Unit], bool],
    shapes: Mapping[str, Shape],
    arrays: Mapping[str, Array],
) -> list[Stage]:
    """Stages of chosen ways; neighbours that go the same way become one where they can.

    Args:
        graph: Of the units.
        units: All of them, in order.
        is_sparse: Whether a unit shall be a sparse program.
        shapes: Of all values.
        arrays: Beside the graph.
    """
    users = graph.users()
    stages: list[Stage] = []
    for unit in units:
        sparse = unit.program is not None and is_sparse(unit)
        stage = Stage(unit.nodes, unit.sources, unit.program if sparse else None)
        joined = _join(stages[-1], stage, users, graph.output, shapes, arrays) if stages else None
        if joined is None:
            stages.append(stage)
        else:
            stages[-1] = joined
    return stages


def _join(
    first: Stage,
    second: Stage,
    users: Mapping[str, Sequence[Node]],
    output: str,
    shapes: Mapping[str, Shape],
    arrays: Mapping[str, Array],
) -> Stage | None:
    if (first.program is None) != (second.program is None):
        return None
    nodes = first.nodes + second.nodes
    if first.program is None:
        inside = {node.name for node in first.nodes}
        sources = first.sources + tuple(n for n in second.sources if n not in inside and n not in first.sources)
        return Stage(nodes, sources, None)
    names = {node.name for node in second.nodes}
    private = all(user.name in names for user in users[first.result]) and first.result != output
    if second.sources != (first.result,) or not private:
        return None
    try:
        return Stage(nodes, first.sources, compile_nodes(nodes, shapes, arrays))
    except NoProgramError:  # rows before, images behind: two programs
        return None


Values = dict[str, Any]


class Executor:
    """Runs stages one after the other.

    Args:
        graph: Whose output is wanted.
        stages: All of it.
        given: Values of the nodes without inputs.
        compute: Computes a node: ``compute(node, examples, inputs)``.
        to_array: Makes a contiguous float32 array of a value, for a program.
        from_array: Makes a value of an array.
    """

    def __init__(
        self,
        graph: Graph,
        stages: Sequence[Stage],
        given: Values,
        compute: Callable[[Node, int, list[Any]], Any],
        to_array: Callable[[Any], Array],
        from_array: Callable[[Array], Any],
    ) -> None:
        self.stages = tuple(stages)
        self._output = graph.output
        self._given = given
        self._compute = compute
        self._to_array = to_array
        self._from_array = from_array
        steps = [step for stage in stages for step in (stage.nodes if stage.program is None else (stage,))]
        reads = [step.inputs if isinstance(step, Node) else step.sources for step in steps]
        last = {name: index for index, names in enumerate(reads) for name in names}
        self._steps: list[tuple[Node | Stage, tuple[str, ...], tuple[str, ...]]] = []
        for index, (step, names) in enumerate(zip(steps, reads, strict=True)):
            done = {n for n in names if last[n] == index and n != graph.output and n not in given}
            self._steps.append((step, tuple(names), tuple(done)))
        only = self.stages[0].program if len(self.stages) == 1 else None
        self.only = only if self.stages and self.stages[0].sources == (INPUT,) else None

    @property
    def has_dense(self) -> bool:
        """Whether a stage is computed node by node."""
        return any(stage.program is None for stage in self.stages)

    def run(self, x: Any, examples: int, threads: int, keep: Sequence[str] = ()) -> Any:
        """The output for a batch; with ``keep``, a dict of the values of these names that were there at some time."""
        values: Values = {**self._given, INPUT: x}
        kept: Values = {name: values[name] for name in keep if name in values}
        for step, names, done in self._steps:
            if isinstance(step, Node):
                value = self._compute(step, examples, [values[name] for name in names])
                name = step.name
            else:
                assert step.program is not None
                value = self._from_array(step.program(self._to_array(values[names[0]]), threads))
                name = step.result
            values[name] = value
            if name in keep:
                kept[name] = value
            for finished in done:
                del values[finished]
        return kept if keep else values[self._output]
