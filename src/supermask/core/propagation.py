"""How each operation of torch passes channels on: what it unites, what it makes, and what it forbids to remove.

An operation that is not listed here keeps all channels that come near it: nothing is guessed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, fx

from supermask.core.units import Carried, Ids, Lane, Shape, Units, along, compressed, flat, joined, spread

# stand for "not known to be zero": a number, and a condition
_PROBES: Final = ((0.7, True), (-1.3, True), (0.7, False), (-1.3, False))


@dataclass(frozen=True)
class Call:
    """One operation in the graph.

    Attributes:
        node: In the graph.
        name: Of the operation, without the underscore of those in place.
        arguments: By name, with :class:`Carried` for tensors.
        shape: Of the (first) result.
        shapes: Of all results.
        where: For the user: the operation and its layer.
        layer: Path of the module that it stands in.
    """

    node: fx.Node
    name: str
    arguments: dict[str, Any]
    shapes: tuple[Shape, ...]
    where: str
    layer: str

    @property
    def shape(self) -> Shape:
        """Of the (first) result."""
        return self.shapes[0]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]


class Walk:
    """A walk through a graph: the units, and what the handlers below have in common.

    Attributes:
        units: Of all tensors.
        blocks: Units that lie along several axes at once; in the end one axis must tell them apart.
        cuts: (units, axis, why) of values that the code cuts at fixed places along an axis: no units may lie along it.
        uses: Name of a weight -> how often each of its entries meets a sum, for one example.
        uncounted: Names of weights that meet sums in a way that is not counted.
    """

    def __init__(self, batch: int, handlers: Mapping[str, Handler]) -> None:
        self.handlers = handlers
        self.units = Units()
        self.blocks: list[Ids] = []
        self.cuts: list[tuple[Ids, int, str]] = []
        self.uses: dict[str, int] = {}
        self.uncounted: set[str] = set()
        self.batch = batch

    def run(self, call: Call) -> Carried | tuple[Carried, ...]:
        """What an operation's results carry."""
        handler = self.handlers.get(call.name)
        if handler is None:
            overload = call.node.target
            pointwise = isinstance(overload, torch._ops.OpOverload) and torch.Tag.pointwise in overload.tags
            handler = _pointwise if pointwise else unknown
        return handler(self, call)

    def keep(self, lanes: Iterable[Lane | None], why: str) -> None:
        """Say that the units of some lanes must stay."""
        for lane in lanes:
            if lane is not None:
                self.units.keep(lane.ids.ravel(), why)

    def use(self, weight: Carried, x: Carried, macs: int) -> None:
        """Count multiply-accumulates for a weight: of a whole batch where ``x`` is one."""
        if weight.source:
            each = macs // int(np.prod(weight.shape)) // (self.batch if x.varies else 1)
            self.uses[weight.source] = self.uses.get(weight.source, 0) + each
        else:
            self.uncounted |= weight.tensors

    def settled(self, lanes: Iterable[Lane], where: str) -> tuple[Lane, ...]:
        """Lanes fit for a value: thin, and no two along one axis; the others' units stay."""
        done: list[Lane] = []
        for lane in lanes:
            thin = replace(lane, ids=compressed(torch.from_numpy(lane.ids), self.units))
            if not thin.axes:
                self.keep([thin], f"{where} works on all of them as one")
                continue
            if len(thin.axes) > 1:
                self.blocks.append(thin.ids)
            done.append(thin)
        taken = [axis for lane in done for axis in lane.axes]
        clash = {axis for axis in taken if taken.count(axis) > 1}
        for lane in done:
            if clash & set(lane.axes):
                self.keep([lane], f"{where} mixes them with other channels")
        return tuple(lane for lane in done if not clash & set(lane.axes))

    def aligned(self, parts: Sequence[Carried], shape: Shape, where: str) -> list[tuple[Ids, list[Lane | None]]]:
        """Unite the lanes of values that broadcast together.

        Returns:
            The units of each lane of the result, and which lane of each part it is made of, if any.
        """
        size = len(shape)
        lanes = [[lane.at(size) for lane in part.lanes] for part in parts]
        wide = [(1,) * (size - len(part.shape)) + part.shape for part in parts]
        waiting = [(number, lane) for number, of_part in enumerate(lanes) for lane in of_part]
        found = []
        while waiting:
            members, axes = [waiting.pop(0)], set()
            while True:
                axes = {axis for _, lane in members for axis in lane.axes}
                more = [entry for entry in waiting if axes & set(entry[1].axes)]
                if not more:
                    break
                members += more
                waiting = [entry for entry in waiting if not axes & set(entry[1].axes)]
            for _, lane in members[1:]:
                self.units.unite(members[0][1].ids, lane.ids)
            of_part: list[Lane | None] = [None] * len(parts)
            for number, lane in members:
                of_part[number] = lane
            for number, part in enumerate(parts):
                covered = {axis for owner, lane in members if owner == number for axis in lane.axes}
                if not part.zero and any(wide[number][axis] > 1 for axis in axes - covered):
                    self.keep([lane for _, lane in members], f"{where} combines them with values that are no channels")
            found.append((min((lane.ids for _, lane in members), key=lambda ids: ids.size), of_part))
        return found

    def note_sum(self, parts: Sequence[Carried], ids: Ids) -> None:
        """Say that several layers' outputs are added, where they are of several layers."""
        streams = [part.layers for part in parts if part.layers]
        if len(streams) > 1 and any(stream != streams[0] for stream in streams):
            self.units.added.append(ids.ravel())

    def contract(self, one: Lane | None, axis: int, other: Lane | None, other_axis: int, why: str, quiet: bool) -> None:
        """Multiply and add along an axis of each of two values; lanes that lie along other axes too no longer do."""
        ends: list[Ids] = []
        for lane, at in ((one, axis), (other, other_axis)):
            if lane is not None and len(lane.axes) > 1:
                self.units.unite(lane.ids, np.take(lane.ids, [0], axis=at))
            elif lane is not None:
                ends.append(lane.ids.ravel())
        if len(ends) == 2:
            self.units.unite(*ends)
            if not quiet:
                self.units.loud.append(ends[0])
        for ids in ends if len(ends) == 1 else ():
            self.units.keep(ids, why)


