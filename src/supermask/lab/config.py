"""The sections of one run as frozen dataclasses. What may stand in an experiment file is what is written here.

The ``method`` section is the method's own dataclass; ``model`` and ``data`` take the options of the model or data set
they name.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import torch

from supermask import models
from supermask.core.arrays import Layout
from supermask.core.method import Method
from supermask.core.registry import method_class, methods
from supermask.data import DATASETS
from supermask.data.augment import AUGMENTATIONS, Augmentation, CropFlip
from supermask.errors import ConfigError, HyperparameterError
from supermask.lab.reference import is_reference, resolve
from supermask.lab.validate import (
    build,
    check,
    file_fields,
    join,
    non_default,
    plain,
    require_known,
    require_mapping,
    show,
    suggest,
)
from supermask.models import MODELS
from supermask.optim import OPTIMIZERS, SCHEDULES, Constant, OptimizerConfig, Plateau, Schedule, WarmUp
from supermask.tensors.initializers import Distribution, Initializer, Rule

T = TypeVar("T")

DATA_KEYS: Final = ("normalize", "augment", "validation")  # what every data set can be given
DATA_FILES: Final = {"npz": "file", "folder": "path"}  # data set -> its option that names a file or folder


@dataclass(frozen=True, kw_only=True)
class InitSection:
    """Where the weights of a model start; methods that redraw (supermasks) replace their targets afterwards.

    Args:
        keep: True leaves what the model's own constructor drew. The default for a model by reference
            (``package.module:name``), unless the section says what to draw; shipped models are redrawn.
        distribution: See :class:`~supermask.tensors.initializers.Initializer`.
        rule: The same.
        gain: The same.
        weights: A .safetensors or .npz file with the targets' initial weights.
        scores: A file with the targets' initial scores, for methods that learn scores.
        layout: How these files store matrices and kernels: ``torch`` or ``tf``.
    """

    keep: bool = False
    distribution: Distribution = "uniform"
    rule: Rule = "elu"
    gain: float | None = None
    weights: str | None = field(default=None, metadata={"file": True})
    scores: str | None = field(default=None, metadata={"file": True})
    layout: Layout = "torch"

    def __post_init__(self) -> None:
        initializer = self.initializer
        if self.keep and initializer != InitSection().initializer:
            raise HyperparameterError("keep: true leaves the model's own weights; remove distribution, rule and gain")

    @property
    def initializer(self) -> Initializer:
        """What draws the weights unless ``keep`` is set."""
        return Initializer(distribution=self.distribution, rule=self.rule, gain=self.gain)


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
        clip: Clip gradients; null: do not.
        metric: What the run is judged by: "accuracy" for classes; "mae", "rmse" or "r2" for numbers; or
            ``package.module:function``, called once with all outputs (float32) and targets of a split.
        better: Which of two values of the metric is better, "higher" or "lower"; null: what its name says. A reference
            needs it.
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
    clip: Clip | None = None
    metric: str = "accuracy"
    better: Better | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "eval_batch_size", "test_every", "passes"):
            if getattr(self, name) < 1:
                raise HyperparameterError(f"{name} must be at least 1, got {getattr(self, name)}")
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

    @property
    def better_is(self) -> Better:
        """Which of two values of the metric is better."""
        better = METRICS.get(self.metric, self.better)
        assert better is not None
        return better


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """A model by name or reference, with all its options (a reference: those that are given)."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """A data set by name, with its options.

    Args:
        name: Its name in the catalogue.
        normalize: See :mod:`supermask.data.normalize`.
        augment: How training batches are augmented: ``crop-flip`` (meant without a name), ``random-resized-crop`` or
            ``subset-crop-flip``, see :mod:`supermask.data.augment`.
        validation: How many training examples are held out to choose settings by; the same ones for all runs.
        options: What the data set itself takes.
    """

    name: str
    normalize: Literal["image", "dataset", "imagenet", "none"] = "image"
    augment: Augmentation | None = None
    validation: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.validation < 0:
            raise HyperparameterError(f"validation must be a number of training examples >= 0, got {self.validation}")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run's outcome, beside its seed."""

    model: ModelSection
    init: InitSection
    data: DataSection
    method: Method
    train: TrainSection

    def to_sections(self, *, defaults: bool = True) -> dict[str, Any]:
        """The sections as a file would hold them; without ``defaults``, only values that differ from theirs."""
        convert = plain if defaults else non_default
        model, data = dict(self.model.options), dict(self.data.options)
        if not defaults:
            known = MODELS[self.model.name].options if self.model.name in MODELS else {}
            model = {key: value for key, value in model.items() if key not in known or plain(known[key]) != value}
            data = {key: value for key, value in data.items() if plain(DATASETS[self.data.name].options[key]) != value}
        section = {key: value for key, value in convert(self.data).items() if key != "options"}
        if self.data.augment is not None:
            section["augment"] = _augment_section(self.data.augment, convert)
        train = convert(self.train)
        train["optimizer"] = {"name": self.train.optimizer.name, **convert(self.train.optimizer)}
        if "schedule" in train:
            train["schedule"] = _schedule_section(self.train.schedule, convert)
        return {
            "model": {"name": self.model.name, **plain(model)},
            "init": convert(self.init),
            "data": section | plain(data),
            "method": {"name": self.method.name, **convert(self.method)},
            "train": train,
        }

    def files(self) -> dict[str, Path]:
        """Dotted key -> file or folder, of everything that the run reads beside the data sets it knows."""
        found = {}
        for section, value in (("init", self.init), ("method", self.method)):
            for name in _file_fields(value):
                if getattr(value, name) is not None:
                    found[f"{section}.{name}"] = Path(getattr(value, name))
        option = DATA_FILES.get(self.data.name)
        if option is not None:
            found[f"data.{option}"] = Path(self.data.options[option])
        return found

    def references(self) -> dict[str, str]:
        """Dotted key -> ``package.module:name``, of the user's own code in use."""
        named = {"model.name": self.model.name, "train.loss": self.train.loss, "train.metric": self.train.metric}
        return {key: value for key, value in named.items() if is_reference(value)}


