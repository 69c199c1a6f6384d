"""How a run trains: the ``train`` section, and what later rounds do otherwise."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from supermask.errors import ConfigError, HyperparameterError
from supermask.lab.patch import merge
from supermask.lab.reference import is_reference, resolve
from supermask.lab.validate import build, choose, either, plain, require_known, require_mapping
from supermask.optim import OPTIMIZERS, SCHEDULES, Constant, OptimizerConfig, Plateau, Schedule, WarmUp

Better = Literal["higher", "lower"]
LOSSES: Final = ("cross-entropy", "mse")
METRICS: Final[dict[str, Better]] = {"accuracy": "higher", "mae": "lower", "rmse": "lower", "r2": "higher"}


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Clipping of the loss's gradient before each step: g * min(1, norm / (|g| + 1e-6)), with the Euclidean |g|.

    Args:
        norm: The largest norm, > 0, in the unit of the gradient (not of a scaled one).
        over: "all": |g| is that of all trained tensors together; "tensor": each tensor is clipped by its own.
    """

    norm: float
    over: Literal["all", "tensor"] = "all"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.norm) and self.norm > 0):
            raise HyperparameterError(f"norm must be a finite number > 0 (1 is usual), got {self.norm}")


@dataclass(frozen=True, kw_only=True)
class Distill:
    """Learning from an earlier round of the same run: T = ``temperature``, w = ``weight``, and H the cross-entropy::

        loss = (1 - w) * (train.loss) + w * T^2 * H(softmax(teacher / T), softmax(student / T))

    The teacher is the network as it was at the end of that round, in evaluation mode, on the same augmented examples; the
    scores of both are what the models return. In rounds up to the teacher's own it does nothing.

    **Source:** Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015, arXiv:1503.02531; the
    defaults are those of BAR (Lemaire et al., CVPR 2019).

    Args:
        teacher: Round whose last network teaches the later ones, counted from 0.
        temperature: T > 0.
        weight: w in (0, 1].
    """

    teacher: int = 0
    temperature: float = 4.0
    weight: float = 0.9

    def __post_init__(self) -> None:
        if self.teacher < 0:
            raise HyperparameterError(f"teacher must be a round >= 0, got {self.teacher}; 0 is the first one")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise HyperparameterError(f"temperature must be a finite number > 0 (4 is usual), got {self.temperature}")
        if not 0 < self.weight <= 1:
            raise HyperparameterError(
                f"weight must be in (0, 1] (0.9 is usual), got {self.weight}; 1 is the teacher alone"
            )


