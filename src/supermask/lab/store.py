"""Run folders: the one place that knows their file names, and how to read what is in them.

::

    runs/<experiment>/<run id>/
        spec.json            what was asked for, every default filled in
        env.json             versions and machine, one entry a start
        metrics.jsonl        one line an epoch
        checkpoint/last.pt   while the run is unfinished
        weights.safetensors  the finalized model, a plain state dict
        masks.safetensors    which weights remain
        extras.safetensors   what the method keeps beside them, for methods that do
        channels.safetensors what scales each channel after every epoch, for methods that remove channels
        story.safetensors    how the masks and scores of the run changed, and its last predictions
        result.json          written last: a folder that has it is done
        failed.json          instead of it, when the last attempt ended in an error
        lock                 held by the process that trains the run
        lease/               while the run is unfinished, and several hosts share the folder: who trains it
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Final

from supermask.errors import RunError

RESULT_SCHEMA: Final = 1
STORY_SCHEMA: Final = "1"  # in the header of the file
_WAY: Final = "delete the file to redo the run"
_NUMBER: Final = (int, float)
_NUMBER_OR_NONE: Final = (int, float, NoneType)
_RESULT_KEYS: Final = {
    "schema": int,
    "run": str,
    "experiment": str,
    "label": str,
    "seed": int,
    "method": str,
    "model": str,
    "data": str,
    "epochs": int,
    "steps": int,
    "n_train": int,
    "n_test": int,
    "accuracy": dict,
    "loss": dict,
    "counts": dict,
    "macs": dict,
    "bytes": dict,
    "seconds": dict,
    "memory": dict,
    "threads": int,
    "device": str,
}
#: Inside the sections of a result: what reports read. None is allowed where a value can be unknown or has no meaning.
_SECTION_KEYS: Final[dict[str, dict[str, tuple[type, ...]]]] = {
    "accuracy": {"last": _NUMBER_OR_NONE, "best": _NUMBER_OR_NONE},
    "loss": {"train": _NUMBER_OR_NONE, "test": _NUMBER_OR_NONE},
    "counts": {"weights_total": (int,), "weights_targeted": (int,), "weights_remaining": (int,), "layers": (list,)},
    "macs": {"dense": _NUMBER_OR_NONE, "remaining": _NUMBER_OR_NONE},
    "bytes": {"dense_float32": _NUMBER_OR_NONE},
    "seconds": {"total": _NUMBER, "train": _NUMBER, "evaluate": _NUMBER, "per_epoch": _NUMBER},
    "memory": {"peak_rss": _NUMBER_OR_NONE},
}
_LAYER_KEYS: Final[dict[str, tuple[type, ...]]] = {
    "name": (str,),
    "shape": (list,),
    "size": (int,),
    "remaining": (int,),
    "keep": (int, NoneType),
    "invert": (int, NoneType),
}
#: Keys that results of earlier versions lack.
_LATER_KEYS: Final[dict[str, tuple[type, ...]]] = {
    "n_validation": (int,),
    "precision": (str,),
    "metric": (dict,),
    "setting": (str,),
    "epochs_planned": (int,),
    "epochs_by_round": (list,),
    "conditions": (dict,),
    "full": (dict, NoneType),
    "rounds": (int,),
    "notes": (list,),
    "channels": (dict, NoneType),
    "accuracy_top5": _NUMBER_OR_NONE,
    "processes": (int,),
}
_CONDITION_KEYS: Final[dict[str, tuple[type, ...]]] = {
    "model": (dict,),
    "data": (dict,),
    "batch_size": (int,),
    "passes": (int,),
    "precision": (str,),
    "machines": (list,),
}
_METRIC_KEYS: Final[dict[str, tuple[type, ...]]] = {
    "name": (str,),
    "better": (str,),
    "last": _NUMBER_OR_NONE,
    "best": _NUMBER_OR_NONE,
    "validation_selected": _NUMBER_OR_NONE,
    "validation": _NUMBER_OR_NONE,
}
_CHANNEL_KEYS: Final[dict[str, tuple[type, ...]]] = {
    "groups": (list,),
    "costs": (dict,),
    "shrunk": (dict,),
    "latency": (dict, NoneType),
}
_GROUP_KEYS: Final[dict[str, tuple[type, ...]]] = {
    "name": (str,),
    "channels": (int,),
    "remaining": (int,),
    "kept": (str,),
}
_COST_KEYS: Final[dict[str, tuple[type, ...]]] = {
    "dense": _NUMBER,
    "remaining": _NUMBER,
    "limit": _NUMBER_OR_NONE,
    "alone": _NUMBER_OR_NONE,
    "granularity": _NUMBER,
}
_SHRUNK_KEYS: Final[dict[str, tuple[type, ...]]] = {"max_difference": _NUMBER_OR_NONE, "why": (str,)}
_FULL_KEYS: Final = {"loss": _NUMBER_OR_NONE, "accuracy": _NUMBER_OR_NONE, "metric": _NUMBER_OR_NONE}
_FAILURE_KEYS: Final = {"schema": int, "run": str, "label": str, "seed": int, "error": str, "traceback": str}


@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    Args:
        path: The folder; it need not exist yet.
    """

    path: Path

    @property
    def spec(self) -> Path:
        """The resolved spec, JSON."""
        return self.path / "spec.json"

    @property
    def env(self) -> Path:
        """Versions and machine, JSON."""
        return self.path / "env.json"

    @property
    def metrics(self) -> Path:
        """One JSON line an epoch."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        """State of an unfinished run."""
        return self.path / "checkpoint" / "last.pt"

    @property
    def weights(self) -> Path:
        """State dict of the finalized model."""
        return self.path / "weights.safetensors"

    @property
    def masks(self) -> Path:
        """Which weights remain."""
        return self.path / "masks.safetensors"

    @property
    def extras(self) -> Path:
        """What the method keeps beside weights and masks; absent for most."""
        return self.path / "extras.safetensors"

    @property
    def channels(self) -> Path:
        """Gates, or scales of batch norms, after every epoch; absent for methods that remove no channels."""
        return self.path / "channels.safetensors"

    @property
    def story(self) -> Path:
        """How masks and scores changed, and the last predictions; absent for runs of versions before it."""
        return self.path / "story.safetensors"

    @property
    def result(self) -> Path:
        """The result, JSON; present means done."""
        return self.path / "result.json"

    @property
    def failed(self) -> Path:
        """Why the last attempt failed, JSON."""
        return self.path / "failed.json"

    @property
    def lock(self) -> Path:
        """Held by the process that trains this run."""
        return self.path / "lock"

    @property
    def lease(self) -> Path:
        """Claims of the processes that train this run where hosts share its folder."""
        return self.path / "lease"


def run_folder(out: Path, experiment: str, run: str) -> RunFolder:
    """Where a run lives below the results folder ``out``."""
    return RunFolder(out / experiment / run)


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Results of all finished runs at or below a folder, sorted by path.

    Raises:
        RunError: The folder does not exist, or a result is damaged or of another schema.
    """
    return [read_result(RunFolder(path.parent)) for path in _find(folder, "result.json")]


