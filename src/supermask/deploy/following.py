"""Which attributes of a module follow when its tensors lose channels: ``out_channels``, ``num_features``, ``input_size``, …

A module of torch whose attributes cannot follow is refused by name. A user's own module has no attributes that are known
here; ``shrink`` takes them as ``follows``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from supermask.core.groups import Keeps, Structure
from supermask.errors import StructureError

Shape = tuple[int, ...]
Changes = dict[str, dict[str, tuple[int, int]]]
"""Name of a module -> attribute -> (value before, value after)."""

_CONTAINERS: Final = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


@dataclass(frozen=True)
class Own:
    """The tensors of one module, before and after.

    Attributes:
        name: Of the module; empty for the model itself.
        module: With its tensors as they were.
        dense: Attribute -> shape before, of the parameters and saved buffers that the module has itself.
        shapes: The same, after.
        index: From attribute and axis to the indices that remain, int64, ascending.
    """

    name: str
    module: nn.Module
    dense: Mapping[str, Shape]
    shapes: Mapping[str, Shape]
    index: Callable[[str, int], Tensor]

    def refuse(self, why: str) -> NoReturn:
        """Raise.

        Raises:
            StructureError: Always.
        """
        kind = type(self.module).__name__
        raise StructureError(f"{self.name or 'the model'} ({kind}) cannot be made smaller: {why}")

    def expect(self, attribute: str, shape: Shape) -> None:
        """Refuse if a tensor is there after all and has another shape than the others let it have."""
        if self.shapes.get(attribute, shape) != shape:
            self.refuse(f"{attribute} would have the shape {self.shapes[attribute]}, its other tensors need {shape}")


def follow(model: nn.Module, structure: Structure, keeps: Keeps) -> Changes:
    """The attributes of all modules that follow.

    Args:
        model: As it was when the structure was made.
        structure: Of the model.
        keeps: Channels that remain.

    Raises:
        StructureError: A module of torch that cannot be made smaller so; the message names it.
    """
    names = {id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    known = {**structure.shapes, **structure.buffers}
    changes: Changes = {}
    for name, module in model.named_modules():
        tensors = {key: value for key, value in {**module._parameters, **module._buffers}.items() if value is not None}
        full = {key: names[id(value)] for key, value in tensors.items() if names[id(value)] in known}
        dense = {key: tuple(known[where]) for key, where in full.items()}
        shapes = {key: structure.lengths(where, keeps) for key, where in full.items()}
        if shapes == dense:
            continue

        def index(attribute: str, axis: int, full: Mapping[str, str] = full) -> Tensor:
            return structure.index(full[attribute], axis, keeps)

        found = _attributes(Own(name, module, dense, shapes, index))
        before = {key: int(getattr(module, key)) for key in found}
        changed = {key: (before[key], value) for key, value in found.items() if value != before[key]}
        if changed:
            changes[name] = changed
    return changes


def _attributes(own: Own) -> dict[str, int]:
    for kind, rule in _RULES:
        if isinstance(own.module, kind):
            return rule(own)
    base = next(cls for cls in type(own.module).__mro__ if cls.__module__.split(".")[0] == "torch")
    if base not in _CONTAINERS:
        own.refuse(f"it is not known how a {base.__name__} follows; keep the channels of its group")
    return {}


def _weight(own: Own) -> Shape:
    """New shape of the weight."""
    if "weight" not in own.shapes:
        own.refuse("it has no weight of its own; take off what makes the weight of other tensors first")
    return own.shapes["weight"]


def _convolution(own: Own) -> dict[str, int]:
    """Whole groups may go, or equally many channels of every group."""
    module: Any = own.module
    weight = _weight(own)
    per_group = own.dense["weight"][0] // module.groups
    left = torch.bincount(own.index("weight", 0) // per_group, minlength=module.groups)
    sizes = left[left > 0]
    if int(sizes.max()) != int(sizes.min()):
        own.refuse(f"its {module.groups} groups would keep different numbers of channels: {left.tolist()}")
    first, second = weight[0], len(sizes) * weight[1]
    inputs, outputs = (first, second) if module.transposed else (second, first)
    own.expect("bias", (outputs,))
    return {"in_channels": inputs, "out_channels": outputs, "groups": len(sizes)}


def _linear(own: Own) -> dict[str, int]:
    outputs, inputs = _weight(own)
    own.expect("bias", (outputs,))
    return {"in_features": inputs, "out_features": outputs}


def _bilinear(own: Own) -> dict[str, int]:
    outputs, first, second = _weight(own)
    own.expect("bias", (outputs,))
    return {"in1_features": first, "in2_features": second, "out_features": outputs}


def _channel_norm(own: Own) -> dict[str, int]:
    """Batch and instance norm: each channel for itself."""
    features = next(shape for shape in own.shapes.values() if shape)
    for attribute in ("weight", "bias", "running_mean", "running_var"):
        own.expect(attribute, features)
    return {"num_features": features[0]}


def _group_norm(own: Own) -> dict[str, int]:
    """Only whole groups: the mean of a group is over all of its channels, also those that are zero."""
    module: Any = own.module
    (channels,) = _weight(own)
    own.expect("bias", (channels,))
    per_group = module.num_channels // module.num_groups
    left = torch.bincount(own.index("weight", 0) // per_group, minlength=module.num_groups)
    if bool(((left > 0) & (left < per_group)).any()):
        own.refuse(f"a group of {per_group} channels has one mean, so only whole groups can go; kept: {left.tolist()}")
    return {"num_channels": channels, "num_groups": int((left > 0).sum())}


def _whole_norm(own: Own) -> dict[str, int]:
    own.refuse("its mean is over all channels, also those that are zero: none can go without a change of the others")


def _embedding(own: Own) -> dict[str, int]:
    rows, width = _weight(own)
    if rows != own.dense["weight"][0]:
        own.refuse("its rows are looked up by number; only their width can shrink")
    return {"embedding_dim": width}


def _recurrent(own: Own) -> dict[str, int]:
    """Inputs may go, and hidden values if all layers and directions keep equally many."""
    module: Any = own.module
    gates = own.dense["weight_ih_l0"][0] // module.hidden_size
    inputs, hidden = own.shapes["weight_ih_l0"][1], own.shapes["weight_ih_l0"][0] // gates
    given = own.shapes["weight_hh_l0"][1]  # the hidden size, or that of its projection
    directions = 2 if module.bidirectional else 1
    for layer in range(module.num_layers):
        for end in [f"l{layer}", f"l{layer}_reverse"][:directions]:
            own.expect(f"weight_ih_{end}", (gates * hidden, inputs if layer == 0 else directions * given))
            own.expect(f"weight_hh_{end}", (gates * hidden, given))
            own.expect(f"bias_ih_{end}", (gates * hidden,))
            own.expect(f"bias_hh_{end}", (gates * hidden,))
            own.expect(f"weight_hr_{end}", (given, hidden))
    if not module.proj_size and given != hidden:
        own.refuse(f"weight_hh_l0 would read {given} hidden values of {hidden}")
    return {"input_size": inputs, "hidden_size": hidden, "proj_size": given if module.proj_size else 0}


def _recurrent_cell(own: Own) -> dict[str, int]:
    module: Any = own.module
    gates = own.dense["weight_ih"][0] // module.hidden_size
    inputs, hidden = own.shapes["weight_ih"][1], own.shapes["weight_hh"][1]
    own.expect("weight_ih", (gates * hidden, inputs))
    own.expect("weight_hh", (gates * hidden, hidden))
    own.expect("bias_ih", (gates * hidden,))
    own.expect("bias_hh", (gates * hidden,))
    return {"input_size": inputs, "hidden_size": hidden}


def _attention(own: Own) -> dict[str, int]:
    """Keys and values may come from narrower places; torch's class has as many values in its heads as in its input."""
    module: Any = own.module
    found = {"kdim": "k_proj_weight", "vdim": "v_proj_weight"}
    changed = [key for key in own.shapes if own.shapes[key] != own.dense[key]]
    for key in changed:
        if key not in found.values() or own.shapes[key][0] != own.dense[key][0]:
            own.refuse(
                f"{key} would have the shape {own.shapes[key]}; torch's class has num_heads * head_dim = embed_dim = "
                f"{module.embed_dim} values in its heads and in its input. An attention of linear layers can lose heads"
            )
    return {key: own.shapes[tensor][1] for key, tensor in found.items() if tensor in changed}


def _prelu(own: Own) -> dict[str, int]:
    return {"num_parameters": _weight(own)[0]}


_RULES: Final[tuple[tuple[Any, Callable[[Own], dict[str, int]]], ...]] = (
    (_ConvNd, _convolution),
    (nn.Linear, _linear),
    (nn.Bilinear, _bilinear),
    (_NormBase, _channel_norm),
    (nn.GroupNorm, _group_norm),
    ((nn.LayerNorm, nn.RMSNorm), _whole_norm),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    (nn.RNNBase, _recurrent),
    (nn.RNNCellBase, _recurrent_cell),
    (nn.MultiheadAttention, _attention),
    (nn.PReLU, _prelu),
)
