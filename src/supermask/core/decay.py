"""Parameter groups for an optimizer: which tensors weight decay acts on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from supermask.errors import HyperparameterError

DecayOn = Literal["all", "no-norms", "no-biases", "weights"]
"""What weight decay acts on: ``all`` parameters; ``no-norms``: all but those of normalisation layers; ``no-biases``: all but
those whose name says bias, also of norms; ``weights``: tensors of two dimensions or more outside of norms.
"""

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def decay_groups(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    targeted: Collection[int],
    weight_decay: float | None,
    other_weight_decay: float | None,
    decay_on: DecayOn,
    gates: Collection[int] = (),
    gate_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Parameter groups: the targets, everything else where it has a decay of its own, and what is not decayed.

    Args:
        model: Knows which parameters belong to norms.
        parameters: The trainable ones by name.
        targeted: Identities of those that are targets.
        weight_decay: Of the targets; None: no entry, which leaves it to the optimizer.
        other_weight_decay: Of everything else; None: the same as for the targets.
        decay_on: What is decayed at all.
        gates: Identities of those that are gates, which have a group of their own.
        gate_decay: Of the gates.

    Returns:
        One to three groups, none of them empty unless all are; last that of the gates, if there are any.

    Raises:
        HyperparameterError: ``decay_on`` is no known choice.
    """
    if decay_on not in get_args(DecayOn):
        raise HyperparameterError(f"decay_on must be one of {', '.join(get_args(DecayOn))}; got {decay_on!r}")
    norms = {id(p) for module in model.modules() if isinstance(module, _NORMS) for p in module.parameters()}
    first, rest, spared, learnt = [], [], [], []
    for name, parameter in parameters.items():
        if id(parameter) in gates:
            learnt.append(parameter)
        elif not _decayed(name, parameter, id(parameter) in norms, decay_on):
            spared.append(parameter)
        elif other_weight_decay is None or id(parameter) in targeted:
            first.append(parameter)
        else:
            rest.append(parameter)
    own = {} if weight_decay is None else {"weight_decay": weight_decay}
    groups: list[dict[str, Any]] = [
        {"params": first, **own},
        {"params": rest, "weight_decay": other_weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]] or groups[:1]
    return [*groups, {"params": learnt, "weight_decay": gate_decay}] if learnt else groups


def _decayed(name: str, parameter: nn.Parameter, norm: bool, decay_on: DecayOn) -> bool:
    if decay_on == "no-biases":
        return "bias" not in name.rpartition(".")[2]
    if decay_on == "weights":
        return parameter.dim() > 1 and not norm
    return not (norm and decay_on == "no-norms")