def read_result(run: RunFolder) -> dict[str, Any]:
    """The result of one finished run.

    Raises:
        RunError: It is damaged or of another schema.
    """
    path = run.result
    result = _read_checked(path, _RESULT_KEYS, RESULT_SCHEMA)
    for section, keys in _SECTION_KEYS.items():
        _require(path, result[section], keys, section)
    for name, value in result["bytes"].items():
        _require(path, {name: value}, {name: _NUMBER_OR_NONE}, "bytes")
    for index, layer in enumerate(result["counts"]["layers"]):
        _require(path, layer if isinstance(layer, dict) else {}, _LAYER_KEYS, f"counts.layers[{index}]")
    _require(path, result, {key: kinds for key, kinds in _LATER_KEYS.items() if key in result})
    if "metric" in result:
        _require(path, result["metric"], _METRIC_KEYS, "metric")
    if result.get("full") is not None:
        later = {key: _NUMBER_OR_NONE for key in ("best", "best_epoch") if key in result["full"]}
        _require(path, result["full"], _FULL_KEYS | later, "full")
    if result.get("channels") is not None:
        _require_channels(path, result["channels"])
    for index, note in enumerate(result.get("notes", ())):
        _require(path, {str(index): note}, {str(index): (str,)}, "notes")
    if "conditions" in result:
        _require(path, result["conditions"], _CONDITION_KEYS, "conditions")
    for index, machine in enumerate(result.get("conditions", {}).get("machines", ())):
        if not isinstance(machine, dict):
            raise RunError(f"{path}: 'conditions.machines[{index}]' should be dict, is {machine!r}; {_WAY}")
    return result


def _require_channels(path: Path, channels: Mapping[str, Any]) -> None:
    _require(path, channels, _CHANNEL_KEYS, "channels")
    for index, group in enumerate(channels["groups"]):
        _require(path, group if isinstance(group, dict) else {}, _GROUP_KEYS, f"channels.groups[{index}]")
    for unit, cost in channels["costs"].items():
        _require(path, cost if isinstance(cost, dict) else {}, _COST_KEYS, f"channels.costs.{unit}")
    _require(path, channels["shrunk"], _SHRUNK_KEYS, "channels.shrunk")


def read_failures(folder: Path) -> list[dict[str, Any]]:
    """Records of all runs at or below a folder whose last attempt failed, sorted by path.

    Raises:
        RunError: The folder does not exist, or a record is damaged or of another schema.
    """
    return [read_failure(RunFolder(path.parent)) for path in _find(folder, "failed.json")]


def read_failure(run: RunFolder) -> dict[str, Any]:
    """The record of one run whose last attempt failed.

    Raises:
        RunError: It is damaged or of another schema.
    """
    return _read_checked(run.failed, _FAILURE_KEYS, RESULT_SCHEMA)


