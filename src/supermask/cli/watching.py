"""What ``supermask watch`` shows: a table that redraws itself, lines where a terminal cannot do that, or one look."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import typer

from supermask.cli.live import details, name_of
from supermask.cli.output import print_grids
from supermask.cli.progress import UNKNOWN, Board, RunLine, clock
from supermask.report.grid import Grid

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from supermask.lab.observing import Observer, Seen
    from supermask.lab.plan import RunSpec

POLL_SECONDS: Final = 1.0
LINE_SECONDS: Final = 10.0  # least time between two lines of one run
_AROUND: Final = 6  # lines of the screen for header, summary and prompt
_FAILURES: Final = 3  # reasons that the screen shows at once
_SPARE: Final = (4, 6, 9, 7, 5, 1)  # columns that a narrow screen goes without, in this order
_FIRST: Final = ("training", "failed", "stopped", "waiting", "done")  # what a small screen shows first


class Watch:
    """The runs of an experiment as their folders show them.

    Args:
        specs: The runs.
        out: Folder of all results.
        observer: Looks at the folders.
    """

    def __init__(self, specs: Sequence[RunSpec], out: Path, observer: Observer) -> None:
        self.board = Board.of(list(specs))
        self.silent: dict[str, float | None] = {}
        self._observer = observer
        self._folder = out / specs[0].experiment if specs else out

    def look(self) -> list[str]:
        """Look again; the runs of which there is news."""
        news = []
        for run, seen in self._observer.look().items():
            if self._take(run, seen):
                news.append(run)
        return news

    def _take(self, run: str, seen: Seen) -> bool:
        before = self.board.lines[run].state
        if seen.anew:
            self.board.forget(run)
        for event in seen.events:
            self.board.update(event)
        line = self.board.lines[run]
        line.state = seen.state
        self.silent[run] = seen.silent
        return bool(seen.events) or line.state != before

    @property
    def over(self) -> bool:
        """Whether all runs have ended."""
        return all(line.state in ("done", "failed") for line in self.board.lines.values())

    def summary(self) -> str:
        """All runs in one line."""
        counts = self.board.summary()
        if not self.over and not self.board.training():
            counts += "; nothing is training now"
        return f"{counts}; {self._folder}"

    def grid(self, room: int | None = None, width: int | None = None) -> Grid:
        """The runs as a table.

        Args:
            room: Most rows; those at work come first where not all have room.
            width: Columns of the screen: what is least needed is left out of a narrow one.
        """
        runs = list(self.board.lines)
        if room is not None and len(runs) > room:
            runs = sorted(runs, key=lambda run: _FIRST.index(self.board.lines[run].state))[: max(1, room)]
        judged = self.board.metric_header
        headers = ("run", "seed", "state", "epoch", "loss", judged, "rem. %", "s/epoch", "ETA", "silent")
        rows = [self._row(run) for run in runs]
        shown = list(range(len(headers)))
        for column in (*_SPARE, -1):
            cut = tuple(tuple(row[index] for index in shown) for row in rows)
            left = frozenset(place for place, index in enumerate(shown) if index in (0, 2))
            grid = Grid("", tuple(headers[index] for index in shown), cut, left)
            if width is None or column < 0 or grid.fits(width):
                break
            shown.remove(column)
        return grid

    def _row(self, run: str) -> tuple[str, ...]:
        line, silent = self.board.lines[run], self.silent.get(run)
        return (line.label, str(line.seed), *line.cells(), UNKNOWN if silent is None else clock(silent))

    def failures(self) -> list[str]:
        """Why runs failed."""
        return [f"{name_of(line)}: failed: {line.message}" for line in self._in("failed")]

    def _in(self, state: str) -> list[RunLine]:
        return [line for line in self.board.lines.values() if line.state == state]

    def to_json(self) -> list[dict[str, Any]]:
        """One entry a run, with the keys of docs/json.md."""
        return [
            {
                "run": run,
                "label": line.label,
                "seed": line.seed,
                "state": line.state,
                "epoch": int(line.epochs_done),
                "epochs": line.epochs,
                "loss": line.loss,
                "accuracy": line.accuracy,
                "metric": line.metric,
                "density": line.density,
                "seconds": line.seconds,
                "seconds_per_epoch": line.seconds_per_epoch,
                "seconds_left": line.seconds_left if line.state == "training" else None,
                "silent": self.silent.get(run),
                "message": line.message,
            }
            for run, line in self.board.lines.items()
        ]


def print_once(watch: Watch) -> None:
    """Print how all runs are now."""
    watch.look()
    print_grids([watch.grid()], [*watch.failures(), watch.summary()])


def follow_lines(watch: Watch, *, poll: float = POLL_SECONDS) -> None:
    """Print how all runs are, then a line now and then, until all have ended: for logs and simple terminals."""
    print_once(watch)
    told = dict.fromkeys(watch.board.lines, time.monotonic())
    states = {run: line.state for run, line in watch.board.lines.items()}
    while not watch.over:
        time.sleep(poll)
        for run in watch.look():
            line, now = watch.board.lines[run], time.monotonic()
            if line.state != states[run] or now - told[run] >= LINE_SECONDS:
                told[run], states[run] = now, line.state
                typer.echo(f"{name_of(line)}: {line.state}{details(line)}")
    typer.echo(watch.summary())


def follow_screen(watch: Watch, *, poll: float = POLL_SECONDS) -> None:
    """Draw the runs again and again until all have ended, or Ctrl-C."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    from supermask.cli.output import draw

    console = Console(highlight=False, markup=False)

    def drawn() -> RenderableType:
        failed = [Text(text, style="red", overflow="ellipsis", no_wrap=True) for text in watch.failures()[-_FAILURES:]]
        room = console.height - _AROUND - len(failed)
        return Group(draw(watch.grid(room, console.width), console.width), *failed, Text(watch.summary(), style="dim"))

    watch.look()
    with Live(console=console, get_renderable=drawn, refresh_per_second=2):
        while not watch.over:
            time.sleep(poll)
            watch.look()
