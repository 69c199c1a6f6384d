"""What the runs of a plan will cost in time: from runs that were trained before, or from a few steps of each setting.

A *setting* is everything of a spec but its seed. What is known of it is looked for in this order:

1. ``finished``: the mean time of its finished runs in the results folder (any experiment's, any seed);
2. ``unfinished``: the pace of its unfinished runs, times the epochs;
3. ``similar``: the pace of finished runs of the same model, data and batch size, times the epochs, and what these runs
   took beside their epochs;
4. ``unknown``.

Only runs on the same kind of device count. :func:`measure` replaces all of it by a short training.
"""

from __future__ import annotations

import heapq
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

import torch

from supermask.errors import RunError
from supermask.lab.executors.local import run_jobs
from supermask.lab.files import canonical_json
from supermask.lab.machine import default_workers, repeatable
from supermask.lab.metrics import MetricsFile
from supermask.lab.plan import RunSpec
from supermask.lab.runner import Runner
from supermask.lab.store import RunFolder, read_json, read_metrics, run_folder
from supermask.lab.train import Trainer

Source = Literal["finished", "unfinished", "similar", "measured", "unknown"]
_Expected = tuple[float | None, Source, int]  # seconds of a run, where they come from, runs they are the mean of

WARM_STEPS: Final = 3  # not timed: the first steps allocate
MEASURED_SECONDS: Final = 2.0  # of training, of each setting
LEAST_STEPS: Final = 10


@dataclass(frozen=True)
class Known:
    """A run in the results folder that tells something about time.

    Args:
        id: Its id.
        setting: Its spec without the seed, as text.
        like: Its model, data and batch size, as text.
        on_cpu: Whether it was trained on the CPU.
        finished: Whether it is done.
        overhead: Seconds before and after its epochs; 0 while it is not finished.
        trained: Seconds of its epochs so far.
        epochs: How many they are.
    """

    id: str
    setting: str
    like: str
    on_cpu: bool
    finished: bool
    overhead: float
    trained: float
    epochs: int


@dataclass(frozen=True)
class SettingCost:
    """What the runs of one label cost.

    Args:
        label: Their label.
        runs: How many there are.
        left: How many are not finished.
        seconds_per_run: Expected wall time of a whole run; None where nothing is known.
        source: Where that comes from.
        n: Runs it is the mean of; 1 where it was measured.
        seconds_left: Expected wall time of what is left of all its runs; None where it is not known.
    """

    label: str
    runs: int
    left: int
    seconds_per_run: float | None
    source: Source
    n: int
    seconds_left: float | None


@dataclass(frozen=True)
class Cost:
    """What a plan costs.

    Args:
        workers: Worker processes.
        seconds: Expected wall time of all that is left; None where a setting with runs left is unknown.
        settings: By label, in the order of the plan.
    """

    workers: int
    seconds: float | None
    settings: tuple[SettingCost, ...]

    @classmethod
    def of(
        cls,
        specs: Sequence[RunSpec],
        out: Path,
        *,
        workers: int | None = None,
        device: str = "cpu",
        measured: Mapping[str, float] | None = None,
    ) -> Self:
        """Estimate a plan.

        Args:
            specs: The runs, in the order in which they are trained.
            out: Results folder; also searched for runs of other experiments.
            workers: Worker processes; None: one a core, or one on a GPU. 0 (none) counts as 1.
            device: Where the runs will be trained.
            measured: Label -> seconds a run, from :func:`measure`; it goes before what is in the results folder.
        """
        known = [run for run in known_runs(out) if run.on_cpu == device.startswith("cpu")]
        by_label: dict[str, list[RunSpec]] = {}
        for spec in specs:
            by_label.setdefault(spec.label, []).append(spec)
        whole: dict[str, _Expected] = {label: _expect(own, known) for label, own in by_label.items()}
        whole |= {label: (seconds, "measured", 1) for label, seconds in (measured or {}).items()}
        rests: dict[str, float | None] = {}  # of the runs that are left, in the order of the plan
        for spec in specs:
            folder, seconds = run_folder(out, spec.experiment, spec.id), whole[spec.label][0]
            if not folder.result.exists():
                rests[spec.id] = None if seconds is None else max(0.0, seconds - _spent(folder))
        settings = []
        for label, own in by_label.items():
            seconds, source, n = whole[label]
            left = [rests[spec.id] for spec in own if spec.id in rests]
            settings.append(SettingCost(label, len(own), len(left), seconds, source, n, _sum(left)))
        count = min(default_workers(device) if workers is None else max(1, workers), max(1, len(rests)))
        known_rests = [rest for rest in rests.values() if rest is not None]
        total = wall_time(known_rests, count) if len(known_rests) == len(rests) else None
        return cls(count, total, tuple(settings))


