"""Single runs on the page: their curves, configs, versions, predictions and pictures, as far as there is room for them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from supermask.errors import RunError
from supermask.lab.store import RunFolder, read_json, read_masks, read_metrics, read_story, read_weights
from supermask.report.page_pictures import filters_picture, mask_picture
from supermask.report.page_rows import Block
from supermask.report.summary import DENSE, Result

#: Share of the room that curves, configs and versions may take, then predictions and histograms of what is left.
_CURVES: Final = 0.5
_PREDICTIONS: Final = 0.35
_HISTOGRAMS: Final = 0.35

_POINTS: Final = 100  # epochs of a curve
_TIMES: Final = 24  # epochs of a histogram
_HISTOGRAM_LAYERS: Final = 6
#: (pixels of a mask, filters), tried one after the other until all pictures fit.
_LEVELS: Final = ((300_000, 64), (120_000, 49), (60_000, 36), (30_000, 25), (15_000, 16))


@dataclass(frozen=True)
class Source:
    """Where a run is.

    Attributes:
        folder: Its folder.
        changed: The sections of its spec with only what differs from the defaults; None where that is not known.
    """

    folder: Path
    changed: Mapping[str, Any] | None = None


@dataclass
class Details:
    """What the page holds of single runs; everything but `runs` is referred to by index from there.

    Attributes:
        runs: Run id -> what is known of it.
        config: Dotted key -> the value that most runs have; runs tell theirs where it differs.
        changed: What specs hold that differs from the defaults, by dotted keys.
        environments: What `env.json` told at the last start.
        targets: For each block the class of every test example, or what most runs predict where that is not recorded.
        left_out: Sentences on what did not fit.
    """

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    changed: list[dict[str, Any]] = field(default_factory=list)
    environments: list[dict[str, Any]] = field(default_factory=list)
    targets: dict[int, dict[str, Any]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return {
            "runs": self.runs,
            "config": self.config,
            "changed": self.changed,
            "environments": self.environments,
            "targets": {str(index): value for index, value in self.targets.items()},
            "left_out": self.left_out,
        }


def details(found: Sequence[Block], headlines: Sequence[int], sources: Mapping[str, Source], room: int) -> Details:
    """Read what the page shows of single runs.

    Args:
        found: The blocks of the report.
        headlines: Of each, the index of the row that its verdict speaks of: its runs come first.
        sources: Run id -> where it is; runs without one are not told.
        room: Bytes of JSON that may be used.

    Raises:
        RunError: A file of a run is damaged.
        MissingExtraError: Pillow is not installed.
    """
    told = Details()
    order = [(block, row, run) for block, row, run in _in_order(found, headlines) if run in sources]
    used = _read_curves(told, found, order, sources, int(_CURVES * room))
    kept = [entry for entry in order if entry[2] in told.runs]
    used += _read_predictions(told, kept, sources, int(_PREDICTIONS * (room - used)))
    firsts = list(_first_runs(kept))
    used += _read_histograms(told, firsts, sources, int(_HISTOGRAMS * (room - used)))
    _read_pictures(told, found, firsts, sources, room - used)
    return told


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections by dotted keys; empty ones and lists are values."""
    found: dict[str, Any] = {}
    for key, entry in value.items():
        if isinstance(entry, Mapping) and entry:
            found |= flat(entry, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = entry
    return found


_Entry = tuple[int, int, str]  # block, row, run


def _in_order(found: Sequence[Block], headlines: Sequence[int]) -> Iterator[_Entry]:
    """All runs: of each row the first, then of each the second, ...; headlines and dense rows before others, each run once."""
    rows = [(index, at, row) for index, block in enumerate(found) for at, row in enumerate(block.rows)]
    rows.sort(key=lambda entry: (entry[1] != headlines[entry[0]], entry[2].method != DENSE))
    seen: set[str] = set()
    for turn in range(max((row.n for _, _, row in rows), default=0)):
        for index, at, row in rows:
            if turn < row.n and row.runs[turn] not in seen:
                seen.add(row.runs[turn])
                yield index, at, row.runs[turn]


def _first_runs(entries: Iterable[_Entry]) -> Iterator[_Entry]:
    """The first run of each row."""
    seen: set[tuple[int, int]] = set()
    for block, row, run in entries:
        if (block, row) not in seen:
            seen.add((block, row))
            yield block, row, run


def _size(value: Any) -> int:
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def _read_curves(
    told: Details, found: Sequence[Block], order: Sequence[_Entry], sources: Mapping[str, Source], room: int
) -> int:
    """Curves, layers, configs and versions of as many runs as fit."""
    specs: dict[str, dict[str, Any]] = {}
    rows = _rows_of_runs(found)
    used = 0
    for index, _, run in order:
        source = sources[run]
        folder = RunFolder(source.folder)
        result = found[index].results[run]
        spec = _spec(folder)
        environments, changed = len(told.environments), len(told.changed)
        entry = {
            "block": index,
            "rows": rows[run],
            "seed": result["seed"],
            "layers": [[layer["remaining"], layer["keep"], layer["invert"]] for layer in result["counts"]["layers"]],
            "curve": curve(read_metrics(folder), result),
            "environment": _environment(told, folder),
            "changed": None if source.changed is None else _index(told.changed, flat(source.changed)),
            "certificates": certificates(folder, result),
        }
        used += _size(entry) + _size(spec) // 4  # most of a spec is shared
        used += _size(told.environments[environments:]) + _size(told.changed[changed:])
        if used > room:
            told.left_out.append(f"curves and configs of {len(order) - len(told.runs):,} of {len(order):,} runs")
            break
        told.runs[run], specs[run] = entry, spec
    told.config = _common(specs.values())
    for run, spec in specs.items():
        told.runs[run]["config"] = {key: value for key, value in spec.items() if told.config.get(key, _NO) != value}
        told.runs[run]["lacks"] = sorted(told.config.keys() - spec.keys())
    return used


def _rows_of_runs(found: Sequence[Block]) -> dict[str, dict[int, int]]:
    """Run id -> block -> its first row with this run: experiments, and rows under several labels, may share one."""
    rows: dict[str, dict[int, int]] = {}
    for index, block in enumerate(found):
        for at, row in enumerate(block.rows):
            for run in row.runs:
                rows.setdefault(run, {}).setdefault(index, at)
    return rows


_NO: Final = object()


def _spec(folder: RunFolder) -> dict[str, Any]:
    if not folder.spec.exists():
        return {}
    return {key: value for key, value in flat(read_json(folder.spec)).items() if key not in ("schema", "seed")}


def _common(specs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The most frequent value of each key that more than half of the specs have."""
    counts: dict[str, Counter[str]] = {}
    number = 0
    for spec in specs:
        number += 1
        for key, value in spec.items():
            counts.setdefault(key, Counter())[json.dumps(value)] += 1
    return {key: json.loads(count.most_common(1)[0][0]) for key, count in counts.items() if 2 * count.total() > number}


def curve(lines: Sequence[Mapping[str, Any]], result: Result) -> dict[str, Any] | None:
    """What a run measured epoch by epoch, at most a hundred of them; None where it tells nothing.

    Args:
        lines: What :func:`supermask.lab.store.read_metrics` gave.
        result: Its result.
    """
    if not lines:
        return None
    targeted = result["counts"]["weights_targeted"]
    judged = (result.get("metric") or {"name": "accuracy"})["name"]
    key = "test_accuracy" if judged == "accuracy" else "test_metric"
    chosen = [lines[at] for at in _thinned([line.get(key) is not None for line in lines])]
    return {
        "epoch": [line["epoch"] for line in chosen],
        "train": [_short(line.get("train_loss")) for line in chosen],
        "test": [_short(line.get("test_loss")) for line in chosen],
        "value": [_short(line.get(key)) for line in chosen],
        "density": [_short(line["remaining"] / targeted if targeted else None) for line in chosen],
        "rounds": [line["epoch"] for before, line in pairwise(lines) if line.get("round") != before.get("round")],
    }


def _thinned(tested: Sequence[bool]) -> list[int]:
    """Indices of the epochs that are shown: first and last, tested ones as far as there is room, and others evenly."""
    if len(tested) <= _POINTS:
        return list(range(len(tested)))
    wanted = [at for at, flag in enumerate(tested) if flag]
    if len(wanted) > _POINTS:
        wanted = [wanted[at] for at in np.linspace(0, len(wanted) - 1, _POINTS).round().astype(int)]
    evenly = np.linspace(0, len(tested) - 1, max(2, _POINTS - len(wanted))).round().astype(int)
    return sorted({*wanted, *map(int, evenly)})


def _short(value: float | None) -> float | None:
    """Five significant digits; None for what is not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")


def _environment(told: Details, folder: RunFolder) -> int | None:
    if not folder.env.exists():
        return None
    starts = read_json(folder.env).get("starts") or [{}]
    # the names of hosts, and which of equal runs ran on how many threads, say nothing of the result
    shown = {key: value for key, value in flat(starts[-1]).items() if key != "host" and value is not None}
    return _index(told.environments, shown)


def _index(known: list[dict[str, Any]], value: dict[str, Any]) -> int:
    """Where a value stands among those that are known already, at whose end it is put if it is new."""
    if value not in known:
        known.append(value)
    return known.index(value)


def certificates(folder: RunFolder, result: Result) -> list[dict[str, Any]]:
    """What was proved about a run: the check of its shrunk network, and what `verify` wrote into packed files beside it."""
    found: list[dict[str, Any]] = []
    shrunk = (result.get("channels") or {}).get("shrunk")
    if shrunk is not None:
        found.append({"of": "channels taken out", "difference": shrunk["max_difference"], "why": shrunk["why"]})
    for path in sorted(folder.path.glob("*.smk.safetensors")):
        certificate = _packed_certificate(path)
        for form in (certificate or {}).get("forms", ()):
            found.append(
                {
                    "of": f"{path.name}, {form['name']}",
                    "difference": form["max_difference"],
                    "agreement": form.get("agreement"),
                    "examples": (certificate or {}).get("examples"),
                }
            )
    return found


def _packed_certificate(path: Path) -> dict[str, Any] | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            told = json.loads((file.metadata() or {}).get("supermask", "{}"))
    except (SafetensorError, ValueError) as error:
        raise RunError(f"{path}: damaged ({error}); pack the run again, or remove the file") from error
    certificate: dict[str, Any] | None = told.get("certificate")
    return certificate


def _read_predictions(told: Details, order: Sequence[_Entry], sources: Mapping[str, Source], room: int) -> int:
    """Where predictions differ from the targets, of as many runs as fit."""
    used = left = 0
    for block, _, run in order:
        story = read_story(RunFolder(sources[run].folder))
        predictions = story.get("predictions")
        if predictions is None:
            continue
        base = told.targets.get(block)
        if base is None:
            targets = story.get("targets")
            base = {"known": targets is not None, "is": (predictions if targets is None else targets).tolist()}
            if used + _size(base) > room:
                left += 1
                continue
            told.targets[block] = base
            used += _size(base)
        if len(base["is"]) != len(predictions):
            continue
        at = np.flatnonzero(predictions != np.asarray(base["is"]))
        entry = {"at": np.diff(at, prepend=0).tolist(), "is": predictions[at].tolist()}
        used += _size(entry)
        if used > room:
            left += 1
            used -= _size(entry)
            continue
        told.runs[run]["predictions"] = entry
    if left:
        told.left_out.append(f"predictions of {left:,} runs")
    return used


def _read_histograms(told: Details, firsts: Sequence[_Entry], sources: Mapping[str, Source], room: int) -> int:
    """Churn of every run that recorded it; histograms of scores of one run a row, as far as there is room."""
    used = left = 0
    for run in told.runs:
        story = read_story(RunFolder(sources[run].folder))
        churn = {name.removeprefix("churn/"): values for name, values in story.items() if name.startswith("churn/")}
        if churn:
            epochs = max(len(values) for values in churn.values())
            shown = np.unique(np.linspace(0, epochs - 1, min(_POINTS, epochs)).round().astype(int))
            entry = {
                "epoch": (shown + 1).tolist(),
                "layers": {name: [_short(float(value)) for value in values[shown]] for name, values in churn.items()},
            }
            used += _size(entry)
            if used > room:
                left += 1
                used -= _size(entry)
                continue
            told.runs[run]["churn"] = entry
    if left:
        told.left_out.append(f"mask churn of {left:,} runs")
    left = 0
    for _, _, run in firsts:
        histograms = _histograms(read_story(RunFolder(sources[run].folder)))
        size = _size(histograms)
        if not histograms:
            continue
        if used + size > room:
            left += 1
            continue
        told.runs[run]["scores"] = histograms
        used += size
    if left:
        told.left_out.append(f"score histograms of {left:,} runs")
    return used


def _histograms(story: Mapping[str, Any]) -> dict[str, Any]:
    """Of a few layers spread over the network, at a few epochs."""
    names = [name.removeprefix("scores/") for name in story if name.startswith("scores/")]
    if not names:
        return {}
    chosen = np.unique(np.linspace(0, len(names) - 1, min(_HISTOGRAM_LAYERS, len(names))).round().astype(int))
    found = {}
    for name in (names[at] for at in chosen):
        counts = story[f"scores/{name}"]
        epochs = story["score_epochs"]
        shown = np.unique(np.linspace(0, len(counts) - 1, min(_TIMES, len(counts))).round().astype(int))
        found[name] = {
            "epoch": epochs[shown].tolist(),
            "edges": [_short(float(edge)) for edge in story[f"edges/{name}"]],
            "counts": counts[shown].tolist(),
        }
    return found


def _read_pictures(
    told: Details, found: Sequence[Block], firsts: Sequence[_Entry], sources: Mapping[str, Source], room: int
) -> None:
    """Masks and filters of one run a row, as finely as lets all of them fit; at the coarsest, as many as fit."""
    pictures: dict[str, dict[str, Any]] = {}
    for most, filters in _LEVELS:
        last = (most, filters) == _LEVELS[-1]
        pictures, used, left = {}, 0, 0
        for block, _, run in firsts:
            entry = _pictures(found[block].results[run], RunFolder(sources[run].folder), most, filters)
            if entry is None:
                continue
            if used + _size(entry) > room:
                left += 1
                if not last:
                    break
                continue
            pictures[run] = entry
            used += _size(entry)
        if not left:
            break
    for run, entry in pictures.items():
        told.runs[run]["pictures"] = entry
    if left:
        told.left_out.append(f"pictures of the masks of {left:,} settings")


def _pictures(result: Result, folder: RunFolder, most: int, filters: int) -> dict[str, Any] | None:
    """Masks and first-layer filters of a run; of a dense one, which hides nothing, the filters alone. None without files."""
    names = [layer["name"] for layer in result["counts"]["layers"]]
    masks = {} if result["method"] == DENSE else read_masks(folder)
    found = {name: masks[name] for name in names if name in masks}
    weights = read_weights(folder)
    first = next((name for name in names if name in weights), None)
    if not found and first is None:
        return None
    shown = None if first is None else filters_picture(weights[first], found.get(first), filters)
    return {
        "masks": {name: mask_picture(mask, most) for name, mask in found.items() if mask.ndim > 1},
        "filters": shown and {**shown, "layer": first},
    }
