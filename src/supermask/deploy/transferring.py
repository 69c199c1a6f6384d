"""An optimizer of a dense model becomes one of its shrunk form: state is sliced as its parameter was."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from supermask.deploy.patching import Cut
from supermask.errors import StructureError

# beside defaults, state and groups: what torch.optim.Optimizer and torch's schedulers put on an optimizer
_OF_THIS_ONE: Final = ("defaults", "state", "param_groups", "step", "_opt_called")
_PLAIN: Final = (bool, int, float, str, type(None))


def transfer(
    optimizer: Optimizer, names: Mapping[int, str], parameters: Mapping[str, nn.Parameter], cuts: Mapping[str, Cut]
) -> Optimizer:
    """Make an optimizer of the same class over the smaller model's parameters; the given one is not changed.

    Args:
        optimizer: Of the dense model.
        names: Identity of a parameter of the dense model -> its name.
        parameters: Of the smaller model, by name.
        cuts: Name of a parameter that lost entries -> what remains.

    Raises:
        StructureError: The optimizer holds other parameters, or state that has no known slice.
    """
    kind = type(optimizer).__name__
    groups, state = [], defaultdict[Tensor, Any](dict)
    for number, group in enumerate(optimizer.param_groups):
        for position, parameter in enumerate(group["params"]):
            if id(parameter) not in names:
                raise StructureError(
                    f"{kind}: parameter {position} of group {number}, of shape {tuple(parameter.shape)}, is none of the model "
                    "that was shrunk (finalize() puts new parameters where weights were scores or gates); give the "
                    "optimizer of that model, or build a new one with shrunk.model.parameters()"
                )
            name = names[id(parameter)]
            if parameter in optimizer.state:
                found = optimizer.state[parameter]
                state[parameters[name]] = {
                    key: _sliced(value, parameter, cuts.get(name), f"{kind}: {key} of {name}")
                    for key, value in found.items()
                }
        rest = {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}
        groups.append({"params": [parameters[names[id(p)]] for p in group["params"]], **rest})
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if any(id(key) not in held for key in optimizer.state):
        raise StructureError(
            f"{kind} keeps state of something that is none of its parameters; it is not known how that follows: build a new "
            "optimizer with shrunk.model.parameters()"
        )
    new = type(optimizer).__new__(type(optimizer))
    # the way in which torch copies and unpickles an optimizer: without its constructor, hooks and schedulers
    new.__setstate__({"defaults": copy.deepcopy(optimizer.defaults), "state": state, "param_groups": groups})
    for key, value in vars(optimizer).items():
        if key in _OF_THIS_ONE or key.startswith("_optimizer_") or key in vars(new):
            continue
        if not isinstance(value, _PLAIN):
            raise StructureError(
                f"{kind} keeps {key}, a {type(value).__name__}, beside its state; it is not known how that follows: build "
                "a new optimizer with shrunk.model.parameters()"
            )
        setattr(new, key, value)
    return new


def _sliced(value: Any, parameter: Tensor, cut: Cut | None, what: str) -> Any:
    """State of a parameter that lost entries."""
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    with torch.no_grad():
        if cut is None or value.numel() == 1:
            return value.detach().clone(memory_format=torch.preserve_format)
        if value.shape == parameter.shape:
            return cut.of(value.detach())
    raise StructureError(
        f"{what} has the shape {tuple(value.shape)}, its parameter {tuple(parameter.shape)}: it is not known how it is sliced; "
        "build a new optimizer with shrunk.model.parameters()"
    )
