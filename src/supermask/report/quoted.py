"""Numbers of other people, quoted beside ours: never measured here, always with their source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from supermask.report.summary import Row

#: Measured quantities in the units of the source -> what one of ours is in them. Quoted shares are per cent.
FIGURES: Final = {
    "accuracy": 100.0,
    "accuracy_top5": 100.0,
    "accuracy_best": 100.0,
    "remaining": 100.0,
    "test_loss": 1.0,
    "seconds_per_epoch": 1.0,
    "extra_time": 100.0,
    "compression": 100.0,
    "packed": 100.0,
    "weights": 1.0,
}

#: Figures that sources print with two decimals or more, unless they round to a whole number.
_SHARES: Final = ("accuracy", "accuracy_top5", "accuracy_best", "remaining")

#: What ours are called where the quoted cells have another name.
OURS: Final = {"remaining": "density", "weights": "weights_remaining"}

#: What a method asks for, as sources compare it.
NEEDS: Final = {
    "pretraining": "pretraining",
    "pruning_steps": "pruning steps",
    "extra_hyperparameters": "more hyper-parameters",
    "augmented_objective": "more in the loss",
    "architecture_constraints": "by architecture",
}

#: Facts that are printed as they stand.
FACTS: Final = (
    *("method", "network", "data", "bits", "trained_weights", "batchnorm", "remaining_of", "start_weights", "epochs"),
    *NEEDS,
)


#: What shares are of: of ours always the first; the last where a source does not say it.
TARGETED: Final = "targeted weights"
NOT_SAID: Final = "not said"

#: The trust in numbers from memory, which nobody has checked.
RECALLED: Final = "recalled"

#: The trust in numbers that we computed from what is published, without training.
COMPUTED: Final = "computed"

#: What the words of lines mean.
WORDS: Final = {
    "quoted": "quoted, not run here",
    RECALLED: "recalled, not checked and not run here",
    COMPUTED: "computed here from what is published, not trained",
}


@dataclass(frozen=True)
class Quote:
    """One quoted row.

    Attributes:
        label: What the source calls it, or the label of our row that it stands beside.
        source: Where the numbers are printed.
        cells: Key of `FIGURES` or `FACTS` -> what is printed there; figures are (mean,) or (mean, low, high), or text: a
            range or a bound.
        std: Standard deviation of the accuracy, in points; beside a mean alone.
        trust: What kind of source that is; may be empty.
        n: How many runs the numbers come from; None where the source does not say.
        note: One sentence on what the numbers mean; may be empty.
        experiment: The experiment of the row that it stands beside.
        beside: The label of our row; empty where we run nothing like it.
        runs: The runs of that label in the experiment file that quotes it.
    """

    label: str
    source: str
    cells: Mapping[str, Any]
    std: float | None = None
    trust: str = ""
    n: int | None = None
    note: str = ""
    experiment: str = ""
    beside: str = ""
    runs: frozenset[str] = frozenset()

    @classmethod
    def of(cls, cells: Mapping[str, Any], *, experiment: str = "", beside: str = "", runs: Iterable[str] = ()) -> Quote:
        """A quote from plain cells: `label`, `source` and whatever else the source prints."""
        known = {key: _figure(cells[key]) for key in FIGURES if cells.get(key) is not None}
        known |= {key: cells[key] for key in FACTS if cells.get(key) is not None}
        return cls(
            label=beside or cells["label"],
            source=cells["source"],
            trust=cells.get("trust") or "",
            cells=known,
            std=cells.get("std"),
            n=cells.get("n"),
            note=cells.get("note") or "",
            experiment=experiment,
            beside=beside,
            runs=frozenset(runs),
        )

    def is_beside(self, row: Row) -> bool:
        """Whether it was published for what this row ran; experiments of one name may give one label to several."""
        return (self.experiment, self.beside) == (row.experiment, row.label) and not self.runs.isdisjoint(row.runs)

    @property
    def word(self) -> str:
        """What its line calls it: "recalled" where nobody looked the number up, "computed" where we did, or "quoted"."""
        return self.trust if self.trust in WORDS else "quoted"

    @property
    def has_figures(self) -> bool:
        """Whether it stands in any table of results; what does not is told in its note alone."""
        return any(key in FIGURES for key in self.cells)

    def text(self, key: str) -> str | None:
        """A cell in the units of the source, not rounded: a mean with range or deviation, or text; None: prints nothing."""
        value = self.cells.get(key)
        if value is None:
            return None
        if key not in FIGURES or isinstance(value, str):
            return _fact(value)
        mean, *band = value
        digits = max(map(_digits, band), default=0)
        shown = _fact(mean)
        if band or (key in _SHARES and isinstance(mean, float)):
            shown = f"{mean:,.{max(digits, _digits(mean), 2 if key in _SHARES else 0)}f}"
        if key == "accuracy" and self.std is not None:
            return f"{shown} ± {self.std:.{max(2, _digits(self.std))}f}"
        return f"{shown} [{', '.join(f'{end:,.{digits}f}' for end in band)}]" if band else shown

    def to_dict(self) -> dict[str, Any]:
        """The quote as plain JSON values in our units; the schema is in `docs/json.md`."""
        return {
            "label": self.label,
            "source": self.source,
            "trust": self.trust,
            **{OURS.get(key, key): self._spread(key) for key in FIGURES},
            "texts": {key: value for key, value in self.cells.items() if key in FIGURES and isinstance(value, str)},
            **{key: self.cells.get(key) for key in FACTS},
            "n": self.n,
            "note": self.note,
        }

    def _spread(self, key: str) -> dict[str, Any] | None:
        """A figure as a spread in our units, shares as fractions; None for one that is text."""
        if key not in self.cells or isinstance(self.cells[key], str):
            return None
        numbers = [round(float(number) / FIGURES[key], 12) for number in self.cells[key]]
        low, high = numbers[1:] or (None, None)
        std = None if key != "accuracy" or self.std is None else round(self.std / FIGURES[key], 12)
        return {"mean": numbers[0], "low": low, "high": high, "std": std, "n": self.n}


def _figure(value: Any) -> tuple[Any, ...] | str:
    if isinstance(value, str):
        return value
    numbers = tuple(value) if isinstance(value, Sequence) else (value,)
    assert len(numbers) in (1, 3), f"a quoted number is a mean, or mean, low and high: {value!r}"
    return numbers


def _digits(number: float) -> int:
    """Decimals that a number needs."""
    return len(str(number).partition(".")[2])


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"{value:,}" if isinstance(value, int) else str(value)
