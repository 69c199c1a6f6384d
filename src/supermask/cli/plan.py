"""``supermask plan``: the experiments that ship, or the runs of one, which of them exist, and what the others will cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from supermask.cli.options import AsJson, DataDir, Device, MaybeExperiment, Out, Settings, Threads, Workers
from supermask.errors import ConfigError

if TYPE_CHECKING:
    from supermask.lab.store import RunFolder

Measure = Annotated[bool, typer.Option("--measure", help="Train a few steps of each setting to tell its cost.")]


def plan(
    experiment: MaybeExperiment = None,
    settings: Settings = None,
    out: Out = Path("runs"),
    measure: Measure = False,
    workers: Workers = None,
    threads: Threads = 1,
    device: Device = "cpu",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show the runs of an experiment, which exist, what the others will cost, and what budgets can be met.

    Writes nothing, but with --measure how seeds train that may train as one batch. Ends with exit code 1 if a budget cannot
    be met; data that is not on this machine yet is only told.

    Without an experiment, list those that ship with the package.
    """
    from supermask.cli.costs import budgets_json, cost_json, measure_costs, print_plan, print_shipped
    from supermask.cli.output import print_json
    from supermask.cli.prepare import missing_data, resolve_device
    from supermask.cli.seeds import gains, plan_seeds, seeds_json
    from supermask.lab.budgets import planned_budgets
    from supermask.lab.cost import Cost
    from supermask.lab.load import load_experiment
    from supermask.lab.plan import expand
    from supermask.lab.runner import Runner
    from supermask.lab.store import run_folder

    if experiment is None:
        if settings or measure:
            raise ConfigError("--set and --measure need an experiment: a YAML file, or a name from `supermask plan`")
        print_shipped(as_json=as_json)
        return
    loaded = load_experiment(experiment, settings=settings or ())
    specs, device, folder_of_all = expand(loaded), resolve_device(device), out / loaded.name
    runs = []
    for spec in specs:
        folder = run_folder(out, loaded.name, spec.id)
        values = {"run": spec.id, "label": spec.label, "seed": spec.seed}
        runs.append(values | {"state": _state(folder), "folder": str(folder.path)})
    runner = Runner(threads=threads, device=device, data_dir=data_dir)
    measured = measure_costs(specs, out, runner, workers=workers) if measure else {}
    seeds = plan_seeds(loaded, specs, out, runner, workers=workers, measure=measure)
    measured |= {label: measured[label] / gain for label, gain in gains(seeds).items() if label in measured}
    cost = Cost.of(specs, out, workers=workers, device=device, measured=measured)
    budgets, missing = planned_budgets(specs), missing_data(specs, out, data_dir)
    if as_json:
        about = {"schema": 1, "experiment": loaded.name, "folder": str(folder_of_all), "missing_data": missing}
        what = {"runs": runs, "cost": cost_json(cost), "seeds": seeds_json(seeds)}
        print_json(about | what | {"budgets": budgets_json(budgets)})
    else:
        print_plan(loaded.name, folder_of_all, runs, cost, budgets, seeds, missing)
    if any(budget.refused for budget in budgets):
        raise typer.Exit(1)


def _state(folder: RunFolder) -> str:
    marks = {"done": folder.result, "failed": folder.failed, "unfinished": folder.checkpoint}
    return next((state for state, mark in marks.items() if mark.exists()), "new")
