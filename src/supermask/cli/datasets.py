"""What ``supermask data`` tells about each data set."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from supermask.cli.prose import fill_docstring
from supermask.data import DATASETS, DataInfo, status


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
            "classes": len(info.classes) or None,
        }
        own = {"ready": True, "where": f"your own: {_required(info)}", "hint": ""}
        place = own if entry is None else {"ready": entry.ready, "where": entry.where, "hint": entry.hint}
        described.append(about | sizes | shape | place)
    return described


def explain_own(info: DataInfo, width: int) -> str:
    """What an own data set has to look like, its options with their defaults, and how an experiment names it."""
    from supermask.data.folder import read_folder
    from supermask.data.own import read_npz

    read, given = {"npz": (read_npz, "file: mine.npz"), "folder": (read_folder, "path: my-images")}[info.name]
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
            "In an experiment file (paths are relative to it; the model has to fit the images and classes):",
            f"  data: {{name: {info.name}, {given}}}",
            "  model: {name: fcn, inputs: 784, classes: 10}",
        ]
    )


def _required(info: DataInfo) -> str:
    """The option of an own data set that must be given."""
    return ", ".join(f"option {key}" for key, default in info.options.items() if default is ...)
