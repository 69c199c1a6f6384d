"""A run, a model or a state dict becomes a packed file that says all that is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from supermask import data
from supermask._version import __version__
from supermask.core.arrays import load_arrays_and_metadata
from supermask.deploy import pack, read, trace
from supermask.deploy.coding import Values
from supermask.deploy.container import METADATA_KEY
from supermask.deploy.packing import PackReport
from supermask.deploy.shrunk_files import KEY as SHRUNK_KEY
from supermask.errors import DataError, EngineError, GraphError, MissingExtraError
from supermask.lab.artefact import Artefact, aliases, load_artefact
from supermask.lab.result import record_packed
from supermask.lab.store import read_json

_STATE_DICTS: Final = (".npz", ".safetensors")
_RESULT_KEYS: Final = ("experiment", "label", "seed", "method", "data", "epochs", "n_train", "n_test")


@dataclass(frozen=True)
class Packing:
    """What was packed.

    Attributes:
        report: The file and its layers.
        notes: What could not be stored, and why.
    """

    report: PackReport
    notes: tuple[str, ...]


def pack_place(
    place: str,
    path: Path,
    *,
    model: str | None = None,
    weights: Path | None = None,
    input_shape: tuple[int, ...] | None = None,
    values: Values = "exact",
    data_dir: Path | None = None,
) -> Packing:
    """Pack what a user names. For a run, the file's size is noted in its result, unless values were rounded.

    Args:
        place: The folder of a finished run; a state dict, ``.npz`` or ``.safetensors``; a packed file, which is packed
            again; or a model by name.
        path: The file to write.
        model: ``package.module:function``, for a run or a packed file of a user's own model.
        weights: For a model by name: its state dict.
        input_shape: Of one example, where it is not known.
        values: How weights of many magnitudes are stored, see :func:`supermask.deploy.pack`.
        data_dir: Searched first for the run's data set, from which the constants of its inputs are.

    Raises:
        ConfigError: The place is none of them, or the weights do not fit.
        PackError: A tensor cannot be packed.
    """
    if model is None and weights is None and Path(place).is_file() and Path(place).suffix in _STATE_DICTS:
        state, notes = load_arrays_and_metadata(place)
        if METADATA_KEY not in notes and SHRUNK_KEY not in notes:
            whole = {**state, **aliases(state, notes)}
            report = pack(whole, path, values=values, provenance={"supermask": __version__, "from": Path(place).name})
            return Packing(report, ("no architecture and no graph is stored: the file that was packed names no model",))
    artefact = load_artefact(place, model=model, weights=weights, input_shape=input_shape)
    done = pack_artefact(artefact, path, values=values, data_dir=data_dir)
    if artefact.folder is not None and not done.report.largest_error:
        record_packed(artefact.folder, done.report.size)
    return done


def pack_artefact(artefact: Artefact, path: Path, *, values: Values = "exact", data_dir: Path | None = None) -> Packing:
    """Pack a plain model with what is known of it.

    Args, Raises: As :func:`pack_place`.
    """
    sections: dict[str, Any] = dict(read(artefact.packed).sections) if artefact.packed is not None else {}
    graph, notes = _graph(artefact.model, artefact.input_shape)
    if artefact.result is not None:
        described, more = _data(artefact, data_dir)
        sections |= described
        notes += more
        sections["provenance"] = _provenance(artefact)
        if artefact.result.get("channels") is not None:
            notes.append(
                "the channels that the run removed are stored as zeros; `supermask shrink` takes them out of the network"
            )
    sections.setdefault("provenance", {"supermask": __version__})
    report = pack(
        artefact.model,
        path,
        masks=artefact.masks,
        seed=None if artefact.result is None else artefact.result["seed"],
        values=values,
        architecture=artefact.architecture,
        graph=graph,
        **{key: sections.get(key) for key in ("normalization", "classes", "provenance", "metadata")},
    )
    return Packing(report, tuple(notes))


def _graph(model: nn.Module, shape: tuple[int, ...] | None) -> tuple[Mapping[str, Any] | None, list[str]]:
    """The network as data; or why it cannot be."""
    if shape is None:
        return None, ["no graph is stored: the shape of one input is not known (--input says it)"]
    try:
        graph, arrays = trace(model.eval(), torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)))
        if beyond := sorted(arrays.keys() - model.state_dict().keys()):
            return None, [f"no graph is stored: it needs {beyond[0]}, which is not in the state dict"]
        return graph.to_dict(), []
    except (EngineError, GraphError) as error:
        return None, [f"no graph is stored: {error}"]


def _data(artefact: Artefact, data_dir: Path | None) -> tuple[dict[str, Any], list[str]]:
    """Normalisation and classes of a run's data set; or why they are not known."""
    assert artefact.data is not None
    section = {key: value for key, value in artefact.data.items() if key not in ("augment", "validation")}
    name, kind = section.pop("name"), section.pop("normalize")
    if data.DATASETS[name].input_shape is None:
        return {}, [f"no normalisation is stored: the run does not know where its own data set ({name}) is"]
    try:
        found = data.load(name, root=data_dir, normalize=kind, **section)
    except (DataError, MissingExtraError) as error:
        return {"classes": list(data.DATASETS[name].classes)}, [
            f"no normalisation is stored: {str(error).splitlines()[0]}"
        ]
    return {"normalization": dict(found.normalization), "classes": list(found.classes)}, []


def _provenance(artefact: Artefact) -> dict[str, Any]:
    assert artefact.result is not None
    assert artefact.folder is not None
    result = artefact.result
    found = {"supermask": __version__, "run": result["run"], **{key: result[key] for key in _RESULT_KEYS}}
    found["accuracy"] = result["accuracy"]["last"]
    checkout = read_json(artefact.folder.env)["starts"][-1].get("git")
    return {**found, "commit": checkout["commit"]} if checkout else found