Handler = Callable[[Walk, Call], Carried | tuple[Carried, ...]]


# ---------------------------------------------------------------------- anything, and element by element


def unknown(walk: Walk, call: Call) -> Carried | tuple[Carried, ...]:
    """An operation that is not understood: all channels that come near it stay."""
    parts = list(flat(call.arguments))
    why = f"{call.where} is not known to pass channels on"
    for part in parts:
        walk.keep(part.lanes, why)
        walk.uncounted |= {name for name in part.tensors if len(part.shape) > 1}
    results = tuple(replace(joined(parts, shape, ()), tensors=frozenset()) for shape in call.shapes)
    return results if isinstance(call.node.meta["val"], list | tuple) else results[0]


def _created(walk: Walk, call: Call) -> Carried:
    # one for every example is computed with like the examples
    varies = call.shape[:1] == (walk.batch,)
    return Carried(call.shape, varies=varies, zero=call.name in ("zeros", "zeros_like", "new_zeros"))


def _same(_: Walk, call: Call) -> Carried:
    return replace(next(flat(call.arguments)), shape=call.shape)


def _pointwise(walk: Walk, call: Call) -> Carried:
    parts = list(flat(call.arguments))
    found = []
    for ids, lanes in walk.aligned(parts, call.shape, call.where):
        zero = [part.zero or (lane is not None and not lane.loud) for part, lane in zip(parts, lanes)]
        found.append(Lane(ids, loud=not _gives_zero(call, zero)))
        if call.name in ("add", "sub", "rsub"):
            walk.note_sum([part for part, lane in zip(parts, lanes) if lane is not None], ids)
    value = joined(parts, call.shape, walk.settled(found, call.where))
    return replace(value, zero=_gives_zero(call, [part.zero for part in parts]))


def _gives_zero(call: Call, zero: Sequence[bool]) -> bool:
    """Whether an operation gives zero where these of its tensors are, whatever the others are."""
    if not any(zero):  # a threshold may lie beyond all probes
        return False
    for probe, condition in _PROBES:
        number = itertools.count()

        def fill(item: Any, probe: float = probe, condition: bool = condition, number: Any = number) -> Any:
            value = item.meta.get("val") if isinstance(item, fx.Node) else None
            if isinstance(value, Tensor):
                index = next(number)
                other = condition if value.dtype == torch.bool else probe * (1 + 0.37 * index)
                return torch.full((1,), 0.0 if zero[index] else other).to(value.dtype)
            if isinstance(item, fx.Node):  # a number that is taken out of a tensor
                return condition if isinstance(value, torch.SymBool) else probe
            if isinstance(item, list | tuple):
                return [fill(part) for part in item]
            return item

        arguments, options = fill(call.node.args), {key: fill(item) for key, item in call.node.kwargs.items()}
        assert callable(call.node.target)
        result = call.node.target(*arguments, **options)
        if not isinstance(result, Tensor) or bool(result != 0):
            return False
    return True


# ---------------------------------------------------------------------- rearranging


