"""One run in its folder: skip it, resume it or start it; train; leave a result or the record of a failure."""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch

from supermask import data
from supermask._version import __version__
from supermask.core.arrays import save_arrays
from supermask.core.locking import locked
from supermask.core.masks import Masks
from supermask.errors import CheckpointError, RunError, RunHeldError, StoreError
from supermask.lab.channels import ChannelHistory, channel_values
from supermask.lab.checkpoint import of_another_version, parse_checkpoint, remove_checkpoint, save_checkpoint
from supermask.lab.config import DataSection, RunConfig
from supermask.lab.distributed import ALONE, World
from supermask.lab.events import Event, Kind, done_values
from supermask.lab.failures import describe, record_failure
from supermask.lab.files import canonical_json, make_folder, write_json
from supermask.lab.holding import Hold, holding
from supermask.lab.leases import Leasing, Sight, look
from supermask.lab.machine import environment, peak_memory, repeatable, reset_peak_memory
from supermask.lab.metrics import MetricsFile
from supermask.lab.patch import holds, leaves
from supermask.lab.plan import SPEC_SCHEMA, RunSpec
from supermask.lab.remote import Store
from supermask.lab.result import make_result, save_weights
from supermask.lab.store import RunFolder, read_json, read_result
from supermask.lab.train import PROGRESS_SECONDS, Trainer

Emit = Callable[[Event], None]
CHECKPOINT_FORMAT: Final = 1
ENV_SCHEMA: Final = 1


@dataclass(frozen=True)
class Job:
    """A run and where it goes.

    Args:
        spec: The run.
        folder: Its folder.
        lapsed: Another process's claim on it that was watched until it had lapsed.
    """

    spec: RunSpec
    folder: RunFolder
    lapsed: Sight | None = None

    @property
    def runs(self) -> tuple[Job, ...]:
        """The runs that it is about: itself."""
        return (self,)

    def event(self, kind: Kind, **values: Any) -> Event:
        """An event of this run."""
        return Event(kind=kind, run=self.spec.id, label=self.spec.label, seed=self.spec.seed, **values)


