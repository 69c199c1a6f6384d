"""The sections of one run as frozen dataclasses. What may stand in an experiment file is what is written here.

The ``method`` section is the method's own dataclass; ``model`` and ``data`` take the options of the model or data set
they name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import torch

from supermask import models
from supermask.core.arrays import Layout
from supermask.core.method import Method
from supermask.core.registry import OWN, method_class, methods
from supermask.data import DATASETS
from supermask.data.augment import AUGMENTATIONS, Augmentation, CropFlip
from supermask.errors import ConfigError, HyperparameterError
from supermask.lab.reference import is_reference, resolve
from supermask.lab.train_section import TrainSection, parse_train, train_section
from supermask.lab.validate import (
    build,
    check,
    choose,
    file_fields,
    non_default,
    plain,
    require_known,
    require_mapping,
    show,
    suggest,
    take_name,
)
from supermask.models import MODELS
from supermask.optim import OPTIMIZERS, SCHEDULES, Schedule
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
        return {
            "model": {"name": self.model.name, **plain(model)},
            "init": convert(self.init),
            "data": section | plain(data),
            "method": {"name": self.method.name, **convert(self.method)},
            "train": train_section(self.train, convert),
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
        train=parse_train(sections["train"], folder),
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
    name = take_name(options, "model")
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
    name = take_name(options, "data")
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
        ready["augment"] = choose({"name": CropFlip.name, **augment}, AUGMENTATIONS, "data.augment")
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
    if sizes is None:
        return
    batches = max(1, -(-(sizes[0] - config.data.validation) // train.batch_size)) * train.passes
    for path, section in {"train": train, **{f"train.rounds.{n}": one for n, one in train.rounds.items()}}.items():
        try:
            if isinstance(section.schedule, Schedule):
                section.schedule.complete(batches * section.epochs)
        except HyperparameterError as error:
            raise ConfigError(f"{path}.schedule: {error}") from error


def _parse_method(section: object) -> Method:
    values = require_mapping(section, "method")
    name = take_name(values, "method")
    if name not in methods():
        raise ConfigError(f"method.name: no method is called {name!r}; {suggest(name, methods())} ({OWN})")
    return build(method_class(name), values, "method")


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
