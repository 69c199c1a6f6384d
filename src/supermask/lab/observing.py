"""Following runs that other processes train, on this machine or another one, by their folders alone.

Nothing is written and no lock is asked for: asking for one could turn away the process that is about to train the run.
Whether a run is at work is told by its files: they change with every epoch and every checkpoint. What changes between two
looks is at work whatever the clocks say; before the first change, the files' own times are believed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from supermask.errors import RunError
from supermask.lab.events import Event, done_values
from supermask.lab.plan import RunSpec
from supermask.lab.store import RunFolder, read_failure, read_result, run_folder
from supermask.lab.train_section import TrainSection

Observed = Literal["waiting", "training", "stopped", "done", "failed"]
SILENT_SECONDS: Final = 180.0  # a run is called stopped after so long without a sign, or after
SILENT_EPOCHS: Final = 3.0  # so many times what its last epoch took


@dataclass
class Seen:
    """What a look showed of one run.

    Args:
        state: ``waiting``: nobody has begun it. ``stopped``: begun, but its files do not change any more.
        events: What happened since the last look, in order.
        anew: Whether its epochs were taken back since then: it was resumed from an older checkpoint, or begun again.
        silent: Seconds since its files last changed; None where there are none, and at its end.
    """

    state: Observed
    events: list[Event] = field(default_factory=list)
    anew: bool = False
    silent: float | None = None


class Observer:
    """Looks at the folders of runs again and again.

    Args:
        specs: The runs.
        out: Folder of all results.
        wall: The time that files are dated with, in seconds.
        clock: A clock that is never set.
    """

    def __init__(
        self,
        specs: Sequence[RunSpec],
        out: Path,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        sections: dict[str, TrainSection] = {}  # one for all seeds of a label
        self._runs = [_Run(spec, run_folder(out, spec.experiment, spec.id), sections, wall, clock) for spec in specs]

    def look(self) -> dict[str, Seen]:
        """Run id -> what there is of it now."""
        return {run.spec.id: run.look() for run in self._runs}


class _Run:
    """One run, and how much of its files is known."""

    def __init__(
        self,
        spec: RunSpec,
        folder: RunFolder,
        sections: dict[str, TrainSection],
        wall: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self.spec = spec
        self._folder = folder
        self._sections = sections
        self._wall = wall
        self._clock = clock
        self._state: Observed = "waiting"
        self._read = 0  # bytes of the metrics
        self._times: tuple[int, ...] | None = None  # when its files last changed, in nanoseconds
        self._sign = 0.0  # when that was, by the clock
        self._pace = 0.0  # seconds of the last epoch
        self._trained = 0.0  # seconds of all
        self._told = ""  # the failure that was told

    def look(self) -> Seen:
        if self._state == "done":
            return Seen("done")
        try:
            seen = self._look()
        except (RunError, OSError) as error:  # damaged, of another version, or not to be read
            seen = self._failed(str(error))
        self._state = seen.state
        return seen

    def _look(self) -> Seen:
        folder = self._folder
        anew, events = self._new_epochs()
        if folder.result.exists():
            return Seen("done", [*events, self._event("done", **done_values(read_result(folder)))], anew)
        if folder.failed.exists():
            try:
                message = read_failure(folder)["error"]
            except FileNotFoundError:  # begun again just now
                message = ""
            if message:
                failed = self._failed(message)
                return Seen("failed", [*events, *failed.events], anew)
        self._told = ""
        times = self._file_times()
        if not times:
            return Seen("waiting", events, anew)
        now = self._clock()
        if self._times is None:
            self._sign = now - max(0.0, self._wall() - max(times) / 1e9)
        elif times != self._times:
            self._sign = now
        self._times = times
        silent = now - self._sign
        limit = max(SILENT_SECONDS, SILENT_EPOCHS * self._pace)
        state: Observed = "training" if silent < limit else "stopped"
        if state == "training" and self._state != "training" and not events:
            events = [self._event("started", epochs=self._epochs(0))]
        return Seen(state, events, anew, silent)

    def _new_epochs(self) -> tuple[bool, list[Event]]:
        """Whether epochs were taken back, and those that are new."""
        try:
            with self._folder.metrics.open("rb") as file:
                size = file.seek(0, 2)
                anew = size < self._read
                file.seek(0 if anew else self._read)
                content = file.read()
        except FileNotFoundError:
            anew, self._read = self._read > 0, 0
            return anew, []
        if anew:
            self._read, self._trained = 0, 0.0
        whole = content[: content.rfind(b"\n") + 1]  # the last line may be half written
        self._read += len(whole)
        return anew, [self._epoch(line) for line in whole.splitlines()]

    def _epoch(self, text: bytes) -> Event:
        try:
            line: dict[str, Any] = json.loads(text)
            epoch, seconds = int(line["epoch"]), float(line["seconds"])
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{self._folder.metrics} is damaged ({error}); delete the run folder to train it again"
            ) from error
        self._pace, self._trained = seconds - self._trained, seconds
        return self._event(
            "epoch",
            epoch=epoch,
            epochs=max(epoch, self._epochs(line.get("round", 0))),
            batch=1,
            batches=1,
            loss=line.get("train_loss"),
            accuracy=line.get("test_accuracy"),
            metric=line.get("test_metric", line.get("test_accuracy")),
            seconds=seconds,
        )

    def _epochs(self, last: int) -> int:
        """Planned epochs of all rounds up to one."""
        if last == 0:
            return int(self.spec.sections["train"]["epochs"])
        if self.spec.label not in self._sections:
            self._sections[self.spec.label] = self.spec.config().train
        return sum(self._sections[self.spec.label].of_round(number).epochs for number in range(last + 1))

    def _failed(self, message: str) -> Seen:
        """A failure, told once."""
        events = [] if message == self._told else [self._event("failed", message=message)]
        self._told = message
        return Seen("failed", events)

    def _file_times(self) -> tuple[int, ...]:
        """When the files that a run at work writes last changed."""
        folder = self._folder
        files = [folder.env, folder.metrics, folder.checkpoint, *sorted(folder.lease.glob("*"))]
        times = []
        for file in files:
            try:
                times.append(file.stat().st_mtime_ns)
            except FileNotFoundError:  # not there yet, or removed just now
                continue
        return tuple(times)

    def _event(self, kind: Any, **values: Any) -> Event:
        return Event(kind=kind, run=self.spec.id, label=self.spec.label, seed=self.spec.seed, **values)
