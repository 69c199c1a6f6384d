"""The path of a search: how many weights of each layer had been among the remaining ones by some point of training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy.typing as npt

from supermask.report import form
from supermask.report.grid import Grid
from supermask.report.statistics import Spread
from supermask.report.summary import Row

#: Where the path is looked at: shares of the steps of a round.
PROGRESS: Final = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)

_PREFIX: Final = "path/"


@dataclass(frozen=True)
class PathLayer:
    """One layer: share of its weights that had entered by each of `PROGRESS`, over the runs."""

    name: str
    size: int
    entered: tuple[Spread, ...]


@dataclass(frozen=True)
class Path:
    """The path of a row; `n` counts the runs that have one."""

    row: Row
    n: int
    layers: tuple[PathLayer, ...]

    def to_dict(self) -> dict[str, Any]:
        """The path as plain JSON values; the schema is in `docs/json.md`."""
        return {
            "experiment": self.row.experiment,
            "label": self.row.label,
            "setting": self.row.setting,
            "n": self.n,
            "progress": list(PROGRESS),
            "layers": [asdict(layer) for layer in self.layers],
        }


def layer_shares(arrays: Mapping[str, npt.NDArray[Any]], steps: int) -> dict[str, tuple[int, list[float]]]:
    """Size of each layer, and the share of its weights that had entered by each of `PROGRESS`, in one run.

    Args:
        arrays: What a run left in `extras.safetensors`; `path/LAYER` holds the step after which each weight first
            remained, -1 = never. Others are not looked at.
        steps: Steps of the round that recorded it.
    """
    found = {}
    for name, entry in sorted(arrays.items()):
        if name.startswith(_PREFIX):
            entered = entry[entry >= 0]
            shares = [float((entered <= share * steps).sum() / entry.size) for share in PROGRESS]
            found[name.removeprefix(_PREFIX)] = (entry.size, shares)
    return found


def path_of(row: Row, runs: Iterable[Mapping[str, tuple[int, list[float]]]]) -> Path | None:
    """The path of a row from what `layer_shares` returned for its runs; None if no run has one."""
    kept = [run for run in runs if run]
    if not kept:
        return None
    order = {layer.name: index for index, layer in enumerate(row.layers)}
    layers = []
    for name, (size, _) in sorted(kept[0].items(), key=lambda item: order.get(item[0], len(order))):
        spreads = [Spread.of(run[name][1][index] for run in kept) for index in range(len(PROGRESS))]
        layers.append(PathLayer(name, size, tuple(spread for spread in spreads if spread is not None)))
    return Path(row, len(kept), tuple(layers))


def path_grid(path: Path, name: str) -> Grid:
    """One line a layer, means over the runs.

    Args:
        path: What is shown.
        name: What the other tables call its row.
    """
    lines = tuple(
        (layer.name, f"{layer.size:,}", *(form.percent(share.mean) for share in layer.entered)) for layer in path.layers
    )
    headers = ("layer", "weights", *(f"by {100 * share:g} %" for share in PROGRESS))
    title = f"{name}: path, % of the weights that had entered by shares of training, mean over {path.n} run"
    notes = ("path: a weight counts from the step at which it first remained, also if it left again.",)
    return Grid(f"{title}{'s' * (path.n != 1)}", headers, lines, notes=notes)
