"""Writing packed files: a plain model, or its state dict, in few bytes.

``docs/packed-format.md`` is the specification of the file; :mod:`supermask.deploy.unpacking` reads it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import numpy as np
import torch
from torch import Tensor, nn

from supermask.core.arrays import atomic_write
from supermask.deploy import container
from supermask.deploy.coding import Coded, Values, code_tensor, magnitudes
from supermask.deploy.cursor import text, varint
from supermask.deploy.graph import Graph
from supermask.deploy.shapes import Shape, infer
from supermask.deploy.unpacking import CODINGS, DTYPES, MOST_AXES, NUMPY, Raw
from supermask.errors import GraphError, MaskError, PackedFileError, PackError
from supermask.tensors.philox import Stream

if TYPE_CHECKING:
    import numpy.typing as npt

ENDING: Final = ".safetensors"
_NAMES: Final = tuple(DTYPES)
_FROM_NUMPY: Final = {np.dtype(dtype): name for name, dtype in NUMPY.items()}
_GENERATOR: Final = "philox4x32"


@dataclass(frozen=True)
class LayerReport:
    """What became of one tensor.

    Attributes:
        name: Its key in the state dict.
        shape: Its shape.
        coding: ``dense``, ``constant``, ``alias``, ``sparse signs``, ``sparse values``, ``sparse float16`` or
            ``sparse int8``.
        remaining: Entries that are not zero.
        dense_bytes: Its bytes without packing.
        packed_bytes: Its bytes in the file, with its entry in the directory.
        entropy_bytes: Of sparse tensors: what no code of independent symbols with the tensor's own frequencies goes below,
            and the values or scales that stand beside them. Of others: the bytes of their payload.
        largest_error: Largest absolute difference to the unpacked value; 0 unless float16 or int8 was asked for.
    """

    name: str
    shape: tuple[int, ...]
    coding: str
    remaining: int
    dense_bytes: int
    packed_bytes: int
    entropy_bytes: int
    largest_error: float


@dataclass(frozen=True)
class PackReport:
    """What was written.

    Attributes:
        path: The file.
        size: Its bytes.
        description_bytes: Bytes of its header: architecture, graph, classes, provenance and all other text.
        layers: One entry a tensor.
    """

    path: Path
    size: int
    description_bytes: int
    layers: tuple[LayerReport, ...]

    @property
    def dense_bytes(self) -> int:
        """Bytes of the state dict."""
        return sum(layer.dense_bytes for layer in self.layers)

    @property
    def blob_bytes(self) -> int:
        """Bytes of the file without its header."""
        return self.size - self.description_bytes

    @property
    def ratio(self) -> float:
        """How many times smaller than the state dict the file is."""
        return self.dense_bytes / self.size

    @property
    def largest_error(self) -> float:
        """Largest absolute difference of an unpacked value."""
        return max((layer.largest_error for layer in self.layers), default=0.0)


def pack(
    model: nn.Module | Mapping[str, Tensor | npt.NDArray[Any]],
    path: str | Path,
    *,
    masks: Mapping[str, Tensor | npt.NDArray[Any]] | None = None,
    seed: int | None = None,
    values: Values = "exact",
    architecture: Mapping[str, Any] | None = None,
    graph: Mapping[str, Any] | None = None,
    normalization: Mapping[str, Any] | None = None,
    classes: list[str] | tuple[str, ...] | None = None,
    provenance: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> PackReport:
    """Write a plain model with zeros to a small file.

    What is zero is not stored. Weights of one magnitude a tensor, or one an output unit, cost a sign; signs that can be drawn
    again from a seed cost nothing. Whatever is smaller as it is stays so. Unpacking gives the same bits, except that -0 becomes
    0, and except for ``values`` other than ``exact``.

    Args:
        model: A finalized module, or a state dict.
        path: The file; ends in ``.safetensors``.
        masks: What remains, by name; checked against the zeros of the weights. A signed supermask's masks name the seed of
            its signs.
        seed: Seed of the frozen weights; used where the signs of the weights turn out to follow from it.
        values: How float32 weights of many magnitudes are stored: ``exact``, ``float16``, or ``int8`` with a scale for each
            output unit.
        architecture: ``{"name": ..., "options": {...}}`` of a model that the reader can build.
        graph: The network as data, see :mod:`supermask.deploy.graph`.
        normalization: How inputs are made from raw pixels.
        classes: Names of the classes.
        provenance: Where the weights are from.
        metadata: Anything else, as JSON.

    Raises:
        PackError: A tensor or a field cannot be packed, or the graph does not fit the tensors; the message names it.
        MaskError: A mask does not fit its weight, or hides one that is not zero.
        OSError: The file cannot be written; one that was there is left as it was.
    """
    path = Path(path)
    if path.suffix != ENDING:
        raise PackError(f"a packed file ends in {ENDING}, for example model.smk{ENDING}; got {path.name!r}")
    if values not in get_args(Values):
        raise PackError(f"values must be one of {', '.join(get_args(Values))}, got {values!r}")
    if seed is not None and not (isinstance(seed, int) and 0 <= seed < 1 << 64):
        raise PackError(f"seed must be an integer from 0 to 2**64 - 1, got {seed!r}")
    if isinstance(classes, str):
        raise PackError(f"classes must be a list of names, got the text {classes!r}")
    raws = {name: _to_raw(name, value) for name, value in _state_dict(model).items()}
    _check_masks(raws, masks or {})
    body, reports = _pack_tensors(raws, _origins(raws, masks, seed), values)
    sections: dict[str, Any] = {
        "architecture": architecture,
        "graph": graph,
        "normalization": normalization,
        "classes": None if classes is None else list(classes),
        "provenance": provenance,
        "metadata": metadata,
    }
    given: dict[str, Any] = {}
    for name, section in sections.items():
        if section is not None and not isinstance(section, list | Mapping):
            way = "; graph.to_dict() gives one" if isinstance(section, Graph) else ""
            raise PackError(f"{name} must be a mapping of plain values, got a {type(section).__name__}{way}")
        if section is not None:
            given[name] = section if isinstance(section, list) else dict(section)
    if graph is not None:
        _check_graph(graph, {name: raw.shape for name, (_, raw) in raws.items()})
    data = container.to_bytes(body, given)
    atomic_write(path, data)
    description = container.from_bytes(data)[2]
    return PackReport(path, len(data), description, tuple(reports))


def annotate(path: str | Path, **sections: Mapping[str, Any] | None) -> None:
    """Replace sections of a packed file; its weights stay as they are.

    Args:
        path: The file.
        **sections: ``certificate``, ``plan``, ...: JSON objects; None takes a section away.

    Raises:
        PackedFileError: The file is missing or damaged.
        PackError: A section is not JSON.
    """
    data = container.read_bytes(path)
    try:
        body, before, _ = container.from_bytes(data)
    except PackedFileError as error:
        raise PackedFileError(f"{path}: {error}") from error
    merged = {**before, **{name: section for name, section in sections.items() if section is not None}}
    kept = {
        name: section if isinstance(section, list) else dict(section)
        for name, section in merged.items()
        if name not in sections or sections[name] is not None
    }
    atomic_write(Path(path), container.to_bytes(bytes(body), kept))


def _state_dict(model: nn.Module | Mapping[str, Any]) -> Mapping[str, Any]:
    state = model.state_dict() if isinstance(model, nn.Module) else model
    if not isinstance(state, Mapping):
        raise PackError(f"model must be a module or a state dict, got a {type(model).__name__}")
    for name in state:
        if not isinstance(name, str) or any("\ud800" <= letter <= "\udfff" for letter in name):
            raise PackError(f"the names of a state dict must be text that UTF-8 has, got {name!r}")
        if ".parametrizations." in f".{name}":
            raise PackError(f"{name} is still parametrized: call finalize() of its sparsifier before packing the model")
    return state


def _to_raw(name: str, value: object) -> tuple[str, Raw]:
    """A tensor's type and its bits, C-contiguous."""
    if isinstance(value, Tensor):
        if value.is_meta:
            raise PackError(f"{name} cannot be packed: it is on the meta device, without values")
        value = value.detach().cpu()
        if value.dtype == torch.bfloat16:
            return "BF16", value.contiguous().view(torch.int16).numpy().view(np.uint16)
        if value.layout != torch.strided or value.dtype.is_complex or value.is_quantized:
            raise PackError(f"{name} cannot be packed: it is {value.dtype}, {value.layout}")
        try:
            value = value.resolve_neg().numpy()
        except (TypeError, RuntimeError) as error:
            raise PackError(f"{name} cannot be packed: {error}") from error
    if not isinstance(value, np.ndarray):
        raise PackError(f"{name} cannot be packed: it is a {type(value).__name__}, not a tensor")
    dtype = _FROM_NUMPY.get(value.dtype.newbyteorder("="))
    if dtype is None:
        raise PackError(f"{name} cannot be packed: its type is {value.dtype}")
    if value.ndim > MOST_AXES:
        raise PackError(f"{name} cannot be packed: it has {value.ndim} axes, more than {MOST_AXES}")
    native = np.asarray(value, value.dtype.newbyteorder("="), order="C")
    return dtype, native.reshape(-1).view(DTYPES[dtype]).reshape(native.shape)


