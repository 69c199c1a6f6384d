"""What ``supermask run`` says at its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supermask.lab.plan import RunSpec
    from supermask.lab.run import Outcome


def print_outcome(outcome: Outcome, specs: list[RunSpec], out: Path, *, as_json: bool) -> None:
    """Print the comparison of all planned runs and where their folders are."""
    import typer

    from supermask.cli.collect import collect_planned
    from supermask.cli.output import print_document, print_json
    from supermask.report.table import build, summarize, to_json

    found = collect_planned(specs, out)
    rows = summarize(found.results)
    if as_json:
        report = json.loads(to_json(rows, failures=found.failures, missing=found.missing))
        content = {"schema": 1, "experiment": specs[0].experiment, "folder": str(outcome.folder)}
        print_json(content | {"runs": _runs(outcome, specs), "report": report})
        return
    typer.echo()
    print_document(build(rows, failures=found.failures, missing=found.missing))
    typer.echo(f"\nrun folders: {outcome.folder}")


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
