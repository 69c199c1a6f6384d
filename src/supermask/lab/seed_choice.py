"""Whether the seeds of a setting are trained as one batch: tried on a few steps, chosen, and written down.

What is chosen changes no id and no run folder, only how long the runs take and the last bits of their sums. So it is measured
once for a setting, a size of the batch, a device, a number of threads and a machine, and kept in :data:`FILE` in the
experiment's results folder: a resumed experiment goes on as it began.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from supermask.errors import RunError
from supermask.lab.executors.local import run_jobs
from supermask.lab.executors.processes import Local
from supermask.lab.executors.protocol import Executor
from supermask.lab.files import make_folder, write_json
from supermask.lab.group import Group
from supermask.lab.machine import default_workers, environment, repeatable
from supermask.lab.metrics import MetricsFile
from supermask.lab.plan import RunSpec
from supermask.lab.result import describe_setting
from supermask.lab.runner import Job, Runner
from supermask.lab.store import read_json
from supermask.lab.vectorized import SeedTrainer, Together, refusal

FILE: Final = "seeds.json"
SCHEMA: Final = 1
WORTH: Final = 1.05  # a gain below it is not worth the memory of several models at once
MEASURED_SECONDS: Final = 2.0
MOST_SECONDS: Final = 30.0
LEAST_ROUNDS: Final = 3
_STEPS: Final = 3  # of each run, one way, before the other way has its turn
_SLOW_SECONDS: Final = 2.0  # of a round with one step: then no more than one
_TOLERANCE: Final = 1e-3  # of losses and statistics: sums of float32 in another order
_GRADIENT_TOLERANCE: Final = (
    0.1  # of all gradients: at kinks (a maximum of equal numbers) a last bit can decide otherwise
)


@dataclass(frozen=True, kw_only=True)
class SeedChoice:
    """How the seeds of one label are trained.

    Args:
        label: Label of the runs.
        setting: What they share, see :func:`supermask.lab.result.describe_setting`.
        seeds: Runs of a batch.
        where: Device, threads and machine it holds for.
        vectorized: Whether as one batch.
        ratio: Time one by one over time as one batch, the median over a few turns; None where it was not measured.
        reason: Why they cannot be one batch; empty where they can.
    """

    label: str
    setting: str
    seeds: int
    where: Mapping[str, Any] = field(default_factory=dict)
    vectorized: bool
    ratio: float | None = None
    reason: str = ""

    def sentence(self) -> str:
        """The choice, for people."""
        if self.ratio is None:
            return f"{self.label}: seeds train one by one: {self.reason}"
        how = f"as one batch of {self.seeds} they are {self.ratio:.2f} times as fast (measured on a few steps)"
        return f"{self.label}: seeds train {'as one batch' if self.vectorized else 'one by one'}: {how}"


OnChoice = Callable[[SeedChoice], None]


def arrange(
    jobs: Sequence[Job], runner: Runner, executor: Executor, folder: Path, on_choice: OnChoice | None
) -> list[Job]:
    """The jobs of an experiment with ``seeds: vectorized``, seeds that train as one batch as one job.

    Args:
        jobs: Runs without a result, in the order in which to begin them.
        runner: Says on which device and with how many threads.
        executor: Does the jobs.
        folder: The experiment's results folder.
        on_choice: Gets the choice for every label.

    Raises:
        RunError: The file of earlier choices is damaged or cannot be written, or no process can be started.
    """
    by_id = {job.spec.id: job for job in jobs}
    parts = batches([job.spec for job in jobs], runner, executor)
    choices = choose({label: own[0] for label, own in parts.items()}, runner, executor, folder, on_choice)
    arranged: list[tuple[int, Job]] = []
    places = {job.spec.id: index for index, job in enumerate(jobs)}
    for label, own in parts.items():
        for part in own:
            made = [by_id[spec.id] for spec in part]
            if choices[label].vectorized and len(part) > 1:
                made = [_group(made, choices[label].ratio)]
            arranged += [(places[job.spec.id], job) for job in made]
    return [job for _, job in sorted(arranged, key=lambda placed: placed[0])]


def choose(
    specs: Mapping[str, Sequence[RunSpec]],
    runner: Runner,
    executor: Executor,
    folder: Path,
    on_choice: OnChoice | None = None,
) -> dict[str, SeedChoice]:
    """Choose for each label: as an earlier command did, or by measuring now; what is new is written down.

    Args:
        specs: Label -> the runs of one batch.
        runner: See :func:`arrange`.
        executor: See :func:`arrange`.
        folder: See :func:`arrange`.
        on_choice: See :func:`arrange`.

    Raises:
        RunError: As :func:`arrange`.
    """
    known = read_choices(folder)
    where = _where(runner)
    chosen: dict[str, SeedChoice] = {}
    untold: list[_Batch] = []
    for label, own in specs.items():
        needless, setting = _needless(own, executor), _setting(own[0])
        asked = SeedChoice(label=label, setting=setting, seeds=len(own), where=where, vectorized=False, reason=needless)
        before = _find(known, setting, len(own), where)
        if needless:
            chosen[label] = asked
        elif before is not None:
            chosen[label] = dataclasses.replace(before, label=label)
        else:
            untold.append(_Batch(asked, tuple(own)))
    for made, failed in _measure_all(untold, runner, executor):
        chosen[made.label] = made
        if not failed:
            known.append(made)
    if untold:
        _write(folder / FILE, known)
    if on_choice is not None:
        for label in specs:
            on_choice(chosen[label])
    return chosen


def batches(specs: Sequence[RunSpec], runner: Runner, executor: Executor) -> dict[str, list[list[RunSpec]]]:
    """Label -> its runs in batches, the largest first: as many as there are processes for them, none of a single run.

    Args:
        specs: Runs that are to be trained.
        runner: See :func:`arrange`.
        executor: See :func:`arrange`.
    """
    by_label: dict[str, list[RunSpec]] = {}
    for spec in specs:
        by_label.setdefault(spec.label, []).append(spec)
    workers = getattr(executor, "workers", None)
    processes = default_workers(runner.device) if workers is None else max(1, workers)
    found = {}
    for label, own in by_label.items():
        count = max(1, min(math.ceil(processes / len(by_label)), len(own) // 2))
        small, more = divmod(len(own), count)
        ends = [small * index + min(index, more) for index in range(count + 1)]
        found[label] = [own[begin:end] for begin, end in itertools.pairwise(ends)]
    return found


def known_choices(specs: Mapping[str, Sequence[RunSpec]], runner: Runner, folder: Path) -> dict[str, SeedChoice]:
    """Label -> the choice of an earlier command, as far as there is one.

    Raises:
        RunError: The file of earlier choices is damaged.
    """
    known, where = read_choices(folder), _where(runner)
    found = {label: _find(known, _setting(own[0]), len(own), where) for label, own in specs.items()}
    return {label: dataclasses.replace(one, label=label) for label, one in found.items() if one is not None}


def read_choices(folder: Path) -> list[SeedChoice]:
    """What earlier commands chose.

    Raises:
        RunError: The file is damaged, or of another version.
    """
    path = folder / FILE
    if not path.exists():
        return []
    content = read_json(path)
    try:
        if content["schema"] == SCHEMA:
            return [SeedChoice(**one) for one in content["choices"]]
    except (KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error}); delete it, and it is measured again") from error
    raise RunError(f"{path} is of another version (schema {content['schema']!r}); delete it, and it is measured again")


def _write(path: Path, choices: Sequence[SeedChoice]) -> None:
    try:
        make_folder(path.parent)
        write_json(path, {"schema": SCHEMA, "choices": [dataclasses.asdict(one) for one in choices]})
    except OSError as error:
        way = "choose another results folder by --out, or make this one writable"
        raise RunError(f"{path} cannot be written ({error.strerror}): {way}") from error


@dataclass(frozen=True)
class _Batch:
    """What is to be measured.

    Args:
        asked: The choice without its outcome.
        specs: The runs.
    """

    asked: SeedChoice
    specs: tuple[RunSpec, ...]


@dataclass(frozen=True)
class _Measure:
    """The task of a worker that measures."""

    runner: Runner

    def __call__(self, batch: _Batch, send: Callable[[Any], None], stopping: Callable[[], bool]) -> None:
        try:
            ratio, reason = measure(batch.specs, self.runner, stopping)
        except Exception as error:  # noqa: BLE001  (the runs will meet it too, and tell it)
            send(_not_tried(batch, str(error) or type(error).__name__))
            return
        gain = ratio is not None and ratio >= WORTH
        send((dataclasses.replace(batch.asked, vectorized=gain, ratio=ratio, reason=reason), False))


def _not_tried(batch: _Batch, why: str) -> tuple[SeedChoice, bool]:
    return dataclasses.replace(batch.asked, reason=f"a few steps could not be trained ({why})"), True


def _measure_all(batches: Sequence[_Batch], runner: Runner, executor: Executor) -> list[tuple[SeedChoice, bool]]:
    """The choices, measured one after the other (side by side they would disturb each other), and which failed."""
    found: list[tuple[SeedChoice, bool]] = []

    if isinstance(executor, Local) and executor.workers == 0:
        threads = torch.get_num_threads()
        try:
            for batch in batches:
                _Measure(runner)(batch, found.append, lambda: False)
        finally:
            torch.set_num_threads(threads)
    elif batches:
        run_jobs(
            _Measure(runner),
            batches,
            workers=1,
            threads=runner.threads,
            on_message=found.append,
            on_death=lambda batch, why: found.append(_not_tried(batch, why)),
        )
    return found


def measure(
    specs: Sequence[RunSpec], runner: Runner, stopping: Callable[[], bool] = lambda: False
) -> tuple[float | None, str]:
    """Train a few steps of several runs in this process, one by one and as one batch in turns. Leaves nothing behind.

    Args:
        specs: The runs; they differ in nothing but their seed.
        runner: Says on which device, with how many threads and with which data.
        stopping: True: raise KeyboardInterrupt.

    Returns:
        Time one by one over time as one batch; or None and the reason why they cannot be one batch.

    Raises:
        SupermaskError: They cannot be trained one by one either.
    """
    torch.set_num_threads(runner.threads)
    config, device = specs[0].config(), torch.device(runner.device)
    if (reason := refusal(config)) is not None:
        return None, reason
    data = runner.load(config.data, specs[0])
    generators = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with tempfile.TemporaryDirectory() as folder, generators, repeatable(device, exact=True):
        metrics = MetricsFile(Path(folder) / "metrics.jsonl")
        trainers = [SeedTrainer(config, spec.seed, data, spec.folder, device, metrics) for spec in specs]
        together = Together(trainers)
        together.each(SeedTrainer.next_round)
        together.each(SeedTrainer.begin_epoch)
        if (reason := _disagreement(together)) is not None:
            return None, reason
        ratio = _time(together, stopping)
    return (ratio, "") if ratio is not None else (None, "a run has too few steps to tell which way is faster")


def _disagreement(together: Together) -> str | None:
    """What is wrong with the losses, gradients and buffers of runs as one batch; None where they are those one by one."""
    trainers = together.trainers
    x, y = trainers[0].load(trainers[0].order())
    before = [[buffer.clone() for buffer in trainer.model.buffers()] for trainer in trainers]
    alone = []
    for trainer in trainers:
        loss = trainer.objective(x.clone(), y)
        loss.backward()
        alone.append(_outcome(trainer, loss))
    for trainer, buffers in zip(trainers, before, strict=True):
        for buffer, value in zip(trainer.model.buffers(), buffers, strict=True):
            buffer.copy_(value)
    try:
        losses = together.losses(x.clone(), y)
        losses.sum().backward()
    except Exception as error:  # noqa: BLE001  (of torch.func, or of a model or loss that it cannot map)
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "random operation" in text:
            return "the model draws random numbers while it trains (dropout), and a batch of seeds has no generator for each"
        return f"torch.func cannot map this model or loss over seeds ({text})"
    for trainer, loss, expected in zip(trainers, losses, alone, strict=True):
        differ = [
            name
            for name, value, wanted in zip(
                ("losses", "gradients", "buffers"), _outcome(trainer, loss), expected, strict=True
            )
            if not _close(value, wanted, _GRADIENT_TOLERANCE if name == "gradients" else _TOLERANCE)
        ]
        if differ:
            return f"the model's {' and '.join(differ)} differ when seeds are one batch"
    return None


def _outcome(trainer: SeedTrainer, loss: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, gradients and buffers of a run, as three vectors; it has no gradients afterwards."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trainer.model.parameters()]
    trainer.optimizer.zero_grad()
    return loss.detach().reshape(1), _vector(gradients), _vector(list(trainer.model.buffers()))


def _vector(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([torch.zeros(0), *(tensor.detach().double().flatten().cpu() for tensor in tensors)])


def _close(value: Tensor, wanted: Tensor, tolerance: float) -> bool:
    finite = torch.isfinite(wanted)  # a threshold may be infinite
    return float((value - wanted)[finite].norm()) <= tolerance * float(wanted[finite].norm())


def _time(together: Together, stopping: Callable[[], bool]) -> float | None:
    """The median ratio of a few turns; None where the runs have too few steps for one."""
    first = together.trainers[0]
    left = first.section.epochs * first.batches
    left -= 2
    if left < 2:
        return None
    ratios: list[float] = []
    slow = sum(_turn(together, 1)) > _SLOW_SECONDS  # not counted: the first steps allocate
    steps = 1 if slow else max(1, min(_STEPS, left // (2 * LEAST_ROUNDS)))
    began = time.monotonic()
    while left >= 2 * steps:
        if stopping():
            raise KeyboardInterrupt
        alone, batch = _turn(together, steps)
        left -= 2 * steps
        ratios.append(alone / batch)
        spent = time.monotonic() - began
        if spent >= MOST_SECONDS or (spent >= MEASURED_SECONDS and len(ratios) >= LEAST_ROUNDS):
            break
    return statistics.median(ratios)


def _turn(together: Together, steps: int) -> tuple[float, float]:
    """Seconds of some steps of every run, one by one and as one batch."""
    trainers = together.trainers
    order = trainers[0].order()
    began = _now(trainers[0])
    for trainer in trainers:
        for _ in range(steps):
            trainer.step_alone(*trainer.load(order))
            trainer.batch += 1
            trainer.story.after_step()
            trainer.batch %= trainer.batches_a_pass
    between = _now(trainers[0])
    for _ in range(steps):
        together.step(order)
        for trainer in trainers:
            trainer.batch %= trainer.batches_a_pass
    return between - began, _now(trainers[0]) - between


def _now(trainer: SeedTrainer) -> float:
    if trainer.device.type == "cuda":
        torch.cuda.synchronize(trainer.device)
    return time.monotonic()


def _needless(specs: Sequence[RunSpec], executor: Executor) -> str:
    """Why nothing has to be measured; empty where it has."""
    if len(specs) < 2:
        return "only one is left to train"
    if not isinstance(executor, Local):
        return f"only the executor local makes batches of seeds, and this is {type(executor).__name__.lower()}"
    if executor.pack:
        return "pack puts several runs on the GPU, each in a process of its own"
    return ""


def _group(jobs: Sequence[Job], ratio: float | None) -> Group:
    first, *others = jobs
    return Group(first.spec, first.folder, first.lapsed, tuple(others), ratio)


def _where(runner: Runner) -> dict[str, Any]:
    machine = environment(torch.device(runner.device), runner.threads, None)
    return {key: machine[key] for key in ("host", "cpu", "device", "threads", "torch")}


def _setting(spec: RunSpec) -> str:
    return str(describe_setting(spec, spec.config())["setting"])


def _find(known: Sequence[SeedChoice], setting: str, seeds: int, where: Mapping[str, Any]) -> SeedChoice | None:
    """What was chosen for batches of at least as many runs: when a few are left, they go on as all of them began."""
    fitting = [one for one in known if (one.setting, one.where) == (setting, where) and one.seeds >= seeds]
    return min(fitting, key=lambda one: one.seeds, default=None)