def _check_graph(graph: Mapping[str, Any], shapes: Mapping[str, Shape]) -> None:
    """Refuse a graph that could not be run from the file."""
    try:
        infer(Graph.from_dict(dict(graph)), shapes)
    except GraphError as error:
        raise PackError(
            f"the graph does not fit the model's tensors, so that the file could not be run: {error}"
        ) from error


def _check_masks(raws: Mapping[str, tuple[str, Raw]], masks: Mapping[str, Any]) -> None:
    if not isinstance(masks, Mapping):
        raise MaskError(f"masks must be a mapping of names to masks, got a {type(masks).__name__}")
    for name, mask in masks.items():
        if name not in raws:
            raise MaskError(
                f"there is a mask of {name}, but the model has no such tensor; it has {', '.join(raws)[:500]}"
            )
        kept = np.asarray(mask.detach().cpu().numpy() if isinstance(mask, Tensor) else mask) != 0
        dtype, raw = raws[name]
        if kept.shape != raw.shape:
            raise MaskError(f"the mask of {name} must have shape {raw.shape}, got {kept.shape}")
        wrong = int(np.count_nonzero(magnitudes(dtype, raw)[~kept]))
        if wrong:
            raise MaskError(f"the mask of {name} hides {wrong:,} weights that are not zero: finalize() the model first")


