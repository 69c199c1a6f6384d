"""What ``supermask inspect`` says of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supermask.core.groups import Structure


def describe(structure: Structure) -> dict[str, Any]:
    """The structure and its costs, as plain values."""
    import torch

    from supermask.core.budget import costs_of

    costs = costs_of(structure)
    one = {group.name: torch.arange(group.channels) == 0 for group in structure.removable()}

    def cost(unit: str, keeps: dict[str, torch.Tensor]) -> int | None:
        return round(costs[unit](keeps)) if unit in costs else None

    def of_one(unit: str, name: str, channels: int) -> int | None:
        dense, less = cost(unit, {}), cost(unit, {name: torch.arange(channels) > 0})
        return None if dense is None or less is None else dense - less

    groups = [
        {
            "name": group.name,
            "channels": group.channels,
            "parameters": of_one("params", group.name, group.channels),
            "macs": of_one("macs", group.name, group.channels),
            "removable": group.removable,
            "kept": group.kept,
            "residual": group.residual,
            "quiet": group.quiet,
            "members": [
                {"tensor": m.tensor, "axis": m.axis, "per_channel": m.entries.shape[1], "role": m.role}
                for m in group.members
            ],
        }
        for group in structure
    ]
    return {
        "parameters": cost("params", {}),
        "macs": cost("macs", {}),
        "smallest": {"parameters": cost("params", one), "macs": cost("macs", one)},
        "groups": groups,
        "uncounted": list(structure.uncounted),
    }
