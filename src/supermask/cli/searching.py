"""What ``supermask search`` says at its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supermask.report.grid import UNKNOWN, Grid

if TYPE_CHECKING:
    from supermask.lab.search import Found, Trial

_SHOWN = {
    "accuracy": ("held-out accuracy %", 100.0, ".2f"),
    "bytes": ("bytes", 1.0, ",.0f"),
    "latency": ("latency ms", 1000.0, ".4f"),
}


def read_space(path: Path) -> Any:
    """A search section from a file of its own.

    Raises:
        ConfigError: It cannot be read.
    """
    from supermask.errors import ConfigError
    from supermask.lab.load import parse_yaml

    try:
        return parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ConfigError(f"--space: {path} cannot be read ({error.strerror}); name a YAML file") from error


def print_trials(found: Found, experiment: str, folder: Path, *, as_json: bool) -> None:
    """Print the trials that are best, then all.

    Args:
        found: What the search came to.
        experiment: Its name.
        folder: Where the runs are.
        as_json: Print JSON instead.
    """
    import typer

    from supermask.cli.output import print_grids, print_json

    trials, objectives, metric = found.trials, found.objectives, found.metric
    if as_json:
        head = {"schema": 1, "experiment": experiment, "folder": str(folder), "objectives": list(objectives)}
        print_json(head | {"metric": metric, "trials": [_plain(trial) for trial in trials]})
        return
    best = [trial for trial in trials if trial.best]
    title = "Best trial" if len(objectives) == 1 else "Pareto front: no other trial is at least as good in everything"
    notes = [
        "Objectives are means over the seeds of a trial; held-out training examples decide, the test set has no part."
    ]
    if failed := sum(trial.objectives is None for trial in trials):
        notes.append(f"{failed} of {len(trials)} trials failed: failed.json in the folders of their runs says why.")
    grids = [_grid(title, best, objectives, metric), _grid(f"All {len(trials)} trials", trials, objectives, metric)]
    print_grids(grids, notes)
    typer.echo(f"\nrun folders: {folder}")


def _plain(trial: Trial) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "values": trial.values,
        "objectives": trial.objectives,
        "runs": list(trial.runs),
        "best": trial.best,
    }


def _grid(title: str, trials: Sequence[Trial], objectives: Sequence[str], metric: str) -> Grid:
    keys = list(dict.fromkeys(key for trial in trials for key in trial.values))
    headers = ("trial", *keys, *(_header(name, metric) for name in objectives), "runs")
    rows = tuple(
        (
            str(trial.number),
            *(str(trial.values.get(key, UNKNOWN)) for key in keys),
            *(_cell(trial, name, metric) for name in objectives),
            " ".join(trial.runs),
        )
        for trial in trials
    )
    return Grid(title, headers, rows, frozenset({len(headers) - 1}))


def _header(name: str, metric: str) -> str:
    return f"held-out {metric}" if name == "accuracy" and metric != "accuracy" else _SHOWN[name][0]


def _cell(trial: Trial, name: str, metric: str) -> str:
    if trial.objectives is None:
        return "failed"
    _, factor, form = _SHOWN[name]
    if name == "accuracy" and metric != "accuracy":
        factor, form = 1.0, ".4g"
    return f"{factor * trial.objectives[name]:{form}}"
