"""What a finished run leaves: ``result.json`` and the plain weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from supermask.core.arrays import save_arrays
from supermask.core.masks import Masks
from supermask.core.method import Method
from supermask.lab.config import RunConfig
from supermask.lab.files import canonical_json, write_json
from supermask.lab.plan import RunSpec
from supermask.lab.store import RESULT_SCHEMA, RunFolder, read_result
from supermask.measure.macs import macs
from supermask.measure.size import sizes

_MACHINE: Final = ("host", "cpu", "cores", "device")  # keys of a start in ``env.json`` that name the machine


def make_result(
    spec: RunSpec,
    config: RunConfig,
    masks: Masks,
    model: nn.Module,
    lines: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of ``result.json``.

    Args:
        spec: The run.
        config: Its sections.
        masks: Its final masks.
        model: Its finalized model.
        lines: Its epochs, as in ``metrics.jsonl``.
        facts: ``n_train``, ``n_test``, ``n_validation``, ``input_shape`` (of one example), ``seconds`` (of which
            "total", "train" and "evaluate" are known), ``memory``, ``threads``, ``device``, ``processes`` (that
            trained it together), ``starts`` (as in ``env.json``), ``rounds`` (of training), ``notes`` (of the method to
            the user) and ``channels`` (what became of them, or None).
    """
    train, last = config.train, lines[-1]
    told = describe_setting(spec, config)
    # lines that an earlier version wrote before this run was resumed know the accuracy only, by its own name
    key = "accuracy" if train.metric == "accuracy" else "metric"
    tested = [line for line in lines if line["test_loss"] is not None]
    kept = _of_the_final_masks(tested, masks.remaining() if _promises(config.method) else None)
    judged = _judged(kept, key, train.better_is, validated=facts["n_validation"] > 0)
    total = sum(parameter.numel() for parameter in model.parameters())
    seconds = facts["seconds"]
    counted = _macs(model, masks, facts)
    by_layer = counted.pop("layers")
    return {
        "schema": RESULT_SCHEMA,
        "run": spec.id,
        "experiment": spec.experiment,
        "label": spec.label,
        "seed": spec.seed,
        "method": spec.sections["method"]["name"],
        "model": spec.sections["model"]["name"],
        "data": spec.sections["data"]["name"],
        "setting": told["setting"],
        "epochs": last["epoch"],
        "epochs_planned": sum(train.of_round(number).epochs for number in range(facts["rounds"])),
        "epochs_by_round": [train.of_round(number).epochs for number in range(facts["rounds"])],
        "steps": last["step"],
        "n_train": facts["n_train"],
        "n_test": facts["n_test"],
        "n_validation": facts["n_validation"],
        "accuracy": judged if key == "accuracy" else dict.fromkeys(judged),
        "accuracy_top5": last.get("test_accuracy_top5"),
        "metric": {"name": train.metric, "better": train.better_is, **judged},
        "full": _full(lines, key, train.better_is),
        "loss": {"train": last["train_loss"], "test": last["test_loss"]},
        "counts": {
            "weights_total": total,
            "weights_targeted": masks.total(),
            "weights_remaining": masks.remaining(),
            "layers": [_layer(name, masks) | {"macs": by_layer.get(name)} for name in masks],
        },
        "macs": counted,
        "bytes": {**sizes(total, masks), "packed": None},
        "seconds": {
            **seconds,
            "per_epoch": (seconds["train"] + seconds["evaluate"]) / len(lines),
        },
        "memory": facts["memory"],
        "precision": train.precision,
        "rounds": facts["rounds"],
        "notes": list(facts["notes"]),
        "channels": facts["channels"],
        "threads": facts["threads"],
        "device": facts["device"],
        "processes": facts["processes"],
        "conditions": told["conditions"]
        | ({"processes": facts["processes"]} if facts["processes"] > 1 else {})
        | ({"together": True} if any("together" in start for start in facts["starts"]) else {})  # its time is a share
        | {"machines": _machines(facts["starts"])},
    }


def describe_setting(spec: RunSpec, config: RunConfig) -> dict[str, Any]:
    """What is known of a run's setting before it is trained, as ``result.json`` holds it.

    Args:
        spec: The run.
        config: Its sections.

    Returns:
        ``setting``: 12 hex digits that the runs share which differ in nothing but the seed: the hash of what the run id
        is made of, without the seed. ``epochs_planned``: of one round. ``conditions``: what two runs must share for
        their training times to be compared: sections ``model`` and ``data`` (values that differ from their defaults,
        files as hashes), ``batch_size``, ``passes`` and ``precision``, and ``channels_last`` where it is true.
    """
    whole, changed = spec.to_dict(), config.to_sections(defaults=False)
    content = {key: _pick(value, changed[key]) if key in changed else value for key, value in whole.items()}
    del content["seed"]
    train = config.train
    return {
        "setting": hashlib.sha256(canonical_json(content).encode()).hexdigest()[:12],
        "epochs_planned": train.epochs,
        "conditions": {
            "model": content["model"],
            "data": content["data"],
            "batch_size": train.batch_size,
            "passes": train.passes,
            "precision": train.precision,
            **({"channels_last": True} if train.channels_last else {}),
        },
    }


