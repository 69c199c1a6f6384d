"""What ``supermask plan`` prints of the seeds of an experiment that may train as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from supermask.cli.prepare import require_data
from supermask.cli.progress import UNKNOWN
from supermask.lab.executors.processes import Local
from supermask.lab.load import Experiment
from supermask.lab.plan import RunSpec
from supermask.lab.runner import Runner
from supermask.lab.seed_choice import SeedChoice, batches, choose, known_choices
from supermask.lab.store import run_folder
from supermask.report.grid import Grid

Seeds = list[tuple[str, int, SeedChoice | None]]
"""Label, runs of a batch, and how they are trained; None where that is not known yet."""


def plan_seeds(
    experiment: Experiment, specs: Sequence[RunSpec], out: Path, runner: Runner, *, workers: int | None, measure: bool
) -> Seeds | None:
    """How the seeds of the runs that are left are trained; None where the experiment trains them separately.

    Args:
        experiment: The experiment.
        specs: Its runs.
        out: Folder of all results.
        runner: Says on which device and with how many threads.
        workers: Worker processes.
        measure: Whether to try what no earlier command has tried; that is written down in the experiment's results folder.

    Raises:
        MissingDataError: A data set is not on this machine.
        RunError: The file of earlier choices is damaged.
    """
    if experiment.seeds != "vectorized":
        return None
    left = [spec for spec in specs if not run_folder(out, spec.experiment, spec.id).result.exists()]
    executor, folder = Local(workers=workers), out / experiment.name
    firsts = {label: parts[0] for label, parts in batches(left, runner, executor).items()}
    if measure:
        require_data(left, out, runner.data_dir)
        found = choose(firsts, runner, executor, folder, lambda choice: typer.echo(choice.sentence(), err=True))
    else:
        found = known_choices(firsts, runner, folder)
    return [(label, len(own), found.get(label)) for label, own in firsts.items()]


def gains(seeds: Seeds | None) -> dict[str, float]:
    """Label -> how much faster its runs are than one by one, where that is not 1."""
    chosen = [choice for _, _, choice in seeds or () if choice is not None and choice.vectorized]
    return {choice.label: choice.ratio for choice in chosen if choice.ratio is not None}


def seeds_grid(seeds: Seeds) -> Grid:
    """The same as a table."""
    rows = tuple(_row(label, count, choice) for label, count, choice in seeds)
    notes = ["speed: of a batch of these seeds, over that of the same runs one by one; measured on a few steps."]
    notes += [f"{c.label}: {c.reason}" for _, _, c in seeds if c is not None and c.reason]
    if any(choice is None for _, _, choice in seeds):
        notes.append(f"{UNKNOWN}: measured when the runs begin, or by --measure.")
    return Grid("seeds", ("label", "seeds at once", "trained", "speed"), rows, frozenset({0, 2}), tuple(notes))


def seeds_json(seeds: Seeds | None) -> list[dict[str, Any]] | None:
    """The same with the keys of docs/json.md."""
    if seeds is None:
        return None
    return [
        {
            "label": label,
            "seeds": count,
            "vectorized": None if choice is None else choice.vectorized,
            "ratio": None if choice is None else choice.ratio,
            "reason": "" if choice is None else choice.reason,
        }
        for label, count, choice in seeds
    ]


def _row(label: str, count: int, choice: SeedChoice | None) -> tuple[str, ...]:
    if choice is None:
        return label, str(count), UNKNOWN, UNKNOWN
    how = "as one batch" if choice.vectorized else "one by one"
    return label, str(count), how, UNKNOWN if choice.ratio is None else f"x {choice.ratio:.2f}"
