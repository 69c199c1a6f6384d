"""``supermask report``: tables from run folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from supermask.cli.options import AsJson, Out, Settings

Where = Annotated[
    list[str], typer.Argument(help="Folders with runs, or experiments (file or name).", metavar="WHERE...")
]
Format = Annotated[str, typer.Option("--format", help="text, markdown, csv or json.")]
Spread = Annotated[str, typer.Option("--spread", help="quantiles: mean [5 %, 95 %]; std: mean ± standard deviation.")]
PerLayer = Annotated[bool, typer.Option("--per-layer", help="Also what remains of each layer, kept and inverted.")]
Best = Annotated[bool, typer.Option("--best", help="Also the accuracy of the best epoch (chosen on the test set).")]


def report(
    where: Where,
    settings: Settings = None,
    out: Out = Path("runs"),
    format: Format = "text",
    spread: Spread = "quantiles",
    per_layer: PerLayer = False,
    best: Best = False,
    as_json: AsJson = False,
) -> None:
    """Compare finished runs in tables. Trains nothing.

    For an experiment, exactly its planned runs are shown, with what is missing; for a folder, every run in it.
    """
    from supermask.cli.collect import collect
    from supermask.cli.output import print_document
    from supermask.report.table import build, render, summarize

    found = collect(where, settings or [], out)
    rows = summarize(found.results)
    if as_json or format != "text":
        text = render(
            rows,
            "json" if as_json else format,
            spread=spread,
            best=best,
            per_layer=per_layer,
            failures=found.failures,
            missing=found.missing,
        )
        typer.echo(text, nl=False)
        return
    document = build(
        rows, spread=spread, best=best, per_layer=per_layer, failures=found.failures, missing=found.missing
    )
    if not rows:
        typer.echo(f"No finished run in {', '.join(where)}.")
    print_document(document)