@dataclass(frozen=True, kw_only=True)
class TrainSection:
    """How a run trains.

    Args:
        epochs: How often the model is trained on the data and tested, per round.
        optimizer: One of ``sgd``, ``sgdw``, ``adam``, ``adamw``.
        schedule: One of ``constant``, ``exponential``, ``cosine``, ``step``, ``one-cycle``, ``plateau``, or ``warm-up``,
            which holds another one as ``then``.
        batch_size: Examples a step; the last batch of an epoch may be smaller and is kept.
        eval_batch_size: Examples at once while testing; does not change what is measured.
        shuffle: True: a new order each epoch; "once": one random order for all epochs; False: the order of the data.
        data_order: "per-seed", or "shared": all seeds see the batches of seed 0.
        loss: "cross-entropy" (log-softmax, mean over the batch), "mse" (to one-hot labels, or to targets that are
            numbers), or ``package.module:function`` taking (output, target) and returning the batch mean.
        test_every: Test (and validate) after every so many epochs, and always after the last one of a round.
        passes: Passes over the training data that make one epoch; each has its own order where ``shuffle`` is true.
        precision: "float32", or "bfloat16" or "float16" for torch's autocast while training and testing. Parameters
            stay float32. The loss is scaled for float16, and a step whose gradients are not finite is left out: it
            moves neither weights nor the schedule.
        channels_last: Keep four-dimensional weights with their channels innermost (torch.channels_last), which convolutions
            then hand on to what follows them. Often faster; changes results in their last bits.
        clip: Clip gradients; null: do not.
        metric: What the run is judged by: "accuracy" for classes; "mae", "rmse" or "r2" for numbers; or
            ``package.module:function``, called once with all outputs (float32) and targets of a split.
        better: Which of two values of the metric is better, "higher" or "lower"; null: what its name says. A reference
            needs it.
        accumulate: Parts that a batch is computed in, one after the other, for batches that memory does not hold; their
            gradients are added up before the step. Batch norm takes its statistics from each part.
        distill: Learn from an earlier round, for methods that train in several; null: do not.
        rounds: Round -> the whole section that holds from this round on, until the next one that is named here. A file
            gives what differs from the rest of ``train``, see :data:`OF_A_ROUND`.
    """

    epochs: int
    optimizer: OptimizerConfig
    schedule: Schedule | Plateau = field(default_factory=Constant)
    batch_size: int = 128
    eval_batch_size: int = 500
    shuffle: bool | Literal["once"] = True
    data_order: Literal["per-seed", "shared"] = "per-seed"
    loss: str = "cross-entropy"
    test_every: int = 1
    passes: int = 1
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = False
    clip: Clip | None = None
    metric: str = "accuracy"
    better: Better | None = None
    accumulate: int = 1
    distill: Distill | None = None
    rounds: Mapping[int, TrainSection] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "eval_batch_size", "test_every", "passes", "accumulate"):
            if getattr(self, name) < 1:
                raise HyperparameterError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.accumulate > self.batch_size:
            raise HyperparameterError(
                f"accumulate is the number of parts of a batch and batch_size is {self.batch_size}, got {self.accumulate}"
            )
        if self.loss not in LOSSES and not is_reference(self.loss):
            raise HyperparameterError(
                f"loss must be one of {', '.join(LOSSES)} or a reference package.module:function, got {self.loss!r}"
            )
        if self.metric not in METRICS and not is_reference(self.metric):
            raise HyperparameterError(
                f"metric must be one of {', '.join(METRICS)} or a reference package.module:function, got {self.metric!r}"
            )
        known = METRICS.get(self.metric, self.better)
        if known is None:
            raise HyperparameterError(f"better is missing: say whether higher or lower is better for {self.metric}")
        if self.better not in (None, known):
            raise HyperparameterError(f"better is {self.better!r}, but for {self.metric} {known} is better; remove it")
        if self.distill is not None and self.loss == "mse":
            raise HyperparameterError(
                "distill compares scores of classes, and loss is 'mse'; set loss to cross-entropy"
            )

    @property
    def better_is(self) -> Better:
        """Which of two values of the metric is better."""
        better = METRICS.get(self.metric, self.better)
        assert better is not None
        return better

    def of_round(self, number: int) -> TrainSection:
        """The settings of a round, counted from 0."""
        named = [first for first in self.rounds if first <= number]
        return self.rounds[max(named)] if named else self

    @property
    def teachers(self) -> set[int]:
        """The rounds whose last network some later round may learn from."""
        sections = [self, *self.rounds.values()]
        return {section.distill.teacher for section in sections if section.distill is not None}


OF_A_ROUND: Final = ("epochs", "optimizer", "schedule", "clip", "test_every", "distill")
"""What a round can have of its own; the rest of ``train`` is one for the whole run."""


