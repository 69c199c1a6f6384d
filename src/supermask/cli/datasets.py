"""What ``supermask data`` tells about each data set."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from supermask.cli.prose import fill_docstring
from supermask.data import DATASETS, DataInfo, status
from supermask.errors import ConfigError

_PLACES: Final = {
    "npz": "paths are relative to it",
    "folder": "paths are relative to it",
    "webdataset": "the folder is looked for in the data folders",
}


def describe(root: Path | None) -> list[dict[str, Any]]:
    """One entry a data set, with the keys of docs/json.md."""

    found = {entry.name: entry for entry in status(root)}
    described = []
    for info in DATASETS.values():
        entry = found.get(info.name)
        about = {"name": info.name, "summary": info.summary, "source": info.source, "licence": info.licence}
        sizes = dict(zip(("n_train", "n_test"), info.sizes or (None, None)))
        shape = {
            "input_shape": list(info.input_shape) if info.input_shape else None,
            "classes": len(info.classes) or (info.options["classes"] if info.folders else None),
        }
        own = {"ready": True, "where": f"your own: {_required(info)}", "hint": ""}
        place = own if entry is None else {"ready": entry.ready, "where": entry.where, "hint": entry.hint}
        described.append(about | sizes | shape | place)
    return described


def explain(info: DataInfo, entry: dict[str, Any], root: Path | None, width: int) -> str:
    """All about one data set: its licence, its options, where it was found or how to get it."""
    if info.options and not info.folders:
        return explain_own(info, width)
    lines = [f"{entry['name']}: {entry['summary']}", "", f"source   {entry['source']}", f"licence  {entry['licence']}"]
    lines += [f"option   {key}: {value}" for key, value in info.options.items()]
    lines.append(f"found    {entry['where'] or 'no'}")
    if not entry["ready"]:
        lines += ["", way_to_get(info, root, entry["hint"])]
    return "\n".join(lines)


def explain_own(info: DataInfo, width: int) -> str:
    """What an own data set has to look like, its options with their defaults, and how an experiment names it."""
    from supermask.data import shards
    from supermask.data.folder import read_folder
    from supermask.data.own import read_npz

    read, given = {
        "npz": (read_npz, "file: mine.npz"),
        "folder": (read_folder, "path: my-images"),
        "webdataset": (shards, "shards: my-shards, classes: 10"),
    }[info.name]
    what = inspect.cleandoc(read.__doc__ or "").partition("\n\n")[2].partition("\n\nReturns:")[0]
    filled = fill_docstring(what.replace("``", "").replace("Args:", "Options:"), min(width, 100))
    options = {**info.options, "normalize": "image", "augment": None}
    defaults = [
        f"  {key:13}  {'must be given' if value is ... else json.dumps(value)}" for key, value in options.items()
    ]
    return "\n".join(
        [
            f"{info.name}: {info.summary}",
            "",
            filled,
            "",
            "Defaults:",
            *defaults,
            "",
            f"In an experiment file ({_PLACES[info.name]}; the model has to fit the images and classes):",
            f"  data: {{name: {info.name}, {given}}}",
            "  model: {name: fcn, inputs: 784, classes: 10}",
        ]
    )


def way_to_get(info: DataInfo, root: Path | None, hint: str) -> str:
    """What to do about a data set that was not found."""
    from supermask.data.locate import how_to_get

    return how_to_get(info, root) if info.layouts or info.folders else hint


def parse_options(settings: Sequence[str]) -> dict[str, Any]:
    """Options of a data set, given as KEY=VALUE.

    Raises:
        ConfigError: One of them is not.
    """
    from supermask.lab.load import parse_yaml

    options = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not key or not equals:
            raise ConfigError(f"--set {setting}: expected KEY=VALUE")
        options[key] = parse_yaml(value, f"--set {key}")
    return options


def _required(info: DataInfo) -> str:
    """The option of an own data set that must be given."""
    return ", ".join(f"option {key}" for key, default in info.options.items() if default is ...)