def _macs(model: nn.Module, masks: Masks, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Multiply-accumulates; where channels are removed, those of the network without them, which masks do not tell.

    So the counts of single layers are then left out.
    """
    counted, channels = macs(model, facts["input_shape"], masks), facts["channels"]
    if channels is None or counted["dense"] is None:
        return counted
    remaining = int(channels["costs"]["macs"]["remaining"])
    convention = f"{counted['convention']}; removed channels are taken out"
    return counted | {"remaining": remaining, "layers": {}, "convention": convention}


def _machines(starts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each machine that trained a part of a run."""
    found: list[dict[str, Any]] = []
    for start in starts:
        machine = {key: start[key] for key in _MACHINE if key in start}
        if machine not in found:
            found.append(machine)
    return found


def _pick(value: Any, wanted: Any) -> Any:
    """The part of nested mappings whose keys are wanted."""
    if not isinstance(value, Mapping) or not isinstance(wanted, Mapping):
        return value
    return {key: _pick(value[key], wanted[key]) for key in wanted}


def _promises(method: Method) -> bool:
    return method.promised_density() is not None or method.promised_budget() is not None


def _of_the_final_masks(lines: Sequence[Mapping[str, Any]], remaining: int | None) -> list[Mapping[str, Any]]:
    """The epochs to choose from: those of the last round, and where something is promised those that met it.

    Args:
        lines: The epochs that were tested.
        remaining: Weights that remain at the end, of a method that promises a density or a budget; None: any number will do.
    """
    last = lines[-1]
    kept = [line for line in lines if line.get("round", 0) == last.get("round", 0)]
    if remaining is not None:
        kept = [line for line in kept if line.get("remaining") == remaining]
    return kept if last in kept else [*kept, last]  # masks that are cut to size after the last test


def _best(lines: Sequence[Mapping[str, Any]], key: str, better: str) -> Mapping[str, Any]:
    """The line with the best value; the earliest where several are equally good."""
    sign = 1.0 if better == "higher" else -1.0
    return max(lines, key=lambda line: sign * float(line[key]))


def _judged(lines: Sequence[Mapping[str, Any]], key: str, better: str, *, validated: bool) -> dict[str, Any]:
    """Last, best and validation-selected value; the earliest epoch where several are equally good."""
    last, best = lines[-1], _best(lines, f"test_{key}", better)
    chosen = _best(lines, f"validation_{key}", better) if validated else None
    return {
        "last": last[f"test_{key}"],
        "best": best[f"test_{key}"],
        "best_epoch": best["epoch"],
        "best_remaining": best.get("remaining"),
        "validation_selected": None if chosen is None else chosen[f"test_{key}"],
        "validation": last[f"validation_{key}"] if validated else None,
        "validation_epoch": None if chosen is None else chosen["epoch"],
    }


def _full(lines: Sequence[Mapping[str, Any]], key: str, better: str) -> dict[str, Any] | None:
    """What the dense model did whose masks were only tracked: in the last such epoch, and in its best one; None without."""
    tracked = [line for line in lines if line.get("full_loss") is not None]
    if not tracked:
        return None
    last, best = tracked[-1], _best(tracked, f"full_{key}", better)
    return {
        "loss": last["full_loss"],
        "accuracy": last["full_accuracy"],
        "metric": last["full_metric"],
        "best": best[f"full_{key}"],
        "best_epoch": best["epoch"],
    }


def record_packed(folder: RunFolder, size: int) -> None:
    """Note in a finished run's result how many bytes its packed file has, for the tables of reports.

    Args:
        folder: Of the run.
        size: Bytes of the whole file.

    Raises:
        RunError: The result is damaged or of another version.
    """
    result = read_result(folder)
    write_json(folder.result, {**result, "bytes": {**result["bytes"], "packed": size}})


def save_weights(path: Path, model: nn.Module) -> None:
    """Save a plain model's state dict; tensors that share memory are saved once.

    The metadata key ``aliases`` holds the others as JSON: name -> name it is saved under.
    """
    kept: dict[str, Tensor] = {}
    owners: dict[tuple[object, ...], str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in model.state_dict().items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in owners:
            aliases[name] = owners[key]
        else:
            owners[key] = name
            kept[name] = tensor
    save_arrays(path, kept, {"aliases": json.dumps(aliases)})


def _layer(name: str, masks: Masks) -> dict[str, Any]:
    mask, entry = masks[name], masks.signed.get(name)
    return {
        "name": name,
        "shape": list(mask.shape),
        "size": mask.numel(),
        "remaining": int(mask.sum()),
        "keep": None if entry is None else int((entry.sign_mask > 0).sum()),
        "invert": None if entry is None else int((entry.sign_mask < 0).sum()),
    }
