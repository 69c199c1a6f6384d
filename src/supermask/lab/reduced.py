"""A table at a size that a CPU finishes in minutes: fewer images, epochs and seeds, and everything else as it is.

The rule:

- **Seeds:** the first one.
- **Epochs:** :data:`EPOCHS`; as many more as it takes to keep the epochs apart that the table shows, and never more than the
  table has. Later rounds keep their proportion to the first. Tests after every epoch.
- **Images:** one number for the whole table, so that all its rows see the same: as many as its runs can see in
  :data:`TABLE_MACS` multiply-accumulates together (three times those of a forward pass for each image trained on), between
  :data:`FEWEST` and :data:`MOST`, and at least one of each class. A quarter of it more to test with.
- **Which images:** a stratified part of the table's own data set where that is in memory as a whole and its files are here;
  otherwise scikit-learn's handwritten digits, enlarged to the size and the channels that the networks take. The latter never
  need a download. No images are held out.
- **Batches:** as they are, but at most a quarter of an epoch; those that methods score weights on, at most all images.
- **Gradients** are clipped to a norm of :data:`CLIP`, unless the table clips them already: at full learning rates, a few steps
  from the start can otherwise leave the range of numbers.
- **What is counted in steps** (milestones and lengths of schedules, intervals of methods) shrinks with the number of steps; a
  plateau rule, which counts epochs, finds too few of them to act.

Networks, methods and all other settings stay. The numbers show that a table works from end to end, and nothing else.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from supermask import data, models
from supermask.core.arrays import save_arrays
from supermask.data import DATASETS, DataSet
from supermask.data.split import stratified
from supermask.lab.files import canonical_json
from supermask.lab.load import Experiment
from supermask.lab.plan import RunSpec, expand
from supermask.measure.macs import macs

EPOCHS: Final = 4
TABLE_MACS: Final = 1e13
FEWEST: Final = 40
MOST: Final = 1_000
CLIP: Final = 0.5
_BATCHES: Final = 4  # of an epoch, at least
_A_TEST: Final = 4  # images are trained on for each one tested with
_STEPS: Final = ("every", "steps", "milestones")  # keys of a schedule that count steps
_METHOD_STEPS: Final = ("interval", "alternate", "rewind_step")
_STAND_IN: Final = "digits"


@dataclass(frozen=True)
class Reduced:
    """A reduced table.

    Attributes:
        raw: The content of an experiment file.
        images: Images trained on, by the name of the table's data set.
        epochs: Of the longest run's first round.
        stand_ins: Names of data sets that digits stand in for.
    """

    raw: dict[str, Any]
    images: dict[str, int]
    epochs: int
    stand_ins: tuple[str, ...]

    def sentence(self) -> str:
        """What was reduced, for whoever reads the numbers."""
        cut = ", ".join(
            f"{count} {'enlarged handwritten digits for' if name in self.stand_ins else 'images of'} {name}"
            for name, count in self.images.items()
        )
        return f"FAST, not a reproduction: {cut}; at most {self.epochs} epochs a round, one seed"


def reduce(
    experiment: Experiment,
    place: Path,
    *,
    root: Path | None = None,
    table_macs: float = TABLE_MACS,
    most: int | None = None,
) -> Reduced:
    """Reduce an experiment by the rule above; writes the images into the folder ``data`` beside the file.

    Args:
        experiment: One whose models and data sets have names.
        place: The file that the reduced experiment is meant for; files are named relative to it.
        root: Searched first for data sets.
        table_macs: See the rule.
        most: The same.
    """
    seeds = experiment.vary.get("seed", [0])
    first = seeds[0] if isinstance(seeds, list) else 0
    specs = expand(dataclasses.replace(experiment, vary=experiment.vary | {"seed": [first]}))
    longest = max(_train(spec)["epochs"] for spec in specs)
    shown = experiment.table.epochs
    epochs = max(EPOCHS, math.ceil(longest / min(shown))) if shown else EPOCHS
    counted: dict[str, float] = {}  # networks of several rows are counted once
    for spec in specs:
        key = _network(spec)
        if key not in counted:
            counted[key] = _macs(spec)
    cost = sum(counted[_network(spec)] * _images_seen(spec, epochs) for spec in specs)
    count = max(FEWEST, min(MOST if most is None else most, int(table_macs / cost)))
    sets: dict[str, _Images] = {}
    for spec in specs:
        section = spec.sections["data"]
        if section["name"] not in sets:
            sets[section["name"]] = _images(section, count, place.parent / "data", root)
    variants = {spec.label: _sections(spec, sets[spec.sections["data"]["name"]], epochs, place) for spec in specs}
    table: dict[str, Any] = {"kind": experiment.table.kind, "show": list(experiment.table.show)}
    if shown:
        table["epochs"] = sorted({max(1, round(epoch * epochs / longest)) for epoch in shown})
    if experiment.table.rank is not None:
        table["rank"] = list(experiment.table.rank) or True
    published = experiment.published
    rows = {label: cells if isinstance(cells, str) else cells.to_dict() for label, cells in published.rows.items()}
    others = [cells if isinstance(cells, str) else cells.to_dict() for cells in published.others]
    raw: dict[str, Any] = {"name": f"{experiment.name}-fast", "about": f"FAST: {experiment.about}"}
    raw |= {"vary": {"seed": [first], "variant": variants}}
    raw |= {"published": {"rows": rows, "others": others}, "table": table}
    stand_ins = tuple(name for name, images in sets.items() if images.stand_in)
    trained = max(min(epochs, _train(spec)["epochs"]) for spec in specs)
    return Reduced(raw, {name: images.count for name, images in sets.items()}, trained, stand_ins)


def _train(spec: RunSpec) -> dict[str, Any]:
    section: dict[str, Any] = spec.sections["train"]
    return section


def _network(spec: RunSpec) -> str:
    return canonical_json([spec.sections["model"], spec.sections["data"]["name"]])


def _macs(spec: RunSpec) -> float:
    """Multiply-accumulates of a forward pass; of recurrent networks, which are not counted, one for each weight and row."""
    section = dict(spec.sections["model"])
    with torch.device("meta"):  # takes no memory and no time
        model = models.build(section.pop("name"), **section)
    shape = _shape(spec.sections["data"])
    counted = macs(model, shape, {})["dense"]
    if counted is not None:
        return float(counted)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return float(parameters) * max(shape)


def _shape(section: Mapping[str, Any]) -> tuple[int, int, int]:
    """(channels, height, width) of the inputs that a data set gives."""
    shape: tuple[int, int, int] | None = DATASETS[section["name"]].input_shape
    assert shape is not None, "the tables' data sets have a known shape"
    return shape


def _images_seen(spec: RunSpec, epochs: int) -> float:
    """How often a run sees each image, in forward passes."""
    train = _train(spec)
    rounds = [train, *train.get("rounds", {}).values()]
    trained = sum(_epochs(one.get("epochs", train["epochs"]), train["epochs"], epochs) for one in rounds)
    passes: int = train["passes"]
    return trained * (3 * passes + 1 / _A_TEST)


def _epochs(own: int, first: int, epochs: int) -> int:
    """Epochs of a round in the same proportion to the first round."""
    return max(1, round(min(epochs, first) * own / first))


# ---------------------------------------------------------------------- sections


def _sections(spec: RunSpec, images: _Images, epochs: int, place: Path) -> dict[str, Any]:
    """The sections of a run, every key filled in."""
    sections, train = spec.sections, dict(_train(spec))
    kept = {key: sections["data"][key] for key in ("normalize", "augment") if sections["data"][key] is not None}
    file = os.path.relpath(images.file, place.parent)
    sizes = DATASETS[sections["data"]["name"]].sizes
    assert sizes is not None
    first, size = train["epochs"], train["batch_size"]
    train["batch_size"] = min(size, max(1, images.count // _BATCHES))
    batches = math.ceil(images.count / train["batch_size"]) / math.ceil(sizes[0] / size)

    def shrunk(one: Mapping[str, Any]) -> dict[str, Any]:
        """A round's settings."""
        own = one.get("epochs", first)
        changed: dict[str, Any] = {"epochs": _epochs(own, first, epochs)}
        if "schedule" in one:
            changed["schedule"] = _schedule(one["schedule"], batches * changed["epochs"] / own)
        return dict(one) | changed | ({"test_every": 1} if "test_every" in one else {})

    if "rounds" in train:
        train["rounds"] = {number: shrunk(one) for number, one in train["rounds"].items()}
    train |= shrunk(train)
    train["clip"] = train["clip"] or {"norm": CLIP, "over": "all"}
    method = dict(sections["method"])
    for key in _METHOD_STEPS:
        if method.get(key):
            method[key] = max(1, round(method[key] * batches * train["epochs"] / first))
    if method.get("batch_size"):  # of images that weights are scored on
        method["batch_size"] = min(method["batch_size"], images.count)
    return {
        "model": sections["model"],
        "init": sections["init"],
        "data": {"name": "npz", "file": file, **kept},
        "method": method,
        "train": train,
    }


