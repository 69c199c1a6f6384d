"""``supermask report``: tables from run folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from supermask.cli import complete
from supermask.cli.options import AsJson, Out, Settings, Where
from supermask.errors import ConfigError

Format = Annotated[
    str | None, typer.Option("--format", help="text, markdown, latex, csv or json.", autocompletion=complete.formats)
]
Spread = Annotated[str, typer.Option("--spread", help="quantiles: mean [5 %, 95 %]; std: mean ± standard deviation.")]
PerLayer = Annotated[
    bool, typer.Option("--per-layer", help="Also what remains of each layer, kept and inverted, and MACs.")
]
Best = Annotated[bool, typer.Option("--best", help="Also the accuracy of the best epoch (chosen on the test set).")]
Epochs = Annotated[
    str, typer.Option("--epoch", metavar="20,40,80", help="Also accuracy and remaining at these epochs.")
]
Rank = Annotated[bool, typer.Option("--rank", help="Also a ranking, and which rows cannot be told apart.")]
PathOf = Annotated[bool, typer.Option("--path", help="Also when weights entered, of methods that record it.")]
Figures = Annotated[
    Path | None,
    typer.Option("--figures", metavar="FOLDER", help="Also draw channels' gates or scales by epoch, as SVG files."),
]


def report(
    where: Where,
    settings: Settings = None,
    out: Out = Path("runs"),
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
    """Compare finished runs in tables. Trains nothing.

    For an experiment, exactly its planned runs are shown, with what is missing and with published numbers where there
    are some; for a folder, every run in it.
    """
    from supermask.cli.collect import collect, parse_epochs
    from supermask.cli.output import print_document, write_figures
    from supermask.report.content import View
    from supermask.report.table import build, render

    if as_json and format not in (None, "json"):
        raise ConfigError(f"--json and --format {format} contradict each other; keep one of them")
    format = "json" if as_json else format
    epochs = parse_epochs(epoch)
    view = View(spread=spread, best=best, per_layer=per_layer, per_epoch=bool(epochs), rank=rank, path=path)
    collected = collect(where, settings or [], out)
    content = collected.content(epochs, rank=rank, path=path)
    if figures is not None:
        write_figures(figures, collected.figures(content.rows))
    if format not in (None, "text"):
        typer.echo(render(content, format, view), nl=False)
        return
    if not (content.rows or content.settings or content.literature):
        typer.echo(f"No finished run in {', '.join(where)}.")
    print_document(build(content, view))
