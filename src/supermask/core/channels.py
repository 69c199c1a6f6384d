"""What methods that remove whole channels share: the groups they act on, the gates on them, and the end at a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from supermask.core import budget as budgets
from supermask.core.gates import Gate, Gated
from supermask.core.groups import ChannelGroup, Keeps, Member, Structure
from supermask.core.parametrizations import Masked
from supermask.core.targets import Pattern, Target, find_targets
from supermask.errors import AttachError, StateError, StructureError, UnsupportedModuleError
from supermask.tensors.philox import Stream

if TYPE_CHECKING:
    from supermask.core.method import Method
    from supermask.core.sparsifier import Sparsifier

Residual = Literal["inner", "shared"]
"""Which groups a method acts on: ``inner``: not residual streams, into which several layers add; ``shared``: those, too."""


def structure_for(
    method: Method, model: nn.Module, structure: Structure | None, example: Tensor | None
) -> Structure | None:
    """The structure that was given, or one traced from an example where the method needs it.

    Raises:
        AttachError: The method needs one, and neither was given.
        StructureError: The given one was made of another model, or the model does not trace.
    """
    if structure is not None:
        _check_made_of(structure, model)
        return structure
    if not method.needs_structure:
        return None
    if example is None:
        raise AttachError(
            f"{method.name} removes channels and needs to know which belong together: attach(model, example=x), x a batch "
            "of inputs to trace the model with, or attach(model, structure=...) with groups found before or given by hand"
        )
    from supermask.core.tracing import find_structure  # reads graphs, which other methods need not

    return find_structure(model, example)


def usual_groups(method: Method, structure: Structure) -> tuple[ChannelGroup, ...]:
    """What methods act on unless they say otherwise, by their fields ``residual`` and ``whole``.

    Raises:
        AttachError: A glob of ``whole`` matches no group.
    """
    for glob in _whole(method):
        if not any(fnmatchcase(group.name, glob) for group in structure):
            raise AttachError(
                f"{method.name}: whole has {glob!r}, which matches no group of channels; there are "
                f"{', '.join(group.name for group in structure) or 'none'}"
            )
    shared = getattr(method, "residual", "inner") == "shared"
    found = (group for group in structure.removable() if group.quiet and (shared or not group.residual))
    return tuple(group for group in found if not _left_whole(method, group))


def groups_for(
    method: Method,
    model: nn.Module,
    structure: Structure,
    targets: Iterable[Pattern] | Pattern | None,
    ignore: Iterable[Pattern] | Pattern,
) -> tuple[tuple[ChannelGroup, ...], list[Target]]:
    """The groups that a method acts on, and what makes and scales their channels.

    A group counts when the method wants it, a convolution makes its channels, and the weight of every layer that does is
    among ``targets`` and not in ``ignore``; of those that the user froze, none is.

    Returns:
        The groups, and their ``out`` and ``norm`` parameters as targets.

    Raises:
        UnsupportedModuleError: No group is left; the message says why of each.
        AttachError: A part of a group is named or left out, but not the others.
    """
    tensors = {group.name: _tensors(structure, group) for group in structure}
    wanted = {group.name for group in method.channel_groups(structure)}
    kinds = {site.name: target.kind for target in find_targets(model, targets, ignore) for site in target.sites}
    chosen, reasons = [], []
    for group in structure:
        weights = [name for name in _tensors(structure, group, "out") if len(structure.shapes[name]) > 1]
        named = [name for name in weights if name in kinds]
        if group.name not in wanted:
            reasons.append(f"{group.name}: {_unwanted(method, group)}")
        elif not named:
            reasons.append(f"{group.name}: not among the targets, or frozen")
        elif targets is not None and len(named) < len(weights):
            others = ", ".join(name for name in weights if name not in kinds)
            raise AttachError(
                f"targets has {', '.join(named)}, whose channels are added to those of {others}: name all of them or none"
            )
        elif len(named) < len(weights):
            reasons.append(f"{group.name}: a layer that makes it is left out or frozen")
        elif "conv" not in {kinds[name] for name in named}:
            reasons.append(f"{group.name}: no convolution makes it")
        else:
            chosen.append(group)
    if not chosen:
        raise UnsupportedModuleError(
            f"{method.name} removes channels of convolutions, and {type(model).__name__} has none that it can remove "
            f"({'; '.join(reasons) or 'it has no channel groups'})"
        )
    found = find_targets(model, [name for group in chosen for name in tensors[group.name]], ignore)
    present = {site.name for target in found for site in target.sites}
    for group in chosen:
        if lacking := [name for name in tensors[group.name] if name not in present]:
            raise AttachError(
                f"ignore leaves out {', '.join(lacking)}, a part of the channels of {group.name}; leave out the group with "
                f"{tensors[group.name][0]}"
            )
    return tuple(chosen), found


def channels_now(s: Sparsifier) -> dict[str, Tensor]:
    """Which channels of the groups acted on remain, bool on the CPU."""
    gates = {group.name: s.gates[group.name] for group in s.groups if group.name in s.gates}
    if gates:
        together = torch.cat([gate.remaining() for gate in gates.values()]).cpu()  # one wait for the device
        parts = together.split([len(gate.keep) for gate in gates.values()])
        return dict(zip(gates, parts, strict=True))
    if s.structure is None:
        return {}
    masks = {site.name: target.mask for target in s.targets for site in target.sites}
    found = s.structure.found({name: mask for name, mask in masks.items() if name in s.structure.shapes})
    return {group.name: found[group.name] for group in s.groups}


def set_channels(s: Sparsifier, keeps: Keeps) -> None:
    """Settle which channels remain: decide gates, or write masks, which takes values and momentum of the others.

    Raises:
        StructureError: A group is not one that is acted on, or its channels have another shape or none remains.
    """
    acted = {group.name: group for group in s.groups}
    if unknown := [name for name in keeps if name not in acted]:
        raise StructureError(
            f"{s.method.name} does not act on the channels of {', '.join(unknown)}, but on {', '.join(acted) or 'none'}"
        )
    if s.structure is None:
        return
    s.structure.check(keeps)
    masks: dict[str, Tensor] = {}
    targets = {site.name: target for target in s.targets for site in target.sites}
    for name, keep in keeps.items():
        if name in s.gates:
            s.gates[name].decide(keep)
            continue
        for member in acted[name].of_role("out", "norm"):
            if member.tensor in s.structure.buffers:
                continue
            target = targets[member.tensor]
            if not isinstance(target.parametrization, Masked):
                raise StateError(f"{target.name} has no mask: install_mask(target) comes before set_channels()")
            mask = masks.setdefault(target.name, target.mask.clone())
            for stays in (True, False):
                entries = member.entries[keep.cpu() == stays].flatten().to(mask.device)
                mask.index_fill_(member.axis, entries, stays)
    for target in s.targets:
        if target.name in masks:
            s.set_mask(target, masks[target.name])


def install_gates(
    s: Sparsifier, gates: Mapping[str, Gate], scaled: Callable[[ChannelGroup], Collection[str]] | None = None
) -> None:
    """Put gates on what makes and scales the channels of their groups.

    Args:
        s: A sparsifier in ``setup``.
        gates: Group name -> gate, for every group acted on.
        scaled: Names of the tensors of a group that are multiplied by its gate; the others only lose what is removed. None:
            all are multiplied.
    """
    assert s.structure is not None
    s.gates = dict(gates)
    multiplied = None if scaled is None else {name for group in s.groups for name in scaled(group)}
    for target in s.targets:
        names = {site.name for site in target.sites}
        owners = [found for name in names for found in s.structure.of_tensor(name) if _makes(found[1])]
        owners = [(group, member) for group, member in owners if group.name in gates]
        axes = {member.axis for _, member in owners}
        if len(axes) != 1:
            raise UnsupportedModuleError(f"{target.name} makes channels along {len(axes)} axes, gates act along one")
        (axis,) = axes
        device = target.parameter.device
        position = _position(target.shape[axis], owners)
        alone = len(owners) == 1 and torch.equal(position, torch.arange(len(position)))
        parametrization = Gated(
            [gates[group.name].to(device) for group, _ in owners],
            None if alone else position.to(device),
            axis,
            scales=multiplied is None or bool(names & multiplied),
        )
        s.put_on(target, parametrization)


def fix_gates(s: Sparsifier, *, fold: bool) -> None:
    """Learn channels no longer: those that remain have a factor of 1, the others of 0.

    Args:
        s: The sparsifier, between two rounds.
        fold: Multiply what was gated by its factors first. The network stays the same function, but for channels that
            remain at a factor of 0, from which they could not be trained: they come back whole.
    """
    with torch.no_grad():
        for target in s.targets if fold else ():
            if isinstance(installed := target.parametrization, Gated):
                target.parameter.copy_(installed.fold(target.parameter))
        for gate in s.gates.values():
            gate.fix(gate.remaining())


def draw_noise(s: Sparsifier, kind: Literal["normal", "logistic"], step: int, *, scale: float = 1.0) -> None:
    """Draw the noise of all gates for a step; it follows from the sparsifier's seed, the step and a channel's place.

    Args:
        s: The sparsifier, with gates that have noise.
        kind: Standard normal, or logistic: ``ln u - ln(1 - u)`` with u uniform in (0, 1).
        step: The step that it is for.
        scale: Factor on it.
    """
    buffers = [gate.noise for gate in s.gates.values() if gate.noise is not None]
    stream, total = Stream(s.seed, "gates", step), sum(len(buffer) for buffer in buffers)
    drawn = torch.from_numpy(stream.normal(total) if kind == "normal" else stream.uniform(total))
    drawn = scale * (drawn if kind == "normal" else torch.logit(drawn))
    for buffer, values in zip(buffers, drawn.to(buffers[0]).split([len(b) for b in buffers]), strict=True):
        buffer.copy_(values)


def filters_and_weights(structure: Structure, group: ChannelGroup) -> tuple[int, int]:
    """How many filters of convolutions make one channel of a group, and how many weights these have."""
    filters = weights = 0
    for member in group.of_role("out"):
        shape = structure.shapes.get(member.tensor, ())
        if len(shape) > 2:
            filters += member.entries.shape[1]
            weights += member.entries.shape[1] * (math.prod(shape) // shape[member.axis])
    return filters, weights


def meet_budget(s: Sparsifier, budget: Mapping[str, float], ranks: Mapping[str, Tensor], *, project: bool) -> None:
    """The end of a round that ends with a budget: note what is used of it without us, then meet it.

    What is used before is kept in ``s.state`` as ``used/<unit>``, a fraction of the dense network's cost.

    Args:
        s: The sparsifier.
        budget: Unit -> fraction.
        ranks: Group name -> (channels,), higher = kept.
        project: Whether to meet it.
    """
    assert s.structure is not None
    keeps = s.channels()
    used = budgets.fractions({unit: s.costs[unit] for unit in budget}, keeps)
    s.state |= {f"used/{unit}": torch.tensor(value, dtype=torch.float64) for unit, value in used.items()}
    if project:
        s.set_channels(budgets.project(s.structure, s.groups, keeps, ranks, s.costs, budget))


def used(s: Sparsifier) -> dict[str, Tensor]:
    """What :func:`meet_budget` noted, for ``results``; empty before."""
    return {key: value for key, value in s.state.items() if key.startswith("used/")}


def _makes(member: Member) -> bool:
    return member.role in ("out", "norm")


def _tensors(structure: Structure, group: ChannelGroup, *roles: Literal["out", "norm"]) -> list[str]:
    """Parameters that make or scale a group's channels, once each."""
    members = group.of_role(*(roles or ("out", "norm")))
    return list(dict.fromkeys(member.tensor for member in members if member.tensor in structure.shapes))


