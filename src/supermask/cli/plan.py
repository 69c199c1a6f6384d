"""``supermask plan``: the runs of an experiment and which of them exist."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from supermask.cli.options import AsJson, Experiment, Out, Settings

if TYPE_CHECKING:
    from supermask.lab.store import RunFolder


def plan(experiment: Experiment, settings: Settings = None, out: Out = Path("runs"), as_json: AsJson = False) -> None:
    """Show the runs of an experiment, their ids, and which exist. Trains nothing."""
    from supermask.cli.output import print_grids, print_json
    from supermask.lab.load import load_experiment
    from supermask.lab.plan import expand
    from supermask.lab.store import run_folder
    from supermask.report.grid import Grid

    loaded = load_experiment(experiment, settings=settings or ())
    runs = []
    for spec in expand(loaded):
        folder = run_folder(out, loaded.name, spec.id)
        values = {"run": spec.id, "label": spec.label, "seed": spec.seed}
        runs.append(values | {"state": _state(folder), "folder": str(folder.path)})
    folder_of_all = out / loaded.name
    if as_json:
        print_json({"schema": 1, "experiment": loaded.name, "folder": str(folder_of_all), "runs": runs})
        return
    counts = Counter(run["state"] for run in runs)
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    rows = tuple(tuple(str(run[key]) for key in ("run", "label", "seed", "state")) for run in runs)
    grid = Grid(f"{loaded.name}: {len(runs)} runs", ("run", "label", "seed", "state"), rows, frozenset({0, 1, 3}))
    print_grids([grid], [f"{states}; run folders: {folder_of_all}"])


def _state(folder: RunFolder) -> str:
    if folder.result.exists():
        return "done"
    if folder.failed.exists():
        return "failed"
    return "unfinished" if folder.checkpoint.exists() else "new"