@dataclass
class Runner:
    """Does jobs one after the other in one process; what does not change the outcome of a run.

    Args:
        threads: Threads of torch.
        device: Where to train: ``cpu``, ``cuda``, ``cuda:1``.
        data_dir: Searched first for data sets.
        download: Whether data sets may be downloaded.
        checkpoint_seconds: A checkpoint is due this long after the last one, and taken at the next step or epoch.
        commit: Commit of the package's checkout, see :func:`supermask.lab.machine.checkout`.
        leasing: How runs are claimed where several hosts share their folders; None: the lock of this machine is enough.
        store: Where runs are resumed from, and copied to after checkpoints and at their end.
        world: The processes that train each run together; calls of the first, and :meth:`follow` of the others.
    """

    threads: int = 1
    device: str = "cpu"
    data_dir: Path | None = None
    download: bool = False
    checkpoint_seconds: float = 60.0
    commit: dict[str, Any] | None = None
    leasing: Leasing | None = None
    store: Store | None = None
    world: World = ALONE
    _data: dict[str, data.DataSet] = field(default_factory=dict)  # the last one loaded

    def __getstate__(self) -> dict[str, Any]:
        """What travels to another process: not the data."""
        return self.__dict__ | {"_data": {}}

    def __call__(self, job: Job, emit: Emit, stopping: Callable[[], bool]) -> None:
        """Do one job; its failure becomes an event and, where one can be written, a file; not an exception.

        Args:
            job: The run.
            emit: Gets the run's events.
            stopping: Asked now and then; True: take a checkpoint and raise KeyboardInterrupt.
        """
        try:
            make_folder(job.folder.path)
            with holding(job.folder, self.leasing, job.lapsed, stopping) as hold:
                self._do(job, hold, emit, stopping)
        except RunHeldError as error:
            emit(job.event("skipped", message=str(error)))
        except OSError as error:  # no folder or no lock, and so no place for a record
            emit(job.event("failed", message=describe(error, job.folder.path)))

    def _do(self, job: Job, hold: Hold, emit: Emit, stopping: Callable[[], bool]) -> None:
        with self._telling(job, hold, emit):
            if not self._is_done(job, hold, emit):
                self._train(job, hold, emit, stopping)

    def _is_done(self, job: Job, hold: Hold, emit: Emit) -> bool:
        """Whether the run is finished, here or in the store; then it is told."""
        if self.store is not None:
            self.store.fetch(job.folder, job.spec.experiment, hold.require)
        if finished := is_finished(job):
            emit(skip(job))
        return finished

    @contextmanager
    def _telling(self, job: Job, hold: Hold, emit: Emit) -> Iterator[None]:
        """What goes wrong inside becomes the last event of a run and, where one can be written, a file."""
        try:
            yield
        except RunHeldError:
            raise
        except StoreError as error:  # not of the run: what its folder holds is whole
            emit(job.event("failed", message=str(error)))
        except (Exception, SystemExit) as error:  # noqa: BLE001  (whatever it is, other runs go on)
            hold.require()
            message = describe(error, job.folder.path)
            emit(failure(job, message, traceback.format_exc()))

    def follow(self, job: Job, stopping: Callable[[], bool]) -> None:
        """Train a run together with the first rank, which writes all that remains of it.

        Args:
            job: The run.
            stopping: As for a call.

        Raises:
            Exception: The run failed, on this rank or on another one.
        """
        with tempfile.TemporaryDirectory() as scratch:
            own = replace(job, folder=RunFolder(Path(scratch)))
            self._fit(own, Hold(), lambda event: None, stopping)  # noqa: ARG005

    def _train(self, job: Job, hold: Hold, emit: Emit, stopping: Callable[[], bool]) -> None:
        self.world.from_first(job.spec.id)  # the others wait for it
        with self.world.together():
            pass  # all of them know this run
        watch, masks, starts = self._fit(job, hold, emit, stopping)
        self._finish(job, watch, masks, starts)

    def _fit(
        self, job: Job, hold: Hold, emit: Emit, stopping: Callable[[], bool]
    ) -> tuple[Watch, Masks, list[dict[str, Any]]]:
        """Train a run to its end; all ranks do, each with a folder of its own."""
        world = self.world
        with world.together():
            config, dataset = self._prepare(job)
        world.require_same("version of supermask or torch", f"{__version__}, {torch.__version__}")
        world.require_same("data set", dataset.checksum)
        with self._arithmetic(config) as device:
            with world.together():
                starts = self._record_start(job.folder, device, dataset)
                metrics = MetricsFile(job.folder.metrics, before_write=hold.require)
                trainer = Trainer(config, job.spec.seed, dataset, job.spec.folder, device, metrics, world)
            watch = Watch(job, trainer, hold, emit, stopping, self.checkpoint_seconds, self.store)
            with world.in_step(job.folder.path):
                watch.start()
                masks = trainer.run()
        return watch, masks, starts

    def _prepare(self, job: Job) -> tuple[RunConfig, data.DataSet]:
        """Bring a run's folder into order, and load what it trains on."""
        spec, folder, device = job.spec, job.folder, _device(self.device)
        torch.set_num_threads(self.threads)
        for leftover in folder.path.rglob(".*.part"):  # of a process that was killed while it wrote
            leftover.unlink(missing_ok=True)
        _forget_failure(folder)
        folder.checkpoint.parent.mkdir(exist_ok=True)
        folder.metrics.touch()
        write_json(folder.spec, spec.to_dict())  # flushes the names of the two to the disk as well
        config = spec.config()
        spec.require_same_code(config)
        dataset = self.load(config.data, spec)
        reset_peak_memory(device)  # the data is there, whichever run has loaded it
        return config, dataset

    @contextmanager
    def _arithmetic(self, config: RunConfig) -> Iterator[torch.device]:
        """The device to train on; inside, it computes so that a run can be repeated."""
        device = _device(self.device)
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            repeatable(device, exact=config.train.precision == "float32"),
        ):
            yield device

    def _finish(self, job: Job, watch: Watch, masks: Masks, starts: list[dict[str, Any]]) -> None:
        """Write what a run leaves, and tell that it is done."""
        spec, folder, trainer, hold = job.spec, job.folder, watch.trainer, watch.hold
        dataset, device = trainer.data, trainer.device
        hold.confirm()
        save_weights(folder.weights, trainer.model)
        masks.save(folder.masks)
        if trainer.results:
            save_arrays(folder.extras, trainer.results)
        trainer.story.save(folder.story)
        facts = {
            "n_train": len(dataset.train),
            "n_test": len(dataset.test),
            "n_validation": 0 if dataset.validation is None else len(dataset.validation),
            "input_shape": dataset.train.input_shape,
            "seconds": {"total": watch.seconds(), **trainer.seconds},
            "memory": peak_memory(device),
            "threads": self.threads,
            "device": str(device),
            "processes": self.world.size,
            "starts": starts,
            "rounds": trainer.sparsifier.round + 1,
            "notes": trainer.sparsifier.notes,
            "channels": trainer.channels,
        }
        result = make_result(spec, trainer.config, masks, trainer.model, trainer.metrics.lines, facts)
        hold.confirm()
        write_json(folder.result, result)
        remove_checkpoint(folder.checkpoint)
        if self.store is not None:
            self.store.push_finished(folder, spec.experiment)
        watch.emit(job.event("done", **done_values(result)))

    def load(self, section: DataSection, spec: RunSpec) -> data.DataSet:
        """The data set of a run, on the device; the last one is kept for the runs that follow."""
        files = {path: digest for path, digest in spec.hashes.items() if path.startswith("data.")}
        key = canonical_json([spec.sections["data"] | {"augment": None}, files])
        if key not in self._data:
            self._data.clear()
            self._data[key] = data.load(
                section.name,
                root=self.data_dir,
                device=self.device,
                normalize=section.normalize,
                download=self.download,
                validation=section.validation,
                **section.options,
            )
        return self._data[key]

    def _record_start(
        self, folder: RunFolder, device: torch.device, dataset: data.DataSet, **more: Any
    ) -> list[dict[str, Any]]:
        """Add this start to ``env.json``: a resumed run shows every machine and version it saw. Returns all starts."""
        start = environment(device, self.threads, self.commit, self.world.size) | more
        start["data"] = {"name": dataset.name, "checksum": dataset.checksum}
        before = []
        if folder.env.exists() and folder.checkpoint.exists():
            known = read_json(folder.env)
            if known.get("schema") != ENV_SCHEMA or not isinstance(known.get("starts"), list):
                raise RunError(
                    f"{folder.env} is not of this version (schema {known.get('schema')!r}, not {ENV_SCHEMA}): finish the "
                    f"run with the version that began it, or delete {folder.path} to train it again from its start"
                )
            before = known["starts"]
        starts = [*before, start]
        write_json(folder.env, {"schema": ENV_SCHEMA, "starts": starts})
        return starts


