from __future__ import annotations

import pytest

from supermask.report.summary import repeated_seeds, summarize

from .results import pair, result, sparse


def test_the_dense_baseline_comes_first_and_labels_keep_their_order() -> None:
    results = [
        result(label="b", method="random"),
        result(label="a", method="random"),
        result(label="dense"),
        result(label="other", model="conv2", method="random"),
        result(label="late", method="magnitude"),
    ]
    assert [row.label for row in summarize(results)] == ["dense", "b", "a", "late", "other"]


def test_labels_of_two_experiments_are_not_mixed() -> None:
    rows = summarize([result(experiment="one"), result(experiment="two")])
    assert [(row.experiment, row.n) for row in rows] == [("one", 1), ("two", 1)]


def test_runs_of_different_length_are_not_mixed() -> None:
    assert [row.epochs for row in summarize([result(epochs=10), result(epochs=20)])] == [10, 20]


def test_counts_and_ratios() -> None:
    dense, masked = summarize(pair())
    assert masked.n == 3
    assert masked.seeds == (0, 1, 2)
    assert masked.density is not None
    assert masked.remaining_of_all is not None
    assert masked.density.mean == pytest.approx(90 / 900)
    # 100 weights are not targeted: they remain
    assert masked.remaining_of_all.mean == pytest.approx((100 + 90) / 1000)
    assert dense.density is not None
    assert dense.density.mean == 1.0
    compression = masked.compression
    assert set(compression) == {"two_bit", "sparse_index", "entropy", "packed"}
    assert compression["two_bit"] is not None
    assert compression["two_bit"].mean == pytest.approx(1 - 625 / 4000)
    assert compression["packed"] is None


def test_without_targets_there_is_no_density() -> None:
    (row,) = summarize([result(**{"counts.weights_targeted": 0, "counts.weights_remaining": 0})])
    assert row.density is None
    assert row.remaining_of_all is not None
    assert row.remaining_of_all.mean == 1.0


def test_extra_time_is_paired_by_seed() -> None:
    # seeds in different orders; seed 7 has no partner
    dense = [result(seed=1, **{"seconds.train": 20.0}), result(seed=0, **{"seconds.train": 10.0})]
    masked = [sparse(0, 0.9, 90, 11.0), sparse(1, 0.9, 90, 24.0), sparse(7, 0.9, 90, 500.0)]
    extra = summarize(dense + masked)[1].extra_time
    assert extra is not None
    assert (extra.baseline, extra.pairs) == ("dense", 2)
    assert extra.seconds.mean == pytest.approx((1 + 4) / 2 / 10)  # an epoch; each run has ten
    assert extra.fraction.mean == pytest.approx((0.1 + 0.2) / 2)


def test_extra_time_does_not_depend_on_the_number_of_epochs() -> None:
    dense = [result(seed=0, **{"seconds.train": 10.0, "epochs": 5})]
    extra = summarize([*dense, sparse(0, 0.9, 90, 24.0)])[1].extra_time
    assert extra is not None
    assert extra.fraction.mean == pytest.approx(0.2)


@pytest.mark.parametrize(
    "dense", [[], [result(seed=9)], [result(device="cuda")], [result(threads=2)], [result(model="conv2")]]
)
def test_extra_time_needs_a_comparable_baseline(dense: list[dict[str, object]]) -> None:
    rows = summarize([*dense, sparse(0, 0.9, 90, 11.0)])
    assert next(row for row in rows if row.method != "dense").extra_time is None


def test_layers_are_averaged() -> None:
    first, second = summarize(pair())[1].layers
    assert (first.name, first.shape, first.size) == ("0.weight", (10, 30), 300)
    assert first.remaining == pytest.approx(0.1)
    # keep is 10, 11, 12 of 300; invert 20, 19, 18
    assert first.keep == pytest.approx(11 / 300)
    assert first.invert == pytest.approx(19 / 300)
    assert second.remaining == pytest.approx(60 / 600)


def test_unsigned_layers_have_no_split() -> None:
    layers = [{"name": "w", "shape": [10], "size": 10, "remaining": 5, "keep": None, "invert": None}]
    (row,) = summarize([result(**{"counts.layers": layers})])
    assert (row.layers[0].remaining, row.layers[0].keep, row.layers[0].invert) == (0.5, None, None)


def test_repeated_seeds_are_told() -> None:
    rows = summarize([result(seed=3, run="a"), result(seed=3, run="b"), result(seed=4)])
    (sentence,) = repeated_seeds(rows)
    assert "'dense' holds several runs of seed 3:" in sentence
    assert repeated_seeds(summarize(pair())) == []


def test_quantiles_are_estimated_below_twenty_runs() -> None:
    assert summarize([result(seed=seed) for seed in range(19)])[0].estimated
    assert not summarize([result(seed=seed) for seed in range(20)])[0].estimated
