"""How layers pass channels on: convolutions, linear layers, products, normalisation, embeddings, recurrence, attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from supermask.core.propagation import MOVES, Call, Handler, Walk, unknown
from supermask.core.units import Carried, Ids, Lane, along, flat, joined

_PLAIN: Final = "values that are no channels"


def _ids(value: Carried | None, axis: int) -> Ids | None:
    """The units of a weight along an axis, (n,), if they lie along this one alone."""
    lane = None if value is None else value.along(axis)
    return None if lane is None or len(lane.axes) > 1 else lane.ids.ravel()


def _convolution(walk: Walk, call: Call) -> Carried:
    x, weight, bias = call["input"], call["weight"], call["bias"]
    transposed = "transpose" in call.name
    groups = call["groups"]
    space = len(weight.shape) - 2
    axis = len(x.shape) - space - 1
    inward, outward = _ids(weight, 0 if transposed else 1), _ids(weight, 1 if transposed else 0)
    reader, passing = _sorted_lanes(walk, call, x, axis, bias is not None)
    channels_in, channels_out = x.shape[axis], call.shape[axis]
    spread_over = x.shape if transposed else call.shape
    positions = int(np.prod(spread_over)) // (channels_in if transposed else channels_out)
    walk.use(weight, x, positions * int(np.prod(weight.shape)))
    walk.keep([lane for lane in weight.lanes if lane.axes not in ((0,), (1,))], f"{call.where} mixes them")
    if groups == 1:
        _read(walk, call, x, reader, inward)
        made = outward
    else:
        made = _in_groups(walk, call, reader, weight, groups, channels_out)
    loud = _loud(weight, 1 if transposed and groups == 1 else 0)
    return _made(walk, call, [x, weight], made, axis, passing, bias, loud)


def _in_groups(
    walk: Walk, call: Call, reader: Lane | None, weight: Carried, groups: int, channels_out: int
) -> Ids | None:
    """Whole groups of a grouped convolution go together, inputs and outputs; a depthwise one has groups of one."""
    first = weight.along(0)
    walk.keep([weight.along(1)], f"{call.where} has them inside of each of its groups")
    if first is None or len(first.axes) > 1:
        walk.keep([reader, first], f"{call.where} has a weight that is computed")
        return None
    rows = first.ids.reshape(groups, -1)
    walk.units.unite(rows, rows[:, :1])
    if reader is None:
        walk.keep([first], f"{call.where} is fed with {_PLAIN}")
    else:
        inputs = reader.ids.reshape(groups, -1)
        walk.units.unite(inputs, rows[:, :1])
    if "transpose" in call.name:  # its weight holds the inputs, and a part of each group's outputs
        walk.units.makers.append((first.ids.ravel(), _maker(call, weight)))
        return np.repeat(rows[:, 0], channels_out // groups)
    return first.ids.ravel()


def _sorted_lanes(walk: Walk, call: Call, x: Carried, axis: int, bias: bool) -> tuple[Lane | None, list[Lane]]:
    """The lane that a layer reads along ``axis``, and those along axes before it, which pass; others stay."""
    reader, passing = None, []
    for lane in walk.settled(x.lanes, call.where):
        if lane.axes == (axis,):
            reader = lane
        elif max(lane.axes) < axis:
            passing.append(replace(lane, loud=lane.loud or bias))
        else:
            walk.keep([lane], f"{call.where} mixes them")
    return reader, passing


def _read(walk: Walk, call: Call, x: Carried, reader: Lane | None, inward: Ids | None) -> None:
    """A layer's weight reads channels."""
    if inward is None:
        walk.keep([reader], f"{call.where} has a weight that is computed")
        return
    walk.units.readers.append(inward)
    if reader is not None:
        walk.units.unite(reader.ids.ravel(), inward)
        if reader.loud:
            walk.units.loud.append(inward)
    elif not x.zero:
        walk.units.keep(inward, f"{call.where} is also fed with {_PLAIN}")


