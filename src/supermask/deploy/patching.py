"""A patch: what has to change on a dense model, as data, so that it is the shrunk one. JSON-serialisable, without code.

``docs/shrink.md`` is the specification. A patch may come from anywhere: nothing is changed and no memory is taken before all
of it fits the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from supermask.core.groups import Keeps, Structure
from supermask.deploy.following import Changes, Shape, follow
from supermask.errors import PackedFileError, StructureError

VERSION: Final = 1
Ranges = tuple[tuple[int, int], ...]
"""Half-open, ascending, without a gap of nothing between two of them."""


@dataclass(frozen=True)
class Cut:
    """What remains of one tensor.

    Attributes:
        dense: Shape before.
        kept: Axis -> ranges of the indices that remain, for the axes along which some go.
    """

    dense: Shape
    kept: Mapping[int, Ranges]

    @property
    def shape(self) -> Shape:
        """Shape after."""
        lengths = {axis: sum(stop - start for start, stop in ranges) for axis, ranges in self.kept.items()}
        return tuple(lengths.get(axis, size) for axis, size in enumerate(self.dense))

    def of(self, tensor: Tensor) -> Tensor:
        """The entries of a tensor of shape ``dense`` that remain, in memory in the order of the tensor's own axes."""
        left = tensor
        for axis, ranges in self.kept.items():
            index = torch.cat([torch.arange(start, stop) for start, stop in ranges])
            left = left.index_select(axis, index.to(tensor.device))
        return laid_out(left, tensor)


def laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor, its axes in memory in the order of those of another of as many axes (``channels_last``, for example)."""
    order = sorted(range(like.dim()), key=lambda axis: -like.stride()[axis])
    back = sorted(range(like.dim()), key=order.__getitem__)
    return tensor.permute(order).contiguous().permute(back)


@dataclass(frozen=True)
class Patch:
    """What has to change on the dense model.

    Attributes:
        tensors: State-dict name of a parameter or buffer that loses entries (tied ones once) -> what remains.
        modules: Name of a module -> attribute -> (value before, value after).
        aliases: Further name of a tied parameter or buffer -> its first name.
    """

    tensors: Mapping[str, Cut]
    modules: Changes = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        tensors = {
            name: {
                "dense": list(cut.dense),
                "shape": list(cut.shape),
                "kept": {str(axis): [list(part) for part in ranges] for axis, ranges in cut.kept.items()},
            }
            for name, cut in self.tensors.items()
        }
        modules = {name: {key: list(pair) for key, pair in of.items()} for name, of in self.modules.items()}
        return {"version": VERSION, "tensors": tensors, "modules": modules, "aliases": dict(self.aliases)}

    @classmethod
    def from_dict(cls, data: Any) -> Patch:
        """The inverse of :meth:`to_dict`.

        Raises:
            PackedFileError: It is none, damaged, or of another version.
        """
        if not isinstance(data, dict) or not _whole(data.get("version")):
            raise PackedFileError("its patch is damaged: it has no version")
        if data["version"] != VERSION:
            raise PackedFileError(
                f"its patch has version {data['version']}, this version of supermask reads {VERSION}; install a newer one"
            )
        try:
            _need(data.keys() == {"version", "tensors", "modules", "aliases"}, f"it has {', '.join(data)}")
            tensors = {name: _cut(name, entry) for name, entry in data["tensors"].items()}
            modules = {name: dict(_changes(name, entry)) for name, entry in data["modules"].items()}
            aliases = dict(data["aliases"])
            _need(all(isinstance(name, str) for name in aliases.values()), "an alias is no name")
        except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
            raise PackedFileError(f"its patch is damaged: {error}") from error
        return cls(tensors, modules, aliases)

    def check(self, model: nn.Module) -> None:
        """Check that a model is the dense one that the patch was made for.

        Raises:
            StructureError: It is another; the message names the first thing that differs.
        """
        other = "is it the same model, with the same options?"
        found = named(model)
        for name, cut in self.tensors.items():
            if name not in found:
                raise StructureError(f"the model has no parameter or buffer {name}; {other}")
            if tuple(found[name].shape) != cut.dense:
                got = tuple(found[name].shape)
                raise StructureError(f"{name} has shape {got}, the patch is for {cut.dense}; {other}")
        if dict(tied(model)) != dict(self.aliases):
            raise StructureError(
                f"the model ties {_pairs(dict(tied(model)))}, the patch is for one that ties {_pairs(self.aliases)}; {other}"
            )
        modules = dict(model.named_modules())
        for name, changes in self.modules.items():
            if name not in modules:
                raise StructureError(f"the model has no module {name!r}; {other}")
            for key, (before, _) in changes.items():
                value = vars(modules[name]).get(key)
                if not _whole(value) or value != before:
                    raise StructureError(f"{name}: {key} is {value!r}, the patch is for {before}; {other}")

    def apply(self, model: nn.Module, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Make a dense model the shrunk one, in place. Parameters stay the same objects, in the same order, without gradients.

        Args:
            model: The dense one.
            tensors: Values for parameters and buffers by name; None: those of the model that remain.

        Raises:
            StructureError: It is another model; it is then as it was.
        """
        self.check(model)
        found = named(model)
        if tensors is None:
            tensors = {name: cut.of(found[name].detach()) for name, cut in self.tensors.items()}
        modules = dict(model.named_modules())
        for name, changes in self.modules.items():
            for key, (_, after) in changes.items():
                setattr(modules[name], key, after)
        for name, value in tensors.items():
            found[name].data = laid_out(value, found[name])
        for parameter in model.parameters():
            parameter.grad = None
        for module in modules.values():
            if isinstance(module, nn.RNNBase):
                module.flatten_parameters()