def parse_run(sections: Mapping[str, Any], folder: Path) -> RunConfig:
    """Judge the raw sections of one run.

    Args:
        sections: Section name -> raw section.
        folder: Where relative paths and references are looked up.

    Raises:
        ConfigError: Anything is missing, unknown, of the wrong type or out of range; names the dotted key.
    """
    for name in ("model", "data", "method", "train"):
        if name not in sections:
            raise ConfigError(f"{name}: this section is missing")
    model = _parse_model(sections["model"], folder)
    config = RunConfig(
        model=model,
        init=_locate(_parse_init(sections.get("init", {}), model.name), folder, "init"),
        data=_parse_data(sections["data"], folder),
        method=_locate(_parse_method(sections["method"]), folder, "method"),
        train=_parse_train(sections["train"], folder),
    )
    _check_length(config)
    return config


def section_keys(sections: Mapping[str, Any], path: str) -> list[str] | None:
    """The keys that a raw section can hold beside its name, by what it names.

    Args:
        sections: Section name -> raw section, of one run.
        path: ``method``, ``train.optimizer``, ...

    Returns:
        None where everything goes (a model by reference); nothing where the name is missing or unknown.
    """
    section: Any = sections
    for part in path.split("."):
        section = section.get(part, {}) if isinstance(section, Mapping) else {}
    name = section.get("name") if isinstance(section, Mapping) else None
    fixed: dict[str, type[Any]] = {"init": InitSection, "train": TrainSection}
    named: dict[str, Mapping[str, type[Any]]] = {"train.optimizer": OPTIMIZERS, "train.schedule": SCHEDULES}
    if path in fixed:
        return [f.name for f in file_fields(fixed[path])]
    if not isinstance(name, str):
        return []
    if path == "model":
        return None if is_reference(name) else list(MODELS[name].options) if name in MODELS else []
    if path == "data":
        return [*DATA_KEYS, *DATASETS[name].options] if name in DATASETS else []
    if path == "method":
        return [f.name for f in file_fields(method_class(name))] if name in methods() else []
    return [f.name for f in file_fields(named[path][name])] if name in named[path] else []


def _parse_model(section: object, folder: Path) -> ModelSection:
    options = require_mapping(section, "model")
    name = _take_name(options, "model")
    if is_reference(name):
        resolve(name, folder, "model.name")
        return ModelSection(name=name, options=check(dict[str, Any], options, "model"))
    if name not in MODELS:
        raise ConfigError(f"model.name: no model is called {name!r}; {suggest(name, MODELS)}")
    known = MODELS[name].options
    require_known(options, known, "model")
    options = _complete(known, options, "model")
    try:
        with torch.device("meta"):  # takes no memory: judges the values of the options only
            models.build(name, **options)
    except ConfigError as error:
        raise ConfigError(f"model: {error}") from error
    return ModelSection(name=name, options=options)


def _parse_init(section: object, model: str) -> InitSection:
    """The ``init`` section; the weights of a user's own model stay as they are unless it says what to draw."""
    values = require_mapping(section, "init")
    if is_reference(model) and not values.keys() & {"keep", "distribution", "rule", "gain"}:
        values["keep"] = True
    return build(InitSection, values, "init")


def _parse_data(section: object, folder: Path) -> DataSection:
    options = require_mapping(section, "data")
    name = _take_name(options, "data")
    if name not in DATASETS:
        raise ConfigError(f"data.name: no data set is called {name!r}; {suggest(name, DATASETS)}")
    known = DATASETS[name].options
    require_known(options, (*DATA_KEYS, *known), "data")
    own: dict[str, Any] = {key: options.pop(key) for key in DATA_KEYS if key in options}
    for key, default in known.items():
        if default is ... and key not in options:
            raise ConfigError(f"data.{key}: missing; the data set {name!r} needs it")
    options = _complete(known, options, "data")
    if name in DATA_FILES:
        file = DATA_FILES[name]
        options[file] = _existing(options[file], folder, f"data.{file}")
    ready = {}
    if isinstance(own.get("augment"), Mapping):
        augment = own.pop("augment")
        ready["augment"] = _choose({"name": CropFlip.name, **augment}, AUGMENTATIONS, "data.augment")
    return dataclasses.replace(build(DataSection, {"name": name, **own}, "data", ready=ready), options=options)


