"""Channel groups that the user names, for a model that cannot be traced."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized

from supermask.core.groups import ChannelGroup, Member, Role, Structure
from supermask.errors import StructureError

_ROLES: Final = get_args(Role)
_OPTIONS: Final = {"kept": str, "residual": bool, "quiet": bool}
_NORMS: Final = (_NormBase, nn.GroupNorm, nn.PReLU)
FREE: Final = (nn.Embedding, nn.LayerNorm, nn.RMSNorm, *_NORMS)
"""Modules of which no weight meets a sum."""


def structure_by_hand(
    model: nn.Module, groups: Mapping[str, Mapping[str, Any]], example: Tensor | None = None
) -> Structure:
    """See :meth:`supermask.core.groups.Structure.by_hand`."""
    for name, module in model.named_modules():
        if is_parametrized(module):
            raise StructureError(
                f"model: {name or 'it'} carries a mask or another parametrization; name its groups before attach"
            )
    saved = model.state_dict(keep_vars=True)
    parameters = dict(model.named_parameters())
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in saved}
    tensors = {**parameters, **buffers}
    made = tuple(_group(model, tensors, name, parts) for name, parts in groups.items())
    positions = {} if example is None else _positions(model, example)
    free = {id(p) for m in model.modules() if isinstance(m, FREE) for p in m.parameters(recurse=False)}
    return Structure(
        made,
        {name: tuple(p.shape) for name, p in parameters.items()},
        {name: tuple(b.shape) for name, b in buffers.items()},
        positions,
        example_shape=None if example is None else tuple(example.shape[1:]),
        item_bytes={name: t.element_size() for name, t in tensors.items() if t.dtype != torch.float32},
        uncounted=tuple(
            name for name, p in parameters.items() if p.dim() > 1 and id(p) not in free and name not in positions
        ),
    )


def _group(model: nn.Module, tensors: Mapping[str, Tensor], name: str, parts: Mapping[str, Any]) -> ChannelGroup:
    where = f"group {name!r}"
    if not isinstance(parts, Mapping):
        raise StructureError(f"{where}: must be a dict with out, norm and in, got {parts!r}")
    for key, value in parts.items():
        if key not in (*_ROLES, *_OPTIONS):
            raise StructureError(f"{where}: {key!r} is none of {', '.join((*_ROLES, *_OPTIONS))}{_close(key, _ROLES)}")
        if key in _OPTIONS and not isinstance(value, _OPTIONS[key]):
            raise StructureError(f"{where}: {key} must be a {_OPTIONS[key].__name__}, got {value!r}")
        if key in _ROLES and (isinstance(value, str) or not isinstance(value, Sequence)):
            raise StructureError(f"{where}: {key} must be a list of module names, got {value!r}")
    if not parts.get("out"):
        raise StructureError(f"{where}: out must name the layers that make the channels, for example ['conv1']")
    first = parts["out"][0]
    channels: int | None = len(first.entries) if isinstance(first, Member) else None
    members: list[Member] = []
    for role in _ROLES:
        for item in parts.get(role, ()):
            if isinstance(item, Member):
                members.append(item)
                continue
            module, width, offset = _parsed(f"{where}: {role}", item)
            for tensor, axis in _places(model, tensors, f"{where}: {role}", module, role):
                size = tensors[tensor].shape[axis]
                if channels is None:
                    channels = (size - offset) // width
                fits = (
                    size - offset >= channels * width
                    if isinstance(item, tuple) and len(item) == 3
                    else (size == channels * width)
                )
                if not fits:
                    raise StructureError(
                        f"{where}: {role}: {tensor} has {size} entries along axis {axis}, {channels} channels of {width} "
                        f"from entry {offset} do not fit; (name, entries of a channel, first entry) says where they lie"
                    )
                entries = offset + torch.arange(channels * width).reshape(channels, width)
                members.append(Member(tensor, axis, entries, role))
    assert channels is not None
    kept, residual, quiet = parts.get("kept", ""), parts.get("residual", False), parts.get("quiet", True)
    return ChannelGroup(name, channels, tuple(members), kept, residual, quiet)


def _parsed(where: str, item: Any) -> tuple[str, int, int]:
    """Module, entries of one channel, first entry."""
    if isinstance(item, str):
        return item, 1, 0
    if isinstance(item, tuple) and len(item) in (2, 3) and isinstance(item[0], str):
        width, offset = item[1], item[2] if len(item) == 3 else 0
        if all(type(number) is int for number in (width, offset)) and width >= 1 and offset >= 0:
            return item[0], width, offset
    raise StructureError(
        f"{where}: an entry must be a module name, (name, entries of a channel), (name, entries of a channel, first entry) "
        f"or a Member, got {item!r}"
    )


def _places(
    model: nn.Module, tensors: Mapping[str, Tensor], where: str, name: str, role: Role
) -> Iterator[tuple[str, int]]:
    """The tensors of a module that belong to a role, each with its axis."""
    modules = dict(model.named_modules())
    if name not in modules:
        raise StructureError(f"{where}: the model has no module {name!r}{_close(name, modules)}")
    module = modules[name]
    first = {id(tensor): key for key, tensor in tensors.items()}
    own = {key: first[id(t)] for key, t in [*module._parameters.items(), *module._buffers.items()] if id(t) in first}
    layer = isinstance(module, nn.Linear | _ConvNd)
    swapped = isinstance(module, _ConvNd) and module.transposed
    if role == "in" and layer:
        if isinstance(module, _ConvNd) and module.groups > 1:
            raise StructureError(
                f"{where}: {name} is a grouped convolution: its weight has no axis for its inputs. Put a depthwise one into "
                "out, and give Members for others"
            )
        yield own["weight"], 0 if swapped else 1
    elif role == "out" and layer:
        yield own["weight"], 1 if swapped else 0
        if "bias" in own:
            yield own["bias"], 0
    elif role == "out" and isinstance(module, nn.Embedding):
        yield own["weight"], 1
    elif role == "norm" and isinstance(module, _NORMS):
        yield from ((own[key], 0) for key in own if tensors[own[key]].dim() == 1)
    else:
        raise StructureError(
            f"{where}: it is not known which entries of {name} ({type(module).__name__}) these are; give "
            "Member(tensor, axis, entries, role) instead"
        )


def _positions(model: nn.Module, example: Tensor) -> dict[str, int]:
    """Run one example, in evaluation mode, and count how often convolutions and linear layers use their weights."""
    names = {id(p): name for name, p in model.named_parameters()}
    positions: dict[str, int] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Linear | _ConvNd)
        name = names[id(module.weight)]
        positions[name] = positions.get(name, 0) + times_used(module, inputs[0], output)

    handles = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Linear | _ConvNd)]
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        devices = [example.device] if example.is_cuda else []
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            model(example[:1].detach())
    except Exception as error:
        first = str(error).partition("\n")[0]
        raise StructureError(f"example: the model does not take {tuple(example[:1].shape)}: {first}") from error
    finally:
        for module, mode in training.items():
            module.training = mode
        for handle in handles:
            handle.remove()
    return positions


def times_used(module: nn.Linear | _ConvNd, x: Tensor, output: Tensor) -> int:
    """How often each weight of a layer is used in one call."""
    if isinstance(module, nn.Linear):
        return x.numel() // module.in_features
    over, channels = (x, module.in_channels) if module.transposed else (output, module.out_channels)
    return over.numel() // channels


def _close(word: object, known: Collection[str]) -> str:
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
