"""From the events of runs to trackers, which may be slow or broken without any run taking notice."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Self

from supermask.errors import ConfigError
from supermask.lab.events import ENDS, Event
from supermask.lab.patch import leaves
from supermask.lab.plan import RunSpec
from supermask.lab.trackers.mlflow import MLflow
from supermask.lab.trackers.protocol import TrackedRun, Tracker
from supermask.lab.trackers.tensorboard import TensorBoard
from supermask.lab.trackers.trackio import Trackio
from supermask.lab.trackers.wandb import WeightsAndBiases
from supermask.lab.validate import suggest

TRACKERS: Final[dict[str, Callable[[str | None], Tracker]]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
}
CLOSE_SECONDS: Final = 60.0  # what trackers get at the end to pass on what they still hold
_NO_VALUES: Final = ("epoch", "round", "step")  # of a line of metrics.jsonl: places


def open_tracker(text: str) -> Tracker:
    """The tracker of `NAME` or `NAME:TARGET`.

    Raises:
        ConfigError: There is none of this name.
        MissingExtraError: Its package is missing.
    """
    name, _, target = text.partition(":")
    if name not in TRACKERS:
        raise ConfigError(f"--track {text}: no tracker is called {name!r}; {suggest(name, TRACKERS)}")
    return TRACKERS[name](target or None)


class Tracking:
    """Takes in events and hands them on, to each tracker in a thread of its own. A context manager.

    Args:
        trackers: What to call each, and the tracker.
        specs: The runs; events of others are left out.
        trouble: Gets a message, once for each tracker that fails; from the tracker's thread.
        close_seconds: What trackers get at the end.
    """

    def __init__(
        self,
        trackers: Sequence[tuple[str, Tracker]],
        specs: Iterable[RunSpec],
        trouble: Callable[[str], None],
        close_seconds: float = CLOSE_SECONDS,
    ) -> None:
        self._specs = {spec.id: spec for spec in specs}
        self._runs: dict[str, TrackedRun] = {}
        self._seconds = close_seconds
        self._lines = [_Line(name, tracker, trouble) for name, tracker in trackers]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for line in self._lines:
            line.put(line.tracker.close)
            line.put(None)
        for line in self._lines:
            line.wait(self._seconds)

    def __call__(self, event: Event) -> None:
        """Take in an event; returns at once. What another driver tells its own trackers is left to it."""
        if event.elsewhere:
            return
        if event.kind in ("started", "resumed") and event.run in self._specs:
            self._runs[event.run] = run = _tracked(self._specs[event.run], event.epoch or 1)
            self._put(lambda tracker: tracker.start(run))
        elif event.kind == "epoch" and event.run in self._runs:
            run, epoch, values = self._runs[event.run], event.epoch or 1, _values(event)
            self._put(lambda tracker: tracker.epoch(run, epoch, values))
        elif event.kind in ENDS and event.run in self._runs:
            # one that is skipped with its seconds was finished by another process, which had taken it over
            finished = event.kind == "done" or (event.kind == "skipped" and event.seconds is not None)
            run, why = self._runs.pop(event.run), None if finished else event.message or event.kind
            self._put(lambda tracker: tracker.end(run, why))

    def _put(self, call: Callable[[Tracker], None]) -> None:
        for line in self._lines:
            line.put(lambda tracker=line.tracker: call(tracker))  # type: ignore[misc]


class _Line:
    """A tracker, and the calls that wait for it."""

    def __init__(self, name: str, tracker: Tracker, trouble: Callable[[str], None]) -> None:
        self.tracker = tracker
        self._name = name
        self._trouble = trouble
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # a daemon: a server that never answers must not keep the program from ending
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def put(self, call: Callable[[], None] | None) -> None:
        if self._thread.is_alive():  # otherwise it has failed, and what it is told would only pile up
            self._calls.put(call)

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._trouble(
                f"--track {self._name}: did not take everything within {seconds:.0f} s; metrics.jsonl in the run folders "
                "is whole"
            )

    def _work(self) -> None:
        try:
            while (call := self._calls.get()) is not None:
                call()
        except Exception as error:  # noqa: BLE001  (of a program of others; the runs go on)
            self._trouble(
                f"--track {self._name}: {type(error).__name__}: {error}. It is told nothing more; the runs go on, and "
                "metrics.jsonl in their folders is whole"
            )


def _tracked(spec: RunSpec, first_epoch: int) -> TrackedRun:
    settings = {}
    for key in leaves(spec.sections):
        value = spec.sections
        for part in key.split("."):
            value = value[part]
        settings[key] = value
    return TrackedRun(
        id=spec.id,
        experiment=spec.experiment,
        label=spec.label,
        seed=spec.seed,
        settings={"seed": spec.seed, **settings},
        first_epoch=first_epoch,
    )


def _values(event: Event) -> dict[str, float]:
    """The numbers of an epoch by the names of ``metrics.jsonl``, and the density."""
    numbers = dict(event.line or {}) | {"density": event.density}
    return {
        key: float(value)
        for key, value in numbers.items()
        if key not in _NO_VALUES and isinstance(value, int | float) and not isinstance(value, bool)
    }
