"""Progress of runs: a table that redraws itself in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, Self

import typer

from supermask.cli.progress import ACCURACY, UNKNOWN, Board, RunLine
from supermask.report.grid import Grid

if TYPE_CHECKING:
    from rich.console import RenderableType

    from supermask.lab.events import Event
    from supermask.lab.plan import RunSpec

LINE_SECONDS: Final = 10.0  # least time between two epoch lines of one run
_AROUND: Final = 6  # lines of the screen that the table leaves to its header, the summary and the prompt


class Progress(Protocol):
    """Shows events between `with` and its end."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def __call__(self, event: Event) -> None:
        """Take in an event."""


def progress(specs: list[RunSpec], *, terminal: bool, err: bool = False) -> Progress:
    """A table when a person looks at stdout, lines otherwise (to stderr where stdout is for JSON)."""
    return LiveTable(Board.of(specs)) if terminal else Lines(Board.of(specs), err=err)


class Lines:
    """At most one line an epoch and run, and at most one in ten seconds; ends and failures always."""

    def __init__(self, board: Board, *, err: bool = False, now: Callable[[], float] = time.monotonic) -> None:
        self._board = board
        self._err = err
        self._now = now
        self._last: dict[str, float] = {}
        self._skipped = 0
        self._begun = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._tell_skipped()

    def __call__(self, event: Event) -> None:
        """Print the event if it is worth a line."""
        line = self._board.update(event)
        if event.kind == "skipped":
            self._skip(event, line)
            return
        self._tell_skipped()
        self._begun = True
        if event.kind in ("started", "resumed"):
            self._last[event.run] = self._now()
        if event.kind in ("resumed", "done", "failed"):
            self._print(f"{name_of(line)}: {event.kind}{details(line)}")
        elif event.kind == "epoch" and self._now() - self._last[event.run] >= LINE_SECONDS:
            self._last[event.run] = self._now()
            self._print(f"{name_of(line)}{details(line)}")

    def _skip(self, event: Event, line: RunLine) -> None:
        if event.seconds is None:  # not finished: held by another process
            self._print(f"{name_of(line)}: skipped, {line.message}")
        else:
            self._skipped += 1

    def _tell_skipped(self) -> None:
        if self._skipped:
            how = "finished meanwhile by another process" if self._begun else "finished before"
            self._print(f"{how}: {self._skipped} of {len(self._board.lines)} runs")
        self._skipped = 0

    def _print(self, text: str) -> None:
        typer.echo(text, err=self._err)


class LiveTable:
    """The runs at work, one row each, and a summary of all."""

    def __init__(self, board: Board) -> None:
        from rich.console import Console
        from rich.live import Live

        self._board = board
        self._console = Console(highlight=False, markup=False)
        self._live = Live(console=self._console, get_renderable=self._draw, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()
        if error[0] is None:
            self._console.print(self._board.summary())

    def __call__(self, event: Event) -> None:
        """Note the event; failures are printed above the table at once."""
        line = self._board.update(event)
        if event.kind == "failed":
            self._console.print(f"{name_of(line)}: failed: {line.message}", style="red")

    def _draw(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        from supermask.cli.output import draw

        room = max(1, self._console.height - _AROUND)
        lines = list(self._board.lines.values())
        shown = lines if len(lines) <= room else self._board.training()[:room]
        judged = self._board.metric_header
        headers = ("run", "seed", "state", "epoch", "loss", judged, "rem. %", "s/epoch", "ETA")
        rows = tuple((line.label, str(line.seed), *line.cells()) for line in shown)
        return Group(
            draw(Grid("", headers, rows, frozenset({0})), self._console.width),
            Text(self._board.summary(), style="dim"),
        )


def name_of(line: RunLine) -> str:
    """A run's label and seed."""
    return f"{line.label}, seed {line.seed}"


def details(line: RunLine) -> str:
    """What is known of a run, after its name or the word for what happened to it."""
    if line.state == "failed":
        return f": {line.message}"
    _, epoch, *values, pace, eta = line.cells()
    judged = f"accuracy {values[1]} %" if line.metric_name == ACCURACY else f"{line.metric_name} {values[1]}"
    times = [f"{line.seconds:.1f} s"] if line.state == "done" else [f"{pace} s/epoch", f"{eta} left"]
    texts = (f"epoch {epoch}", f"loss {values[0]}", judged, f"remaining {values[2]} %", *times)
    return "".join(f", {text}" for text in texts if UNKNOWN not in text)
