"""Printing: tables drawn by rich in a terminal, plain aligned text into pipes and files, JSON, errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from supermask.errors import ConfigError
from supermask.report.grid import Grid

if TYPE_CHECKING:
    from rich.console import JustifyMethod
    from rich.progress import TaskID
    from rich.table import Table

    from supermask.report.table import Document


def is_terminal() -> bool:
    """Whether a person reads stdout as it is written."""
    from rich.console import Console

    return Console().is_terminal


def print_json(value: Any) -> None:
    """Print a value as indented JSON; a NaN in it is a bug and raises."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def terminal_width() -> int:
    """Columns of the terminal; 80 where there is none."""
    from rich.console import Console

    return Console().width


def print_text(text: str) -> None:
    """Print text, in a terminal wrapped between words."""
    if not is_terminal():
        typer.echo(text)
        return
    from rich.console import Console

    Console(highlight=False, markup=False).print(text)


def print_error(message: str) -> None:
    """Print ``error: message`` to stderr, red and wrapped between words where it is a terminal."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False)
    if console.is_terminal:
        console.print(f"error: {message}", style="red")
    else:
        typer.echo(f"error: {message}", err=True)


def print_grids(grids: Iterable[Grid], notes: Iterable[str] = ()) -> None:
    """Print tables and the notes below them."""
    if not is_terminal():
        blocks = [grid.to_text() for grid in grids] + ["\n".join(notes)]
        typer.echo("\n\n".join(block for block in blocks if block))
        return
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    for index, grid in enumerate(grids):
        console.print(*([""] if index else []), draw(grid, console.width), sep="\n")
    for index, note in enumerate(notes):
        console.print(*([""] if not index else []), note, style="dim", sep="\n")


def print_document(document: Document) -> None:
    """Print a report; in a terminal, tables that are too wide for it in parts."""
    if is_terminal():
        parts = [part for grid in document.grids for part in grid.fold(terminal_width())]
        print_grids([*parts, *document.failed], document.notes)
    else:
        print_grids(document.tables, document.notes)


def write_figures(folder: Path, figures: Mapping[str, bytes]) -> None:
    """Write figures into a folder, which is made, and say where they are.

    Raises:
        ConfigError: It cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in figures.items():
            (folder / name).write_bytes(content)
            typer.echo(f"wrote {folder / name}", err=True)
    except OSError as error:
        raise ConfigError(f"--figures: {folder} cannot be written ({error.strerror}); name another folder") from error


def draw(grid: Grid, width: int) -> Table:
    """A rich table of a grid for a terminal of that width; cells wrap where it is narrow, nothing is cut off."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    prose = len(grid.left) > 2
    table = Table(
        title=Text(grid.title, style="bold") if grid.title else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        leading=int(not grid.fits(width) and prose),  # prose needs air between its rows
    )
    for index, header in enumerate(grid.headers):
        name = index == 0 and grid.widths()[0] <= width // (2 if prose else 3)
        justify: JustifyMethod = "left" if index in grid.left else "right"
        table.add_column(Text(header), justify=justify, overflow="fold", no_wrap=name)
    for row in grid.rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


@contextmanager
def progress_bar(*, of_bytes: bool = True) -> Iterator[Callable[[str, int, int | None], None] | None]:
    """A progress bar for each thing on stderr, of bytes or of a number, where a person looks at it; None elsewhere."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    count = DownloadColumn() if of_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        tasks: dict[str, TaskID] = {}

        def show(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total)

        yield show
