"""What ``supermask plan`` prints: the runs of an experiment and their cost, or the experiments that ship."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import typer

from supermask.cli.output import print_grids, print_json
from supermask.cli.prepare import require_data
from supermask.cli.progress import UNKNOWN, clock
from supermask.cli.seeds import Seeds, seeds_grid
from supermask.lab.budgets import PlannedBudget
from supermask.lab.cost import Cost, SettingCost, measure
from supermask.lab.load import index
from supermask.lab.plan import RunSpec
from supermask.lab.runner import Runner
from supermask.lab.store import run_folder
from supermask.report.form import percent
from supermask.report.grid import Grid

MOST_NAMED: Final = 4  # settings that a sentence lists by name
_SOURCES: Final = {
    "finished": "its finished runs",
    "unfinished": "its unfinished runs",
    "similar": "runs of the same model, data and batch size",
    "measured": "a few steps, measured now",
    "unknown": UNKNOWN,
}


def print_shipped(*, as_json: bool) -> None:
    """List the experiments that come with the package."""
    shipped = index()
    if as_json:
        keys = ("id", "title", "paper", "kind")
        entries = [{key: getattr(entry, key) for key in keys} | {"file": str(entry.file)} for entry in shipped]
        print_json({"schema": 1, "experiments": entries})
        return
    rows = tuple((entry.id, entry.title, entry.paper or UNKNOWN, entry.kind) for entry in shipped)
    notes = [
        "`supermask plan NAME` shows the runs of one and what they will cost, `run NAME` trains them, `report NAME` compares.",
        "kind: what `report` prints of it: results of its runs, their settings, or quoted literature (it has no runs).",
    ]
    print_grids([Grid("", ("experiment", "what it shows", "paper", "kind"), rows, frozenset(range(4)))], notes)


def measure_costs(
    specs: Sequence[RunSpec], out: Path, runner: Runner, *, workers: int | None = None
) -> dict[str, float]:
    """Seconds a run of each label that has runs without a result, measured now; told on stderr one by one.

    Raises:
        MissingDataError: A data set is not on this machine.
        RunError: A setting cannot be trained.
    """

    def tell(label: str, seconds: float) -> None:
        typer.echo(f"measured {label}: {_time(seconds)} a run", err=True)

    left = [spec for spec in specs if not run_folder(out, spec.experiment, spec.id).result.exists()]
    require_data(left, out, runner.data_dir)
    return measure(left, runner, workers=workers, on_measured=tell)


def print_plan(
    name: str,
    folder: Path,
    runs: Sequence[Mapping[str, Any]],
    cost: Cost,
    budgets: Sequence[PlannedBudget],
    seeds: Seeds | None,
    missing: str,
) -> None:
    """Print the runs of an experiment, their states and cost, how seeds train, what budgets can be met, and what is missing."""
    if not runs:
        typer.echo("no runs: this experiment only quotes literature; `supermask report` prints it")
        return
    states = ", ".join(f"{count} {state}" for state, count in Counter(run["state"] for run in runs).items())
    rows = tuple(tuple(str(run[key]) for key in ("run", "label", "seed", "state")) for run in runs)
    grid = Grid(f"{name}: {len(runs)} runs", ("run", "label", "seed", "state"), rows, frozenset({0, 1, 3}))
    table, notes = cost_table(cost)
    more = [_budget_grid(budgets)] if budgets else []
    more += [seeds_grid(seeds)] if seeds else []
    notes += [note for grid in more for note in grid.notes]
    lacking = [f"not yet: {missing}"] if missing else []
    print_grids([grid, *more, table], [*notes, f"{states}; run folders: {folder}", *lacking])


def cost_json(cost: Cost) -> dict[str, Any]:
    """A cost with the keys of docs/json.md."""
    settings = [dataclasses.asdict(setting) for setting in cost.settings]
    return {"workers": cost.workers, "seconds": cost.seconds, "settings": settings}


def budgets_json(budgets: Sequence[PlannedBudget]) -> list[dict[str, Any]]:
    """Budgets with the keys of docs/json.md."""
    return [dataclasses.asdict(budget) for budget in budgets]


def _budget_grid(budgets: Sequence[PlannedBudget]) -> Grid:
    """What can be met of the dense network's costs, and what cannot."""

    def share(fraction: float | None) -> str:
        return UNKNOWN if fraction is None else percent(fraction)

    rows = tuple(
        (b.label, b.unit, share(b.limit), share(b.smallest), share(b.granularity), "no" if b.refused else "yes")
        for b in budgets
    )
    headers = ("label", "unit", "budget %", "smallest %", "one channel %", "starts")
    notes = [
        "smallest: one channel left in each group that the method acts on; one channel: what the largest one changes at most."
    ]
    notes += dict.fromkeys(f"{b.label} will not start: {b.refused}" for b in budgets if b.refused)
    if any(b.smallest is None and not b.refused for b in budgets):
        notes.append(f"{UNKNOWN}: told when a run begins, which measures latency, or sees the images.")
    return Grid("budgets, of the dense network's cost", headers, rows, frozenset({0, 1, 5}), tuple(notes))


def cost_table(cost: Cost) -> tuple[Grid, list[str]]:
    """The cost of each label, and of all, as a table and its notes."""
    rows = tuple(_row(setting) for setting in cost.settings)
    headers = ("label", "runs", "left", "a run", "in all", "from", "n")
    grid = Grid("expected time", headers, rows, frozenset({0, 5}))
    workers = f"{cost.workers} worker{'s' * (cost.workers != 1)}"
    if not any(setting.left for setting in cost.settings):
        return grid, ["nothing is left to train"]
    if cost.seconds is not None:
        return grid, [f"all that is left takes about {_time(cost.seconds)} with {workers}"]
    unknown = [setting.label for setting in cost.settings if setting.left and setting.seconds_left is None]
    which = ", ".join(unknown) if len(unknown) <= MOST_NAMED else f"{len(unknown)} of {len(cost.settings)} settings"
    return grid, [f"nothing is known about {which}; --measure trains a few steps of each setting"]


def _row(setting: SettingCost) -> tuple[str, ...]:
    whole, left = (
        UNKNOWN if value is None else _time(value) for value in (setting.seconds_per_run, setting.seconds_left)
    )
    n = str(setting.n) if setting.n else UNKNOWN
    return (setting.label, str(setting.runs), str(setting.left), whole, left, _SOURCES[setting.source], n)


def _time(seconds: float) -> str:
    """Short times with a digit after the point, others as minutes and seconds."""
    return f"{seconds:.1f} s" if seconds < 60 else clock(seconds)
