"""Channel groups: which entries of which tensors belong to one channel, and what a network costs with some channels gone.

A :class:`Structure` is data, made by :func:`supermask.core.tracing.find_structure` or by hand. Methods choose channels by
it, budgets count by it, ``deploy.shrink`` removes by it; none of them looks at the graph again. A choice of channels is
called ``keeps`` everywhere: group name -> bool tensor (channels,), True = remaining; a group that is not named keeps all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from supermask.errors import StructureError

Role = Literal["out", "norm", "in"]
Keeps = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Member:
    """Entries of one tensor that belong to the channels of a group.

    Attributes:
        tensor: State-dict name of a parameter or buffer; of tied ones the first name.
        axis: Axis along which the channels lie.
        entries: int64 (channels, m): ``entries[c]`` are the indices along ``axis`` that go when channel ``c`` goes. ``m`` is
            1 for a convolution's filters, height * width behind a flatten, the head's width for attention.
        role: ``out``: makes the channel (a layer's weight or bias); ``norm``: scales, shifts or counts it (batch norm's
            weight, bias, running mean and variance); ``in``: reads it.
    """

    tensor: str
    axis: int
    entries: Tensor
    role: Role


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that stay or go together, all over the network.

    Attributes:
        name: What a user reads: the first layer that makes the channels, ``"conv1"``.
        channels: How many there are.
        members: Every place that holds a part of them.
        kept: Why all of them must stay, in words for the user; empty where they can be removed.
        residual: Whether several layers' outputs are added into these channels (a residual stream).
        quiet: Whether a channel whose ``out`` and ``norm`` entries are all zero reaches every reader as zeros (ReLU and
            pooling keep zeros, a sigmoid does not): only then nothing changes when it goes.
    """

    name: str
    channels: int
    members: tuple[Member, ...]
    kept: str = ""
    residual: bool = False
    quiet: bool = True

    @property
    def removable(self) -> bool:
        """Whether channels of the group can be removed."""
        return not self.kept

    def of_role(self, *roles: Role) -> tuple[Member, ...]:
        """The members of these roles."""
        return tuple(member for member in self.members if member.role in roles)


@dataclass(frozen=True)
class Value:
    """An activation: how large it is, and how long it must be held.

    Attributes:
        name: Of the operation that makes it.
        fixed: Entries for one example that no group owns.
        parts: (group name, entries of one channel for one example), for each group that owns a part of it.
        born: Position of the operation that makes it.
        last: Position of the last operation that reads it.
        operation: ``convolution``, ``linear``, ``batch_norm``, ``relu``, ``max_pool``, ``avg_pool``, … or ``input``; a view of
            another value (flatten, dropout in evaluation) is none of its own.
        module: Name of the module that makes it; empty for a function call.
        window: Entries that one entry of a pooling's output is made of; 1 elsewhere.
    """

    name: str
    fixed: int
    parts: tuple[tuple[str, int], ...]
    born: int
    last: int
    operation: str
    module: str = ""
    window: int = 1


