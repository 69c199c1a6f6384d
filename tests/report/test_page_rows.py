from __future__ import annotations

from typing import Any

import pytest

from supermask.report import ranking
from supermask.report.content import Content
from supermask.report.page_rows import Block, block_values, blocks
from supermask.report.page_verdict import machine, verdict
from supermask.report.summary import summarize

from .results import pair, quote, regression, result, sparse, told

LATENCY = {"dense": 0.004, "remaining": 0.001}


def made(results: list[dict[str, Any]]) -> list[Block]:
    rows = summarize(results)
    rankings = ranking.rank(rows, results, classes={row.experiment: () for row in rows})
    return blocks(Content(rows=rows, rankings=rankings), results)


def many(accuracies: list[float], *, label: str = "sparse", remaining: int = 90) -> list[dict[str, Any]]:
    return [
        sparse(seed, accuracy, remaining, 10.0, label=label, run=f"{label}{seed}")
        for seed, accuracy in enumerate(accuracies)
    ]


def dense(accuracies: list[float]) -> list[dict[str, Any]]:
    return [
        result(seed=seed, run=f"dense{seed}", **{"accuracy.last": accuracy}) for seed, accuracy in enumerate(accuracies)
    ]


BASE = [0.95, 0.96, 0.955, 0.957, 0.953]


def test_a_row_holds_means_quantiles_differences_and_ranks() -> None:
    (block,) = made(pair())
    told = block_values(block, [], alone=True)
    first, masked = told["rows"]
    assert (first["name"], first["dense"], first["delta"]) == ("dense", True, None)
    assert masked["value"] == [0.93, 0.904, 0.949, pytest.approx(0.0264575), 3]
    assert masked["density"][0] == pytest.approx(0.1)
    assert masked["delta"]["pairs"] == 3
    assert masked["ranks"] == [2, 2]
    assert masked["bytes"][0] == 800  # no packed size: as indices and values
    assert first["bytes"][0] == 4000
    assert (told["bytes"], told["baseline"], told["weights"]) == ("as indices and values", 0, 1000)
    assert masked["step"][0] == pytest.approx(100.0)
    assert masked["macs"] is None
    assert masked["latency"] is None


def test_packed_bytes_come_first_where_all_rows_tell_them() -> None:
    results = pair()
    for one in results:
        if one["method"] != "dense":
            one["bytes"]["packed"] = 77
    (block,) = made(results)
    assert block.accounting == "packed"
    assert block_values(block, [], alone=True)["rows"][1]["bytes"][0] == 77


def test_layers_tell_signs_and_what_is_empty_or_thin() -> None:
    results = pair()
    results[0]["counts"]["layers"][0]["remaining"] = 0
    (block,) = made(results)
    conv, fc = block_values(block, [], alone=True)["rows"][1]["layers"]
    assert (conv["empty"], conv["thin"]) == (1, 0)  # 30 weights for 10 outputs elsewhere
    assert conv["remaining"] == pytest.approx(20 / 300, abs=1e-6)
    assert conv["keep"] == pytest.approx(11 / 300, abs=1e-6)
    assert (fc["empty"], fc["macs"]) == (0, None)
    for one in results:
        for layer in one["counts"]["layers"]:
            layer["macs"] = [100, 10]
    (block,) = made(results)
    assert block_values(block, [], alone=True)["rows"][1]["layers"][0]["macs"] == [100, 10]


def test_labels_that_differ_in_numbers_are_one_series() -> None:
    results = [
        *many([0.9], label="SNIP, 10 %"),
        *many([0.8], label="SNIP, 5 %", remaining=50),
        *many([0.7], label="conv2"),
    ]
    (block,) = made(results)
    series = {row["name"]: row["series"] for row in block_values(block, [], alone=True)["rows"]}
    assert series == {"SNIP, 10 %": "SNIP", "SNIP, 5 %": "SNIP", "conv2": "conv2"}


def test_published_numbers_belong_to_their_block() -> None:
    (block,) = made(pair())

    def shown(*quotes: Any, alone: bool = True) -> list[str]:
        return [one["label"] for one in block_values(block, quotes, alone=alone)["published"]]

    assert shown(quote()) == ["Others 2019"]
    assert shown(quote(), alone=False) == []
    assert shown(quote("signed-supermask"), alone=False) == ["signed-supermask"]
    assert shown(quote(data="Digits")) == ["Others 2019"]
    assert shown(quote(data="ImageNet")) == []
    assert shown(quote(accuracy=None)) == []
    assert shown(quote(remaining_of="all weights")) == []
    (one,) = block_values(block, [quote()], alone=True)["published"]
    assert (one["value"], one["density"], one["source"]) == ([0.935, 0.93, 0.94], 0.099, "a paper, table 1")


