from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from supermask.report.bench import bench_grids, bench_notes, bench_svg, milliseconds


def row(contender: str, batch: int, p50: float, ratio: float | None) -> dict[str, Any]:
    over = None if ratio is None else {"median": ratio, "low": ratio - 0.5, "high": ratio + 0.5, "rounds": 30}
    return {
        "contender": contender,
        "batch": batch,
        "p50": p50,
        "p95": 2 * p50,
        "per_second": batch / p50,
        "calls": 60,
        "ratio_to_engine": over,
        "peak_memory": 100 << 20 if contender == "eager" else None,
    }


RESULT: dict[str, Any] = {
    "schema": 1,
    "name": "net <1>",
    "against": None,
    "input_shape": [3, 32, 32],
    "options": {"batches": [1, 32], "threads": 1, "clock": "wall"},
    "machine": {"cpu": "some processor", "kernels": "avx2", "torch": "2.13.0"},
    "weights": {"total": 1000, "nonzero": 30},
    "macs": {"dense": 1_000, "remaining": 100, "ratio": 10.0, "convention": "sums"},
    "bytes": {"dense_float32": 4_000, "packed": 80},
    "rows": [
        row("engine", 1, 0.001, 1.0),
        row("eager", 1, 0.0042, 4.2),
        row("eager", 32, 0.123456, 5.0),
        row("engine", 32, 0.02, 1.0),
    ],
    "differences": {"engine": 1.5e-6},
    "skipped": [{"contender": "compiled", "reason": "not asked for"}],
    "verdict": "The engine gains.",
}


def test_tables() -> None:
    times, sizes = bench_grids(RESULT)
    assert times.title == "net <1>: 1 thread, wall clock"
    assert times.rows == (
        ("1", "torch eager", "4.20", "8.40", "238", "100", "4.20 [3.70, 4.70]"),
        ("1", "engine", "1.00", "2.00", "1,000", "–", "1"),
        ("32", "torch eager", "123", "247", "259", "100", "5.00 [4.50, 5.50]"),
        ("32", "engine", "20.0", "40.0", "1,600", "–", "1"),
    )
    assert sizes.rows == (("4,000", "80", "50.0"),)


def test_notes_name_what_bounds_the_gain_and_what_was_left_out() -> None:
    notes = bench_notes(RESULT)
    assert notes[0].startswith("dense multiply-accumulates / those of weights that are not zero: 1,000 / 100 = 10.0")
    assert "torch.compile, frozen: left out, not asked for." in notes
    assert "outputs differ from torch eager's by at most 1.5e-06 (random inputs)." in notes
    assert notes[-1] == "The engine gains."


def test_without_engine_packed_file_or_counts() -> None:
    rows = [row("eager", 1, 0.001, None)]
    found = RESULT | {
        "rows": rows,
        "against": "conv2",
        "differences": None,
        "bytes": {"dense_float32": 4_000, "packed": None},
        "macs": {"dense": None, "remaining": None, "ratio": None, "convention": "sums"},
        "options": {"batches": [1], "threads": 2, "clock": "cpu"},
    }
    times, sizes = bench_grids(found)
    assert times.title == "net <1> against conv2: 2 threads, processor time"
    assert times.rows[0][-1] == "–"
    assert sizes.rows == (("4,000", "–", "–"),)
    assert not bench_notes(found)[0].startswith("dense multiply-accumulates")
    ElementTree.fromstring(bench_svg(found))


def test_the_plot_is_well_formed_and_to_scale() -> None:
    root = ElementTree.fromstring(bench_svg(RESULT))
    bars = [bar for bar in root.iter("{http://www.w3.org/2000/svg}rect") if bar.get("x") is not None]
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert len(widths) == 4
    assert widths[0] / widths[1] == pytest.approx(4.2, rel=0.01)
    assert widths[2] > widths[3]
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "net <1>: milliseconds a batch, 1 thread(s); lower is better" in texts
    assert "4.20 (4.2x)" in texts
    assert {"batch 1", "batch 32", "torch eager", "engine"} <= set(texts)


def test_milliseconds_have_three_digits() -> None:
    assert [milliseconds(s) for s in (1.5, 0.0123456, 0.00001234, 0.0)] == ["1,500", "12.3", "0.0123", "0.00"]