def known_runs(out: Path) -> list[Known]:
    """Every run at or below a folder that has trained at least one epoch; none if the folder does not exist.

    Runs whose files are damaged, or of a version that wrote other keys, tell nothing.
    """
    found = []
    for path in sorted(out.rglob("spec.json")):
        try:
            found += _what_it_tells(RunFolder(path.parent))
        except (RunError, KeyError, TypeError, IndexError):
            continue
    return found


def wall_time(seconds: Iterable[float], workers: int) -> float:
    """When the last run ends, if each next one goes to the first worker that is free."""
    free = [0.0] * workers
    for run in seconds:
        heapq.heappush(free, heapq.heappop(free) + run)
    return max(free)


def measure(
    specs: Sequence[RunSpec],
    runner: Runner,
    *,
    workers: int | None = None,
    on_measured: Callable[[str, float], None] | None = None,
) -> dict[str, float]:
    """Train a few steps of each setting, in worker processes as its runs will be, and scale them to whole runs.

    Methods that train in several rounds are taken to train once, and a plateau rule to end no training early.

    Args:
        specs: Runs; the first one of each label is measured.
        runner: Says on which device, with how many threads and with which data.
        workers: Processes that measure at once; None: one a core, or one on a GPU.
        on_measured: Gets each label and its seconds a run.

    Returns:
        Label -> expected seconds of a run.

    Raises:
        RunError: A setting cannot be trained; says why.
    """
    firsts: dict[str, RunSpec] = {}
    for spec in specs:
        firsts.setdefault(spec.label, spec)
    measured: dict[str, float] = {}

    def take(message: tuple[str, float | None, str]) -> None:
        label, seconds, why = message
        if seconds is None:
            raise RunError(f"the runs {label!r} cannot be measured: {why}")
        measured[label] = seconds
        if on_measured is not None:
            on_measured(label, seconds)

    if firsts:
        run_jobs(
            _Measure(runner),
            list(firsts.values()),
            workers=min(max(1, default_workers(runner.device) if workers is None else workers), len(firsts)),
            threads=runner.threads,
            on_message=take,
            on_death=lambda spec, why: take((spec.label, None, why)),
        )
    return measured


@dataclass(frozen=True)
class _Measure:
    """The task of a worker that measures."""

    runner: Runner

    def __call__(self, spec: RunSpec, send: Callable[[Any], None], stopping: Callable[[], bool]) -> None:
        try:
            send((spec.label, seconds_per_run(spec, self.runner, stopping), ""))
        except Exception as error:  # noqa: BLE001  (whatever it is, the driver tells it)
            send((spec.label, None, str(error) or type(error).__name__))


class _EnoughError(Exception):
    """Ends a training that was timed for long enough."""


class _Stopwatch:
    """Times the steps of a training between its first few and the last one it lets pass."""

    def __init__(self, trainer: Trainer, stopping: Callable[[], bool]) -> None:
        self._trainer = trainer
        self._stopping = stopping
        self._steps = 0
        self._start = self._end = 0.0
        trainer.look_every = 0.0
        trainer.on_look = self._look

    def seconds_per_step(self) -> float:
        """Mean over the timed steps."""
        return (self._end - self._start) / (self._steps - WARM_STEPS)

    def _look(self) -> None:
        if self._stopping():
            raise KeyboardInterrupt
        self._steps += 1
        if self._steps == WARM_STEPS:
            self._start = self._now()
        elif self._steps >= WARM_STEPS + LEAST_STEPS and self._now() - self._start >= MEASURED_SECONDS:
            self._end = self._now()
            raise _EnoughError

    def _now(self) -> float:
        """Time spent on anything but testing."""
        if self._trainer.device.type == "cuda":
            torch.cuda.synchronize(self._trainer.device)
        return time.monotonic() - self._trainer.seconds["evaluate"]


