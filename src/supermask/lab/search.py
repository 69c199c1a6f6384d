"""Search for hyper-parameters with optuna. A trial is one variant of the experiment: ordinary runs, in ordinary run folders."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import torch

from supermask.core.locking import locked
from supermask.deploy import compile as compile_engine
from supermask.errors import ConfigError, MissingExtraError, RunError
from supermask.lab.artefact import load_artefact
from supermask.lab.distributed import launched
from supermask.lab.files import canonical_json, require_writable
from supermask.lab.load import Experiment
from supermask.lab.patch import overlap
from supermask.lab.plan import RunSpec, expand
from supermask.lab.reference import is_reference
from supermask.lab.runner import Job, look_up
from supermask.lab.search_section import Range, SearchSection, as_tried, parse_search
from supermask.lab.store import RunFolder, read_result, run_folder
from supermask.measure.latency import latency

Train = Callable[[Experiment, list[RunSpec]], object]
FILE: Final = "search.journal"  # in the experiment's results folder
_RUNS: Final = "runs"  # attribute of a trial: the ids of its runs
_VALUES: Final = "values"  # attribute of a trial: key -> value as tried


@dataclass(frozen=True)
class Trial:
    """One setting that was tried.

    Args:
        number: Counted from 0.
        values: Dotted key -> value.
        objectives: Name -> value, the mean over its runs; None where a run failed.
        runs: Their ids.
        best: Whether no other trial is at least as good in every objective and better in one.
    """

    number: int
    values: dict[str, Any]
    objectives: dict[str, float] | None
    runs: tuple[str, ...]
    best: bool


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Args:
        trials: All of them, in the order in which they were proposed.
        objectives: Their names.
        metric: What the runs are judged by: the ``accuracy`` of the objectives.
    """

    trials: tuple[Trial, ...]
    objectives: tuple[str, ...]
    metric: str


def search(
    experiment: Experiment,
    *,
    out: Path,
    train: Train,
    space: object = None,
    trials: int | None = None,
    at_once: int = 4,
) -> Found:
    """Try settings until there are as many trials as wanted; those of earlier calls count.

    Args:
        experiment: What to search in; it varies seeds only, and a trial is the mean over them.
        out: Results folder. The search is kept in ``out/<experiment name>/search.journal``.
        train: Trains the runs that are missing, of an experiment and its plan.
        space: A raw ``search`` section; None: the experiment's own.
        trials: Replaces the section's.
        at_once: How many settings are proposed before their results are known.

    Returns:
        All trials of this search.

    Raises:
        ConfigError: The section is wrong, or the experiment cannot be searched as asked.
        RunError: The results folder cannot be written; another process searches in it, or trains a run of this search; or
            a run's folder cannot be used; or torchrun started this process.
        MissingExtraError: optuna is not installed.
    """
    if launched():
        raise RunError("a search is one process that starts others: give the command without torchrun")
    raw = experiment.search if space is None else space
    if not raw:
        raise ConfigError("search: there is nothing to search; write a `search` section, or name a file by --space")
    section, over = parse_search(raw)
    if trials is not None:
        section = dataclasses.replace(section, trials=trials)
    if at_once < 1 or section.trials < 1:
        raise ConfigError(f"a search needs at least 1 trial, at least 1 at once, got {section.trials} and {at_once}")
    _require_searchable(experiment, section)
    place = out / experiment.name
    require_writable(place)
    with _held(place), _quiet_optuna() as optuna:
        study = _open(optuna, place / FILE, experiment, section)
        space_of = {key: _distribution(optuna, value) for key, value in over.items()}
        begun = _resume(optuna, study)
        while begun or len(study.trials) < section.trials:
            while len(begun) < min(at_once, section.trials - len(study.trials) + len(begun)):
                begun.append(_propose(study, space_of, experiment))
            _evaluate(optuna, study, begun, experiment, section, out, train)
            begun = []
        metric = _first_spec(experiment, section).sections["train"]["metric"]
        return Found(_trials(optuna, study, section), section.objectives, metric)