def _origins(
    raws: Mapping[str, Any], masks: Mapping[str, Any] | None, seed: int | None
) -> dict[str, tuple[int, Stream]]:
    """Seed and stream that the signs of a tensor may be from."""
    found = {name: (seed, Stream(seed, "weights", name)) for name in raws} if seed is not None else {}
    for name, entry in getattr(masks, "signed", {}).items():
        generator, *path = (entry.generator or "").split("/")
        if entry.seed is not None and generator == _GENERATOR:
            found[name] = (entry.seed, Stream(entry.seed, path[0], "/".join(path[1:])))
    return found


def _pack_tensors(
    raws: Mapping[str, tuple[str, Raw]], origins: Mapping[str, tuple[int, Stream]], values: Values
) -> tuple[bytes, list[LayerReport]]:
    """The body of a file."""
    directory, payloads, reports = [varint(len(raws))], [], []
    places: dict[bytes, int] = {}
    for index, (name, (dtype, raw)) in enumerate(raws.items()):
        content = hashlib.sha256(f"{dtype} {raw.shape} ".encode() + raw.tobytes()).digest()
        known = places.setdefault(content, index)
        if known != index and raw.nbytes > len(varint(known)):
            coded = Coded("alias", "alias", varint(known), len(varint(known)))
        else:
            coded = code_tensor(name, dtype, raw, origins.get(name), values)
        axes = b"".join(varint(axis) for axis in raw.shape)
        codes = bytes([CODINGS.index(coded.coding), _NAMES.index(dtype), raw.ndim])
        entry = text(name) + codes + axes + varint(len(coded.payload))
        directory.append(entry)
        payloads.append(coded.payload)
        reports.append(
            LayerReport(
                name=name,
                shape=raw.shape,
                coding=coded.label,
                remaining=int(np.count_nonzero(magnitudes(dtype, raw))),
                dense_bytes=raw.nbytes,
                packed_bytes=len(entry) + len(coded.payload),
                entropy_bytes=coded.entropy_bytes,
                largest_error=coded.largest_error,
            )
        )
    return b"".join(directory + payloads), reports
