"""Before anything trains: what a plan's budgets are, the smallest that could be met, and how fine a step one channel is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from supermask.core.budget import check_feasible, costs_of, fractions, granularity
from supermask.core.channels import groups_for
from supermask.core.groups import Structure
from supermask.core.tracing import find_structure
from supermask.data import DATASETS
from supermask.errors import AttachError, BudgetError, StructureError
from supermask.lab.channels import budget_of
from supermask.lab.config import RunConfig
from supermask.lab.files import canonical_json
from supermask.lab.parts import build_model
from supermask.lab.plan import RunSpec


@dataclass(frozen=True)
class PlannedBudget:
    """One unit of the budget of one label.

    Attributes:
        label: Of the runs.
        unit: Of the cost.
        limit: Fraction of the dense cost.
        smallest: Fraction with one channel left in each group that the method acts on; None where it is not known.
        granularity: Fraction that one channel of the dense network makes at most; None likewise.
        dense: Cost of the dense network; None likewise.
        channels: How many could go.
        refused: Why the runs will not start; empty if they will.
    """

    label: str
    unit: str
    limit: float
    smallest: float | None
    granularity: float | None
    dense: float | None
    channels: int | None
    refused: str


def planned_budgets(specs: Sequence[RunSpec]) -> list[PlannedBudget]:
    """The budgets of a plan, label by label; models are drawn and traced, nothing is trained.

    A latency is measured when a run begins, so only its limit is told, and so is that of a data set whose images have no
    known shape.

    Raises:
        ConfigError: A file or reference is gone since the runs were planned.
    """
    firsts: dict[str, RunSpec] = {}
    for spec in specs:
        firsts.setdefault(spec.label, spec)
    networks: dict[str, _Network] = {}
    found = []
    for label, spec in firsts.items():
        config = spec.config()
        if config.method.needs_structure and budget_of(config.method):
            found += _of_label(label, config, spec, networks)
    return found


@dataclass(frozen=True, eq=False)
class _Network:
    """A model, drawn once for all labels that share it, and its structure, or why it has none."""

    model: nn.Module
    structure: Structure | str


def _of_label(label: str, config: RunConfig, spec: RunSpec, networks: dict[str, _Network]) -> list[PlannedBudget]:
    budget = budget_of(config.method)

    def unknown(why: str = "") -> list[PlannedBudget]:
        return [PlannedBudget(label, unit, limit, None, None, None, None, why) for unit, limit in budget.items()]

    shape = DATASETS[config.data.name].input_shape
    if shape is None:
        return unknown()
    key = canonical_json([spec.sections["model"], list(shape)])
    if key not in networks:
        model = build_model(config, spec.seed, spec.folder, torch.device("cpu"))
        networks[key] = _Network(model, _traced(model, torch.zeros(2, *shape)))
    structure = networks[key].structure
    if isinstance(structure, str):
        return unknown(structure)
    try:
        groups, _ = groups_for(config.method, networks[key].model, structure, None, ())
    except AttachError as error:
        return unknown(str(error))
    known = {unit: limit for unit, limit in budget.items() if unit != "latency"}
    costs, refused = {unit: cost for unit, cost in costs_of(structure).items() if unit in known}, ""
    try:
        check_feasible(structure, groups, costs, known)
    except BudgetError as error:
        refused = str(error)
    least = {group.name: _one(group.channels) for group in groups}
    smallest, steps = fractions(costs, least), granularity(groups, {}, costs)  # of what has a closed form
    return [
        PlannedBudget(
            label=label,
            unit=unit,
            limit=limit,
            smallest=smallest.get(unit),
            granularity=steps.get(unit),
            dense=costs[unit]({}) if unit in costs else None,
            channels=sum(group.channels for group in groups),
            refused=refused,
        )
        for unit, limit in budget.items()
    ]


def _traced(model: nn.Module, example: Tensor) -> Structure | str:
    try:
        return find_structure(model, example)
    except StructureError as error:
        return str(error)


def _one(channels: int) -> Tensor:
    return torch.arange(channels) == 0
