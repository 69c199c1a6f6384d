"""A module becomes channel groups, through ``torch.export``."""

from __future__ import annotations

import logging
import operator
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.nn.utils.parametrize import is_parametrized

from supermask.core.groups import ChannelGroup, Member, Role, Structure, Value
from supermask.core.propagation import Call, Walk
from supermask.core.propagation_layers import handlers
from supermask.core.units import Carried, Ids, Lane, Shape, along, flat
from supermask.errors import StructureError

_PROBE: Final = 7  # examples in the traced batch: a number that seldom is the size of something else
_PASSED_ON: Final = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")  # in evaluation mode
_OPERATIONS: Final = {"linear": "linear", "batch_norm": "batch_norm", "addmm": "linear"}


def find_structure(model: nn.Module, example: Tensor | tuple[Tensor, ...]) -> Structure:
    """Find the channel groups of a plain module, as it computes in evaluation mode.

    Any module that ``torch.export`` can follow is understood as far as its operations are: what an operation does to
    channels is never guessed. Channels near an operation that is not known, the network's outputs, and channels that meet
    values which are none stay: their group says why. The module is left as it was; forward hooks run.

    Args:
        model: Plain: before ``attach`` or after ``finalize``.
        example: A batch (N, ...) that the model takes, or the tuple of its inputs, each with the batch first; only shapes
            and types count.

    Raises:
        StructureError: The model carries masks or other parametrizations, or cannot be traced.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    if not inputs or not all(isinstance(x, Tensor) for x in inputs) or inputs[0].dim() == 0 or not len(inputs[0]):
        raise StructureError("example: must be a batch (N, ...) with N >= 1, or a tuple of such tensors")
    for name, module in model.named_modules():
        if is_parametrized(module):
            raise StructureError(
                f"model: {name or 'it'} carries a mask or another parametrization; trace it before attach, or after finalize()"
            )
    program, batch = _program(model, inputs)
    return _Tracer(model, program, batch).run(tuple(inputs[0].shape[1:]))


def _program(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[ExportedProgram, int]:
    """The module's program, and the number of examples that it is made for."""
    batch = len(inputs[0])
    probe = tuple(
        x.detach()[:1].expand(_PROBE, *x.shape[1:]).clone() if x.dim() and len(x) == batch else x.detach()
        for x in inputs
    )
    failure: Exception | None = None
    training = {module: module.training for module in model.modules()}
    devices = [x.device for x in inputs if x.is_cuda]
    quiet = logging.root.manager.disable
    model.eval()
    logging.disable(logging.CRITICAL)  # torch logs at length what the error below says
    try:
        # the second time with the example's own number of examples, which code may fix
        for tried, size in ((probe, _PROBE), (inputs, batch)):
            try:
                with warnings.catch_warnings(), torch.random.fork_rng(devices=devices), torch.enable_grad():
                    warnings.simplefilter("ignore")  # the model's own caller hears them
                    return torch.export.export(model, tried, strict=False), size
            except Exception as error:  # whatever torch.export cannot follow  # noqa: BLE001
                failure = failure or error
    finally:
        logging.disable(quiet)
        for module, mode in training.items():
            module.training = mode
    first = str(failure).strip().partition("\n")[0].partition(" For more information")[0]
    raise StructureError(
        f"the model cannot be traced with torch.export: {first} ({type(failure).__name__}); change what it names, or name "
        "the channel groups by hand: Structure.by_hand(model, {...})"
    ) from failure


@dataclass
class _Made:
    """An activation while the graph is read."""

    name: str
    carried: tuple[Carried, ...]
    born: int
    last: int
    operation: str
    module: str
    window: int


@dataclass
class _Class:
    """One channel: where its entries lie."""

    entries: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    values: dict[int, int] = field(default_factory=dict)


