"""``supermask report``: tables from run folders."""

from __future__ import annotations

import typer

from supermask.cli.options import (
    AsJson,
    Best,
    Epochs,
    Figures,
    Format,
    OutOrPage,
    PathOf,
    PerLayer,
    Rank,
    Settings,
    Spread,
    Where,
)
from supermask.errors import ConfigError


def report(
    where: Where,
    settings: Settings = None,
    out: OutOrPage = None,
    format: Format = None,
    spread: Spread = "quantiles",
    per_layer: PerLayer = False,
    best: Best = False,
    epoch: Epochs = "",
    rank: Rank = False,
    path: PathOf = False,
    figures: Figures = None,
    as_json: AsJson = False,
) -> None:
    """Compare finished runs in tables, or with --out FILE.html on a page. Trains nothing.

    For an experiment, exactly its planned runs are shown, with what is missing and with published numbers where there
    are some; for a folder, every run in it.
    """
    from supermask.cli.collect import collect, parse_epochs
    from supermask.cli.output import print_document, write_figures
    from supermask.cli.page import split_out, write_page
    from supermask.report.content import View
    from supermask.report.table import build, render

    if as_json and format not in (None, "json"):
        raise ConfigError(f"--json and --format {format} contradict each other; keep one of them")
    format = "json" if as_json else "markdown" if format == "md" else format
    epochs = parse_epochs(epoch)
    view = View(spread=spread, best=best, per_layer=per_layer, per_epoch=bool(epochs), rank=rank, path=path)
    runs, page = split_out(out or [])
    collected = collect(where, settings or [], runs)
    if page is not None:
        write_page(page, collected, where, settings or [], runs)
        typer.echo(f"wrote {page}", err=True)
        if format is None and figures is None:
            return
    content = collected.content(epochs, rank=rank, path=path)
    if figures is not None:
        write_figures(figures, collected.all_figures())
    if format not in (None, "text"):
        typer.echo(render(content, format, view), nl=False)
        return
    if not (content.rows or content.settings or content.literature):
        typer.echo(f"No finished run in {', '.join(where)}.")
    print_document(build(content, view))
