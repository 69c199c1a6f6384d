"""What is known about the runs of an experiment while they train; drawn by `live`, told line by line by `log`."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from supermask.lab.events import Event
    from supermask.lab.plan import RunSpec

State = Literal["waiting", "training", "done", "skipped", "failed", "stopped"]
UNKNOWN: Final = "–"
ACCURACY: Final = "accuracy"
_RECENT: Final = 5  # epochs whose mean time tells the pace
_LONGEST: Final = 240  # characters of a message that are told while runs train


@dataclass
class RunLine:
    """The last known state of one run."""

    label: str
    seed: int
    metric_name: str = ACCURACY
    state: State = "waiting"
    epochs: int | None = None
    epochs_done: float = 0.0
    loss: float | None = None
    accuracy: float | None = None
    metric: float | None = None
    density: float | None = None
    seconds: float = 0.0
    message: str = ""
    marks: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_RECENT + 1))  # epochs, seconds
    resumed: bool = False

    @property
    def seconds_per_epoch(self) -> float | None:
        """Wall time of an epoch: the mean of the last few while the run trains, of all at its end; None if unknown.

        A run that was resumed is known after one epoch: until then its time is that of several starts.
        """
        if self.state == "training" and self.marks and self.epochs_done >= self.marks[0][0] + 1:
            epochs, seconds = self.marks[0]
            return (self.seconds - seconds) / (self.epochs_done - epochs)
        if self.state == "training" and self.resumed:
            return None
        return self.seconds / self.epochs_done if self.epochs_done and self.seconds else None

    @property
    def seconds_left(self) -> float | None:
        """Wall time to the end of the run, if its epochs to come are like the last ones; None while that is unknown."""
        pace = self.seconds_per_epoch
        return None if self.epochs is None or pace is None else pace * max(0.0, self.epochs - self.epochs_done)

    def cells(self) -> tuple[str, ...]:
        """State, epoch, loss, accuracy (or another metric), remaining, seconds an epoch and remaining time as text."""
        pace, left = self.seconds_per_epoch, self.seconds_left
        eta = UNKNOWN if left is None or self.state != "training" else clock(left)
        epoch = UNKNOWN if self.epochs is None else f"{int(self.epochs_done)}/{self.epochs}"
        return (
            self.state,
            epoch,
            UNKNOWN if self.loss is None else f"{self.loss:.4f}",
            self._judgement(),
            UNKNOWN if self.density is None else f"{100 * self.density:.2f}",
            UNKNOWN if pace is None else f"{pace:.3f}",
            eta,
        )

    def _judgement(self) -> str:
        if self.metric_name == ACCURACY:
            return UNKNOWN if self.accuracy is None else f"{100 * self.accuracy:.2f}"
        return UNKNOWN if self.metric is None else f"{self.metric:.4f}"


@dataclass
class Board:
    """All runs of an experiment by id, kept up to date by their events."""

    lines: dict[str, RunLine] = field(default_factory=dict)

    @classmethod
    def of(cls, specs: list[RunSpec]) -> Board:
        """A board on which all runs wait."""
        lines = {}
        for spec in specs:
            name = str(spec.sections["train"].get("metric", ACCURACY))
            lines[spec.id] = RunLine(spec.label, spec.seed, name.rpartition(":")[2])
        return cls(lines)

    @property
    def metric_header(self) -> str:
        """What the runs are judged by, as the header of a column."""
        names = {line.metric_name for line in self.lines.values()} or {ACCURACY}
        if len(names) > 1:
            return "metric"
        return "acc. %" if names == {ACCURACY} else names.pop()

    def update(self, event: Event) -> RunLine:
        """Take in an event; returns the line that changed."""
        line = self.lines[event.run]
        states: Mapping[str, State] = {"done": "done", "skipped": "skipped", "failed": "failed"}
        line.state = states.get(event.kind, "training")
        line.epochs = event.epochs or line.epochs
        line.message = _shorten(event.message or "")
        if event.kind == "done" and event.epochs is not None:
            line.epochs_done = event.epochs
        elif event.epoch is not None and event.batch is not None and event.batches:
            line.epochs_done = event.epoch - 1 + event.batch / event.batches
        line.seconds = event.seconds or line.seconds
        if event.kind == "resumed":
            line.marks.clear()
            line.resumed = True
        if event.kind in ("epoch", "resumed"):
            line.marks.append((line.epochs_done, line.seconds))
        for name in ("loss", "accuracy", "metric", "density"):
            if (value := getattr(event, name)) is not None:
                setattr(line, name, value)
        return line

    def forget(self, run: str) -> None:
        """A run began anew: what was known of its epochs is no longer so."""
        line = self.lines[run]
        self.lines[run] = RunLine(line.label, line.seed, line.metric_name)

    def training(self) -> list[RunLine]:
        """The runs at work."""
        return [line for line in self.lines.values() if line.state == "training"]

    def summary(self) -> str:
        """How many runs are in which state, and when all will be done, in one line."""
        count = len(self.lines)
        counts = Counter(line.state for line in self.lines.values())
        words = [
            f"{counts[state]} {state}"
            for state in ("done", "skipped", "failed", "training", "stopped", "waiting")
            if counts[state]
        ]
        seconds = self.seconds_left()
        end = "" if seconds is None else f", about {clock(seconds)} left"
        return f"{count} run{'s' * (count != 1)}: {', '.join(words)}{end}"

    def seconds_left(self) -> float | None:
        """Estimated wall time to the end: waiting runs are taken to be like the average of the known ones."""
        known = [(line.seconds_per_epoch, line.epochs) for line in self.lines.values() if line.epochs]
        seconds = [pace * epochs for pace, epochs in known if pace]
        active = self.training()
        if not seconds or not active:
            return None
        whole = sum(seconds) / len(seconds)
        left = [whole if line.seconds_left is None else line.seconds_left for line in active]
        waiting = sum(line.state == "waiting" for line in self.lines.values())
        return max(*left, (sum(left) + waiting * whole) / len(active))


def _shorten(message: str) -> str:
    """A message on one line; a very long one is cut, as the table at the end has it whole."""
    line = " ".join(message.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1].rstrip()}…"


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds (``1:05``), with hours when there are any (``2:00:09``)."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