def _schedule(section: Mapping[str, Any], ratio: float) -> dict[str, Any]:
    """A schedule whose steps are fewer by a factor."""
    changed = dict(section)
    for key in _STEPS:
        value = changed.get(key)
        if isinstance(value, list):
            steps: list[int] = []
            for step in value:
                steps.append(max(steps[-1] + 1 if steps else 1, round(step * ratio)))
            changed[key] = steps
        elif value is not None:
            changed[key] = max(1, round(value * ratio))
    if isinstance(changed.get("then"), Mapping):
        changed["then"] = _schedule(changed["then"], ratio)
    return changed


# ---------------------------------------------------------------------- images


@dataclass(frozen=True)
class _Images:
    """A file with images.

    Attributes:
        file: An own data set of kind ``npz``.
        count: Images to train on.
        stand_in: Whether they are not of the data set itself.
    """

    file: Path
    count: int
    stand_in: bool


def _images(section: Mapping[str, Any], count: int, folder: Path, root: Path | None) -> _Images:
    """Write a file with so many images in place of a data set, unless it is there."""
    name, shape = section["name"], _shape(section)
    ready = {status.name: status.ready for status in data.status(root)}
    own = bool(DATASETS[name].classes) and ready.get(name, False)
    source = data.load(name if own else _STAND_IN, root=root, normalize="none")
    count = max(count, len(source.classes))
    file = folder / (f"{name}-{count}.npz" if own else f"{_STAND_IN}-as-{name}-{count}.npz")
    if not file.exists():
        save_arrays(file, _arrays(source, count, shape))
    return _Images(file, count, not own)


def _arrays(source: DataSet, count: int, shape: tuple[int, int, int]) -> dict[str, npt.NDArray[np.generic]]:
    """Training and test images, uint8 (N, C, H, W) of a shape, and their labels."""
    found: dict[str, npt.NDArray[np.generic]] = {}
    tested = max(math.ceil(count / _A_TEST), len(source.classes))
    for part, split, wanted in (("train", source.train, count), ("test", source.test, tested)):
        labels = split.y.numpy()
        chosen = np.arange(len(labels)) if wanted >= len(labels) else stratified(labels, wanted)[1]
        pixels = np.rint(split.x.numpy()[chosen] * 255).astype(np.uint8)
        found[f"{part}_images"] = _enlarged(pixels, shape)
        found[f"{part}_labels"] = labels[chosen]
    return found


def _enlarged(pixels: npt.NDArray[np.uint8], shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """The nearest pixel at each place of a larger image; one channel is repeated."""
    channels, height, width = shape
    rows, columns = (np.arange(new) * old // new for new, old in zip((height, width), pixels.shape[2:], strict=True))
    larger = pixels[:, :, rows][:, :, :, columns]
    return larger if larger.shape[1] == channels else np.repeat(larger, channels, axis=1)
