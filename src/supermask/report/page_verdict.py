"""The verdict of the page: one sentence and three numbers on one row, with spread, number of runs and machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from supermask.report import form
from supermask.report.page_rows import ACCOUNTINGS, DENSE_BYTES, Block, latency, milliseconds_of_a_step
from supermask.report.paired import ENOUGH_PAIRS, Difference
from supermask.report.ranking import Ranked
from supermask.report.statistics import Spread
from supermask.report.summary import DENSE, Result, Row

_SPREAD: Final = "[5 %, 95 %] of"


def verdict(block: Block) -> dict[str, Any]:
    """What a block comes to.

    The row that is spoken of keeps the fewest weights of those that cannot be told apart from the dense network or are better,
    in pairs of runs enough to tell; where there is none, the one that loses least; without a baseline, the best one.

    Returns:
        `sentence`, its three `numbers` (label, value, unit, lines of detail), `machine`, and the index of the `row`.
    """
    row = _headline(block)
    return {
        "row": block.rows.index(row),
        "sentence": _sentence(block, row),
        "numbers": [_quality(block, row), _bytes(block, row), _time(block, row)],
        "machine": machine(block.of(row)),
        "note": _note(block),
    }


def _headline(block: Block) -> Row:
    sparse = [row for row in block.rows if row.method != DENSE and row.metric.last is not None]
    if not sparse:
        return block.rows[0]
    compared = [(row, line.difference) for row in sparse if (line := block.line(row)) and line.difference]
    if not compared:
        return max(sparse, key=lambda row: _better(block, row.metric.last.mean if row.metric.last else 0.0))
    equal = [row for row, difference in compared if _loss(block, difference) in ("none", "gain")]
    if equal:
        return min(equal, key=lambda row: (row.density.mean if row.density else 1.0, -_gain(block, row)))
    return max(sparse, key=lambda row: _gain(block, row))


def _better(block: Block, value: float) -> float:
    """A value of which more is better."""
    return -value if block.first.metric.better == "lower" else value


def _gain(block: Block, row: Row) -> float:
    line = block.line(row)
    return _better(block, line.difference.mean) if line and line.difference else float("-inf")


def _loss(block: Block, difference: Difference) -> str:
    """Whether there is a loss to the baseline: "loss", "none", "gain", or "unknown" where there are too few pairs to tell."""
    if not difference.trusted:
        return "unknown"
    if difference.is_none:
        return "none"
    return "gain" if _better(block, difference.mean) > 0 else "loss"


def _sentence(block: Block, row: Row) -> str:
    name, keeps = block.name(row), _keeps(row)
    name = name[:1].upper() + name[1:]
    where = f"{block.first.model} on {block.first.data}"
    if row.method == DENSE:
        return f"Only dense networks are compared here: {where}, {_value(block, row)} {_unit(block)}."
    difference = line.difference if (line := block.line(row)) else None
    if difference is None or block.baseline is None:
        return (
            f"{name}{keeps} is the best of {_settings(block)} for {where}: {_value(block, row)} {_unit(block)}. "
            "There is no dense network here to compare with."
        )
    kind = _loss(block, difference)
    if kind == "none":
        return f"{name}{keeps} cannot be told apart from the dense network."
    if kind == "gain":
        return f"{name}{keeps} is better than the dense network."
    if kind == "unknown":
        one = difference.pairs == 1
        pairs = "one pair of runs that there is" if one else f"{difference.pairs} pairs of runs that there are"
        return f"{name}{keeps} does best against the dense network, in the {pairs}."
    return f"Every sparse setting is worse than the dense network; {block.name(row)}{keeps} loses least."


def _settings(block: Block) -> str:
    sparse = sum(row.method != DENSE for row in block.rows)
    return "the one setting" if sparse == 1 else f"{sparse:,} settings"


def _keeps(row: Row) -> str:
    """What remains, unless the name says it already."""
    if row.density is None:
        return ""
    share = _share(row.density.mean)
    return "" if row.label.endswith(share) else f", with {share} of the weights,"


def _share(fraction: float) -> str:
    """A share in per cent with two or three digits."""
    return f"{100 * fraction:.{3 if fraction > 0.1 else 2}g} %"


def _unit(block: Block) -> str:
    return "% accuracy" if block.first.metric.name == "accuracy" else block.first.metric.name.rpartition(":")[2]


def _forms(block: Block, row: Row) -> tuple[Callable[[float], str], Callable[[float], str], str]:
    """How values and differences are written, and the unit of differences."""
    if block.first.metric.name == "accuracy":
        return form.percent, _signed(form.percent), "points"
    value = form.like(row.metric.last.mean if row.metric.last else 0.0)
    return value, _signed(value), _unit(block)


def _signed(value: Callable[[float], str]) -> Callable[[float], str]:
    """With a sign that people read: a minus, not a hyphen."""
    return lambda number: f"{'−' if number < 0 else '+'}{value(abs(number))}"


def _value(block: Block, row: Row) -> str:
    value, _, _ = _forms(block, row)
    return form.mean(row.metric.last, value)


def _quality(block: Block, row: Row) -> dict[str, Any]:
    value, signed, unit = _forms(block, row)
    line: Ranked | None = block.line(row)
    measured = form.spread(row.metric.last, "quantiles", value)
    what = "Accuracy" if block.first.metric.name == "accuracy" else block.first.metric.name.rpartition(":")[2]
    if line is None or line.difference is None:
        shown = form.mean(row.metric.last, value)
        return _number(what, shown, "%" if what == "Accuracy" else "", [f"{measured}, n = {row.n}"])
    difference = line.difference
    details = [f"{measured}{' %' * (what == 'Accuracy')}, {_SPREAD} n = {row.n}"]
    if difference.low is not None and difference.high is not None:
        details.insert(
            0, f"[{signed(difference.low)}, {signed(difference.high)}], 95 % interval of {difference.pairs} pairs"
        )
    return _number(f"{what} against dense", signed(difference.mean), unit, details)


def _bytes(block: Block, row: Row) -> dict[str, Any]:
    accounting = DENSE_BYTES if row.method == DENSE else block.accounting
    size = None if accounting is None else row.bytes.get(accounting)
    dense = row.bytes.get(DENSE_BYTES)
    if size is None or dense is None or accounting is None:
        return _number("Size", None, "", ["not recorded in these runs"])
    value, unit = _size(size.mean)
    details = [f"{_between(size, lambda number: _size(number)[0])}n = {row.n}"]
    if row.method != DENSE:
        times = dense.mean / size.mean
        details.insert(
            0, f"{times:.{0 if times >= 10 else 1}f} times less than {' '.join(_size(dense.mean))} of float32"
        )
    return _number(f"Size {_counted(block)}" if row.method != DENSE else "Size in float32", value, unit, details)


def _counted(block: Block) -> str:
    return ACCOUNTINGS[block.accounting] if block.accounting else ""


def _size(number: float) -> tuple[str, str]:
    """Bytes in a unit that leaves at most four digits."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g}" if number < 100 else f"{number:.0f}", unit
        number /= 1000
    return f"{number:.3g}", "GB"


