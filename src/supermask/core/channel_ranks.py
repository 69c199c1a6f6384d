"""What channels are ranked by when whole channels are removed: the weights that make them, and places within a group."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from supermask.core.groups import ChannelGroup
from supermask.core.sparsifier import Sparsifier


def dense_tensors(s: Sparsifier) -> dict[str, Tensor]:
    """What the targets store, without masks or gates, by state-dict name; tied ones by every name."""
    return {site.name: target.dense.detach() for target in s.targets for site in target.sites}


def weights_by_channel(tensors: Mapping[str, Tensor], group: ChannelGroup) -> Tensor:
    """Every weight of the layers that make a group's channels; biases are no weights.

    Args:
        tensors: By state-dict name; all the group's ``out`` members must be there.
        group: The group.

    Returns:
        (channels, weights of one channel), float64, on the CPU.
    """
    rows = []
    for member in group.of_role("out"):
        tensor = tensors[member.tensor].detach()
        if tensor.dim() > 1:
            along = tensor.movedim(member.axis, 0).flatten(1).to("cpu", torch.float64)
            rows.append(along[member.entries].flatten(1))
    return torch.cat(rows, dim=1)


def places(rank: Tensor) -> Tensor:
    """The place of each channel in its group, from the lowest, 1 / channels, to the highest, 1; float64 (channels,).

    Channels of several groups that are ranked by it go in equal shares. Among equals the earlier is higher.
    """
    order = rank.detach().cpu().argsort(descending=True, stable=True)
    place = torch.empty(len(rank), dtype=torch.float64)
    place[order] = torch.arange(len(rank), 0, -1, dtype=torch.float64) / len(rank)
    return place