def _moved(walk: Walk, call: Call) -> Carried | tuple[Carried, ...]:
    """Do to the units what the operation does to the elements."""
    first, *others = list(flat(call.arguments))
    if (
        others and not call.name.endswith("_as")
    ) or "dtype" in call.arguments:  # the latter: other numbers, the same bytes
        return unknown(walk, call)
    lanes: list[list[Lane]] = [[] for _ in call.shapes]
    for lane in first.lanes:
        labels = spread(lane, first.shape)
        moved: Any
        if call.name in ("view", "_unsafe_view", "reshape", "view_as", "reshape_as"):
            moved = labels.reshape(call.shape)
        elif call.name == "expand_as":
            moved = labels.expand(call.shape)
        else:
            assert callable(call.node.target)
            moved = call.node.target(labels, *call.node.args[1:], **call.node.kwargs)
        for number, labels in enumerate([moved] if isinstance(moved, Tensor) else moved):
            lanes[number].append(Lane(compressed(labels, walk.units), lane.loud))
    # something fixed that is repeated for every example is computed with like the examples
    repeated = (
        call.name in ("expand", "expand_as", "repeat", "tile") and call.shape[:1] == (walk.batch,) != first.shape[:1]
    )
    results = tuple(
        replace(first, shape=shape, lanes=walk.settled(found, call.where), varies=first.varies or repeated)
        for shape, found in zip(call.shapes, lanes)
    )
    if len(results) > 1 or int(np.prod(call.shape)) != int(np.prod(first.shape)):
        results = tuple(replace(result, source="") for result in results)
    return results if isinstance(call.node.meta["val"], list | tuple) else results[0]


def _cut(walk: Walk, call: Call) -> Carried | tuple[Carried, ...]:
    """Take a part along an axis; where channels lie along it, the code says where to cut, and they stay."""
    first = next(flat(call.arguments))
    axis = call.arguments.get("dim", 0) % len(first.shape)
    lane = first.along(axis)
    if lane is not None and any(shape != first.shape for shape in call.shapes):
        walk.cuts.append((lane.ids, axis, f"{call.where} cuts them at a fixed place"))
    return _moved(walk, call)


def _roll(walk: Walk, call: Call) -> Carried | tuple[Carried, ...]:
    """Of fewer channels, others would come first."""
    first = next(flat(call.arguments))
    dims = _dims(call, "dims", len(first.shape))
    walk.keep([lane for lane in first.lanes if dims & set(lane.axes)], f"{call.where} moves them by a fixed number")
    return _moved(walk, call)


def _chunk(walk: Walk, call: Call) -> Carried | tuple[Carried, ...]:
    """Cut into equal parts, which must stay equal: channel i of each goes with channel i of the others."""
    first, axis = call["self"], call["dim"] % len(call["self"].shape)
    lane = first.along(axis)
    if lane is not None and len(call.shapes) > 1:
        if len({shape[axis] for shape in call.shapes}) > 1:
            walk.keep([lane], f"{call.where} cuts them into unequal parts")
        else:
            parts = np.split(lane.ids, len(call.shapes), axis=axis)
            for part in parts[1:]:
                walk.units.unite(parts[0], part)
    return _moved(walk, call)


def _cat(walk: Walk, call: Call) -> Carried:
    parts, axis = list(flat(call["tensors"])), call["dim"] % len(call.shape)
    ends = [part.along(axis) for part in parts]
    found: list[Lane] = []
    if any(ends):
        pieces = []
        for part, lane in zip(parts, ends):
            if lane is None:
                fixed = walk.units.new(part.shape[axis])
                walk.units.keep(fixed, f"{call.where} joins them with values that are no channels")
                pieces.append(along(fixed, axis, len(part.shape)))
            else:
                pieces.append(lane.ids)
        wide = [max(piece.shape[at] for piece in pieces) for at in range(len(call.shape))]
        pieces = [np.broadcast_to(p, [p.shape[axis] if at == axis else n for at, n in enumerate(wide)]) for p in pieces]
        loud = any(lane is not None and lane.loud for lane in ends)
        found.append(Lane(np.ascontiguousarray(np.concatenate(pieces, axis=axis)), loud))
    # along the other axes all parts must lose the same
    rest = [
        replace(part, lanes=tuple(lane for lane in part.lanes if lane is not end)) for part, end in zip(parts, ends)
    ]
    shape = tuple(1 if at == axis else size for at, size in enumerate(call.shape))
    flattened = [replace(part, shape=tuple(1 if at == axis else n for at, n in enumerate(part.shape))) for part in rest]
    for ids, lanes in walk.aligned(flattened, shape, call.where):
        found.append(Lane(ids, any(lane is None or lane.loud for lane in lanes)))
    return joined(parts, call.shape, walk.settled(found, call.where))