class Watch:
    """Looks at a training between its steps: progress, checkpoints, the wish to stop.

    Attributes:
        trainer: What is looked at.
        hold: The claim on its run.
        emit: Gets the run's events.
        share: Part of this process's time that is the run's.
    """

    def __init__(
        self,
        job: Job,
        trainer: Trainer,
        hold: Hold,
        emit: Emit,
        stopping: Callable[[], bool],
        checkpoint_seconds: float,
        store: Store | None,
    ) -> None:
        self._job = job
        self._store = store
        self.trainer = trainer
        self._world = trainer.world
        self.hold = hold
        self.emit = emit
        self.share = 1.0
        self._stopping = stopping
        self._every = checkpoint_seconds
        self._history = ChannelHistory(job.folder.channels) if trainer.traced is not None else None
        self._before = 0.0  # seconds of earlier starts
        self._started = self._saved = self._told = time.monotonic()
        trainer.look_every = min(PROGRESS_SECONDS, checkpoint_seconds)
        trainer.on_look = self._look
        trainer.on_epoch = self._epoch

    def seconds(self) -> float:
        """Wall time of this run, earlier starts included."""
        return self._before + (time.monotonic() - self._started) * self.share

    def start(self) -> None:
        """Resume from the checkpoint, if there is one."""
        path, trainer, world = self._job.folder.checkpoint, self.trainer, self._world
        with world.together():
            content = path.read_bytes() if path.exists() else None
        content = world.from_first(content)
        if content is None:
            trainer.metrics.restart()
            if self._history is not None:
                self._history.restart()
            self.emit(self._event("started"))
            return
        state = parse_checkpoint(content, path, trainer.device)
        if state["format"] != CHECKPOINT_FORMAT:
            raise CheckpointError(of_another_version(path, state["format"]))
        if state["run"] != self._job.spec.id:
            raise CheckpointError(
                f"the checkpoint {path} belongs to the run {state['run']}; delete the folder {path.parent} to train this "
                "run from its start"
            )
        try:
            trainer.load_state_dict(state["trainer"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:  # its checksum is right, so it is not damaged
            form = f"{CHECKPOINT_FORMAT}, but {type(error).__name__}: {error}"
            raise CheckpointError(of_another_version(path, form)) from error
        with world.together():
            trainer.metrics.restart(state["metrics_bytes"] if world.first else 0)
            if self._history is not None:
                self._history.restart(len(trainer.metrics.lines))
        self._before = state["seconds"]
        self.emit(self._event("resumed"))

    def _look(self) -> None:
        now = time.monotonic()
        if self._world.first_says(now - self._told >= PROGRESS_SECONDS):
            self._told = now
            self.emit(self._event("progress", loss=self.trainer.mean_loss()))
        self._save_if_due()

    def _epoch(self, line: dict[str, Any]) -> None:
        if self._history is not None:
            self._history.append(channel_values(self.trainer.sparsifier))
        self.emit(
            self._event(
                "epoch",
                epoch=line["epoch"],
                batch=self.trainer.batches,
                loss=line["train_loss"],
                accuracy=line["test_accuracy"],
                metric=line["test_metric"],
                density=self.trainer.sparsifier.density(),
                line=line,
            )
        )
        self._save_if_due()

    def _save_if_due(self) -> None:
        stop = self._world.any_says(self._stopping())
        if not stop and not self._world.first_says(time.monotonic() - self._saved >= self._every):
            return
        state = self.state()
        with self._world.together():
            if self._world.first:
                save_checkpoint(self._job.folder.checkpoint, state)
                self.copy()
        self._saved = time.monotonic()
        if stop:
            raise KeyboardInterrupt("stopped after a checkpoint")

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds.

        Raises:
            DivergedError: The training has; its state must not replace a good checkpoint.
            RunHeldError: Another process has taken the run over.
        """
        self.trainer.check_finite()
        self.hold.require()
        return {
            "format": CHECKPOINT_FORMAT,
            "run": self._job.spec.id,
            "trainer": self.trainer.state_dict(),
            "metrics_bytes": self.trainer.metrics.sync(),
            "seconds": self.seconds(),
        }

    def copy(self) -> None:
        """Copy the checkpoint to the store; where that fails the run goes on, as its own folder has it."""
        if self._store is None:
            return
        try:
            place = (self.trainer.epoch, self.trainer.batch)
            self._store.push_checkpoint(self._job.folder, self._job.spec.experiment, place)
        except StoreError as error:
            self.emit(self._event("progress", message=str(error)))

    def _event(self, kind: Kind, **values: Any) -> Event:
        trainer = self.trainer
        place = {
            "epoch": trainer.epoch,
            "epochs": trainer.first_epoch + trainer.section.epochs - 1,
            "batch": trainer.batch,
            "batches": trainer.batches,
            "seconds": self.seconds(),
        }
        return self._job.event(kind, **(place | values))


def is_finished(job: Job) -> bool:
    """Whether the run's result is there.

    Raises:
        RunError: The folder belongs to a run of another spec.
    """
    folder = job.folder
    if folder.spec.exists():
        there, here = read_json(folder.spec), job.spec.to_dict()
        if there.get("schema") != SPEC_SCHEMA:
            raise RunError(
                f"{folder.spec}: schema {there.get('schema')!r}, this version knows {SPEC_SCHEMA}; use the version that "
                "wrote it, move that folder away, or choose another --out"
            )
        keys = [] if there == here else _differences(there, here, job.spec.config())
        if keys:
            shown = ", ".join(f"{key} ({_at(there, key)!r} there, {_at(here, key)!r} now)" for key in keys)
            raise RunError(
                f"{folder.path} holds a run of the same id whose full spec differs: {shown}. A default has changed since; "
                "move or delete that folder, write the old value into the experiment, or choose another --out"
            )
    return folder.result.exists()


def skip(job: Job) -> Event:
    """The event of a run that is finished already; its result takes the label that the experiment uses now.

    Raises:
        RunError: The result is damaged or of another version; nothing was changed.
        OSError: The label cannot be written.
    """
    folder = job.folder
    result = read_result(folder)
    remove_checkpoint(folder.checkpoint)  # a process that is killed while it clears up leaves them
    _forget_failure(folder)
    if result["label"] != job.spec.label:
        write_json(folder.result, result | {"label": job.spec.label})
    accuracy = result["accuracy"]["last"]
    return job.event("skipped", message="finished already", accuracy=accuracy, seconds=result["seconds"]["total"])


def look_up(job: Job) -> Event | None:
    """The event of a run that is not trained: finished, or failed if what is in its folder cannot be read or belongs to
    another run, for it is neither used nor replaced then. None where it is missing. Raises nothing.
    """
    try:
        return skip(job) if is_finished(job) else None
    except (RunError, OSError) as error:
        return job.event("failed", message=describe(error, job.folder.path))


def failure(job: Job, message: str, trace: str = "") -> Event:
    """Write down that a run failed; the event that tells it. Raises nothing."""
    run = {"run": job.spec.id, "label": job.spec.label, "seed": job.spec.seed}
    return job.event("failed", message=record_failure(job.folder, run, message, trace))


def after_death(job: Job, why: str) -> Event:
    """The last event of a run whose process died: failed, or done if its result was there by then. Raises nothing."""
    try:
        with locked(job.folder.lock, wait=False) as held:
            if held and job.folder.result.exists():
                return job.event("done", **done_values(read_result(job.folder)))
            if not (held and look(job.folder.lease).free):  # another process has the run, and tells how it ends
                return job.event("failed", message=why)
            return failure(job, why)
    except (RunError, OSError) as error:
        return job.event("failed", message=f"{why} ({describe(error, job.folder.path)})")


def _forget_failure(folder: RunFolder) -> None:
    if folder.failed.exists():  # asked first: a read-only disk refuses to remove even what is not there
        folder.failed.unlink(missing_ok=True)


def _differences(there: dict[str, Any], here: dict[str, Any], config: RunConfig) -> list[str]:
    """Dotted keys whose values differ; a key that an older version did not know means its default there."""
    given = config.to_sections(defaults=False)
    return sorted(
        key
        for key in {*leaves(there), *leaves(here)}
        if _at(there, key) != _at(here, key) and (holds(there, key) or holds(given, key))
    )


def _at(value: Any, key: str) -> Any:
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RunError(f"device {name!r} cannot be used here ({error}); use --device cpu") from error
    return device
