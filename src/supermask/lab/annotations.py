"""What an experiment file says beside its runs: quoted numbers, and the table it stands for. Never part of a run's id."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from supermask.errors import ConfigError, HyperparameterError
from supermask.lab.validate import build, check, join, require_known, require_mapping, show, suggest

Trust = Literal["authors' README", "authors' paper", "authors' caption", "authors' files", "figure", "second-hand"]
Kind = Literal["results", "settings", "literature"]
Measured = list[int | float]
Range = Measured | str  # text: a range or a bound, as the source prints it


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Quoted numbers of one row. A list holds the mean, or the mean and the ends of its range; text a range or a bound.

    Args:
        source: Where they were read.
        label: Names the row; in ``published.rows`` the label of the runs does.
        trust: How they were obtained.
        accuracy: Test accuracy, per cent.
        accuracy_best: Of the best epoch, per cent.
        remaining: Remaining weights, per cent of the targeted ones.
        test_loss: Mean over the test set.
        seconds_per_epoch: Training time, seconds.
        extra_time: Training time over the dense baseline's, per cent more.
        compression: Memory saved, per cent.
        weights: Remaining weights, a count.
        n: Runs behind the numbers.
        note: What a reader must know.
        bits: Bits of a remaining weight.
        trained_weights: Whether the weights themselves were trained.
        batchnorm: Whether batch norm normalises (a frozen one is a constant factor and does not).
        start_weights: Weights before pruning, a count.
        epochs: Training epochs, as the source counts them.
    """

    source: str
    label: str | None = None
    trust: Trust | None = None
    accuracy: Measured | None = None
    accuracy_best: Measured | None = None
    remaining: Measured | None = None
    test_loss: Measured | None = None
    seconds_per_epoch: Measured | None = None
    extra_time: Range | None = None
    compression: Range | None = None
    weights: Measured | None = None
    n: int | None = None
    note: str | None = None
    bits: float | None = None
    trained_weights: bool | None = None
    batchnorm: bool | None = None
    start_weights: int | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, list) and len(value) not in (1, 3):
                raise HyperparameterError(f"{item.name} must hold 1 number (mean) or 3 (mean, low, high), got {value}")

    def to_dict(self) -> dict[str, Any]:
        """The cells that are given, as plain values."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


CELLS = tuple(item.name for item in dataclasses.fields(Cells))
Quoted = str | Cells  # the id of an entry of ``literature.yaml``, or the cells themselves


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
            ``model.convolutions``, ``model.linear``, ``model.batchnorm``, which are counted on the model.
        quoted: ``settings``: label -> header -> text as it was printed.
        source: ``settings``: where the quoted cells are from, in a word or two; stands in their headers.
    """

    kind: Kind = "results"
    columns: Mapping[str, str] = field(default_factory=dict)
    quoted: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    source: str = "quoted"


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
    extra = [key for key in known if key in values and key != "kind"]
    if kind != "settings" and extra:
        raise ConfigError(f"table.{extra[0]}: only a table of kind 'settings' takes it, this one is {kind!r}")
    if kind == "settings" and not values.get("columns"):
        raise ConfigError("table.columns: missing; a table of kind 'settings' needs them (header: dotted.key)")
    columns = _texts(values.get("columns", {}), "table.columns")
    rows = require_mapping(values.get("quoted", {}), "table.quoted")
    quoted = {label: _texts(cells, join("table.quoted", label)) for label, cells in rows.items()}
    for label, cells in quoted.items():
        for header in cells:
            if header not in columns:
                raise ConfigError(f"table.quoted.{label}.{header}: no such column; {suggest(header, columns)}")
    return Table(
        kind=kind, columns=columns, quoted=quoted, source=check(str, values.get("source", "quoted"), "table.source")
    )


def _texts(section: object, path: str) -> dict[str, str]:
    return {key: check(str, value, join(path, key)) for key, value in require_mapping(section, path).items()}


def _quoted(value: object, path: str) -> Quoted:
    if isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}: expected the id of an entry of literature.yaml, or its cells, got {show(value)}")
    return build(Cells, value, path)
