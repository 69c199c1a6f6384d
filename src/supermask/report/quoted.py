"""Numbers of other people, quoted beside ours: never measured here, always with their source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from supermask.report.summary import Row

#: Measured quantities in the units of the source -> what one of ours is in them. Quoted shares are per cent.
FIGURES: Final = {
    "accuracy": 100.0,
    "accuracy_best": 100.0,
    "remaining": 100.0,
    "test_loss": 1.0,
    "seconds_per_epoch": 1.0,
    "extra_time": 100.0,
    "compression": 100.0,
    "weights": 1.0,
}

#: What ours are called where the quoted cells have another name.
OURS: Final = {"remaining": "density", "weights": "weights_remaining"}

#: Facts that are printed as they stand.
FACTS: Final = ("bits", "trained_weights", "batchnorm", "start_weights", "epochs")


@dataclass(frozen=True)
class Quote:
    """One quoted row.

    Attributes:
        label: What the source calls it, or the label of our row that it stands beside.
        source: Where the numbers are printed.
        cells: Key of `FIGURES` or `FACTS` -> what is printed there; figures are (mean,) or (mean, low, high).
        trust: What kind of source that is; may be empty.
        n: How many runs the numbers come from; None where the source does not say.
        note: One sentence on what the numbers mean; may be empty.
        experiment: The experiment of the row that it stands beside.
        beside: The label of our row; empty where we run nothing like it.
    """

    label: str
    source: str
    cells: Mapping[str, Any]
    trust: str = ""
    n: int | None = None
    note: str = ""
    experiment: str = ""
    beside: str = ""

    @classmethod
    def of(cls, cells: Mapping[str, Any], *, experiment: str = "", beside: str = "") -> Quote:
        """A quote from plain cells: `label`, `source` and whatever else the source prints."""
        known = {key: _figure(cells[key]) for key in FIGURES if cells.get(key) is not None}
        known |= {key: cells[key] for key in FACTS if cells.get(key) is not None}
        return cls(
            label=beside or cells["label"],
            source=cells["source"],
            trust=cells.get("trust") or "",
            cells=known,
            n=cells.get("n"),
            note=cells.get("note") or "",
            experiment=experiment,
            beside=beside,
        )

    def is_beside(self, row: Row) -> bool:
        """Whether it was published for what this row ran."""
        return (self.experiment, self.beside) == (row.experiment, row.label)

    def text(self, key: str) -> str | None:
        """A cell in the units of the source, not rounded, `mean [low, high]`; None where it prints nothing."""
        value = self.cells.get(key)
        if value is None:
            return None
        if key not in FIGURES:
            return _fact(value)
        mean, *band = value
        if not band:
            return _fact(mean)
        digits = max(len(str(end).partition(".")[2]) for end in band)
        low, high = (f"{end:,.{digits}f}" for end in band)
        return f"{_fact(mean)} [{low}, {high}]"

    def to_dict(self) -> dict[str, Any]:
        """The quote as plain JSON values in our units; the schema is in `docs/json.md`."""
        return {
            "label": self.label,
            "source": self.source,
            "trust": self.trust,
            **{OURS.get(key, key): self._spread(key) for key in FIGURES},
            **{key: self.cells.get(key) for key in FACTS},
            "n": self.n,
            "note": self.note,
        }

    def _spread(self, key: str) -> dict[str, Any] | None:
        """A figure as a spread in our units, shares as fractions."""
        if key not in self.cells:
            return None
        numbers = [round(float(number) / FIGURES[key], 12) for number in self.cells[key]]
        low, high = numbers[1:] or (None, None)
        return {"mean": numbers[0], "low": low, "high": high, "std": None, "n": self.n}


def _figure(value: Any) -> tuple[Any, ...]:
    numbers = tuple(value) if isinstance(value, Sequence) else (value,)
    assert len(numbers) in (1, 3), f"a quoted number is a mean, or mean, low and high: {value!r}"
    return numbers


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"{value:,}" if isinstance(value, int) else str(value)