def _augment_section(augment: Augmentation, convert: Callable[[Any], Any]) -> dict[str, Any]:
    """What :func:`_parse_data` reads; the ids of runs with ``crop-flip`` are older than its name."""
    name = {} if isinstance(augment, CropFlip) else {"name": augment.name}
    return {**name, **convert(augment)}


def _complete(known: Mapping[str, Any], options: Mapping[str, Any], path: str) -> dict[str, Any]:
    """All options of a model or data set; a whole number becomes a float where the default is one, so that ids agree."""
    given = check(dict[str, Any], options, path)
    for key, value in given.items():
        if isinstance(known[key], float) and type(value) is int:
            given[key] = float(value)
    return {**plain(known), **given}


def _check_length(config: RunConfig) -> None:
    """Refuse a schedule that is longer than the training, where the number of examples is known before they are loaded."""
    info, train, classes = DATASETS[config.data.name], config.train, config.data.options.get("classes")
    sizes = info.sizes if classes == info.options.get("classes") else None  # a part of the classes has fewer
    if sizes is None or not isinstance(train.schedule, Schedule):
        return
    batches = -(-(sizes[0] - config.data.validation) // train.batch_size)
    try:
        train.schedule.complete(max(1, batches) * train.passes * train.epochs)
    except HyperparameterError as error:
        raise ConfigError(f"train.schedule: {error}") from error


def _parse_method(section: object) -> Method:
    values = require_mapping(section, "method")
    name = _take_name(values, "method")
    if name not in methods():
        raise ConfigError(f"method.name: no method is called {name!r}; {suggest(name, methods())}")
    return build(method_class(name), values, "method")


def _parse_train(section: object, folder: Path) -> TrainSection:
    values = require_mapping(section, "train")
    names = [f.name for f in dataclasses.fields(TrainSection)]
    require_known(values, names, "train")
    if "optimizer" not in values:
        raise ConfigError(
            f"train.optimizer: missing; it has no default (a section whose name is {_either(OPTIMIZERS)})"
        )
    chosen = {"optimizer": _choose(values.pop("optimizer"), OPTIMIZERS, "train.optimizer")}
    if "schedule" in values:
        chosen["schedule"] = _parse_schedule(values.pop("schedule"), "train.schedule")
    train = build(TrainSection, values, "train", ready=chosen)
    for key in ("loss", "metric"):
        if is_reference(getattr(train, key)):
            resolve(getattr(train, key), folder, f"train.{key}")
    return train


def _parse_schedule(section: object, path: str) -> Schedule | Plateau:
    """A schedule by name; that of a warm-up holds another one."""
    values, ready = require_mapping(section, path), {}
    if values.get("name") == WarmUp.name:
        if "then" not in values:
            raise ConfigError(f"{path}.then: missing; it has no default (a section whose name is {_either(SCHEDULES)})")
        ready["then"] = _parse_schedule(values.pop("then"), f"{path}.then")
    chosen: Schedule | Plateau = _choose(values, SCHEDULES, path, ready=ready)
    return chosen


def _schedule_section(schedule: Schedule | Plateau, convert: Callable[[Any], Any]) -> dict[str, Any]:
    """What :func:`_parse_schedule` reads."""
    section = {"name": schedule.name, **convert(schedule)}
    if isinstance(schedule, WarmUp):
        section["then"] = _schedule_section(schedule.then, convert)
    return section


def _choose(
    section: object, table: Mapping[str, type[Any]], path: str, *, ready: Mapping[str, object] | None = None
) -> Any:
    values = require_mapping(section, path)
    name = _take_name(values, path)
    if name not in table:
        raise ConfigError(f"{path}.name: expected {_either(table)}, got {name!r}; {suggest(name, table)}")
    return build(table[name], values, path, ready=ready)


def _take_name(values: dict[str, Any], path: str) -> str:
    if "name" not in values:
        raise ConfigError(f"{join(path, 'name')}: missing; it says which {path.rpartition('.')[2]} is meant")
    name = values.pop("name")
    if not isinstance(name, str):
        raise ConfigError(f"{join(path, 'name')}: expected text, got {show(name)}")
    return name


def _locate(section: T, folder: Path, path: str) -> T:
    """The same section with its file names absolute."""
    found = {
        name: _existing(value, folder, f"{path}.{name}")
        for name in _file_fields(section)
        if (value := getattr(section, name)) is not None
    }
    return dataclasses.replace(section, **found) if found else section  # type: ignore[type-var]


def _existing(value: object, folder: Path, path: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{path}: expected text, got {show(value)}")
    file = (folder / Path(value).expanduser()).resolve()
    if not file.exists():
        raise ConfigError(f"{path}: no such file: {file}; relative paths start at the experiment file's folder")
    return str(file)


def _file_fields(section: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(section) if f.metadata.get("file")]


def _either(table: Mapping[str, object]) -> str:
    return " or ".join(table)