def _stack(walk: Walk, call: Call) -> Carried:
    """Join along a new axis."""
    axis = call["dim"] % len(call.shape)
    parts = [
        replace(
            part,
            shape=(*part.shape[:axis], 1, *part.shape[axis:]),
            lanes=tuple(replace(lane, ids=np.expand_dims(lane.ids, axis)) for lane in part.lanes),
        )
        for part in flat(call["tensors"])
    ]
    return _cat(walk, replace(call, arguments={"tensors": parts, "dim": axis}))


def _glu(walk: Walk, call: Call) -> Carried:
    """Half of the channels times a sigmoid of the others."""
    first, axis = call["self"], call["dim"] % len(call.shape)
    lane = first.along(axis)
    lanes = [other for other in first.lanes if other is not lane]
    if lane is not None:
        half, gate = np.split(lane.ids, 2, axis=axis)
        walk.units.unite(half, gate)
        lanes.append(replace(lane, ids=half))
    return joined([first], call.shape, walk.settled(lanes, call.where))


def _padded(walk: Walk, call: Call) -> Carried:
    first, sizes = call["self"], call["pad"]
    mode, value = call.arguments.get("mode", "constant"), call.arguments.get("value") or 0
    added = {len(first.shape) - 1 - number // 2 for number, size in enumerate(sizes) if size}
    found = []
    for lane in first.lanes:
        touched = added & set(lane.axes)
        if touched and (mode != "constant" or len(lane.axes) > 1):
            walk.keep([lane], f"{call.where} adds to them")
            continue
        ids = lane.ids
        for axis in touched:
            before, after = (sizes[2 * (len(first.shape) - 1 - axis) + end] for end in (0, 1))
            if min(before, after) < 0:
                walk.keep([lane], f"{call.where} cuts them at a fixed place")
                return joined([first], call.shape, ())
            fixed = walk.units.new(before + after)
            walk.units.keep(fixed, f"{call.where} puts a fixed number of zeros beside them")
            flat_ids = np.concatenate([fixed[:before], ids.ravel(), fixed[before:]])
            ids = along(flat_ids, axis, len(first.shape))
        # a constant beside a channel's own values remains when the channel is zero
        found.append(Lane(ids, lane.loud or (value != 0 and bool(added - touched))))
    return joined([first], call.shape, walk.settled(found, call.where))


# ---------------------------------------------------------------------- along some axes


def _dims(call: Call, name: str, rank: int) -> set[int]:
    given = call.arguments.get(name)
    if given is None or given == []:
        return set(range(rank))
    return {axis % rank for axis in (given if isinstance(given, list | tuple) else [given])}


def _reduced(walk: Walk, call: Call) -> Carried | tuple[Carried, ...]:
    """Mean, sum, maximum, …: channels that lie along other axes pass; a sum leaves out a channel of zeros unnoticed."""
    first, *others = list(flat(call.arguments))
    if others:  # the larger of two values
        return _pointwise(walk, call) if "other" in call.arguments else unknown(walk, call)
    dims = _dims(call, "dim", len(first.shape))
    found = []
    for lane in first.lanes:
        if not dims & set(lane.axes):
            kept = tuple(size for axis, size in enumerate(lane.ids.shape) if axis not in dims)
            ids = lane.ids if call.arguments.get("keepdim") else lane.ids.reshape(kept)
            found.append(Lane(ids, lane.loud or call.name in ("logsumexp", "argmax", "argmin")))
        elif call.name == "sum" and set(lane.axes) <= dims:
            if lane.loud:
                walk.units.loud.append(lane.ids.ravel())
        else:
            walk.keep([lane], f"{call.where} is taken over all of them")
    return _beside_indices(walk, call, first, found)


def _beside_indices(walk: Walk, call: Call, first: Carried, lanes: Sequence[Lane]) -> Carried | tuple[Carried, ...]:
    """Values, and maybe the indices that they come from, which need not be zero where the values are."""
    lanes = walk.settled(lanes, call.where)
    results = tuple(
        joined([first], shape, [replace(lane, loud=lane.loud or number > 0) for lane in lanes])
        for number, shape in enumerate(call.shapes)
    )
    return results if isinstance(call.node.meta["val"], list | tuple) else results[0]


def _normalized(walk: Walk, call: Call) -> Carried:
    """Softmax and the like: every value along an axis depends on all others."""
    first = next(flat(call.arguments))
    dims = _dims(call, "dim", len(first.shape))
    walk.keep([lane for lane in first.lanes if dims & set(lane.axes)], f"{call.where} is taken over all of them")
    loud = "softmax" in call.name
    return joined([first], call.shape, [replace(lane, loud=lane.loud or loud) for lane in first.lanes])


def _layer_norm(walk: Walk, call: Call) -> Carried:
    """Statistics over the last axes: the channels that lie there all stay."""
    first, size = call["input"], len(call["normalized_shape"])
    inner = set(range(len(first.shape) - size, len(first.shape)))
    affine = list(flat([call.arguments.get(name) for name in ("weight", "bias")]))
    why = f"{call.where} takes its statistics over all of them"
    walk.keep([lane for lane in first.lanes if inner & set(lane.axes)], why)
    for part in affine:
        walk.keep(part.lanes, why)
    return replace(joined([first], call.shape, [replace(lane, loud=True) for lane in first.lanes]), layers=first.layers)


def _windowed(walk: Walk, call: Call) -> Carried | tuple[Carried, ...]:
    """Pooling and resizing: the last axes are space."""
    first = next(flat(call.arguments))
    number = next(int(digit) for digit in call.name if digit in "123")
    space = set(range(len(first.shape) - number, len(first.shape)))
    walk.keep([lane for lane in first.lanes if space & set(lane.axes)], f"{call.where} mixes them")
    return _beside_indices(walk, call, first, [lane for lane in first.lanes if not space & set(lane.axes)])


def _pixel_shuffle(walk: Walk, call: Call) -> Carried:
    """Channels become space: those that become one go together."""
    first = call["self"]
    axis = len(first.shape) - 3
    found = []
    for lane in first.lanes:
        if lane.axes == (axis,):
            rows = lane.ids.reshape(call.shape[axis], -1)
            walk.units.unite(rows, rows[:, :1])
            found.append(Lane(along(rows[:, 0], axis, len(call.shape)), lane.loud))
        elif max(lane.axes) < axis:
            found.append(lane)
        else:
            walk.keep([lane], f"{call.where} mixes them")
    return joined([first], call.shape, walk.settled(found, call.where))


def _names(text: str) -> list[str]:
    return text.split()


_CREATED: Final = _names(
    "zeros ones full empty arange linspace eye scalar_tensor zeros_like ones_like full_like empty_like new_zeros new_ones "
    "new_full new_empty rand randn randint rand_like randn_like"
)
_SAME: Final = _names(
    "clone contiguous detach detach_copy alias lift_fresh_copy to _to_copy type_as dropout feature_dropout alpha_dropout "
    "feature_alpha_dropout"
)
_POINTWISE: Final = _names(
    "hardswish log_sigmoid rsub sub multiply subtract divide square softsign clip where masked_fill"
)
_MOVED: Final = _names(
    "view _unsafe_view reshape view_as reshape_as flatten unflatten squeeze unsqueeze permute transpose t mT T numpy_T movedim "
    "swapaxes swapdims expand expand_as flip repeat tile repeat_interleave pixel_unshuffle ravel"
)
_REDUCED: Final = _names("mean sum amax amin max min var std argmax argmin logsumexp linalg_vector_norm prod norm")
_WINDOWED: Final = [
    *(
        f"{kind}_pool{n}d{more}"
        for kind in ("max", "adaptive_max")
        for n in (1, 2, 3)
        for more in ("", "_with_indices")
    ),
    *(f"{kind}_pool{n}d" for kind in ("avg", "adaptive_avg") for n in (1, 2, 3)),
    *(f"upsample_{kind}" for kind in _names("nearest1d nearest2d nearest3d bilinear2d bicubic2d linear1d trilinear3d")),
    *(f"_upsample_nearest_exact{n}d" for n in (1, 2, 3)),
]

MOVES: Final[dict[str, Handler]] = {
    **dict.fromkeys(_CREATED, _created),
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(_POINTWISE, _pointwise),
    **dict.fromkeys(_MOVED, _moved),
    **dict.fromkeys(("slice", "select", "narrow", "split", "split_with_sizes", "tensor_split", "unbind"), _cut),
    **dict.fromkeys(_REDUCED, _reduced),
    **dict.fromkeys(("softmax", "log_softmax", "_softmax", "_log_softmax", "cumsum"), _normalized),
    **dict.fromkeys(("layer_norm", "rms_norm"), _layer_norm),
    **dict.fromkeys(_WINDOWED, _windowed),
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    **dict.fromkeys(("pad", "constant_pad_nd"), _padded),
    "roll": _roll,
    "chunk": _chunk,
    "stack": _stack,
    "glu": _glu,
    "pixel_shuffle": _pixel_shuffle,
}