def parse_train(section: object, folder: Path) -> TrainSection:
    """Judge a raw ``train`` section.

    Args:
        section: What the file says.
        folder: Where references are looked up.

    Raises:
        ConfigError: Names the dotted key.
    """
    values = require_mapping(section, "train")
    rounds = require_mapping(values.pop("rounds", {}), "train.rounds")
    train = _parse(values, "train")
    for key in ("loss", "metric"):
        if is_reference(getattr(train, key)):
            resolve(getattr(train, key), folder, f"train.{key}")
    later = {}
    for name, patch in rounds.items():
        path = f"train.rounds.{name}"
        if not re.fullmatch("[1-9][0-9]*", name):
            way = "; round 0 is what the train section itself says" if name == "0" else ""
            raise ConfigError(f"{path}: expected the number of a round, from 1 on{way}")
        given = require_mapping({} if patch is None else patch, path)
        if others := [key for key in given if key not in OF_A_ROUND]:
            fields = [f.name for f in dataclasses.fields(TrainSection)]
            if others[0] in fields:
                raise ConfigError(
                    f"{path}.{others[0]}: is one for all rounds; a round can have {', '.join(OF_A_ROUND)}"
                )
            require_known(given, OF_A_ROUND, path)
        later[int(name)] = one = _parse(merge(values, given), path)
        if "distill" in given and one.distill is not None and one.distill.teacher >= int(name):
            raise ConfigError(
                f"{path}.distill.teacher: must be an earlier round than {name}, got {one.distill.teacher}; 0 is the first"
            )
    return dataclasses.replace(train, rounds=dict(sorted(later.items())))


def train_section(train: TrainSection, convert: Callable[[Any], Any]) -> dict[str, Any]:
    """What :func:`parse_train` reads.

    Args:
        train: The section.
        convert: From a dataclass to a mapping of its fields, all or those that differ from their defaults.
    """
    section = _plain_section(train, convert)
    everything = _plain_section(train, plain)
    rounds = {}
    for number, one in train.rounds.items():
        own, whole = _plain_section(one, convert), _plain_section(one, plain)
        rounds[str(number)] = {key: own.get(key, whole[key]) for key in OF_A_ROUND if whole[key] != everything[key]}
    return section | ({"rounds": rounds} if rounds else {})


def _plain_section(train: TrainSection, convert: Callable[[Any], Any]) -> dict[str, Any]:
    """A section without its rounds."""
    section = {key: value for key, value in convert(dataclasses.replace(train, rounds={})).items() if key != "rounds"}
    section["optimizer"] = {"name": train.optimizer.name, **convert(train.optimizer)}
    if "schedule" in section:
        section["schedule"] = _schedule_section(train.schedule, convert)
    return section


def _parse(values: Mapping[str, Any], path: str) -> TrainSection:
    """A section without ``rounds``."""
    names = [f.name for f in dataclasses.fields(TrainSection)]
    require_known(values, names, path)
    if "optimizer" not in values:
        raise ConfigError(
            f"{path}.optimizer: missing; it has no default (a section whose name is {either(OPTIMIZERS)})"
        )
    values = dict(values)
    chosen = {"optimizer": choose(values.pop("optimizer"), OPTIMIZERS, f"{path}.optimizer")}
    if "schedule" in values:
        chosen["schedule"] = _parse_schedule(values.pop("schedule"), f"{path}.schedule")
    return build(TrainSection, values, path, ready=chosen)


def _parse_schedule(section: object, path: str) -> Schedule | Plateau:
    """A schedule by name; that of a warm-up holds another one."""
    values, ready = require_mapping(section, path), {}
    if values.get("name") == WarmUp.name:
        if "then" not in values:
            raise ConfigError(f"{path}.then: missing; it has no default (a section whose name is {either(SCHEDULES)})")
        ready["then"] = _parse_schedule(values.pop("then"), f"{path}.then")
    chosen: Schedule | Plateau = choose(values, SCHEDULES, path, ready=ready)
    return chosen


def _schedule_section(schedule: Schedule | Plateau, convert: Callable[[Any], Any]) -> dict[str, Any]:
    """What :func:`_parse_schedule` reads."""
    section = {"name": schedule.name, **convert(schedule)}
    if isinstance(schedule, WarmUp):
        section["then"] = _schedule_section(schedule.then, convert)
    return section
