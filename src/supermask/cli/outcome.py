"""What ``supermask run`` says at its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supermask.lab.load import Experiment
    from supermask.lab.plan import RunSpec
    from supermask.lab.run import Outcome


def print_outcome(outcome: Outcome, experiment: Experiment, specs: list[RunSpec], out: Path, *, as_json: bool) -> None:
    """Print the comparison of all planned runs, beside published numbers, and where their folders are."""
    import typer

    from supermask.cli.collect import Collected, collect_planned
    from supermask.cli.output import print_document, print_json
    from supermask.report.table import build, render

    found = Collected()
    collect_planned(experiment, specs, out, found)
    if as_json:
        content = {"schema": 1, "experiment": experiment.name, "folder": str(outcome.folder)}
        report = json.loads(render(found.content(), "json"))
        print_json(content | {"runs": _runs(outcome, specs), "report": report})
        return
    typer.echo()
    print_document(build(found.content()))
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
