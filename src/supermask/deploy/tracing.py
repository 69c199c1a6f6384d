"""A module becomes a graph, through ``torch.export``.

Any module of one tensor that can be exported can be traced. An operation without a node of its own becomes a ``"torch"``
node, which torch runs; a module that cannot be taken apart (its code looks at the number of examples, say) becomes one such
node. What was traced is run beside the module before it is believed, for several examples and for one.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.nn.utils.parametrize import is_parametrized

from supermask.deploy.conversion import RefusedError, convert
from supermask.deploy.dense import Dense
from supermask.deploy.graph import INPUT, INPUT_TYPES, Graph, Node, check_node
from supermask.deploy.operations import OPERATIONS, TORCH
from supermask.deploy.planning import GIVEN
from supermask.deploy.shapes import Shape, infer, shapes_of
from supermask.errors import EngineError, GraphError

Arrays = dict[str, NDArray[Any]]
_DTYPES: Final = {torch.float32: "float32", torch.int64: "int64"}
_BATCH_NORM: Final = torch.ops.aten._native_batch_norm_legit_no_training.default
_PROBE: Final = 3  # examples in the traced batch: torch.export takes 0 and 1 for constants
_CLOSE: Final = 1e-3  # relative, and of the largest result: what rounding in another order may change
_TALKATIVE: Final = "torch.fx.experimental.symbolic_shapes"  # prints the program that it could not follow
_VIEWS: Final = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)


@dataclass(frozen=True)
class Examples:
    """Stands for ``times`` the number of examples in the arguments of a :class:`TorchCall`."""

    times: int


@dataclass(frozen=True)
class Value:
    """Stands for an input of the node in the arguments of a :class:`TorchCall`."""

    index: int


@dataclass(frozen=True)
class TorchCall:
    """What a ``"torch"`` node runs: an operation of torch with its arguments.

    Args:
        target: The operation.
        arguments: Positional ones, with :class:`Value` and :class:`Examples` where a batch decides.
        options: By name, likewise.
    """

    target: Any
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]

    def __call__(self, examples: int, *inputs: Any) -> Any:
        """Run it on the values of its inputs."""

        def fill(item: Any) -> Any:
            if isinstance(item, Value):
                return inputs[item.index]
            if isinstance(item, Examples):
                return examples * item.times
            if isinstance(item, list | tuple):
                return type(item)(fill(part) for part in item)
            return item

        return self.target(*fill(self.arguments), **{name: fill(value) for name, value in self.options.items()})


@dataclass(frozen=True)
class ModuleCall:
    """What the one ``"torch"`` node of a module runs that could not be taken apart."""

    module: nn.Module

    def __call__(self, examples: int, *inputs: Any) -> Any:  # noqa: ARG002
        """Run it."""
        return self.module(*inputs)


def trace(model: nn.Module, example: Tensor) -> tuple[Graph, Arrays]:
    """A plain module as a graph, as it computes in evaluation mode.

    Args:
        model: Plain (finalized), on the CPU, of one tensor in and one out; not changed.
        example: A batch (N, ...) of float32 or int64 that it takes; only its shape and type count.

    Returns:
        The graph, and the arrays that it uses by their name in the state dict. Tensors that are in no state dict (made in
        ``forward``, or buffers that are not saved) are there as well, by the name that torch.export gives them.

    Raises:
        EngineError: The model carries masks still, is not on the CPU, takes another input, or gives something other than a
            tensor with one row an example, of a type that numpy has.
    """
    _check(model, example)
    probe = example[:1].detach().repeat(_PROBE, *[1] * (example.dim() - 1))
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        try:
            result = _run(model, probe)
        except Exception as error:
            first = str(error).partition("\n")[0]
            raise EngineError(
                f"example: the model does not take a batch of shape {tuple(probe.shape)}: {first}"
            ) from error
        if not isinstance(result, Tensor) or result.dim() == 0 or result.shape[0] != _PROBE:
            got = tuple(result.shape) if isinstance(result, Tensor) else f"a {type(result).__name__}"
            raise EngineError(f"model: must give one tensor with one row an example, got {got} for {_PROBE} examples")
        if result.dtype == torch.bfloat16 or result.dtype.is_complex or result.layout != torch.strided:
            raise EngineError(
                f"model: gives {result.dtype}, {result.layout}; engines give what numpy has: float32, ..."
            )
        try:
            graph, arrays = _Tracer(_program(model, probe), probe).run()
            _compare(graph, arrays, model, probe)
            return graph, arrays
        except _WholeError as reason:
            return _whole(model, probe, result, str(reason))
    finally:
        for module, mode in training.items():
            module.training = mode


class _WholeError(Exception):
    """Why a module cannot be taken apart."""


def _run(model: nn.Module, x: Tensor) -> Any:
    with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the model's own caller hears them
        return model(x.clone())


def _compare(graph: Graph, arrays: Arrays, model: nn.Module, probe: Tensor) -> None:
    """Run what was traced beside the model, for several examples and for one, which torch.export never looks at.

    Raises:
        _WholeError: The results differ: the code of the model looks at the number of examples.
    """
    dense = Dense(graph, arrays)
    for x in (probe, probe[:1]):
        try:
            wanted = _run(model, x)
        except Exception as error:
            if len(x) == 1:  # a model may need more
                continue
            raise _WholeError(f"it does not run twice: {error}") from error
        values = {INPUT: x.clone(), **dense.given(graph)}
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for node in graph.nodes:
                if node.op not in GIVEN:
                    values[node.name] = dense.compute(node, len(x), [values[name] for name in node.inputs])
        got = values[graph.output]
        if len(x) == 1 and (not isinstance(wanted, Tensor) or got.shape != wanted.shape):
            continue  # squeeze() takes a batch of one away; an engine always gives one row an example
        largest = float(wanted.double().abs().nan_to_num(posinf=0.0).max()) if wanted.numel() else 0.0
        same = got.shape == wanted.shape and got.dtype == wanted.dtype
        if not same or not torch.allclose(got, wanted, _CLOSE, _CLOSE * largest, equal_nan=True):
            raise _WholeError(f"for {len(x)} example{'s' * (len(x) > 1)} it does something else than was traced")


def _check(model: nn.Module, example: Tensor) -> None:
    for name, module in model.named_modules():
        if is_parametrized(module):
            raise EngineError(
                f"model: {name or 'it'} carries a mask or another parametrization still; call finalize() first"
            )
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.device.type != "cpu":
            raise EngineError(f"model: {name} is on {value.device}; engines run on the CPU: model.cpu()")
        if value.is_floating_point() and value.dtype != torch.float32:
            raise EngineError(f"model: {name} has the type {value.dtype}; engines compute in float32: model.float()")
    if not isinstance(example, Tensor) or example.dtype not in _DTYPES or example.dim() == 0 or not len(example):
        got = f"{example.dtype} {tuple(example.shape)}" if isinstance(example, Tensor) else type(example).__name__
        raise EngineError(f"example: must be a batch (N, ...) of {' or '.join(INPUT_TYPES)}, N >= 1, got {got}")


def _program(model: nn.Module, probe: Tensor) -> ExportedProgram:
    """The module's program for any number of examples."""
    failure: Exception | None = None
    # reading the byte code is slower, and understands len(x)
    for strict in (False, True):
        try:
            with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), _silence():
                warnings.simplefilter("ignore")  # torch's own deprecations, inside torch
                # with gradients on, modules do not take the fused short cuts that no table of operations knows
                exported = torch.export.export(model, (probe,), dynamic_shapes=({0: Dim.DYNAMIC},), strict=strict)
                program: ExportedProgram = exported.run_decompositions({})
                return program
        except Exception as error:  # whatever torch.export cannot follow  # noqa: BLE001
            failure = failure or error
    first = str(failure).strip().partition("\n")[0].partition(" For more information")[0]
    raise _WholeError(f"torch.export cannot follow it with a free batch size: {first}") from failure


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Inside, torch does not print pages of a program that it cannot follow: the plan of an engine says why."""
    logger = logging.getLogger(_TALKATIVE)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _whole(model: nn.Module, probe: Tensor, result: Tensor, why: str) -> tuple[Graph, Arrays]:
    module = copy.deepcopy(model)
    about = {"target": type(model).__name__, "shape": [-1, *result.shape[1:]], "why": why}
    node = Node(TORCH, "model", (INPUT,), about, ModuleCall(module))
    return Graph(tuple(probe.shape[1:]), (node,), "model", _DTYPES[probe.dtype]), {}


class _Tracer:
    """Walks through an exported program and writes down nodes."""

    def __init__(self, program: ExportedProgram, probe: Tensor) -> None:
        self.program = program
        self.probe = probe
        self.arrays: Arrays = {}
        self.nodes: list[Node] = []
        self.taken = {INPUT}
        self.values: dict[fx.Node, str] = {}  # what computes a value -> its name
        self.stored: dict[fx.Node, str] = {}  # placeholders of parameters and buffers -> name of the array
        self.symbol: Any = None

    def run(self) -> tuple[Graph, Arrays]:
        state = dict(self.program.state_dict) | dict(self.program.constants)
        placeholders = [node for node in self.program.graph.nodes if node.op == "placeholder"]
        for node, spec in zip(placeholders, self.program.graph_signature.input_specs, strict=True):
            if spec.kind == InputKind.USER_INPUT:
                self.values[node] = INPUT
                size = node.meta["val"].shape[0]
                if isinstance(size, int):
                    raise _WholeError("its code fixes the number of examples")
                self.symbol = size.node.expr
                if guards := [
                    guard.expr for guard in size.node.shape_env.guards if self.symbol in guard.expr.free_symbols
                ]:
                    raise _WholeError(f"its code looks at the number of examples ({guards[0]})")
            elif isinstance(tensor := state.get(spec.target), Tensor):
                self.arrays[spec.target] = tensor.detach().clone().contiguous().numpy()
                self.stored[node] = spec.target
        output = None
        for node in self.program.graph.nodes:
            if node.op == "call_function":
                self._call(node)
            elif node.op == "get_attr":
                raise _WholeError(f"it branches ({node.target})")
            elif node.op == "output":
                output = node.args[0]
        kinds = [spec.kind for spec in self.program.graph_signature.output_specs]
        assert isinstance(output, tuple)
        results = [value for value, kind in zip(output, kinds, strict=True) if kind == OutputKind.USER_OUTPUT]
        # a graph leaves its input alone, also where the module works in place on it
        changed = set(kinds) - {OutputKind.USER_OUTPUT, OutputKind.USER_INPUT_MUTATION}
        if changed or len(results) != 1 or results[0] not in self.values:
            raise _WholeError("it changes a buffer at every call, or gives something that it did not compute")
        shape = tuple(self.probe.shape[1:])
        whole = Graph(shape, tuple(self.nodes), self.values[results[0]], _DTYPES[self.probe.dtype])
        graph = whole.with_nodes(whole.nodes)
        arrays = {name: self.arrays[name] for name in graph.tensors()}
        infer(graph, shapes_of(arrays))
        return graph, arrays

    def _call(self, node: fx.Node) -> None:
        value = node.meta.get("val")
        if (
            node.target == _BATCH_NORM
        ):  # of its three results only the first has a meaning here: convert() sees that one
            return
        if value is None or isinstance(value, torch.SymInt | int | bool | float | torch.SymBool):
            return  # assertions, and arithmetic on the batch size: Examples stands for it
        shape = self._shape(value)
        if shape is not None and value.dtype == torch.float32:
            before = len(self.nodes)
            try:
                name = convert(self, node, shape)
            except RefusedError:
                del self.nodes[before:]
            else:
                self.values[node] = name
                return
        self._torch(node, shape)

    # ------------------------------------------------------------------ for convert()

    def add(self, op: str, source: fx.Node, inputs: tuple[str, ...], **attributes: Any) -> str:
        """Append a node, named after its weight or the module that it comes from, and return its name."""
        layer = attributes.get("weight") if op in ("conv", "linear") else None
        name = self._fresh(_module_name(source) if layer is None else layer.removesuffix(".weight"))
        node = Node(op, name, inputs, {key: attributes[key] for key in OPERATIONS[op].attributes})
        try:
            check_node(node, "graph", self.taken - {name})
        except GraphError as error:
            self.taken.discard(name)
            raise RefusedError(str(error)) from error
        self.nodes.append(node)
        return name

    def value(self, argument: Any) -> str:
        """Name of the value of an argument: something computed, a parameter, or a number.

        Raises:
            RefusedError: It is none of these.
        """
        if isinstance(argument, fx.Node):
            if argument in self.values:
                return self.values[argument]
            if argument in self.stored:
                return self._given("constant", self.stored[argument], tensor=self.stored[argument])
        elif isinstance(argument, int | float) and not isinstance(argument, bool):
            if math.isfinite(argument):
                return self._given("number", f"number {float(argument)}", value=float(argument))
            raise RefusedError(f"{argument} is not finite")
        raise RefusedError(f"{argument} is not a tensor")

    def tensor(self, argument: Any) -> str:
        """Name of the array of an argument that is a parameter or a buffer.

        Raises:
            RefusedError: It is computed.
        """
        if argument not in self.stored:
            raise RefusedError(f"{argument} is computed")
        return self.stored[argument]

    def shape(self, argument: Any) -> Shape:
        """Shape of an argument.

        Raises:
            RefusedError: It has none that a graph can hold.
        """
        if not isinstance(argument, fx.Node):
            return ()
        shape = self._shape(argument.meta.get("val"))
        if shape is None:
            raise RefusedError(f"{argument} has no plain shape")
        return shape

    # ------------------------------------------------------------------ inner workings

    def _fresh(self, wish: str) -> str:
        name, number = wish, 1
        while name in self.taken:
            number += 1
            name = f"{wish}#{number}"
        self.taken.add(name)
        return name

    def _given(self, op: str, wish: str, **attributes: Any) -> str:
        """Name of a node without inputs; one serves all who read it."""
        for node in self.nodes:
            if node.op == op and node.attributes == attributes:
                return node.name
        name = self._fresh(wish)
        self.nodes.append(Node(op, name, (), attributes))
        return name

    def _shape(self, value: Any) -> Shape | None:
        if not isinstance(value, Tensor):
            return None
        return tuple(n if isinstance(n, int) else -self._times(n) for n in value.shape)

    def _times(self, size: Any) -> int:
        """How many times the number of examples a symbolic size is.

        Raises:
            _WholeError: It depends on it in another way.
        """
        times = size.node.expr / self.symbol
        if not times.is_Integer or int(times) < 1:
            raise _WholeError(f"a size in it is {size}, which is no multiple of the number of examples")
        return int(times)

    def _torch(self, node: fx.Node, shape: Shape | None) -> None:
        inputs: list[str] = []

        def stand_in(item: Any) -> Any:
            if isinstance(item, fx.Node):
                value = item.meta.get("val")
                if isinstance(value, torch.SymInt):
                    return Examples(self._times(value))
                if isinstance(value, int | float | bool):
                    return value
                try:
                    inputs.append(self.value(item))
                except RefusedError as reason:
                    raise _WholeError(str(reason)) from reason
                return Value(len(inputs) - 1)
            if isinstance(item, list | tuple):
                return [stand_in(part) for part in item]
            return item

        if node.target == torch.ops.aten.as_strided.default:
            raise _WholeError("it looks at how a tensor lies in memory (as_strided)")
        # what a view looks at may lie in memory in another order here
        target = torch.ops.aten.reshape.default if node.target in _VIEWS else node.target
        arguments = tuple(stand_in(item) for item in node.args)
        options = {name: stand_in(item) for name, item in node.kwargs.items()}
        name = self._fresh(_module_name(node))
        about = {"target": str(node.target), "shape": None if shape is None else list(shape)}
        self.nodes.append(Node(TORCH, name, tuple(inputs), about, TorchCall(target, arguments, options)))
        self.values[node] = name


def _module_name(node: fx.Node) -> str:
    """Path of the module in whose ``forward`` a node stands, or the node's own name in the outermost one."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = stack[-1][0] if stack else ""
    return path if path else node.name
