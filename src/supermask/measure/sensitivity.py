"""How much a network loses when the channels of one group alone are cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from supermask.core.channel_ranks import weights_by_channel
from supermask.core.groups import ChannelGroup, Structure
from supermask.errors import HyperparameterError, StructureError


@dataclass(frozen=True)
class Sensitivity:
    """What was measured, group by group.

    Attributes:
        whole: What ``evaluate`` gave for the whole network.
        groups: Group name -> (channels that remain, what ``evaluate`` gave), in the order of the shares.
    """

    whole: float
    groups: Mapping[str, tuple[tuple[int, float], ...]]

    def __str__(self) -> str:
        lines = [f"whole network: {self.whole:.4g}"]
        for name, points in self.groups.items():
            lines.append(f"{name}: " + ", ".join(f"{value:.4g} with {count}" for count, value in points))
        return "\n".join(lines)


def sensitivity(
    model: nn.Module,
    structure: Structure,
    evaluate: Callable[[nn.Module], float],
    *,
    shares: Sequence[float] = (0.75, 0.5, 0.25),
    ranks: Mapping[str, Tensor] | None = None,
    groups: Sequence[str] | None = None,
) -> Sensitivity:
    """Cut each group alone to several shares of its channels, evaluate, and put everything back.

    A channel is cut by zeroing what makes, scales and reads it, which computes the same as taking it out. The model ends
    bitwise as it was.

    Args:
        model: A plain module.
        structure: Of it.
        evaluate: Accuracy, loss, or whatever shall be compared; called once, and once for each group and share. What it
            does to the model (modes, statistics) is its own business.
        shares: Fractions of a group's channels that remain, each in (0, 1]; rounded half up, at least one.
        ranks: Group name -> real tensor (channels,), higher = kept, among equals the earlier. None: the sum of absolute
            weights of the layers that make the channel.
        groups: Names; None: all whose channels can be removed.

    Raises:
        HyperparameterError: A share is out of range.
        StructureError: No group, an unknown one, or one whose channels must stay.
    """
    for share in shares:
        if isinstance(share, bool) or not 0.0 < share <= 1.0:
            raise HyperparameterError(f"shares must be numbers in (0, 1], the fraction that remains, got {share!r}")
    chosen = structure.removable() if groups is None else [structure[name] for name in groups]
    if not chosen:
        raise StructureError("there is no group whose channels can be removed, so there is nothing to cut")
    parameters = dict(model.named_parameters())
    whole = evaluate(model)
    found = {}
    for group in chosen:
        rank = ranks[group.name] if ranks is not None else weights_by_channel(parameters, group).abs().sum(1)
        order = rank.detach().cpu().argsort(descending=True, stable=True)
        points = []
        for share in shares:
            count = max(1, int(share * group.channels + 0.5))
            keep = torch.zeros(group.channels, dtype=torch.bool)
            keep[order[:count]] = True
            structure.check({group.name: keep})
            points.append((count, _evaluated_without(model, parameters, group, ~keep, evaluate)))
        found[group.name] = tuple(points)
    return Sensitivity(whole, found)


def _evaluated_without(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    group: ChannelGroup,
    gone: Tensor,
    evaluate: Callable[[nn.Module], float],
) -> float:
    names = {member.tensor for member in group.members if member.tensor in parameters}
    before = {name: parameters[name].detach().clone() for name in names}
    try:
        with torch.no_grad():
            for member in group.members:
                if member.tensor in names:
                    parameter = parameters[member.tensor]
                    entries = member.entries[gone].flatten().to(parameter.device)
                    parameter.index_fill_(member.axis, entries, 0.0)
        return evaluate(model)
    finally:
        with torch.no_grad():
            for name, values in before.items():
                parameters[name].copy_(values)