def test_rows_of_different_networks_are_different_blocks() -> None:
    found = made([*pair(), *(result(seed=seed, run=f"o{seed}", data="mnist") for seed in range(2))])
    assert [block_values(block, [], alone=False)["name"] for block in found] == ["fcn on digits", "fcn on mnist"]


def test_the_verdict_speaks_of_the_sparsest_that_equals_dense() -> None:
    results = [*dense(BASE), *many([a - 0.0001 * (i % 2) + 0.00005 for i, a in enumerate(BASE)])]
    results += many([a - 0.03 for a in BASE], label="worse", remaining=50)
    (block,) = made(results)
    found = verdict(block)
    assert found["sentence"] == "Sparse, with 10 % of the weights, cannot be told apart from the dense network."
    assert block.rows[found["row"]].label == "sparse"
    quality, size, time = found["numbers"]
    assert (quality["label"], quality["unit"]) == ("Accuracy against dense", "points")
    assert quality["details"][0].endswith("95 % interval of 5 pairs")
    assert (size["value"], size["unit"]) == ("800", "B")
    assert size["details"][0] == "5.0 times less than 4 kB of float32"
    assert (time["label"], time["unit"]) == ("Training step", "ms")
    assert time["details"][:2] == [
        "dense 83.3 ms",
        "wall clock, whatever else ran; latency of inference not recorded in these runs",
    ]
    assert found["note"] == "Chosen among 2 settings, and not corrected for their number."


def test_the_verdict_on_better_worse_alone_and_dense_rows() -> None:
    (better,) = made([*dense(BASE), *many([a + 0.01 for a in BASE])])
    assert verdict(better)["sentence"] == "Sparse, with 10 % of the weights, is better than the dense network."
    (worse,) = made([*dense(BASE), *many([a - 0.01 for a in BASE])])
    assert verdict(worse)["sentence"] == (
        "Every sparse setting is worse than the dense network; sparse, with 10 % of the weights, loses least."
    )
    (alone,) = made(many([0.9, 0.92]))
    assert verdict(alone)["sentence"] == (
        "Sparse, with 10 % of the weights, is the best of the one setting for fcn on digits: 91.00 % accuracy. "
        "There is no dense network here to compare with."
    )
    (only,) = made(dense(BASE))
    assert verdict(only)["sentence"] == "Only dense networks are compared here: fcn on digits, 95.50 % accuracy."
    (once,) = made([*dense([0.95]), *many([0.94])])
    assert verdict(once)["sentence"].endswith("in the one pair of runs that there is.")
    assert verdict(once)["note"] == "Fewer than 5 pairs of runs: trust no interval."


def test_the_verdict_calls_nothing_equal_by_a_few_pairs() -> None:
    """Their intervals are so wide that a bad setting could not be told apart, and would be shown as it keeps less."""
    results = [*dense(BASE[:2]), *many([0.94, 0.96]), *many([0.90, 0.70], label="bad", remaining=10)]
    (block,) = made(results)
    (difference,) = [line.difference for line in block.lines if line and line.row.label == "bad"]
    assert difference is not None
    assert difference.is_none
    assert verdict(block)["sentence"] == (
        "Sparse, with 10 % of the weights, does best against the dense network, in the 2 pairs of runs that there are."
    )


def test_a_verdict_where_lower_is_better() -> None:
    results = [regression(seed, 1.0 + seed / 10, label="dense") | {"run": f"d{seed}"} for seed in range(5)]
    results += [
        regression(seed, 0.5 + seed / 10, label="ours", method="magnitude") | {"run": f"o{seed}"} for seed in range(5)
    ]
    (block,) = made(results)
    found = verdict(block)
    assert found["sentence"].startswith("Ours, with 100 % of the weights, is better than the dense network.")
    assert (found["numbers"][0]["value"], found["numbers"][0]["unit"]) == ("−0.5000", "mae")


def test_latency_where_runs_measured_it() -> None:
    results = pair()
    for one in results:
        one["channels"] = None
        if one["method"] != "dense":
            groups = [{"name": "conv", "channels": 4, "remaining": 2, "chosen": True, "kept": ""}]
            shrunk = {"max_difference": 0.0, "why": ""}
            one["channels"] = {"groups": groups, "costs": {}, "shrunk": shrunk, "latency": LATENCY}
    (block,) = made(results)
    time = verdict(block)["numbers"][2]
    assert (time["label"], time["value"], time["details"]) == (
        "Latency, batch of one",
        "1",
        ["dense 4 ms", "n = 3"],
    )


def test_machines_are_told_without_their_hosts() -> None:
    results = [result(**told()), result(**told(machines=[{"host": "b", "cpu": "X", "cores": 4, "device": "H200"}]))]
    assert machine(results) == "a processor, 2 cores; X, 4 cores, H200; 1 thread a run"
    assert machine([result()]) == "cpu; 1 thread a run"
