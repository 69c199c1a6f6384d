"""Two finished runs side by side: settings, results, layers and their masks, and the test examples they judge differently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from supermask.errors import RunError
from supermask.lab.store import RunFolder, read_json, read_masks, read_result, read_story
from supermask.report.form import percent
from supermask.report.grid import UNKNOWN, Grid

#: Changed examples that a table lists; JSON has all.
MOST_LISTED: Final = 20
_NAMES: Final = ("first", "second")
#: Header -> dotted key of ``result.json``, and whether it is a fraction.
_RESULTS: Final[dict[str, tuple[str, bool]]] = {
    "accuracy, last epoch %": ("accuracy.last", True),
    "accuracy, best epoch %": ("accuracy.best", True),
    "accuracy, first five %": ("accuracy_top5", True),
    "metric, last epoch": ("metric.last", False),
    "test loss": ("loss.test", False),
    "training loss": ("loss.train", False),
    "weights, targeted": ("counts.weights_targeted", False),
    "weights, remaining": ("counts.weights_remaining", False),
    "MACs, remaining": ("macs.remaining", False),
    "bytes, packed": ("bytes.packed", False),
    "epochs": ("epochs", False),
    "steps": ("steps", False),
    "seconds": ("seconds.total", False),
    "seconds an epoch": ("seconds.per_epoch", False),
}


@dataclass(frozen=True)
class Side:
    """What is known of one run.

    Attributes:
        folder: Its files.
        result: ``result.json``.
        spec: ``spec.json``.
        masks: Layer -> mask, see :func:`supermask.lab.store.read_masks`.
        story: See :func:`supermask.lab.store.read_story`.
        data: Checksum of the data it was tested on; None where that is not known.
    """

    folder: RunFolder
    result: Mapping[str, Any]
    spec: Mapping[str, Any]
    masks: Mapping[str, npt.NDArray[Any]]
    story: Mapping[str, npt.NDArray[Any]]
    data: str | None

    @classmethod
    def read(cls, folder: Path) -> Side:
        """Read a finished run.

        Raises:
            RunError: It is not finished, or a file is damaged or of another version.
        """
        files = RunFolder(folder)
        if not files.result.exists():
            raise RunError(f"{folder} has no result.json: only finished runs can be compared")
        starts = read_json(files.env).get("starts", []) if files.env.exists() else []
        return cls(
            files,
            read_result(files),
            read_json(files.spec),
            read_masks(files),
            read_story(files),
            starts[-1].get("data", {}).get("checksum") if starts else None,
        )


def compare(first: Side, second: Side) -> dict[str, Any]:
    """Everything in which two runs differ, with the keys of docs/json.md."""
    sides = (first, second)
    examples, why = _examples(*sides)
    return {
        "schema": 1,
        **{name: _who(side) for name, side in zip(_NAMES, sides, strict=True)},
        "config": _config(first.spec, second.spec),
        "results": [
            {"name": name, "key": key, **{n: _at(s.result, key) for n, s in zip(_NAMES, sides, strict=True)}}
            for name, (key, _) in _RESULTS.items()
        ],
        "layers": _layers(*sides),
        "examples": examples,
        "notes": [why] if why else [],
    }


def grids(found: Mapping[str, Any]) -> tuple[list[Grid], list[str]]:
    """What :func:`compare` found, as tables and the notes below them."""
    heads = tuple(f"{name}: {found[name]['label']}, seed {found[name]['seed']}" for name in _NAMES)
    config = tuple((entry["key"], *(_text(entry[name]) for name in _NAMES)) for entry in found["config"])
    results = tuple(
        (entry["name"], *(_number(entry[name], fraction=_RESULTS[entry["name"]][1]) for name in _NAMES))
        for entry in found["results"]
        if any(entry[name] is not None for name in _NAMES)
    )
    tables = [Grid("results", ("", *heads), results)]
    if config:
        tables.insert(0, Grid("settings that differ", ("key", *heads), config, frozenset({0, 1, 2})))
    if found["layers"]:
        tables.append(_layer_grid(found["layers"]))
    notes = [f"{name}: {found[name]['folder']}" for name in _NAMES]
    notes += [] if config else ["no setting differs"]
    if found["layers"]:
        notes.append(
            "overlap: weights that remain in both over those that remain in either; by chance: of random masks as full."
        )
    if (examples := found["examples"]) is not None:
        notes.append(
            f"{examples['changed']} of {examples['n']} test examples are judged differently: {examples['gained']} right only "
            f"by the second, {examples['lost']} right only by the first."
        )
        if examples["list"]:
            tables.append(_example_grid(examples["list"]))
        if examples["changed"] > MOST_LISTED:
            notes.append(f"the first {MOST_LISTED} of them are shown; --json lists all.")
    return tables, [*notes, *found["notes"]]


def _who(side: Side) -> dict[str, Any]:
    keys = ("run", "experiment", "label", "seed", "method", "model", "data")
    return {key: side.result[key] for key in keys} | {"folder": str(side.folder.path)}


def _config(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Dotted keys whose values differ; None where a run has no such key."""
    left, right = _leaves(first), _leaves(second)
    keys = sorted(key for key in {*left, *right} if left.get(key) != right.get(key))
    return [{"key": key, "first": left.get(key), "second": right.get(key)} for key in keys]


