"""What ``supermask data`` tells about each data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


def _required(info: DataInfo) -> str:
    """The option of an own data set that must be given."""
    return ", ".join(f"option {key}" for key, default in info.options.items() if default is ...)