def _made(
    walk: Walk,
    call: Call,
    parts: Sequence[Carried],
    made: Ids | None,
    axis: int,
    passing: Sequence[Lane],
    bias: Carried | None,
    loud: bool,
) -> Carried:
    """What a layer gives that makes channels along an axis; ``parts`` are its input and its weight.

    ``made`` is None where there is one channel only, or where the weight is computed in a way that hides them.
    """
    name = _maker(call, parts[-1])
    bias_ids = _ids(bias, 0)
    lanes = list(passing)
    if made is None:
        walk.keep(bias.lanes if bias is not None else (), f"{call.where} has a weight that is computed")
    else:
        walk.units.makers.append((made, name))
        if bias_ids is not None:
            walk.units.unite(made, bias_ids)
            walk.units.makers.append((bias_ids, name))
        elif bias is not None:
            walk.units.keep(made, f"{call.where} has a bias that is computed")
        lanes.append(Lane(along(made, axis, len(call.shape)), loud or (bias is not None and _loud(bias, 0))))
    value = joined(parts, call.shape, walk.settled(lanes, call.where))
    return replace(value, layers=frozenset({name}))


def _maker(call: Call, weight: Carried) -> str:
    """Name of a layer, from its weight."""
    if weight.source.endswith(".weight"):
        return weight.source.removesuffix(".weight")
    return call.layer or weight.source or call.node.name


def _loud(value: Carried, axis: int) -> bool:
    lane = value.along(axis)
    return lane is not None and lane.loud


