"""What runs of methods that remove channels need beside others: the model's channel groups, and what became of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from supermask.core.arrays import load_arrays, save_arrays
from supermask.core.budget import Cost, budget_report
from supermask.core.channels import used
from supermask.core.groups import ChannelGroup, Structure
from supermask.core.method import Method
from supermask.core.sparsifier import Sparsifier
from supermask.core.tracing import find_structure
from supermask.data.locate import cache_folder
from supermask.deploy import Shrunk, shrink
from supermask.errors import CheckpointError, ConfigError, MaskError, StructureError
from supermask.measure.latency_table import LatencyTable


@dataclass(frozen=True, eq=False)
class Traced:
    """What a method that removes channels is attached with.

    Attributes:
        structure: The channel groups of the plain model.
        example: Two inputs.
        table: Of the latency of this network on this machine, where the budget asks for it.
    """

    structure: Structure
    example: Tensor
    table: LatencyTable | None

    @property
    def costs(self) -> dict[str, Cost]:
        """The units that have no closed form."""
        return {} if self.table is None else {"latency": self.table.cost}


def trace(method: Method, model: nn.Module, example: Tensor) -> Traced | None:
    """Look at the plain model, for a method that removes channels; None for others.

    One channel of every group is taken out of a copy, so that a model that cannot be made smaller is refused now, and not
    after training. A budget of latency is for a batch of one and the threads of this process; layers, the network and one
    with about half its channels are timed once on each kind of machine, and kept in the cache folder.

    Raises:
        StructureError: The model cannot be traced, or not be made smaller.
        ConfigError: A latency is asked for on another device than the CPU.
    """
    if not method.needs_structure:
        return None
    timed = "latency" in budget_of(method)
    if timed and example.device.type != "cpu":
        raise ConfigError(
            f"method.budget: latency is measured on the CPU, and this run is on {example.device}; use another unit, or "
            "--device cpu"
        )
    structure = find_structure(model, example)
    _rehearse(model, example, structure, method.channel_groups(structure))
    if not timed:
        return Traced(structure, example, None)
    table = LatencyTable.measure(model, structure, folder=cache_folder() / "latency")
    half = {g.name: torch.arange(g.channels) < max(1, g.channels // 2 - 1) for g in method.channel_groups(structure)}
    small = shrink(model, example, keeps=half, structure=structure, zero=True).model
    return Traced(structure, example, table.calibrated([({}, model), (half, small)]))


def _rehearse(model: nn.Module, example: Tensor, structure: Structure, groups: Iterable[ChannelGroup]) -> None:
    less = {group.name: torch.arange(group.channels) < group.channels - 1 for group in groups if group.channels > 1}
    try:
        shrink(model, example, keeps=less, structure=structure, zero=True, examples=len(example))
    except StructureError as error:
        raise StructureError(
            f"no channel of this model can be taken out, tried before training: {error}; let the method leave its groups alone "
            "(method.whole, `supermask inspect` names them), or change the module"
        ) from error


def budget_of(method: Method) -> Mapping[str, float]:
    """The budget that a method is asked for, whether it promises to meet it or only steers towards it; empty without."""
    return getattr(method, "budget", None) or {}


def describe(s: Sparsifier) -> dict[str, Any] | None:
    """Which channels remain, and what the network costs with them; None for methods that remove none.

    Returns:
        ``groups``, of the whole network, and ``costs``: unit -> ``dense``, ``remaining``, and, of the dense cost, the
        ``limit``, what was used before the budget was met by projection (``alone``) and what one channel makes
        (``granularity``).
    """
    if s.structure is None or not s.groups:
        return None
    keeps, chosen = s.channels(), {group.name for group in s.groups}
    alone = {key.removeprefix("used/"): float(value) for key, value in used(s).items()}
    spent = budget_report(s.groups, keeps, s.costs, budget_of(s.method))
    return {
        "groups": [
            {
                "name": group.name,
                "channels": group.channels,
                "remaining": int(keeps[group.name].sum()) if group.name in chosen else group.channels,
                "chosen": group.name in chosen,
                "kept": group.kept,
            }
            for group in s.structure
        ],
        "costs": {
            unit: {
                "dense": of.dense,
                "remaining": of.cost,
                "limit": of.limit,
                "alone": alone.get(unit),
                "granularity": of.granularity,
            }
            for unit, of in spent.items()
        },
    }


def check_removal(model: nn.Module, traced: Traced, keeps: Mapping[str, Tensor]) -> dict[str, Any]:
    """Take the channels out of a copy of the finished model, and compare.

    Args:
        model: Finalized.
        traced: What the method was attached with.
        keeps: Channels that remain.

    Returns:
        ``shrunk``: the certificate's largest difference of an output, its examples, and why it could not be done (empty if
        it could); ``latency``: seconds of the dense and of the smaller network as measured and as the table says, None
        without a table.
    """
    try:
        small = shrink(model, traced.example, keeps=keeps, structure=traced.structure)
    except StructureError as error:
        failed = {"max_difference": None, "tolerance": None, "examples": None, "params": None, "why": str(error)}
        return {"shrunk": failed, "latency": None}
    certificate = small.certificate
    done = {
        "max_difference": certificate.max_difference,
        "tolerance": certificate.tolerance,
        "examples": certificate.examples,
        "params": small.params.after,
        "why": "",
    }
    return {"shrunk": done, "latency": None if traced.table is None else _latency(traced.table, small, model)}


def _latency(table: LatencyTable, small: Shrunk, model: nn.Module) -> dict[str, Any]:
    found = table.verify(small.keeps, small.model, model)
    return {
        "dense": found.dense.p50,
        "remaining": found.measured.p50,
        "remaining_p95": found.measured.p95,
        "predicted": found.predicted,
        "fraction": found.measured_fraction.median,
        "batch": table.machine["batch"],
        "threads": table.machine["threads"],
    }


def channel_values(s: Sparsifier) -> dict[str, Tensor]:
    """What scales each channel now: ``gate/<group>``, or without gates ``scale/<batch norm's weight>``; float32, on the CPU.

    Nothing for methods that remove no channels.
    """
    if s.structure is None:
        return {}
    if s.gates:
        return {f"gate/{name}": gate.values().detach().float().cpu() for name, gate in s.gates.items()}
    names = [name for group in s.groups for name in _scales(s.structure, group)]
    return {f"scale/{name}": _effective(s.model, name).detach().float().cpu() for name in dict.fromkeys(names)}


def _scales(structure: Structure, group: ChannelGroup) -> list[str]:
    """The factors of a group's channels among the members that scale and shift them."""
    parameters = [member.tensor for member in group.of_role("norm") if member.tensor in structure.shapes]
    return [name for name in parameters if name.rpartition(".")[2] == "weight"]