def _position(length: int, owners: list[tuple[ChannelGroup, Member]]) -> Tensor:
    """Where an entry's factor stands in the channels of its owners one after the other; behind them if it has none."""
    position = torch.full((length,), sum(group.channels for group, _ in owners))
    first = 0
    for group, member in owners:
        position[member.entries] = torch.arange(first, first + group.channels).view(-1, 1)
        first += group.channels
    return position


def _unwanted(method: Method, group: ChannelGroup) -> str:
    if group.kept:
        return group.kept
    if not group.quiet:
        return "a removed channel would not reach its readers as zeros"
    if _left_whole(method, group):
        return "left whole, as asked for"
    if group.residual:
        return "a residual stream, which residual: shared takes"
    return f"not what {method.name} acts on"


def _whole(method: Method) -> tuple[str, ...]:
    return getattr(method, "whole", ())


def _left_whole(method: Method, group: ChannelGroup) -> bool:
    return any(fnmatchcase(group.name, glob) for glob in _whole(method))


def _check_made_of(structure: Structure, model: nn.Module) -> None:
    """Check that a structure's tensors are those of a model."""
    if not isinstance(structure, Structure):
        raise AttachError(f"structure must be a Structure, got {type(structure).__name__}")
    present = {name: tuple(tensor.shape) for name, tensor in model.state_dict(keep_vars=True).items()}
    for name, shape in {**structure.shapes, **structure.buffers}.items():
        if name not in present:
            raise StructureError(f"the structure has {name}, which {type(model).__name__} lacks; is it the same model?")
        if present[name] != tuple(shape):
            raise StructureError(
                f"{name} has shape {present[name]}, the structure was made of a model with {tuple(shape)}; is it the same "
                "model?"
            )