@dataclass(frozen=True, eq=False)
class Structure:
    """The channel groups of one network, and what its costs follow from.

    Attributes:
        groups: In the order of the network.
        shapes: State-dict name of every parameter (tied ones once) -> shape.
        buffers: The same for the buffers that are saved.
        positions: Name of the weight of every convolution and linear layer -> how often each of its entries is used for one
            example (several calls add up); the convention of :mod:`supermask.measure.macs`.
        values: Every activation, in the order of the network.
        example_shape: Of one example, without the batch; None if the structure was made by hand without an example.
        uncounted: Names of weights that meet sums which ``positions`` does not count (an operation that is not known, a
            weight that is computed): multiply-accumulates are not known where there are any.
        item_bytes: Tensor name -> bytes of one entry, for those that are not float32; only the unit ``bytes`` asks.

    Raises:
        StructureError: Two groups share a name, or an entry of a tensor belongs to two groups or does not exist.
    """

    groups: tuple[ChannelGroup, ...]
    shapes: Mapping[str, tuple[int, ...]]
    buffers: Mapping[str, tuple[int, ...]]
    positions: Mapping[str, int]
    values: tuple[Value, ...] = ()
    example_shape: tuple[int, ...] | None = None
    item_bytes: Mapping[str, int] = field(default_factory=dict)
    uncounted: tuple[str, ...] = ()
    _by_name: dict[str, ChannelGroup] = field(init=False, repr=False)
    _by_tensor: dict[str, tuple[tuple[ChannelGroup, Member], ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        by_name: dict[str, ChannelGroup] = {}
        by_tensor: dict[str, list[tuple[ChannelGroup, Member]]] = {}
        known = {**self.shapes, **self.buffers}
        taken: dict[tuple[str, int], Tensor] = {}
        for group in self.groups:
            if group.name in by_name:
                raise StructureError(f"two channel groups have the name {group.name!r}; give each a name of its own")
            by_name[group.name] = group
            for member in group.members:
                where = f"group {group.name!r}, {member.tensor}, axis {member.axis}"
                if member.tensor not in known:
                    raise StructureError(f"{where}: the model has no parameter or buffer of this name")
                shape = known[member.tensor]
                if not 0 <= member.axis < len(shape):
                    raise StructureError(f"{where}: the tensor has shape {tuple(shape)}")
                entries = member.entries
                if entries.dtype != torch.int64 or entries.dim() != 2 or len(entries) != group.channels:
                    raise StructureError(
                        f"{where}: entries must be int64 of shape ({group.channels}, m), got {entries.dtype} of shape "
                        f"{tuple(entries.shape)}"
                    )
                used = taken.setdefault((member.tensor, member.axis), torch.zeros(shape[member.axis], dtype=torch.bool))
                flat = entries.flatten()
                if flat.numel() and (int(flat.min()) < 0 or int(flat.max()) >= shape[member.axis]):
                    raise StructureError(f"{where}: entries must lie in [0, {shape[member.axis]})")
                if bool(used[flat].any()) or flat.unique().numel() != flat.numel():
                    raise StructureError(f"{where}: an entry belongs to two channels")
                used[flat] = True
                by_tensor.setdefault(member.tensor, []).append((group, member))
        object.__setattr__(self, "_by_name", by_name)
        object.__setattr__(self, "_by_tensor", {name: tuple(found) for name, found in by_tensor.items()})

    @classmethod
    def by_hand(
        cls, model: nn.Module, groups: Mapping[str, Mapping[str, Any]], example: Tensor | None = None
    ) -> Structure:
        """Name the groups of a model that cannot be traced, or whose tracing finds less than there is.

        What is said here is not checked against what the model computes, only against its tensors; ``shrink`` compares
        outputs::

            Structure.by_hand(model, {"conv1": {"out": ["conv1"], "norm": ["bn1"], "in": ["conv2", ("fc", 16)]}})

        Args:
            model: Plain: before ``attach`` or after ``finalize``.
            groups: Group name -> ``out``, ``norm`` and ``in``, each a list of modules; and, where needed, ``kept`` (why all
                must stay), ``residual`` and ``quiet``. An entry of a list is a module's name; (name, entries of a channel)
                where they lie one after the other, as behind a flatten; (name, entries of a channel, first entry) where
                others lie beside them, as behind a concatenation; or a :class:`Member` for everything else.
            example: A batch that the model takes, to count multiply-accumulates; None: they are not known.

        Raises:
            StructureError: A group does not fit the model; the message names the group, the role and the module.
        """
        from supermask.core.by_hand import structure_by_hand

        return structure_by_hand(model, groups, example)

    def __getitem__(self, name: str) -> ChannelGroup:
        """The group of this name.

        Raises:
            StructureError: There is none.
        """
        try:
            return self._by_name[name]
        except KeyError:
            raise StructureError(
                f"there is no channel group {name!r}; the groups are {', '.join(self._by_name) or 'none'}"
            ) from None

    def __iter__(self) -> Iterator[ChannelGroup]:
        return iter(self.groups)

    def of_tensor(self, tensor: str) -> tuple[tuple[ChannelGroup, Member], ...]:
        """Which groups own entries of a tensor."""
        return self._by_tensor.get(tensor, ())

    def removable(self) -> tuple[ChannelGroup, ...]:
        """The groups whose channels can be removed."""
        return tuple(group for group in self.groups if group.removable)

    def check(self, keeps: Keeps) -> None:
        """Check that a choice of channels fits.

        Raises:
            StructureError: An unknown group, a wrong shape or dtype, channels removed that must stay, or a group without any.
        """
        for name, keep in keeps.items():
            group = self[name]
            if keep.dtype != torch.bool or keep.shape != (group.channels,):
                raise StructureError(
                    f"the channels of {name!r} must be bool of shape ({group.channels},), got {keep.dtype} of shape "
                    f"{tuple(keep.shape)}"
                )
            if group.kept and not bool(keep.all()):
                raise StructureError(f"no channel of {name!r} can be removed: {group.kept}")
            if not bool(keep.any()):
                raise StructureError(f"no channel of {name!r} would remain; a group keeps at least one")

    def lengths(self, tensor: str, keeps: Keeps) -> tuple[int, ...]:
        """Shape of a parameter or buffer when only ``keeps`` remain."""
        shape = list(self.shapes[tensor] if tensor in self.shapes else self.buffers[tensor])
        for group, member in self.of_tensor(tensor):
            if group.name in keeps:
                gone = group.channels - int(keeps[group.name].count_nonzero())
                shape[member.axis] -= gone * member.entries.shape[1]
        return tuple(shape)

    def index(self, tensor: str, axis: int, keeps: Keeps) -> Tensor:
        """int64, ascending: the indices along an axis of a parameter or buffer that remain."""
        shape = self.shapes[tensor] if tensor in self.shapes else self.buffers[tensor]
        stays = torch.ones(shape[axis], dtype=torch.bool)
        for group, member in self.of_tensor(tensor):
            if member.axis == axis and group.name in keeps:
                stays[member.entries[~keeps[group.name].cpu()].flatten()] = False
        return stays.nonzero().flatten()

    def found(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The channels that a state dict, or masks, leave: those with an entry that is not zero in what makes them.

        Weights, biases, scales and shifts count (``out`` and ``norm``), running statistics do not. Names that are lacking in
        ``tensors`` are not asked. A group all of whose channels are zero keeps its first: a layer needs one.

        Args:
            tensors: Tensors by state-dict name, with the structure's shapes.

        Returns:
            Keeps of every removable group that ``tensors`` say something of.

        Raises:
            StructureError: A tensor has another shape than the structure's.
        """
        keeps: dict[str, Tensor] = {}
        for group in self.removable():
            alive: Tensor | None = None
            for member in group.of_role("out", "norm"):
                if member.tensor not in tensors or member.tensor in self.buffers:
                    continue
                tensor = tensors[member.tensor]
                if tuple(tensor.shape) != tuple(self.shapes[member.tensor]):
                    raise StructureError(
                        f"{member.tensor} has shape {tuple(tensor.shape)}, the structure was made of a model with "
                        f"{tuple(self.shapes[member.tensor])}; is it the same model?"
                    )
                others = [axis for axis in range(tensor.dim()) if axis != member.axis]
                nonzero = (tensor != 0).cpu()
                along = nonzero.any(dim=others) if others else nonzero
                here = along[member.entries].any(dim=1)
                alive = here if alive is None else alive | here
            if alive is not None:
                if not bool(alive.any()):
                    alive[0] = True
                keeps[group.name] = alive
        return keeps
