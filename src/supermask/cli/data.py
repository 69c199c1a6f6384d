"""``supermask data``: which data sets are on this machine, and how to get the others."""

from __future__ import annotations

from typing import Annotated

import typer

from supermask.cli import complete
from supermask.cli.options import AsJson, DataDir, ShowByDefault
from supermask.errors import ConfigError

Name = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME", help="Show this data set: its licence, and what to put where.", autocompletion=complete.datasets
    ),
]
Wanted = Annotated[str, typer.Argument(help="Name of a data set.", metavar="NAME", autocompletion=complete.datasets)]

Options = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="An option of the data set: classes=100. May be repeated."),
]
Processes = Annotated[int | None, typer.Option("--processes", help="Decoding processes; one a core by default.")]


app = typer.Typer(
    cls=ShowByDefault,
    help="List the data sets (`data`), show one (`data NAME`), download it (`data get NAME`), or decode its images "
    "(`data decode NAME`).",
)


@app.command()
def show(name: Name = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the data sets and where they were found (the default), or show one."""
    from supermask.cli.datasets import describe, explain
    from supermask.cli.output import print_grids, print_json, print_text, terminal_width
    from supermask.data import DATASETS
    from supermask.lab.validate import suggest
    from supermask.report.grid import Grid

    if name is not None and name not in DATASETS:
        raise ConfigError(f"no data set is called {name!r}; {suggest(name, DATASETS)}")
    described = [entry for entry in describe(data_dir) if name in (None, entry["name"])]
    if as_json:
        print_json({"schema": 1, "datasets": described})
        return
    if name is not None:
        print_text(explain(DATASETS[name], described[0], data_dir, terminal_width()))
        return
    rows = tuple((d["name"], d["where"] or f"missing: {d['hint']}", d["summary"], d["licence"]) for d in described)
    headers = ("data set", "found in", "what it is", "licence")
    notes = ["`supermask data NAME` says what to put where; files are verified when they are read."]
    print_grids([Grid("", headers, rows, frozenset(range(4)))], notes)


@app.command()
def get(name: Wanted, data_dir: DataDir = None) -> None:
    """Download a data set from its official source; a broken download continues where it stopped."""
    from supermask.cli.output import progress_bar
    from supermask.data import get as download

    with progress_bar() as progress:
        folder = download(name, root=data_dir, progress=progress)
    typer.echo(f"{name} is in {folder}")


@app.command()
def decode(name: Wanted, settings: Options = None, data_dir: DataDir = None, processes: Processes = None) -> None:
    """Decode the images of a data set into the cache folder, as the first run would; a broken decoding continues."""
    from supermask.cli.datasets import parse_options
    from supermask.cli.output import progress_bar
    from supermask.data import open_stored

    chosen = parse_options(settings or [])
    with progress_bar(of_bytes=False) as progress:
        stored, _ = open_stored(name, root=data_dir, processes=processes, progress=progress, **chosen)
    images = len(stored.raw.train_labels), len(stored.raw.test_labels)
    typer.echo(f"{name}: {images[0]:,} training and {images[1]:,} test images are in {stored.folder}")
