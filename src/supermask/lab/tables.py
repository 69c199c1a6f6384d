"""Tables of settings: generated from what runs were told and from the models themselves, beside quoted cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from supermask import models
from supermask.errors import ConfigError
from supermask.lab.load import Experiment
from supermask.lab.patch import holds, leaves
from supermask.lab.plan import RunSpec
from supermask.lab.reference import is_reference, resolve
from supermask.lab.validate import suggest

Value = str | int | float | bool | None


def settings_rows(experiment: Experiment, specs: Sequence[RunSpec]) -> tuple[list[str], list[list[Value]]]:
    """The rows of a table of settings.

    Args:
        experiment: With a ``table`` of kind ``settings``.
        specs: Its runs; the first one of each label is shown.

    Returns:
        Headers, the first of them "label", and one row a label. A column with quoted cells is followed by one that
        holds them, its header "HEADER (source)". None: the run has no such setting, or nothing is quoted.

    Raises:
        ConfigError: A column names a key that no run has.
    """
    table = experiment.table
    first: dict[str, RunSpec] = {}
    for spec in specs:
        first.setdefault(spec.label, spec)
    headers = ["label"]
    rows: list[list[Value]] = [[label] for label in first]
    for header, key in table.columns.items():
        headers.append(header)
        _require_key(key, [spec.sections for spec in first.values()], f"table.columns.{header}")
        for row, spec in zip(rows, first.values(), strict=True):
            row.append(_value(spec, key))
        if any(header in cells for cells in table.quoted.values()):
            headers.append(f"{header} ({table.source})")
            for row, label in zip(rows, first, strict=True):
                row.append(table.quoted.get(label, {}).get(header))
    return headers, rows


def weights(model: nn.Module) -> int:
    """Weights of all convolutions and linear layers, batch norm and biases not counted."""
    return sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear))


def weights_and_biases(model: nn.Module) -> int:
    """The same with their biases."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    return sum(parameter.numel() for layer in layers for parameter in layer.parameters(recurse=False))


def strides(model: nn.Module) -> str:
    """Strides of the convolutions in order, equal ones in a row counted: ``4, 2 x 4``."""
    found = [str(layer.stride[0]) for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    return ", ".join(_counted(found))


def convolutions(model: nn.Module) -> str:
    """Output channels of the convolutions in order, and ``pool`` for a max-pool: ``64, 64, pool``.

    Kernels other than 3x3 are named; more than two equal ones in a row are counted: ``16 x 4``. Shortcuts stand after
    the convolutions of their block.
    """
    return ", ".join(_counted(_convolutions(model)))


def linear(model: nn.Module) -> str:
    """Outputs of the linear layers in order: ``300, 100, 10``."""
    return ", ".join(str(layer.out_features) for layer in model.modules() if isinstance(layer, nn.Linear))


def batchnorm(model: nn.Module) -> int:
    """Parameters of all batch norms (scales and shifts)."""
    kinds = nn.BatchNorm1d | nn.BatchNorm2d
    return sum(p.numel() for layer in model.modules() if isinstance(layer, kinds) for p in layer.parameters())


COMPUTED: Final[dict[str, Callable[[nn.Module], Value]]] = {
    "model.weights": weights,
    "model.weights-and-biases": weights_and_biases,
    "model.strides": strides,
    "model.convolutions": convolutions,
    "model.linear": linear,
    "model.batchnorm": batchnorm,
}


def _counted(names: Iterable[str]) -> Iterator[str]:
    for name, equal in groupby(names):
        count = len(list(equal))
        yield from [f"{name} x {count}"] if count > 2 else [name] * count


def _convolutions(model: nn.Module) -> Iterator[str]:
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            height, width = layer.kernel_size
            yield str(layer.out_channels) if height == width == 3 else f"{layer.out_channels} ({height}x{width})"
        elif isinstance(layer, nn.MaxPool2d):
            yield "pool"


def _require_key(key: str, sections: list[dict[str, Any]], path: str) -> None:
    if key in COMPUTED or any(holds(run, key) for run in sections):
        return
    known = {leaf for run in sections for leaf in leaves(run)} | set(COMPUTED)
    raise ConfigError(f"{path}: no run has the key {key!r}; {suggest(key, known)}")


def _value(spec: RunSpec, key: str) -> Value:
    if key in COMPUTED:
        return COMPUTED[key](_model(spec.sections["model"], spec.folder))
    value: Any = spec.sections
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _model(section: dict[str, Any], folder: Path) -> nn.Module:
    """The model without memory for its weights."""
    options = {key: value for key, value in section.items() if key != "name"}
    name = section["name"]
    make = resolve(name, folder, "model.name") if is_reference(name) else partial(models.build, name)
    with torch.device("meta"):
        model: nn.Module = make(**options)
    return model