def _effective(model: nn.Module, name: str) -> Tensor:
    module, _, attribute = name.rpartition(".")
    value: Tensor = getattr(model.get_submodule(module), attribute)
    return value


class ChannelHistory:
    """The file with :func:`channel_values` after every epoch: name -> float32 (epochs, channels).

    A row stands for a line of ``metrics.jsonl``. The file is replaced as a whole, so it is never half written.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[str, Tensor] = {}

    def restart(self, epochs: int = 0) -> None:
        """Keep the first ``epochs`` rows: those that a checkpoint knows.

        Raises:
            CheckpointError: The file lacks some of them.
        """
        self._rows = {}
        if epochs == 0:
            self.path.unlink(missing_ok=True)
            return
        try:
            found = load_arrays(self.path)
        except MaskError as error:
            raise CheckpointError(self._lacking()) from error
        if not found or any(len(rows) < epochs for rows in found.values()):
            raise CheckpointError(self._lacking())
        self._rows = {name: rows[:epochs].clone() for name, rows in found.items()}

    def append(self, values: Mapping[str, Tensor]) -> None:
        """Add an epoch; always the same names."""
        rows = {name: value.reshape(1, -1) for name, value in values.items()}
        self._rows = {name: torch.cat([self._rows[name], row]) if self._rows else row for name, row in rows.items()}
        save_arrays(self.path, self._rows)

    def _lacking(self) -> str:
        return (
            f"{self.path} does not hold the epochs that the checkpoint beside it knows; put the file back, or delete the "
            f"folder {self.path.parent} to train this run again from its start"
        )
