from __future__ import annotations

from typing import Any

from supermask.lab.verdict import fastest_dense, verdict


def row(contender: str, batch: int, median: float, spread: float = 0.1) -> dict[str, Any]:
    ratio = {"median": median, "low": median - spread, "high": median + spread, "rounds": 30}
    return {"contender": contender, "batch": batch, "ratio_to_engine": ratio}


def result(rows: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {
        "rows": rows,
        "skipped": [],
        "macs": {"dense": 38_000_000, "remaining": 3_800_000, "ratio": 10.0, "convention": "sums"},
        "weights": {"total": 1000, "nonzero": 30},
        "machine": {"kernels": "avx512"},
        **changes,
    }


FAST = [row("engine", 1, 1.0), row("eager", 1, 9.0), row("onnxruntime", 1, 5.2), row("eager", 32, 7.0)]
SLOW = [row("engine", 1, 1.0), row("eager", 1, 2.0), row("onnxruntime", 1, 0.8)]


def test_the_fastest_dense_contender_counts() -> None:
    found = fastest_dense(FAST)
    assert [(best.batch, best.contender, best.median) for best in found] == [
        (1, "onnxruntime", 5.2),
        (32, "eager", 7.0),
    ]


def test_a_gain() -> None:
    assert verdict(result(FAST)) == (
        "The engine gains 5.20x [5.10, 5.30] over onnxruntime at batch 1; 7.00x [6.90, 7.10] over eager at batch 32; the "
        "network has 10.0 times fewer sums to do than dense."
    )


def test_no_gain_says_why() -> None:
    loss = "NO GAIN (0.80x [0.70, 0.90] over onnxruntime at batch 1): "
    dense = {"dense": 38_000_000, "remaining": 19_000_000, "ratio": 2.0, "convention": "sums"}
    small = {"dense": 5_000, "remaining": 100, "ratio": 50.0, "convention": "sums"}
    unknown = {
        "dense": None,
        "remaining": None,
        "ratio": None,
        "convention": "x; not counted here: no layer uses a.weight",
    }
    for changes, reason in (
        ({"weights": {"total": 10, "nonzero": 10}}, "no weight is zero, so that there is nothing to leave out"),
        (
            {"macs": dense},
            "the network has only 2.0 times fewer sums to do than dense, and a dense sum is about as many",
        ),
        ({"machine": {"kernels": "numpy"}}, "the compiled kernels are not there (`supermask doctor` says why)"),
        ({"macs": small}, "the whole network is 5,000 multiply-accumulates, which take less time than calling it"),
        ({"macs": unknown}, "layers that the engine does not know take the time (no layer uses a.weight)"),
        ({}, "the network has 10.0 times fewer sums to do than dense, but layers that stayed dense"),
    ):
        said = verdict(result(SLOW, **changes))
        assert said.startswith(loss + reason)
        assert said.endswith(".")


def test_a_ratio_that_may_be_one_is_no_gain() -> None:
    assert verdict(result([row("engine", 1, 1.0), row("eager", 1, 1.05)])).startswith("NO GAIN (1.05x [0.95, 1.15]")


def test_a_gain_at_one_batch_size_only() -> None:
    said = verdict(result([*FAST[:1], row("eager", 1, 3.0), row("eager", 128, 0.9)]))
    assert said.startswith(
        "The engine gains 3.00x [2.90, 3.10] over eager at batch 1; NO GAIN (0.90x [0.80, 1.00] over eager at"
    )


def test_without_an_engine() -> None:
    rows = [{"contender": "eager", "batch": 1, "ratio_to_engine": None}]
    skipped = [{"contender": "engine", "reason": "it failed"}]
    assert verdict(result(rows, skipped=skipped)) == "NO GAIN: there is no engine to compare with: it failed."