def _time(block: Block, row: Row) -> dict[str, Any]:
    """Latency of inference where the runs measured it; otherwise of a training step, which all runs tell."""
    results = block.of(row)
    measured = latency(results, dense=row.method == DENSE)
    baseline = block.baseline
    if measured is not None:
        dense = latency(results, dense=True)
        details = [f"dense {_milliseconds(dense.mean)} ms"] if dense and row.method != DENSE else []
        return _timed("Latency, batch of one", measured, details, row)
    step = milliseconds_of_a_step(results)
    if step is None:
        return _number("Time", None, "", ["not recorded in these runs"])
    details = ["wall clock, whatever else ran; latency of inference not recorded in these runs"]
    if baseline is not None and baseline is not row and (other := milliseconds_of_a_step(block.of(baseline))):
        details.insert(0, f"dense {_milliseconds(other.mean)} ms")
    return _timed("Training step", step, details, row)


def _timed(label: str, value: Spread, details: list[str], row: Row) -> dict[str, Any]:
    return _number(label, _milliseconds(value.mean), "ms", [*details, f"{_between(value, _milliseconds)}n = {row.n}"])


def _milliseconds(number: float) -> str:
    return f"{number:.3g}" if number < 1000 else f"{number:,.0f}"


def _between(value: Spread, shown: Callable[[float], str]) -> str:
    ends = shown(value.low), shown(value.high)
    return "" if ends[0] == ends[1] else f"[{ends[0]}, {ends[1]}], {_SPREAD} "


def _number(label: str, value: str | None, unit: str, details: list[str]) -> dict[str, Any]:
    return {"label": label, "value": value, "unit": unit, "details": details}


def machine(results: Sequence[Result]) -> str:
    """What trained some runs; the names of hosts say nothing to a reader."""
    found = []
    for result in results:
        for told in result.get("conditions", {}).get("machines", ()):
            cores = f"{told['cores']} cores" if told.get("cores") else None
            gpu = told.get("device") if told.get("device") != "cpu" else None
            found.append(", ".join(str(part) for part in (told.get("cpu"), cores, gpu) if part))
    where = "; ".join(dict.fromkeys(found)) or ", ".join(dict.fromkeys(result["device"] for result in results))
    threads = " or ".join(str(count) for count in sorted({result["threads"] for result in results}))
    return f"{where}; {threads} thread{'s' * (threads != '1')} a run"


def _note(block: Block) -> str:
    lines: Mapping[int, Ranked] = {i: line for i, line in enumerate(block.lines) if line}
    few = [line for line in lines.values() if line.difference and not line.difference.trusted]
    compared = sum(line.difference is not None for line in lines.values())
    parts = []
    if few:
        parts.append(f"Fewer than {ENOUGH_PAIRS} pairs of runs: trust no interval.")
    if compared > 1:
        parts.append(f"Chosen among {compared:,} settings, and not corrected for their number.")
    return " ".join(parts)