class _Tracer:
    """Walks through an exported program."""

    def __init__(self, model: nn.Module, program: ExportedProgram, batch: int) -> None:
        self.model = model
        self.program = program
        self.batch = batch
        self.walk = Walk(batch, handlers())
        self.axes: dict[tuple[str, int], Ids] = {}  # (tensor, axis) -> its units
        self.carried: dict[fx.Node, Any] = {}
        self.root: dict[fx.Node, fx.Node] = {}  # of a view -> what it is a view of
        self.made: dict[fx.Node, _Made] = {}
        self.names: dict[str, int] = {}
        parameters = dict(model.named_parameters(remove_duplicate=False))
        saved = model.state_dict(keep_vars=True)
        tensors = {**parameters, **{name: t for name, t in saved.items() if isinstance(t, Tensor)}}
        first: dict[int, str] = {}
        self.canonical = {name: first.setdefault(id(tensor), name) for name, tensor in tensors.items()}
        self.parameters = dict(model.named_parameters())
        self.buffers = {
            name: t for name, t in tensors.items() if name not in parameters and self.canonical[name] == name
        }

    def run(self, example_shape: Shape) -> Structure:
        """Read the graph and write down the groups."""
        nodes = list(self.program.graph.nodes)
        specs = iter(self.program.graph_signature.input_specs)
        for position, node in enumerate(nodes):
            if node.op == "placeholder":
                self._placeholder(node, next(specs), position)
            elif node.op == "get_attr":
                self.carried[node] = Carried(_shape(node), varies=False)
            elif node.op == "call_function":
                self._call(node, position)
            else:
                self._output(node, position)
        self._keep_attention()
        self._settle_blocks()
        return self._structure(example_shape)

    # ------------------------------------------------------------------ the graph

    def _placeholder(self, node: fx.Node, spec: Any, position: int) -> None:
        shape = _shape(node)
        self.root[node] = node
        if spec.kind == InputKind.USER_INPUT:
            self.carried[node] = Carried(shape)
            self._note(node, position, "input", "", 1, node.name)
            return
        name = self.canonical.get(spec.target or "", "")
        if name not in self.parameters and name not in self.buffers:
            self.carried[node] = Carried(shape, varies=False)
            return
        lanes = []
        for axis, size in enumerate(shape):
            ids = self.axes.setdefault((name, axis), self.walk.units.new(size))
            if size > 1:
                # a saved buffer is not zeroed with its channel
                lanes.append(Lane(along(ids, axis, len(shape)), loud=name in self.buffers))
        self.carried[node] = Carried(shape, tuple(lanes), varies=False, source=name, tensors=frozenset({name}))

    def _call(self, node: fx.Node, position: int) -> None:
        for source in node.all_input_nodes:
            self._touch(source, position)
        if node.target is operator.getitem:
            (source,) = node.all_input_nodes
            results, index = self.carried[source], node.args[1]
            known = all(isinstance(value, Tensor) for value in source.meta["val"])
            self.carried[node] = results[index] if known else Carried(_shape(node))  # of an operation that is not known
            self.root[node] = self.root[source]
            return
        results = _results(node)
        if not results:
            return  # an assertion, or a number
        if not all(type(size) is int for result in results for size in result.shape):
            raise StructureError(
                f"{self._where(node)}: the shape of its result depends on the values of the input, so the model cannot be "
                "traced; change that, or name the channel groups by hand: Structure.by_hand(model, {...})"
            )
        call = self._described(node, results)
        carried = self.walk.run(call)
        self.carried[node] = carried
        base = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        in_place = _writes(node)
        if _is_view(node, call.name) and base is not None:
            self.root[node] = self.root[base]
            return
        self.root[node] = node
        if in_place and base is not None:
            self._overwrite(base, node, carried, position)
        if any(part.varies for part in flat(carried)):
            path, kind = _module(node)
            module = path if kind.startswith("torch.nn.") else ""
            self._note(node, position, _operation(call.name), module, _window(call), path or node.name)

    def _described(self, node: fx.Node, results: Sequence[Tensor]) -> Call:
        target, name = node.target, _name(node)
        path, kind = _module(node)
        if isinstance(target, torch._ops.OpOverload):
            schema = target._schema
            given = dict(zip((argument.name for argument in schema.arguments), node.args)) | dict(node.kwargs)
            defaults = {
                argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()
            }
            arguments = {
                argument.name: given.get(argument.name, defaults.get(argument.name)) for argument in schema.arguments
            }
        else:
            arguments = {"args": node.args, **node.kwargs}
        layer = path if kind.startswith("torch.nn.") else ""
        resolved = {key: self._resolved(item) for key, item in arguments.items()}
        return Call(node, name, resolved, tuple(tuple(result.shape) for result in results), self._where(node), layer)

    def _where(self, node: fx.Node) -> str:
        """For the user: the operation and its layer."""
        return f"{_name(node)} in {_module(node)[0] or 'forward'}"

    def _resolved(self, item: Any) -> Any:
        if isinstance(item, fx.Node):
            return self.carried.get(item)
        if isinstance(item, list | tuple):
            return [self._resolved(part) for part in item]
        return item

    def _overwrite(self, base: fx.Node, node: fx.Node, carried: Any, position: int) -> None:
        """After an operation in place, its argument, and all that share memory with it, hold the result."""
        result, units = next(flat(carried)), self.walk.units
        loud = any(lane.loud for lane in result.lanes)
        for other, root in list(self.root.items()):
            if root is self.root[base] and isinstance(before := self.carried.get(other), Carried):
                lanes = tuple(replace(lane, loud=lane.loud or loud) for lane in before.lanes)
                held = [units.find(lane.ids).ravel() for lane in lanes]
                for lane in result.lanes if other is not base else ():
                    if not np.isin(units.find(lane.ids), np.concatenate([*held, np.zeros(0, np.int64)])).all():
                        self.walk.keep(
                            [lane], f"{self._where(node)} writes them into a tensor that has no channels there"
                        )
                self.carried[other] = replace(
                    before,
                    lanes=lanes,
                    zero=False,
                    varies=before.varies or result.varies,
                    source="",
                    layers=before.layers | result.layers,
                )
        self.carried[base] = result
        old = self.made.get(self.root[base])
        if old is not None:
            old.last = max(old.born, position - 1)
        for other in [other for other, root in self.root.items() if root is self.root[base] and other is not node]:
            self.root[other] = node

    def _touch(self, node: fx.Node, position: int) -> None:
        made = self.made.get(self.root.get(node, node))
        if made is not None:
            made.last = position

    def _note(self, node: fx.Node, position: int, operation: str, module: str, window: int, wish: str) -> None:
        self.names[wish] = number = self.names.get(wish, 0) + 1
        name = wish if number == 1 else f"{wish}#{number}"
        carried = tuple(flat(self.carried[node]))
        self.made[node] = _Made(name, carried, position, position, operation, module, window)

    def _output(self, node: fx.Node, position: int) -> None:
        for source in node.all_input_nodes:
            self._touch(source, position)
        kinds = [spec.kind for spec in self.program.graph_signature.output_specs]
        assert isinstance(node.args[0], list | tuple)
        for item, kind in zip(node.args[0], kinds, strict=True):
            for part in flat(self._resolved(item)):
                why = (
                    "are the network's outputs"
                    if kind == OutputKind.USER_OUTPUT
                    else "the model writes them to a buffer"
                )
                self.walk.keep(part.lanes, why)

    # ------------------------------------------------------------------ the groups

    def _settle_blocks(self) -> None:
        """Where units lie along several axes, one axis must tell them apart; by default the first one."""
        units, changed = self.walk.units, True
        while changed:
            changed = False
            for block in self.walk.blocks:
                ids = units.find(block)
                axes = [axis for axis, size in enumerate(ids.shape) if size > 1]
                if any(_depends_only_on(ids, axis) for axis in axes):
                    continue
                slab = ids
                for axis in axes[1:]:
                    slab = np.take(slab, [0], axis=axis)
                units.unite(ids, slab)
                changed = True
        for cut, axis, why in self.walk.cuts:
            ids = units.find(cut)
            if bool((ids != np.take(ids, [0], axis=axis)).any()):
                units.keep(cut.ravel(), why)

    def _keep_attention(self) -> None:
        """Say why ``nn.MultiheadAttention`` can lose nothing."""
        for path, module in self.model.named_modules():
            if isinstance(module, nn.MultiheadAttention):
                why = (
                    f"nn.MultiheadAttention ({path or 'the model'}) has embed_dim values in its input and in its heads; an "
                    "attention of linear layers can lose heads"
                )
                own = [f"{path}.{key}" if path else key for key, _ in module.named_parameters()]
                for (name, axis), ids in self.axes.items():
                    if name in own and (axis == 0 or not name.endswith(("k_proj_weight", "v_proj_weight"))):
                        self.walk.units.keep(ids, why)

    def _structure(self, example_shape: Shape) -> Structure:
        units = self.walk.units
        maker_of, why, loud, added = self._said()
        classes: dict[int, _Class] = {}
        roles: dict[tuple[str, int], list[Role]] = {}
        made = np.unique(np.concatenate([ids for ids, _ in units.makers] or [np.zeros(0, np.int64)]))
        read = np.unique(np.concatenate(list(units.readers) or [np.zeros(0, np.int64)]))
        for key, ids in self.axes.items():
            roles[key] = np.where(np.isin(ids, made), "out", np.where(np.isin(ids, read), "in", "norm")).tolist()
            for index, unit in enumerate(units.find(ids).tolist()):
                if unit in maker_of:
                    classes.setdefault(unit, _Class()).entries.setdefault(key, []).append(index)
        values = list(self.made.values())
        for number, value in enumerate(values):
            for part in value.carried:
                if len(part.lanes) == 1:
                    found, counts = np.unique(units.find(part.lanes[0].ids), return_counts=True)
                    times = int(np.prod(part.shape)) // part.lanes[0].ids.size
                    for unit, count in zip(found.tolist(), counts.tolist()):
                        if unit in classes:
                            per = classes[unit].values
                            per[number] = per.get(number, 0) + count * times
        bundles: dict[Any, list[int]] = {}
        for unit in sorted(classes, key=lambda unit: maker_of[unit][:2]):
            one = classes[unit]
            signature = (
                tuple((key, len(entries), roles[key][entries[0]]) for key, entries in one.entries.items()),
                tuple(sorted(one.values.items())),
                why.get(unit, ""),
                unit in loud,
                unit in added,
            )
            bundles.setdefault(signature, []).append(unit)
        groups: list[ChannelGroup] = []
        parts: list[list[tuple[str, int, int]]] = [[] for _ in values]
        taken: set[str] = set()
        for (members, of_values, kept, is_loud, is_added), channels in bundles.items():
            name = self._free_name(maker_of[channels[0]][2], taken)
            reason = kept or ("it is the only one" if len(channels) == 1 else "")
            group = ChannelGroup(
                name,
                len(channels),
                tuple(
                    Member(key[0], key[1], torch.tensor([classes[c].entries[key] for c in channels]), role)
                    for key, _, role in members
                ),
                kept=reason,
                residual=is_added,
                quiet=not is_loud,
            )
            groups.append(group)
            for number, count in of_values:
                parts[number].append((name, count // self.batch, len(channels)))
        tensors = {**self.parameters, **self.buffers}
        return Structure(
            tuple(groups),
            {name: tuple(p.shape) for name, p in self.parameters.items()},
            {name: tuple(b.shape) for name, b in self.buffers.items()},
            dict(self.walk.uses),
            tuple(self._value(value, owned) for value, owned in zip(values, parts)),
            example_shape,
            item_bytes={n: t.element_size() for n, t in tensors.items() if t.dtype != torch.float32},
            uncounted=tuple(name for name in self.parameters if name in self.walk.uncounted),
        )

    def _value(self, made: _Made, owned: Sequence[tuple[str, int, int]]) -> Value:
        entries = sum(int(np.prod(part.shape)) // (self.batch if part.varies else 1) for part in made.carried)
        fixed = entries - sum(each * channels for _, each, channels in owned)
        parts = tuple((name, each) for name, each, _ in owned)
        return Value(made.name, fixed, parts, made.born, made.last, made.operation, made.module, made.window)

    def _said(self) -> tuple[dict[int, tuple[int, int, str]], dict[int, str], set[int], set[int]]:
        """For each unit: its first maker (order, position, name); why it stays; whether it is loud; whether added into."""
        units = self.walk.units
        makers: dict[int, tuple[int, int, str]] = {}
        for order, (ids, name) in enumerate(units.makers):
            for position, unit in enumerate(units.find(ids.ravel()).tolist()):
                makers.setdefault(unit, (order, position, name))
        why: dict[int, str] = {}
        for ids, reason in units.kept:
            for unit in units.find(ids.ravel()).tolist():
                why.setdefault(unit, reason)
        loud = {unit for ids in units.loud for unit in units.find(ids).ravel().tolist()}
        added = {unit for ids in units.added for unit in units.find(ids).ravel().tolist()}
        return makers, why, loud, added

    def _free_name(self, wish: str, taken: set[str]) -> str:
        name, number = wish, 1
        while name in taken:
            number += 1
            name = f"{wish}#{number}"
        taken.add(name)
        return name


def _depends_only_on(ids: Ids, axis: int) -> bool:
    first = ids
    for other in range(ids.ndim):
        if other != axis:
            first = np.take(first, [0], axis=other)
    return bool((ids == first).all())


def _results(node: fx.Node) -> list[Tensor]:
    value = node.meta.get("val")
    return [part for part in (value if isinstance(value, list | tuple) else [value]) if isinstance(part, Tensor)]


def _shape(node: fx.Node) -> Shape:
    results = _results(node)
    return tuple(results[0].shape) if results else ()


def _name(node: fx.Node) -> str:
    """Name of an operation, without the underscore of those in place."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return getattr(node.target, "__name__", str(node.target))
    name = node.target._schema.name.split("::")[1]
    return name.removesuffix("_") if _writes(node) else name


def _writes(node: fx.Node) -> bool:
    """Whether an operation writes to its first argument."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    first = node.target._schema.arguments[:1]
    return bool(first) and first[0].alias_info is not None and first[0].alias_info.is_write


def _is_view(node: fx.Node, name: str) -> bool:
    """Whether an operation's results share memory with its first argument, unchanged."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    results = node.target._schema.returns[:1]
    alias = results[0].alias_info if results else None
    return name in _PASSED_ON or (alias is not None and not alias.is_write)


def _module(node: fx.Node) -> tuple[str, str]:
    """Path and class of the module in whose ``forward`` a node stands."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return "", ""
    path, kind = stack[-1]
    return str(path), str(kind)


def _operation(name: str) -> str:
    if name.startswith("conv"):
        return "convolution"
    for kind, called in (("max_pool", "max_pool"), ("avg_pool", "avg_pool")):
        if kind in name:
            return called
    return _OPERATIONS.get(name, name)


def _window(call: Call) -> int:
    """Entries that one entry of a pooling's result is made of."""
    if "pool" not in call.name and call.name not in ("mean", "sum", "amax", "amin"):
        return 1
    if "kernel_size" in call.arguments:
        number = next(int(digit) for digit in call.name if digit in "123")
        sizes = list(call["kernel_size"])
        return int(np.prod(sizes * number if len(sizes) == 1 else sizes))
    before, after = next(flat(call.arguments)).shape, call.shape
    return -(-int(np.prod(before)) // int(np.prod(after)))