def _require_searchable(experiment: Experiment, section: SearchSection) -> None:
    if others := [key for key in experiment.vary if key != "seed"]:
        raise ConfigError(
            f"vary.{others[0]}: an experiment that is searched varies seeds only; put it into search.over"
        )
    if clash := overlap(list(section.over), list(experiment.settings)):
        raise ConfigError(f"--set {clash[1]}: search.over.{clash[0]} sets this value; remove one of them")
    sections = _first_spec(experiment, section).sections
    if "accuracy" in section.objectives and not sections["data"].get("validation"):
        raise ConfigError(
            "search.objectives: accuracy is measured on held-out training examples, never on the test set, and "
            "data.validation is 0; set it, for example data.validation: 5000"
        )
    if "latency" in section.objectives and is_reference(sections["model"]["name"]):
        raise ConfigError("search.objectives: latency is measured on models that ship only; remove it")


def _first_spec(experiment: Experiment, section: SearchSection) -> RunSpec:
    """A run of the search, with the first value of each list and the low end of each range."""
    first = {key: value[0] if isinstance(value, list) else value["low"] for key, value in section.over.items()}
    return expand(_with(experiment, [first]))[0]


def _with(experiment: Experiment, values: Sequence[Mapping[str, Any]]) -> Experiment:
    """The experiment with one variant for each setting."""
    variants = {_label(one): dict(one) for one in values}
    return dataclasses.replace(experiment, vary={**experiment.vary, "variant": variants})


def _label(values: Mapping[str, Any]) -> str:
    last = [key.rpartition(".")[2] for key in values]
    return " ".join(
        f"{key.rpartition('.')[2] if last.count(key.rpartition('.')[2]) == 1 else key}={value}"
        for key, value in values.items()
    )


@contextmanager
def _held(place: Path) -> Any:
    with locked(place / "search.lock", wait=False) as held:
        if not held:
            raise RunError(f"another process searches in {place}; wait for it, or choose another --out")
        yield


@contextmanager
def _quiet_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError("optuna", "search", "supermask search") from error
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield optuna
    finally:
        optuna.logging.set_verbosity(before)


def _open(optuna: Any, file: Path, experiment: Experiment, section: SearchSection) -> Any:
    """The study of exactly this search: another experiment, space or objective is another study in the same file."""
    asked = [experiment.base, experiment.vary, section.over, section.objectives, section.seed]
    name = hashlib.sha256(canonical_json(asked).encode()).hexdigest()[:12]
    _mend(file)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file)))
    better = _first_spec(experiment, section).config().train.better_is
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        directions=[
            "maximize" if objective == "accuracy" and better == "higher" else "minimize"
            for objective in section.objectives
        ],
        load_if_exists=True,
    )
    # a sampler forgets its random state between commands: with the old seed it would propose what it has proposed
    study.sampler = optuna.samplers.TPESampler(seed=(section.seed + 1000 * len(study.trials)) % 2**32)
    return study


def _mend(file: Path) -> None:
    """Cut off half a line, of a process that was killed or a disk that was full: what follows it could not be read."""
    if not file.exists():
        return
    with file.open("r+b") as journal:
        content = journal.read()
        if (whole := content.rfind(b"\n") + 1) < len(content):
            journal.truncate(whole)
            os.fsync(journal.fileno())


def _distribution(optuna: Any, value: Range | list[Any]) -> Any:
    if isinstance(value, list):
        return optuna.distributions.CategoricalDistribution(value)
    if value.whole:
        return optuna.distributions.IntDistribution(
            int(value.low), int(value.high), log=value.log, step=int(value.step or 1)
        )
    return optuna.distributions.FloatDistribution(value.low, value.high, log=value.log, step=value.step)


def _propose(study: Any, space: Mapping[str, Any], experiment: Experiment) -> Any:
    trial = study.ask(fixed_distributions=dict(space))
    values = {key: as_tried(value) for key, value in trial.params.items()}
    trial.set_user_attr(_VALUES, values)
    trial.set_user_attr(_RUNS, [spec.id for spec in expand(_with(experiment, [values]))])
    return study.trials[trial.number]