def read_metrics(run: RunFolder | Path) -> list[dict[str, Any]]:
    """The epochs of one run, in order; empty before the first one ends.

    A last line without its line break belongs to an epoch that was being written when the run was stopped; it is left
    out.

    Raises:
        RunError: A line is damaged.
    """
    path = (run if isinstance(run, RunFolder) else RunFolder(run)).metrics
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_parse_object(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a run folder.

    Raises:
        RunError: It is damaged.
    """
    return _parse_object(path.read_bytes(), str(path))


def read_extras(run: RunFolder) -> dict[str, Any]:
    """What a method kept beside weights and masks, as numpy arrays by name; empty for most.

    Raises:
        RunError: The file is damaged.
    """
    return _read_arrays(run.extras)


def read_channels(run: RunFolder) -> dict[str, Any]:
    """What scaled each channel after every epoch, as float32 numpy arrays (epochs, channels); empty for most methods.

    Names are ``gate/<group>``, or ``scale/<weight of a batch norm>`` where a method has no gates.

    Raises:
        RunError: The file is damaged.
    """
    return _read_arrays(run.channels)


def read_masks(run: RunFolder) -> dict[str, Any]:
    """The final masks of a run, as numpy arrays by name: bool, or int8 (+1 keep, 0 hide, -1 invert) of signed supermasks.

    Empty where there is no such file.

    Raises:
        RunError: The file is damaged.
    """
    return _read_arrays(run.masks)


def read_weights(run: RunFolder) -> dict[str, Any]:
    """The finalized weights of a run, as numpy arrays by state-dict name; empty where there is no such file.

    Raises:
        RunError: The file is damaged.
    """
    return _read_arrays(run.weights)


def read_story(run: RunFolder) -> dict[str, Any]:
    """What a finished run kept of how it went, as numpy arrays by name; empty for runs of versions that kept nothing.

    Every name may be missing: layers are those with a mask, scores those that are learnt, predictions those of classes.

    - ``churn/<layer>`` float32 (epochs,): mean share of the layer's targeted weights whose mask changed in a step; NaN where
      the epoch was too short for a comparison. ``counted/<layer>`` int32 (epochs,): how many steps were compared.
    - ``scores/<layer>`` int32 (rows, bins): scores of some of the weights, relative to the frozen weight (positive = keep);
      ``edges/<layer>`` float32 (bins + 1,); ``score_epochs`` int32 (rows,): the epochs of the rows, counted from 1. A row of
      zeros: no scores are learnt any more.
    - ``predictions``, ``targets`` uint8, uint16 or int32 (examples,): the class with the highest score of every test example,
      in the order of the data, after the last epoch (under the first random mask of methods that draw several), and its own
      class. ``confidence`` float16 (examples,): the softmax probability of the prediction.

    Raises:
        RunError: The file is damaged, or of another schema.
    """
    if not run.story.exists():
        return {}
    found = _read_arrays(run.story)
    from safetensors import safe_open

    with safe_open(run.story, framework="numpy") as file:
        schema = (file.metadata() or {}).get("schema")
    if schema != STORY_SCHEMA:
        raise RunError(
            f"{run.story}: schema {schema!r}, this version reads {STORY_SCHEMA!r}; use the version that wrote it"
        )
    return found


def _read_arrays(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.exists():
        return {}
    try:
        found: dict[str, Any] = load_file(path)
    except SafetensorError as error:
        raise RunError(f"{path}: damaged ({error}); delete the run folder to train this run again") from error
    return found


def _find(folder: Path, name: str) -> list[Path]:
    if not folder.is_dir():
        raise RunError(f"no results folder {str(folder)!r}; `supermask run` makes one, --out says where")
    return sorted(folder.rglob(name))


def _read_checked(path: Path, keys: Mapping[str, type], schema: int) -> dict[str, Any]:
    value = read_json(path)
    if value.get("schema") != schema:
        found = value.get("schema")
        raise RunError(f"{path}: schema {found!r}, this version reads {schema}; use the version that wrote it")
    _require(path, value, {key: (kind,) for key, kind in keys.items()})
    return value


def _require(path: Path, values: Mapping[str, Any], keys: Mapping[str, tuple[type, ...]], within: str = "") -> None:
    """Check the types of values; true and false are no numbers.

    Raises:
        RunError: Names the file and the first key that is missing or wrong.
    """
    for key, kinds in keys.items():
        value = values.get(key)
        # JSON knows no subclasses: the exact type is the quicker question, asked 360,000 times over 10,000 results
        if type(value) not in kinds or key not in values:
            name = f"{within}.{key}" if within else key
            wanted = " or ".join("null" if kind is NoneType else kind.__name__ for kind in kinds)
            found = f"is {value!r}" if key in values else "is missing"
            raise RunError(f"{path}: {name!r} should be {wanted}, {found}; {_WAY}")


def _parse_object(text: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise RunError(f"{where}: damaged ({error}); delete the run folder to train this run again") from error
    if not isinstance(value, dict):
        raise RunError(f"{where}: expected a JSON object, got {type(value).__name__}; delete the run folder")
    return value