def _linear(walk: Walk, call: Call) -> Carried:
    x, weight, bias = call["input"], call["weight"], call["bias"]
    axis = len(x.shape) - 1
    reader, passing = _sorted_lanes(walk, call, x, axis, bias is not None)
    walk.use(weight, x, int(np.prod(x.shape)) // x.shape[axis] * int(np.prod(weight.shape)))
    _read(walk, call, x, reader, _ids(weight, 1))
    walk.keep([lane for lane in weight.lanes if lane.axes not in ((0,), (1,))], f"{call.where} mixes them")
    return _made(walk, call, [x, weight], _ids(weight, 0), axis, passing, bias, _loud(weight, 0))


def _product(walk: Walk, call: Call) -> Carried | tuple[Carried, ...]:
    """Matrices times matrices; one of them may be a weight."""
    *_, one, other = list(flat(call.arguments))
    bias = call.arguments.get("self") if call.name in ("addmm", "baddbmm") else None
    if len(one.shape) < 2 or len(other.shape) < 2:
        return unknown(walk, call)
    size = len(call.shape)
    macs = int(np.prod(call.shape)) * one.shape[-1]
    for weight, by in ((one, other), (other, one)):
        if not weight.varies:
            walk.use(weight, by, macs)
    one, other = (
        replace(
            part, shape=(1,) * (size - len(part.shape)) + part.shape, lanes=tuple(lane.at(size) for lane in part.lanes)
        )
        for part in (one, other)
    )
    ends = one.along(-1), other.along(-2)
    fixed = not one.varies or not other.varies
    quiet = not all(end is None or end.loud for end in ends)
    if fixed:  # the weight of a channel that goes is whatever it is
        quiet = all(end is None or not end.loud for end in ends)
        for part, end in ((one, ends[0]), (other, ends[1])):
            if not part.varies and end is not None:
                walk.units.readers.append(end.ids.ravel())
        for part, axis in ((one, -2), (other, -1)):
            made = part.along(axis)
            if not part.varies and made is not None:
                walk.units.makers.append((made.ids.ravel(), _maker(call, part)))
                if bias is not None and (of_bias := _ids(bias, -1)) is not None:
                    walk.units.makers.append((of_bias, _maker(call, part)))
    walk.contract(ends[0], size - 1, ends[1], size - 2, f"{call.where} combines them with {_PLAIN}", quiet)
    rows = _without(walk, call, one, size - 1)
    columns = _without(walk, call, other, size - 2)
    value = _combined(walk, call, [rows, columns], bias)
    if fixed:
        value = replace(value, layers=frozenset(_maker(call, part) for part in (one, other) if not part.varies))
    return value


def _without(walk: Walk, call: Call, part: Carried, axis: int) -> Carried:
    """A factor after its elements along an axis were added up."""
    shape = tuple(1 if at == axis else n for at, n in enumerate(part.shape))
    lanes = []
    for lane in part.lanes:
        ids = np.take(lane.ids, [0], axis=axis)
        if ids.size > 1:
            lanes.append(replace(lane, ids=ids))
    return replace(part, shape=shape, lanes=walk.settled(lanes, call.where))


def _combined(walk: Walk, call: Call, factors: Sequence[Carried], bias: Carried | None) -> Carried:
    found = []
    for ids, lanes in walk.aligned(factors, call.shape, call.where):
        found.append(Lane(ids, all(lane is None or lane.loud for lane in lanes)))
    value = joined(factors, call.shape, walk.settled(found, call.where))
    if bias is None or bias.zero:
        return value
    found = []
    for ids, lanes in walk.aligned([value, bias], call.shape, call.where):
        found.append(Lane(ids, any(lane is None or lane.loud for lane in lanes)))
    return joined([value, bias], call.shape, walk.settled(found, call.where))


def _attention(walk: Walk, call: Call) -> Carried | tuple[Carried, ...]:
    query, key, value = call["query"], call["key"], call["value"]
    mask = call.arguments.get("attn_mask")
    why = f"{call.where} takes its scale from how many they are"
    for part in (query, key):
        end = part.along(-1)
        if end is not None and len(end.axes) == 1 and call.arguments.get("scale") is None:
            walk.keep([end], why)
    if call.arguments.get("enable_gqa"):
        return unknown(walk, call)
    size = len(call.shape)
    ends = query.along(-1), key.along(-1)
    quiet = not all(end is None or end.loud for end in ends)
    walk.contract(ends[0], size - 1, ends[1], size - 1, f"{call.where} combines them with {_PLAIN}", quiet)
    for part in (key, value):
        walk.keep([lane for lane in part.lanes if size - 2 in lane.axes], f"{call.where} is taken over all of them")
    scores = [_without(walk, call, query, size - 1)]
    keys = _without(walk, call, key, size - 1)
    scores.append(replace(keys, shape=(*keys.shape[:-2], 1, 1), lanes=_short(keys.lanes, size - 2)))
    if isinstance(mask, Carried):
        walk.keep([lane for lane in mask.lanes if len(mask.shape) - 1 in lane.axes], why)
        scores.append(_without(walk, call, mask, len(mask.shape) - 1))
    values = replace(value, shape=(*value.shape[:-2], 1, value.shape[-1]), lanes=_short(value.lanes, size - 2))
    found = []
    for ids, lanes in walk.aligned([*scores, values], call.shape, call.where):
        found.append(Lane(ids, lanes[-1] is None or lanes[-1].loud))  # of zeros, every mean is zero
    return joined([query, key, value], call.shape, walk.settled(found, call.where))


def _short(lanes: Sequence[Lane], axis: int) -> tuple[Lane, ...]:
    return tuple(lane for lane in lanes if axis not in lane.axes)


def _batch_norm(walk: Walk, call: Call) -> Carried:
    """Batch norm, and instance norm: each channel for itself."""
    x = call["input"]
    tensors = [call.arguments.get(name) for name in ("weight", "bias", "running_mean", "running_var")]
    of_data = bool(call.arguments.get("training") or call.arguments.get("use_input_stats"))
    weight, bias = tensors[:2]
    space = "instance" in call.name
    lanes, met = [], False
    for lane in walk.settled(x.lanes, call.where):
        if lane.axes == (1,):
            met = True
            scaled = (weight is None or _loud(weight, 0)) and (lane.loud or not of_data)
            lanes.append(replace(lane, loud=scaled or (bias is not None and _loud(bias, 0))))
            for part in flat(tensors):
                _with(walk, call, part, lane.ids.ravel())
        elif 1 in lane.axes or (space and max(lane.axes) > 1):
            walk.keep([lane], f"{call.where} mixes them")
        else:
            lanes.append(replace(lane, loud=True))
    if not met:
        for part in flat(tensors):
            walk.keep(part.lanes, f"{call.where} is also fed with {_PLAIN}")
    return replace(joined([x], call.shape, lanes), layers=x.layers)


def _with(walk: Walk, call: Call, part: Carried, ids: Ids) -> None:
    """A normalisation's vector belongs to the channels."""
    found = _ids(part, 0)
    if found is None:
        walk.units.keep(ids, f"{call.where} has tensors that are computed or not saved")
    else:
        walk.units.unite(found, ids)


def _group_norm(walk: Walk, call: Call) -> Carried:
    """Channels of one group share their statistics: whole groups go together."""
    x, groups = call["input"], call["num_groups"]
    tensors = list(flat([call.arguments.get(name) for name in ("weight", "bias")]))
    lanes, met = [], False
    for lane in walk.settled(x.lanes, call.where):
        if lane.axes == (1,):
            met = True
            if groups == 1:
                walk.keep([lane], f"{call.where} takes its statistics over all of them")
            rows = lane.ids.reshape(groups, -1)
            walk.units.unite(rows, rows[:, :1])
            for part in tensors:
                _with(walk, call, part, lane.ids.ravel())
            lanes.append(replace(lane, loud=any(_loud(part, 0) for part in tensors) or (not tensors and lane.loud)))
        elif max(lane.axes) < 1:
            lanes.append(replace(lane, loud=True))
        else:
            walk.keep([lane], f"{call.where} mixes them")
    if not met:
        for part in tensors:
            walk.keep(part.lanes, f"{call.where} is also fed with {_PLAIN}")
    return replace(joined([x], call.shape, walk.settled(lanes, call.where)), layers=x.layers)


def _prelu(walk: Walk, call: Call) -> Carried:
    x, weight = call["self"], call["weight"]
    lane = x.along(1) if len(x.shape) > 1 else None
    if int(np.prod(weight.shape)) > 1:
        if lane is not None and lane.axes == (1,):
            _with(walk, call, weight, lane.ids.ravel())
        else:
            walk.keep([lane, *weight.lanes], f"{call.where} combines them with {_PLAIN}")
    return replace(joined([x], call.shape, x.lanes), layers=x.layers)


def _embedding(walk: Walk, call: Call) -> Carried:
    weight, indices = call["weight"], call["indices"]
    walk.keep([weight.along(0), *indices.lanes], f"{call.where} looks them up")
    made = _ids(weight, 1)
    return _made(walk, call, [indices, weight], made, len(call.shape) - 1, [], None, _loud(weight, 1))


def _recurrent(walk: Walk, call: Call) -> tuple[Carried, ...]:
    """LSTM, GRU and RNN: hidden unit i of all layers and directions goes together, as the module has one hidden size."""
    x, states = call["input"], list(flat(call["hx"]))
    weights: list[Carried] = list(call["params"])
    directions = 2 if call["bidirectional"] else 1
    per = len(weights) // (call["num_layers"] * directions)
    hidden = weights[1].shape[1]
    steps = int(np.prod(x.shape)) // x.shape[-1]
    reader, others = _sorted_lanes(walk, call, x, len(x.shape) - 1, False)
    walk.keep(others, f"{call.where} mixes them")
    units = walk.units.new(hidden)
    plain = per == (4 if call["has_biases"] else 2) and all(state.zero for state in states)
    if not plain:
        walk.units.keep(units, f"{call.where} has a projection, or starts from states of its own")
        for state in states:
            walk.keep(state.lanes, f"{call.where} mixes them")
    for number in range(0, len(weights), per):
        own = weights[number : number + per]
        for weight in own[:2]:
            walk.use(weight, x, steps * int(np.prod(weight.shape)))
        for part in own:
            made = _ids(part, 0)
            if made is None or len(made) % hidden:
                walk.units.keep(units, f"{call.where} has a weight that is computed")
                walk.keep(part.lanes, f"{call.where} has a weight that is computed")
            else:
                walk.units.unite(made.reshape(-1, hidden), units)
                walk.units.makers.append((made, _maker(call, weights[0])))
        recurrent = _ids(own[1], 1)
        if recurrent is not None and plain:
            walk.units.unite(recurrent, units)
            walk.units.readers.append(recurrent)
        if number < per * directions:
            _read(walk, call, x, reader, _ids(own[0], 1))
        else:
            _read(walk, call, x, Lane(np.tile(units, directions)), _ids(own[0], 1))
    along_last = [np.tile(units, directions), *[units] * (len(call.shapes) - 1)]
    return tuple(
        replace(
            joined([x, *weights], shape, walk.settled([Lane(along(ids, len(shape) - 1, len(shape)))], call.where)),
            layers=frozenset({_maker(call, weights[0])}),
        )
        for shape, ids in zip(call.shapes, along_last)
    )


LAYERS: Final[dict[str, Handler]] = {
    **{f"conv{more}{n}d": _convolution for n in (1, 2, 3) for more in ("", "_transpose")},
    "convolution": _convolution,
    "linear": _linear,
    **dict.fromkeys(("matmul", "mm", "bmm", "addmm", "baddbmm"), _product),
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("batch_norm", "instance_norm"), _batch_norm),
    "group_norm": _group_norm,
    "prelu": _prelu,
    "embedding": _embedding,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
}


def handlers() -> dict[str, Handler]:
    """Name of an operation -> how it passes channels on."""
    return {**MOVES, **LAYERS}
