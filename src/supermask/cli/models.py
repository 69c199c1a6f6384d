"""``supermask models``: the reference architectures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from supermask.cli import complete
from supermask.cli.options import AsJson
from supermask.errors import ConfigError

if TYPE_CHECKING:
    from supermask.models import ModelInfo

Name = Annotated[
    str | None, typer.Argument(metavar="NAME", help="Show this model with its options.", autocompletion=complete.models)
]


def models(name: Name = None, as_json: AsJson = False) -> None:
    """List the models with their numbers of weights, or show one with its options."""
    from supermask.cli.output import print_grids, print_json, print_text
    from supermask.lab.validate import suggest
    from supermask.models import MODELS
    from supermask.report.grid import Grid

    if name is not None and name not in MODELS:
        raise ConfigError(f"no model is called {name!r}; {suggest(name, MODELS)}")
    described = [_describe(info) for info in (MODELS.values() if name is None else [MODELS[name]])]
    if as_json:
        print_json({"schema": 1, "models": described})
        return
    if name is None:
        rows = tuple((d["name"], f"{d['weights']:,}", _shape(d), d["summary"], d["source"]) for d in described)
        headers = ("model", "weights", "input", "what it is", "source")
        notes = ["weights: at the default options; `supermask models NAME` lists the options."]
        print_grids([Grid("", headers, rows, frozenset({0, 2, 3, 4}))], notes)
        return
    (model,) = described
    print_text(f"{model['name']}: {model['summary']}\n")
    counts = f"weights  {model['weights']:,}\ntrained  {model['parameters']:,} (biases and batch norm counted)\n"
    print_text(f"input    {_shape(model)}\n{counts}source   {model['source']}\n")
    options = tuple((key, str(value)) for key, value in model["options"].items())
    if options:
        print_grids([Grid("", ("option", "default"), options, frozenset({0, 1}))])


def _describe(info: ModelInfo) -> dict[str, Any]:
    from supermask.lab.validate import plain

    return {
        "name": info.name,
        "summary": info.summary,
        "source": info.source,
        "weights": info.weights,
        "parameters": info.parameters,
        "input_shape": list(info.input_shape),
        "options": plain(info.options),
    }


def _shape(described: dict[str, Any]) -> str:
    return "x".join(map(str, described["input_shape"]))
