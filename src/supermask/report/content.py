"""What a report is made of, and how it is to be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from supermask.errors import ConfigError
from supermask.report.path import Path
from supermask.report.quoted import Quote
from supermask.report.ranking import Ranking
from supermask.report.summary import Row, repeated_seeds

FORMATS: Final = ("text", "markdown", "latex", "csv", "json")
SPREADS: Final = ("quantiles", "std")

Failure = Mapping[str, Any]


@dataclass(frozen=True)
class Settings:
    """A table of settings: what the runs of each label were told, beside quoted cells.

    Attributes:
        title: One line above it.
        headers: "label", then one a column; quoted columns name their source.
        rows: One a label; None where a run has no such setting or nothing is quoted.
    """

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Content:
    """Everything a report says.

    Attributes:
        rows: What `summarize` returned.
        quotes: Published numbers: those that stand beside our rows, and those of others.
        settings: Tables of settings, shown before the results.
        literature: Published numbers that get a table of their own, with the facts behind them (bits, epochs, ...).
        failures: Contents of `failed.json` files.
        missing: How many planned runs have no result and no failure yet.
        rankings: What `rank` returned.
        paths: The paths of the rows that have one, where they are asked for.
        remarks: Sentences on the report as a whole, without their full stop.
    """

    rows: Sequence[Row] = ()
    quotes: Sequence[Quote] = ()
    settings: Sequence[Settings] = ()
    literature: Sequence[Quote] = ()
    failures: Sequence[Failure] = ()
    missing: int = 0
    rankings: Sequence[Ranking] = ()
    paths: Sequence[Path] = ()
    remarks: Sequence[str] = ()

    @property
    def sentences(self) -> list[str]:
        """All that is to be said on the rows as a whole, without full stops."""
        return [*self.remarks, *repeated_seeds(self.rows)]


@dataclass(frozen=True)
class View:
    """How a report is shown.

    Args:
        spread: "quantiles" (mean [5 %, 95 %]) or "std" (mean ± sample standard deviation); CSV and JSON hold both.
        best: Add the best epoch to the tables; CSV and JSON always hold it.
        per_layer: Add the layers of every row and multiply-accumulates; JSON always holds them.
        per_epoch: Add the rows at single epochs, which `summarize` was asked for; JSON always holds them.
        rank: CSV holds the rankings; the other formats always hold those of the content.
        path: CSV holds the paths; the other formats always hold those of the content.

    Raises:
        ConfigError: `spread` is not one of the known words.
    """

    spread: str = "quantiles"
    best: bool = False
    per_layer: bool = False
    per_epoch: bool = False
    rank: bool = False
    path: bool = False

    def __post_init__(self) -> None:
        require_word("spread", self.spread, SPREADS)


def require_word(name: str, value: str, known: Sequence[str]) -> None:
    """Refuse a word that is not one of the known.

    Raises:
        ConfigError: It is not.
    """
    if value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(known)}, got {value!r}")