def make_patch(model: nn.Module, structure: Structure, keeps: Keeps, follows: Mapping[str, str]) -> Patch:
    """The patch for a choice of channels.

    Args:
        model: The dense one.
        structure: Of the model.
        keeps: Channels that remain.
        follows: ``module.attribute`` of a user's own module -> the group whose number of channels it follows.

    Raises:
        StructureError: A module cannot be made smaller so, or ``follows`` does not fit.
    """
    tensors = {}
    for name, shape in {**structure.shapes, **structure.buffers}.items():
        lengths = structure.lengths(name, keeps)
        axes = [axis for axis, size in enumerate(shape) if lengths[axis] != size]
        if axes:
            tensors[name] = Cut(tuple(shape), {axis: _ranges(structure.index(name, axis, keeps)) for axis in axes})
    modules = follow(model, structure, keeps)
    for place, group_name in follows.items():
        owner, _, key = place.rpartition(".")
        group = structure[group_name]
        module = dict(model.named_modules()).get(owner)
        before = None if module is None else vars(module).get(key)
        if before is None or not _whole(before) or before < 1:
            raise StructureError(f"follows: {place} must be a whole number of a module, got {before!r}")
        after, rest = divmod(before * _count(keeps, group.name, group.channels), group.channels)
        if rest:
            raise StructureError(
                f"follows: {place} is {before} for the {group.channels} channels of {group.name!r}; there is no whole number "
                f"for {_count(keeps, group.name, group.channels)} of them"
            )
        if after != before:
            modules.setdefault(owner, {})[key] = (before, after)
    return Patch(tensors, modules, dict(tied(model)))


def named(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by state-dict name, as they are; tied ones once, under their first name."""
    saved = model.state_dict(keep_vars=True)
    parameters = dict(model.named_parameters())
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in saved}
    return {**parameters, **buffers}


def tied(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Further names of tied parameters and buffers, each with the first one."""
    first: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and first.setdefault(id(tensor), name) != name:
            yield name, first[id(tensor)]


def _count(keeps: Keeps, group: str, channels: int) -> int:
    return int(keeps[group].count_nonzero()) if group in keeps else channels


def _ranges(index: Tensor) -> Ranges:
    """The runs of an ascending index."""
    breaks = (index.diff() != 1).nonzero().flatten() + 1
    parts = index.tensor_split(breaks)
    return tuple((int(part[0]), int(part[-1]) + 1) for part in parts)


def _pairs(aliases: Mapping[str, str]) -> str:
    return ", ".join(f"{name} to {first}" for name, first in aliases.items()) or "nothing"


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _need(right: bool, message: str) -> None:
    if not right:
        raise ValueError(message)


def _cut(name: str, entry: Any) -> Cut:
    """One tensor of a patch; its ranges are checked without making an index of them."""
    _need(entry.keys() == {"dense", "shape", "kept"}, f"{name} has {', '.join(entry)}")
    _need(all(_whole(size) and 0 < size < 1 << 48 for size in entry["dense"]), f"{name} has a size that is none")
    dense = tuple(entry["dense"])
    kept = {}
    for axis, ranges in entry["kept"].items():
        number = int(axis)
        _need(str(number) == axis and 0 <= number < len(dense) and bool(ranges), f"{name} has no axis {axis!r}")
        bounds = [bound for part in ranges for bound in part]
        pairs = all(len(part) == 2 for part in ranges) and all(map(_whole, bounds))
        rising = pairs and all(a < b for a, b in zip([-1, *bounds], [*bounds, dense[number] + 1], strict=True))
        _need(rising, f"the ranges of {name}, axis {axis}, do not rise within {dense[number]}")
        kept[number] = tuple((start, stop) for start, stop in ranges)
    cut = Cut(dense, kept)
    _need(
        list(cut.shape) == entry["shape"], f"{name} should have the shape {entry['shape']}, its ranges give {cut.shape}"
    )
    return cut


def _changes(name: str, entry: Any) -> Iterator[tuple[str, tuple[int, int]]]:
    for key, (before, after) in entry.items():
        _need(key.isidentifier() and not key.startswith("_"), f"{name}: {key!r} is no attribute")
        _need(_whole(before) and _whole(after) and 0 <= after <= before, f"{name}: {key} from {before!r} to {after!r}")
        yield key, (before, after)
