"""What ``supermask run`` says at its end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supermask.lab.load import Experiment
    from supermask.lab.plan import RunSpec
    from supermask.lab.run import Outcome


def print_outcome(
    outcome: Outcome,
    experiment: Experiment,
    specs: list[RunSpec],
    out: Path,
    *,
    as_json: bool,
    remark: str = "",
    about: Mapping[str, Any] | None = None,
) -> None:
    """Print the comparison of all planned runs, beside published numbers, and where their folders are.

    Args:
        outcome: How the runs ended.
        experiment: Its file says what the table shows.
        specs: Its runs.
        out: Folder of all results.
        as_json: Print JSON instead.
        remark: A sentence that stands below the tables, without its full stop.
        about: Further keys of the JSON.
    """
    import typer

    from supermask.cli.collect import Collected, collect_planned
    from supermask.cli.output import print_document, print_json
    from supermask.report.content import View
    from supermask.report.table import build, render

    found = Collected(remarks=[remark] if remark else [])
    collect_planned(experiment, specs, out, found)
    shown = experiment.table.show
    longest = max((result["epochs"] for result in found.results.values()), default=0)
    epochs = [epoch for epoch in experiment.table.epochs if epoch <= longest]
    view = View(
        spread="std" if "std" in shown else "quantiles",
        best="best" in shown,
        per_layer="per-layer" in shown,
        per_epoch=bool(epochs),
        path="path" in shown,
    )
    content = found.content(epochs, path=view.path)
    if as_json:
        head = {"schema": 1, **(about or {}), "experiment": experiment.name, "folder": str(outcome.folder)}
        report = json.loads(render(content, "json"))
        print_json(head | {"runs": _runs(outcome, specs), "report": report})
        return
    typer.echo()
    print_document(build(content, view))
    if outcome.failed:
        typer.echo(
            "\nThe traceback of a failed run is in failed.json in its folder; the next `supermask run` tries it again."
        )
    typer.echo(f"\nrun folders: {outcome.folder}" if specs else "\nno runs: this experiment only quotes literature")


def _runs(outcome: Outcome, specs: list[RunSpec]) -> list[dict[str, Any]]:
    """How each run ended, in the order of the plan."""
    ended = {"done": outcome.done, "skipped": outcome.skipped, "failed": outcome.failed}
    found = {event.run: (state, event.message) for state, events in ended.items() for event in events}
    return [
        {
            "run": spec.id,
            "label": spec.label,
            "seed": spec.seed,
            "state": found[spec.id][0],
            "message": found[spec.id][1],
        }
        for spec in specs
    ]
