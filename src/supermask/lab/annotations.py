"""What an experiment file says beside its runs: quoted numbers, and the table it stands for. Never part of a run's id."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from supermask.errors import ConfigError, HyperparameterError
from supermask.lab.validate import build, check, join, require_known, require_mapping, show, suggest

Trust = Literal[
    "authors' README",
    "authors' paper",
    "authors' caption",
    "authors' files",
    "figure",
    "second-hand",  # as others quote it
    "third-party runs",  # others' runs of the method
    "recalled",  # from memory, not checked
    "computed",  # by us, from what is published; nothing was trained
]
Share = Literal["targeted weights", "weights and biases", "all parameters", "not said"]
Kind = Literal["results", "settings", "literature"]
Shown = Literal["best", "per-layer", "path", "std"]
Measured = list[int | float]
Range = Measured | str  # text: a range or a bound, as the source prints it


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Quoted numbers of one row. A list holds the mean, or the mean and the ends of its range; text a range or a bound.

    Args:
        source: Where they were read.
        label: Names the row; in ``published.rows`` the label of the runs does.
        trust: How they were obtained.
        method: What was run.
        network: On which network.
        data: On which data set.
        accuracy: Test accuracy, per cent.
        std: Standard deviation of the accuracy, points; beside a mean alone.
        accuracy_top5: Accuracy of the five most likely classes, per cent.
        accuracy_best: Of the best epoch, per cent.
        remaining: Remaining weights, per cent of what ``remaining_of`` says.
        remaining_of: What ``remaining``, ``weights`` and ``start_weights`` count.
        test_loss: Mean over the test set.
        seconds_per_epoch: Training time, seconds.
        extra_time: Training time over the dense baseline's, per cent more.
        compression: Memory saved, per cent.
        packed: Bytes of the dense float32 weights that a packed file of this package saves, per cent.
        weights: Remaining weights, a count.
        n: Runs behind the numbers.
        note: What a reader must know.
        bits: Bits of a remaining weight.
        trained_weights: Whether the weights themselves were trained.
        batchnorm: Whether batch norm normalises (a frozen one is a constant factor and does not).
        start_weights: Weights before pruning, a count.
        epochs: Training epochs, as the source counts them.
        pretraining: Whether a dense network is trained first.
        pruning_steps: How often is pruned: a number, or "many" or "soft" as the source says it.
        extra_hyperparameters: Whether there are hyper-parameters beyond the density and those of training.
        augmented_objective: Whether the loss gets further terms.
        architecture_constraints: Whether settings depend on the architecture.
    """

    source: str
    label: str | None = None
    trust: Trust | None = None
    method: str | None = None
    network: str | None = None
    data: str | None = None
    accuracy: Measured | None = None
    std: float | None = None
    accuracy_top5: Measured | None = None
    accuracy_best: Measured | None = None
    remaining: Measured | None = None
    remaining_of: Share | None = None
    test_loss: Measured | None = None
    seconds_per_epoch: Measured | None = None
    extra_time: Range | None = None
    compression: Range | None = None
    packed: Measured | None = None
    weights: Measured | None = None
    n: int | None = None
    note: str | None = None
    bits: float | None = None
    trained_weights: bool | None = None
    batchnorm: bool | None = None
    start_weights: int | None = None
    epochs: int | None = None
    pretraining: bool | None = None
    pruning_steps: int | str | None = None
    extra_hyperparameters: bool | None = None
    augmented_objective: bool | None = None
    architecture_constraints: bool | None = None

    def __post_init__(self) -> None:
        if self.std is not None and (self.accuracy is None or len(self.accuracy) != 1):
            raise HyperparameterError(f"std stands beside the mean of an accuracy alone, got {self.accuracy}")
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, list) and len(value) not in (1, 3):
                raise HyperparameterError(f"{item.name} must hold 1 number (mean) or 3 (mean, low, high), got {value}")

    def to_dict(self) -> dict[str, Any]:
        """The cells that are given, as plain values."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


CELLS = tuple(item.name for item in dataclasses.fields(Cells))
Quoted = str | Cells  # the id of an entry of the literature, or the cells themselves


@dataclass(frozen=True, kw_only=True)
class PublishedSection:
    """The ``published`` section: quoted numbers to stand beside ours.

    Args:
        rows: Label of runs -> what was published for them.
        others: Rows without runs.
    """

    rows: Mapping[str, Quoted] = field(default_factory=dict)
    others: tuple[Quoted, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """The ``table`` section: which kind of table an experiment stands for.

    Args:
        kind: ``results``: what the runs gave. ``settings``: what the runs were told, beside quoted cells.
            ``literature``: quoted rows only, no runs.
        columns: ``settings``: header -> dotted key of a run (``train.optimizer.lr``), or one of ``model.weights``,
            ``model.weights-and-biases``, ``model.convolutions``, ``model.strides``, ``model.linear``, ``model.batchnorm``,
            which are counted on the model.
        quoted: ``settings``: label -> header -> text as it was printed.
        source: ``settings``: where the quoted cells are from, in a word or two; stands in their headers.
        rank: Classes of remaining weights, densities from high to low: a ranking for each. Empty: one ranking of all rows.
            None: a ranking only where one is asked for.
        show: ``results``: what the table has beside the usual columns: the best epoch, layers, paths, standard deviations in
            place of quantiles.
        epochs: ``results``: it also shows its rows at these epochs.
    """

    kind: Kind = "results"
    columns: Mapping[str, str] = field(default_factory=dict)
    quoted: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    source: str = "quoted"
    rank: tuple[float, ...] | None = None
    show: tuple[Shown, ...] = ()
    epochs: tuple[int, ...] = ()


def parse_published(section: object) -> PublishedSection:
    """Judge a raw ``published`` section; whether labels and ids exist is judged when the runs are known.

    Raises:
        ConfigError: An unknown key, or a value of the wrong type.
    """
    values = require_mapping(section, "published")
    require_known(values, ("rows", "others"), "published")
    rows = require_mapping(values.get("rows", {}), "published.rows")
    others = values.get("others", [])
    if not isinstance(others, list):
        raise ConfigError(f"published.others: expected a list of ids or of cells, got {show(others)}")
    return PublishedSection(
        rows={label: _quoted(value, join("published.rows", label)) for label, value in rows.items()},
        others=tuple(_quoted(value, f"published.others.{index}") for index, value in enumerate(others)),
    )


def parse_table(section: object) -> Table:
    """Judge a raw ``table`` section.

    Raises:
        ConfigError: An unknown key, a value of the wrong type, or keys that do not go with the kind.
    """
    values = require_mapping(section, "table")
    known = [item.name for item in dataclasses.fields(Table)]
    require_known(values, known, "table")
    kind = check(Kind, values.get("kind", "results"), "table.kind")
    for owner, keys in (("settings", ("columns", "quoted", "source")), ("results", ("show", "epochs"))):
        if kind != owner and (extra := [key for key in keys if key in values]):
            raise ConfigError(f"table.{extra[0]}: only a table of kind {owner!r} takes it, this one is {kind!r}")
    if kind == "settings" and not values.get("columns"):
        raise ConfigError("table.columns: missing; a table of kind 'settings' needs them (header: dotted.key)")
    columns = _texts(values.get("columns", {}), "table.columns")
    rows = require_mapping(values.get("quoted", {}), "table.quoted")
    quoted = {label: _texts(cells, join("table.quoted", label)) for label, cells in rows.items()}
    for label, cells in quoted.items():
        for header in cells:
            if header not in columns:
                raise ConfigError(f"table.quoted.{label}.{header}: no such column; {suggest(header, columns)}")
    rank = _rank(values.get("rank", False))
    if kind == "literature" and rank is not None:
        raise ConfigError("table.rank: a table of kind 'literature' has no runs to rank; remove this")
    source = check(str, values.get("source", "quoted"), "table.source")
    shown = tuple(check(list[Shown], values.get("show", []), "table.show"))
    return Table(
        kind=kind,
        columns=columns,
        quoted=quoted,
        source=source,
        rank=rank,
        show=shown,
        epochs=_shown_epochs(values.get("epochs", [])),
    )


def _shown_epochs(value: object) -> tuple[int, ...]:
    epochs = check(list[int], value, "table.epochs")
    if any(epoch < 1 for epoch in epochs):
        raise ConfigError(f"table.epochs: epochs count from 1, got {show(value)}")
    return tuple(sorted(set(epochs)))


def _rank(value: object) -> tuple[float, ...] | None:
    """``true``: one ranking; a list: one for each density; ``false``: none."""
    if isinstance(value, bool):
        return () if value else None
    densities = check(list[float], value, "table.rank")
    for density in densities:
        if not 0 < density <= 1:
            hint = f"; did you mean {density / 100:g}?" if 1 < density <= 100 else ""
            raise ConfigError(
                f"table.rank: a density must be in (0, 1], got {density:g}{hint} (density is what remains)"
            )
    if not densities or len(set(densities)) < len(densities):
        raise ConfigError(f"table.rank: expected true, or different densities such as [0.1, 0.01], got {show(value)}")
    return tuple(sorted(densities, reverse=True))


def _texts(section: object, path: str) -> dict[str, str]:
    return {key: check(str, value, join(path, key)) for key, value in require_mapping(section, path).items()}


def _quoted(value: object, path: str) -> Quoted:
    if isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}: expected the id of an entry of the literature, or its cells, got {show(value)}")
    return build(Cells, value, path)