def _leaves(value: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, entry in value.items():
        found |= _leaves(entry, f"{path}{key}.") if isinstance(entry, Mapping) else {f"{path}{key}": entry}
    return found


def _at(value: Any, key: str) -> Any:
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


# ---------------------------------------------------------------------- layers


def _layers(first: Side, second: Side) -> list[dict[str, Any]]:
    """Layer by layer, in the order of the first run; then those of the second alone."""
    told = [{layer["name"]: layer for layer in side.result["counts"]["layers"]} for side in (first, second)]
    found = []
    for name in dict.fromkeys([*told[0], *told[1]]):
        entry: dict[str, Any] = {"name": name}
        for side, layers in zip(_NAMES, told, strict=True):
            layer = layers.get(name)
            keys = ("size", "remaining", "keep", "invert")
            entry[side] = None if layer is None else {key: layer[key] for key in keys}
        found.append(entry | _overlap(first.masks.get(name), second.masks.get(name)))
    return found


def _overlap(first: npt.NDArray[Any] | None, second: npt.NDArray[Any] | None) -> dict[str, Any]:
    """How much two masks of one layer have in common; None where they are not there, or of different shapes."""
    if first is None or second is None or first.shape != second.shape:
        return dict.fromkeys(("both", "either", "overlap", "by_chance", "same_sign"))
    left, right = first != 0, second != 0
    both, either = int((left & right).sum()), int((left | right).sum())
    shares = float(left.mean()), float(right.mean())
    common = shares[0] * shares[1]
    union = shares[0] + shares[1] - common
    signed = first.dtype == np.int8 and second.dtype == np.int8
    return {
        "both": both,
        "either": either,
        "overlap": both / either if either else None,
        "by_chance": common / union if union else None,
        "same_sign": int((left & right & (first == second)).sum()) if signed else None,
    }


def _layer_grid(layers: Sequence[Mapping[str, Any]]) -> Grid:
    signed = any(side and side["keep"] is not None for layer in layers for side in (layer["first"], layer["second"]))
    parts = ("remaining", "keep", "invert") if signed else ("remaining",)
    headers = ["layer", *(f"{part} % ({name})" for part in parts for name in _NAMES)]
    headers += ["remain in both", "overlap %", "by chance %", *(["same sign"] if signed else [])]
    rows = []
    for layer in layers:
        cells = [layer["name"], *(_share(layer[name], part) for part in parts for name in _NAMES)]
        cells.append(_number(layer["both"]))
        cells += [_number(layer[key], fraction=True) for key in ("overlap", "by_chance")]
        rows.append((*cells, *([_number(layer["same_sign"])] if signed else [])))
    return Grid("layers", tuple(headers), tuple(rows))


def _share(layer: Mapping[str, Any] | None, part: str) -> str:
    return UNKNOWN if layer is None or layer[part] is None else percent(layer[part] / layer["size"])


# ---------------------------------------------------------------------- examples


def _examples(first: Side, second: Side) -> tuple[dict[str, Any] | None, str]:
    """The test examples with another prediction; or None, and why they cannot be told."""
    names = ("predictions", "confidence", "targets")
    for which, side in zip(_NAMES, (first, second), strict=True):
        if any(name not in side.story for name in names):
            return None, f"which test examples changed is not known: the {which} run recorded no predictions."
    if first.data != second.data or len(first.story["predictions"]) != len(second.story["predictions"]):
        return None, "which test examples changed cannot be told: the runs were tested on different data."
    left, right, targets = first.story["predictions"], second.story["predictions"], first.story["targets"]
    where = np.flatnonzero(left != right)
    changed = [
        {
            "example": int(index),
            "class": int(targets[index]),
            "first": int(left[index]),
            "second": int(right[index]),
            "first_confidence": round(float(first.story["confidence"][index]), 4),
            "second_confidence": round(float(second.story["confidence"][index]), 4),
        }
        for index in where
    ]
    gained = int(((left != targets) & (right == targets)).sum())
    lost = int(((left == targets) & (right != targets)).sum())
    return {"n": len(left), "changed": len(where), "gained": gained, "lost": lost, "list": changed}, ""


def _example_grid(changed: Sequence[Mapping[str, Any]]) -> Grid:
    headers = ("example", "class", "first", "second", "confidence (first)", "confidence (second)")
    keys = ("example", "class", "first", "second")
    rows = tuple(
        (*(str(entry[key]) for key in keys), *(f"{entry[f'{name}_confidence']:.2f}" for name in _NAMES))
        for entry in changed[:MOST_LISTED]
    )
    return Grid("test examples that are judged differently", headers, rows, frozenset())


# ---------------------------------------------------------------------- text


def _text(value: Any) -> str:
    return UNKNOWN if value is None else str(value)


def _number(value: float | None, *, fraction: bool = False) -> str:
    if value is None:
        return UNKNOWN
    if fraction:
        return percent(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
