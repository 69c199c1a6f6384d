"""One sentence on what an engine gains over the fastest dense contender, with the reason where it gains nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

DENSE: Final = ("eager", "channels_last", "compiled", "onnxruntime")
ENGINE: Final = "engine"
_ENOUGH: Final = 3.0  # times fewer sums, below which a dense sum is so much cheaper that nothing is gained
_SMALL: Final = 1_000_000  # multiply-accumulates, below which a call takes longer than its sums


@dataclass(frozen=True)
class Best:
    """The fastest dense contender at one batch size, and how many times as long as the engine it takes."""

    batch: int
    contender: str
    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f}x [{self.low:.2f}, {self.high:.2f}] over {self.contender} at batch {self.batch}"


def fastest_dense(rows: list[dict[str, Any]]) -> list[Best]:
    """The fastest dense contender of each batch size, by its ratio to the engine; none without an engine."""
    found: dict[int, Best] = {}
    for row in rows:
        ratio = row["ratio_to_engine"]
        if row["contender"] in DENSE and ratio is not None:
            new = Best(row["batch"], row["contender"], ratio["median"], ratio["low"], ratio["high"])
            if new.batch not in found or new.median < found[new.batch].median:
                found[new.batch] = new
    return list(found.values())


def verdict(result: Mapping[str, Any]) -> str:
    """The sentence.

    A gain is claimed where the engine was faster than the fastest dense contender in all but 5 % of the rounds.

    Args:
        result: What :func:`supermask.lab.bench.bench` has found, without the verdict.
    """
    best = fastest_dense(result["rows"])
    if not best:
        reasons = {entry["contender"]: entry["reason"] for entry in result["skipped"]}
        return f"NO GAIN: there is no engine to compare with: {reasons[ENGINE]}."
    gains = [entry for entry in best if entry.low > 1]
    level = [entry for entry in best if entry.low <= 1]
    said = f"The engine gains {'; '.join(map(str, gains))}" if gains else ""
    if not level:
        return f"{said}; the network has {_sums(result)}."
    lost = f"NO GAIN ({'; '.join(map(str, level))}): {_reason(result)}"
    return f"{said}; {lost}." if gains else f"{lost}."


def _sums(result: Mapping[str, Any]) -> str:
    ratio = result["macs"]["ratio"]
    if ratio is None:
        return "sums that could not be counted"
    return f"{ratio:.1f} times fewer sums to do than dense"


def _reason(result: Mapping[str, Any]) -> str:
    macs, weights = result["macs"], result["weights"]
    if weights["nonzero"] == weights["total"]:
        return "no weight is zero, so that there is nothing to leave out"
    if macs["ratio"] is not None and macs["ratio"] < _ENOUGH:
        return (
            f"the network has only {_sums(result)}, and a dense sum is about as many times cheaper than one that looks up its "
            "inputs"
        )
    if result["machine"]["kernels"] == "numpy":
        return "the compiled kernels are not there (`supermask doctor` says why), and numpy has no sparse convolution"
    if macs["dense"] is not None and macs["dense"] < _SMALL:
        return f"the whole network is {macs['dense']:,} multiply-accumulates, which take less time than calling it"
    if macs["ratio"] is None:
        return f"layers that the engine does not know take the time ({macs['convention'].rpartition(': ')[2]})"
    return f"the network has {_sums(result)}, but layers that stayed dense, and what lies between the layers, take the time"