def _resume(optuna: Any, study: Any) -> list[Any]:
    """Trials that were proposed before the search was stopped; one that was not even written down is given up."""
    running = study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
    for trial in running:
        if _RUNS not in trial.user_attrs:
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return [trial for trial in running if _RUNS in trial.user_attrs]


def _evaluate(
    optuna: Any,
    study: Any,
    begun: Sequence[Any],
    experiment: Experiment,
    section: SearchSection,
    out: Path,
    train: Train,
) -> None:
    """Train what is missing of some trials, and tell the study what came of them.

    Raises:
        RunError: A run has neither ended nor failed; its trial is tried again.
    """
    asked = _with(experiment, [trial.user_attrs[_VALUES] for trial in begun])
    specs = expand(asked)
    train(asked, specs)
    jobs = {spec.id: Job(spec, run_folder(out, experiment.name, spec.id)) for spec in specs}
    undecided = []
    for trial in begun:
        runs = [jobs[run] for run in trial.user_attrs[_RUNS] if run in jobs]
        why = [text for job in runs if (text := _undecided(job))]
        values = [] if why else _objectives(runs, section, len(trial.user_attrs[_RUNS]))
        if why:
            undecided += why
        elif values and all(map(math.isfinite, values)):
            study.tell(trial.number, values)
        else:
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    if undecided:
        raise RunError(f"{undecided[0]}; then give the same command again, which tries this setting again")


def _undecided(job: Job) -> str | None:
    """Why a run can neither be measured nor be called a failure, and the way out; None if it can."""
    event = look_up(job)
    if event is not None:
        return event.message if event.kind == "failed" else None
    if job.folder.failed.exists():
        return None
    return (
        f"the run in {job.folder.path} has not ended: wait for the process that trains it, or see above what is wrong"
    )


def _objectives(jobs: Sequence[Job], section: SearchSection, wanted: int) -> list[float]:
    """Means over runs; none where one of them failed, or is another now, as the code that it names has changed."""
    if len(jobs) < wanted or not all(job.folder.result.exists() for job in jobs):
        return []
    return [fmean(_measure(job.folder, name) for job in jobs) for name in section.objectives]


def _measure(folder: RunFolder, objective: str) -> float:
    """One objective of a finished run, NaN where it has none; nothing that was measured on the test set.

    Raises:
        RunError: The result is of an earlier version, which did not record it.
    """
    if objective == "latency":
        return _seconds(folder)
    result = read_result(folder)
    section, key = ("metric", "validation") if objective == "accuracy" else ("bytes", "entropy")
    if key not in result.get(section, {}):
        raise RunError(
            f"{folder.result} is of an earlier version and has no {section}.{key}; delete the folder to train this run again"
        )
    value = result[section][key]
    return math.nan if value is None else float(value)


def _seconds(folder: RunFolder) -> float:
    artefact = load_artefact(str(folder.path))
    assert artefact.input_shape is not None, "models that ship know their inputs"
    example = torch.randn(1, *artefact.input_shape, generator=torch.Generator().manual_seed(0))
    engine, x = compile_engine(artefact.model, example, batch_sizes=(1,), threads=1), example.numpy()
    return latency({"engine": lambda: engine(x)})["engine"].p50


def _trials(optuna: Any, study: Any, section: SearchSection) -> tuple[Trial, ...]:
    complete = optuna.trial.TrialState.COMPLETE
    best = {trial.number for trial in study.best_trials} if study.get_trials(states=(complete,)) else set()
    return tuple(
        Trial(
            number=trial.number,
            values=trial.user_attrs[_VALUES],
            objectives=dict(zip(section.objectives, trial.values)) if trial.state == complete else None,
            runs=tuple(trial.user_attrs[_RUNS]),
            best=trial.number in best,
        )
        for trial in study.trials
        if _RUNS in trial.user_attrs
    )