def seconds_per_run(spec: RunSpec, runner: Runner, stopping: Callable[[], bool] = lambda: False) -> float:
    """Train a few steps of a run in this process, test once, and scale both to the whole run. Leaves nothing behind."""
    torch.set_num_threads(runner.threads)
    device = torch.device(runner.device)
    config = spec.config()
    data = runner.load(config.data, spec)
    generators = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    arithmetic = repeatable(device, exact=config.train.precision == "float32")
    with tempfile.TemporaryDirectory() as folder, generators, arithmetic:
        trainer = Trainer(config, spec.seed, data, spec.folder, device, MetricsFile(Path(folder) / "metrics.jsonl"))
        watch = _Stopwatch(trainer, stopping)
        try:
            trainer.run()
        except _EnoughError:
            trainer.seconds["evaluate"] = 0.0
            for split in (data.test, *([] if data.validation is None else [data.validation])):
                trainer.evaluate(split)
            tests = math.ceil(config.train.epochs / config.train.test_every)
            steps = config.train.epochs * trainer.batches
            return steps * watch.seconds_per_step() + tests * trainer.seconds["evaluate"]
        return sum(trainer.seconds.values())  # it is so short that all of it was trained


def _what_it_tells(folder: RunFolder) -> list[Known]:
    spec = read_json(folder.spec)
    finished = folder.result.exists()
    if finished:
        result = read_json(folder.result)
        seconds, epochs, device = result["seconds"], result["epochs"], result["device"]
        trained = seconds["train"] + seconds["evaluate"]
        overhead = max(0.0, seconds["total"] - trained)
    elif lines := read_metrics(folder):
        overhead, trained, epochs = 0.0, lines[-1]["seconds"], lines[-1]["epoch"]
        device = read_json(folder.env)["starts"][-1]["device"]
    else:
        return []
    on_cpu = str(device).startswith("cpu")
    return [Known(folder.path.name, _setting(spec), _like(spec), on_cpu, finished, overhead, trained, epochs)]


def _expect(own: Sequence[RunSpec], known: Sequence[Known]) -> _Expected:
    """Seconds of a whole run of one label, where they come from, and of how many runs."""
    content, ids = own[0].to_dict(), {spec.id for spec in own}
    setting, like, epochs = _setting(content), _like(content), content["train"]["epochs"]
    # by id as well: the spec of a run of an older version lacks keys that are new since
    same = [run for run in known if run.id in ids or run.setting == setting]
    if done := [run.overhead + run.trained for run in same if run.finished]:
        return sum(done) / len(done), "finished", len(done)
    if same:
        return _scale(same, epochs), "unfinished", len(same)
    if similar := [run for run in known if run.like == like and run.finished]:
        return _scale(similar, epochs), "similar", len(similar)
    return None, "unknown", 0


def _scale(runs: Sequence[Known], epochs: int) -> float:
    """Seconds of a run of so many epochs: the mean overhead, and the epochs at the pace of all runs together."""
    pace = sum(run.trained for run in runs) / sum(run.epochs for run in runs)
    return sum(run.overhead for run in runs) / len(runs) + epochs * pace


def _setting(content: Mapping[str, Any]) -> str:
    return canonical_json({key: value for key, value in content.items() if key != "seed"})


def _like(content: Mapping[str, Any]) -> str:
    """What decides the time of an epoch, apart from the method; keys that older versions did not write get their defaults."""
    train, data = content["train"], {"augment": None, "validation": 0} | content["data"]
    kind = [
        train["batch_size"],
        train.get("passes", 1),
        train.get("precision", "float32"),
        train.get("channels_last", False),
    ]
    return canonical_json([content["model"], data, *kind])


def _spent(folder: RunFolder) -> float:
    """Seconds that a checkpoint has behind it, as far as its epochs tell."""
    lines = read_metrics(folder) if folder.checkpoint.exists() else []
    return float(lines[-1]["seconds"]) if lines else 0.0


def _sum(values: Iterable[float | None]) -> float | None:
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total
