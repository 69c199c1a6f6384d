"""What is exported, compared and verified: a run, a file, a model by name or a user's own; as a plain module."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from supermask import data, models
from supermask.core.arrays import load_arrays_and_metadata
from supermask.core.masks import Masks
from supermask.deploy import load_shrunk, read
from supermask.deploy.shrunk_files import check_shrunk, is_shrunk, read_shrunk
from supermask.deploy.unpacking import Packed
from supermask.errors import ConfigError, DataError, RunError
from supermask.lab.reference import is_reference, resolve
from supermask.lab.store import RunFolder, read_json, read_result
from supermask.lab.validate import suggest
from supermask.methods import FixedMask

_STATE_DICTS: Final = (".npz", ".safetensors")
_LARGEST_SIZE: Final = 1 << 20  # of an axis of one example


@dataclass(frozen=True)
class Artefact:
    """A plain model and what is known of it.

    Attributes:
        name: What people call it.
        model: In evaluation mode, exact zeros where nothing remains.
        architecture: ``{"name": ..., "options": {...}}``, from which :func:`supermask.models.build` makes it again; None for a
            user's own model, and for a shrunk one.
        input_shape: Of one example; None where nobody said it.
        masks: Of a finished run, or None.
        data: The run's data section; None without a run.
        result: The run's ``result.json``; None without a run.
        folder: The run's folder; None without a run.
        packed: The packed file that it was read from, or None.
    """

    name: str
    model: nn.Module
    architecture: dict[str, Any] | None
    input_shape: tuple[int, ...] | None
    masks: Masks | None = None
    data: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    folder: RunFolder | None = None
    packed: Path | None = None


def load_artefact(
    place: str,
    *,
    model: str | None = None,
    weights: Path | None = None,
    input_shape: tuple[int, ...] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Artefact:
    """Find out what a user means.

    Args:
        place: The folder of a finished run; a packed or a shrunk file; the name of a model (``conv2``); or a user's own,
            ``package.module:function``, which gives a module without arguments.
        model: ``package.module:function``, for a run or a file of a user's own model.
        weights: For a model: the state dict to load into it, an ``.npz`` or ``.safetensors`` file.
        input_shape: Of one example, where it is not known.
        options: Of a model by name, or arguments of a user's own function.

    Raises:
        ConfigError: The place is none of them, or the weights do not fit.
        RunError: The run is not finished, or damaged.
        PackedFileError: The packed or shrunk file is damaged.
        StructureError: The shrunk file is of another model.
    """
    path = Path(place)
    options = dict(options or {})
    if path.is_dir() or path.is_file():
        if options:
            raise ConfigError(f"options are for a model by name; {place} has its own")
        if weights is not None:
            raise ConfigError(f"--weights is for a model by name; {place} has its own weights")
        if path.is_dir():
            return _run(RunFolder(path), model, input_shape)
        return (_shrunk if is_shrunk(path) else _packed)(path, model, input_shape)
    if model is not None:
        raise ConfigError(f"--model is for a run or a packed file, and {place!r} is neither")
    if is_reference(place):
        found = Artefact(place, _own(place, options), None, input_shape)
    elif place in models.MODELS:
        shape = input_shape or models.MODELS[place].input_shape
        found = Artefact(place, _build(place, options), {"name": place, "options": options}, shape)
    else:
        if "/" in place or path.suffix:
            raise ConfigError(f"{place!r}: there is no such file or folder")
        hint = suggest(place, models.MODELS)
        raise ConfigError(
            f"{place!r} is no run folder (runs/EXPERIMENT/ID), no packed file, no model and no package.module:function; {hint}"
        )
    if weights is not None:
        if weights.suffix not in _STATE_DICTS:
            raise ConfigError(
                f"--weights: expected a file that ends in {' or '.join(_STATE_DICTS)}, got {weights.name!r}"
            )
        state, notes = load_arrays_and_metadata(weights)
        _fill(found.model, state | aliases(state, notes), weights)
    return found


def examples(artefact: Artefact, number: int, data_dir: Path | None = None) -> tuple[Tensor, Tensor] | None:
    """Test images of an artefact's run and their labels, as the model saw them in training; None without a run.

    Args:
        artefact: What was loaded.
        number: How many at most.
        data_dir: Searched first for the data set.

    Raises:
        DataError: The data set is not there, or is one of the user's own, of which a run only keeps a hash.
    """
    if artefact.data is None:
        return None
    section = {key: value for key, value in artefact.data.items() if key not in ("augment", "validation")}
    name, normalize = section.pop("name"), section.pop("normalize")
    if data.DATASETS[name].input_shape is None:
        raise DataError(f"the run was trained on a data set of your own ({name}), and does not know where it is")
    split = data.load(name, root=data_dir, normalize=normalize, **section).test
    return split.batch(slice(0, number))


def with_masks(model: nn.Module, masks: Masks) -> nn.Module:
    """A copy of a plain model that carries its masks: ``weight * mask`` at every call, as in training."""
    copied = copy.deepcopy(model)
    plain = Masks({name: masks[name] for name in masks})
    FixedMask(masks=plain).attach(copied, targets=list(plain), weights="keep")
    return copied.eval()


def _run(folder: RunFolder, own: str | None, input_shape: tuple[int, ...] | None) -> Artefact:
    if not folder.result.exists():
        raise RunError(f"{folder.path} is no finished run: it has no result.json; `supermask run` finishes it")
    result, spec = read_result(folder), read_json(folder.spec)
    try:
        options = dict(spec["model"])
        name, section = options.pop("name"), dict(spec["data"])
        info = data.DATASETS[section["name"]]
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{folder.spec}: damaged ({error!r}); the run cannot be rebuilt") from error
    if own is None and is_reference(name):
        own = name
    model = _build(name, options) if own is None else _own(own, options)
    state, notes = load_arrays_and_metadata(folder.weights)
    _fill(model, state | aliases(state, notes), folder.weights)
    return Artefact(
        name=f"{result['experiment']} / {result['label']}, seed {result['seed']}",
        model=model,
        architecture={"name": name, "options": options} if own is None else None,
        input_shape=input_shape or info.input_shape,
        masks=Masks.load(folder.masks),
        data=section,
        result=result,
        folder=folder,
    )


def _packed(path: Path, own: str | None, input_shape: tuple[int, ...] | None) -> Artefact:
    packed = read(path)
    described = packed.architecture
    if own is not None:
        model, described = _own(own, {}), None
    elif described is None:
        raise ConfigError(f"{path} does not say which model it holds; name it: --model package.module:function")
    else:
        _check_fit(described, packed)
        model = _build(described["name"], described["options"])
    _fill(model, packed.state_dict(), path)
    if input_shape is None and packed.graph is not None:
        input_shape = tuple(packed.graph["input"]["shape"])
    if input_shape is None and described is not None:
        input_shape = models.MODELS[described["name"]].input_shape
    return Artefact(path.name, model, described, input_shape, packed=path)


def _shrunk(path: Path, own: str | None, input_shape: tuple[int, ...] | None) -> Artefact:
    described = read_shrunk(path).architecture
    if own is not None:
        return Artefact(path.name, load_shrunk(path, _own(own, {})), None, input_shape)
    if described is None:
        raise ConfigError(f"{path} does not say which model it holds; name it: --model package.module:function")
    name, options = described.get("name"), described.get("options")
    with torch.device("meta"):  # before memory is taken for what it describes
        check_shrunk(path, _build(name, options))
    model = load_shrunk(path, _build(name, options))
    stored = _stored_shape(described.get("input_shape"), path)  # files of earlier versions have none
    return Artefact(path.name, model, None, input_shape or stored or models.MODELS[str(name)].input_shape)


def _stored_shape(value: Any, source: Path) -> tuple[int, ...] | None:
    """The shape of one example that a file tells."""
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(size) is int and 0 < size <= _LARGEST_SIZE for size in value):
        raise ConfigError(f"{source}: its input_shape should be a list of sizes, got {value!r}; it is damaged")
    return tuple(value)


def _check_fit(described: Mapping[str, Any], packed: Packed) -> None:
    """Refuse a description that does not fit the file's tensors, before memory is taken for what it describes."""
    with torch.device("meta"):
        wanted = _build(described["name"], described["options"]).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    if shapes != {name: entry.shape for name, entry in packed.entries.items()}:
        raise ConfigError(f"{packed.source}: its tensors are not those of the model it names, {described['name']!r}")


def _build(name: Any, options: Any) -> nn.Module:
    """A model of the catalogue; torch's generator is left as it was."""
    if not isinstance(name, str) or not isinstance(options, dict):
        raise ConfigError(f"an architecture needs a name and options, got {name!r} and {options!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return models.build(name, **options).eval()


def _own(reference: str, options: Mapping[str, Any]) -> nn.Module:
    model = resolve(reference, Path.cwd(), "model")(**options)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{reference} must return a torch.nn.Module, got {type(model).__name__}")
    return model.eval()


def aliases(state: Mapping[str, Tensor], notes: Mapping[str, str]) -> dict[str, Tensor]:
    """Names that share memory with another: they are stored once, and the metadata tells them."""
    return {name: state[owner] for name, owner in json.loads(notes.get("aliases", "{}")).items()}


def _fill(model: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(f"{source} does not fit the model: {error}") from error
