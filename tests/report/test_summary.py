from __future__ import annotations

from typing import Any

import pytest

from supermask.errors import ConfigError
from supermask.report.summary import repeated_seeds, said, summarize

from .results import pair, regression, result, sparse, told, validated


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


def test_runs_of_different_planned_length_are_not_mixed() -> None:
    assert [row.epochs for row in summarize([result(epochs=10), result(epochs=20)])] == [10, 20]
    rows = summarize([result(**told("a", 10)), result(**told("b", 20), epochs=10)])
    assert [(row.epochs, row.epochs_trained.mean) for row in rows] == [(10, 10), (20, 10)]


def test_runs_of_one_setting_are_one_row_however_early_they_stop() -> None:
    (row,) = summarize(
        [result(seed=seed, epochs=epochs, **told(planned=80)) for seed, epochs in enumerate((60, 64, 71))]
    )
    assert (row.n, row.setting, row.epochs) == (3, "a", 80)
    assert row.epochs_trained.mean == 65
    assert row.epochs_trained.n == 3


def test_settings_of_one_label_are_not_mixed() -> None:
    rows = summarize([result(seed=seed, **told(setting)) for seed in (0, 1) for setting in "ab"])
    assert [(row.setting, row.seeds) for row in rows] == [("a", (0, 1)), ("b", (0, 1))]
    assert repeated_seeds(rows) == []


def test_one_setting_under_two_labels_is_two_rows() -> None:
    assert [row.label for row in summarize([result(**told()), result(label="ours", **told())])] == ["dense", "ours"]


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
    # a dense network has no mask to count
    assert set(dense.compression.values()) == {None}
    assert dense.bytes["two_bit"] is not None


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
    assert "'dense' holds several runs of seed 3: they were trained under different settings, which" in sentence
    (sentence,) = repeated_seeds(summarize([result(seed=3), result(seed=3)]))
    assert "'dense' holds several runs of seed 3: the folders hold the same run more than once" in sentence
    assert repeated_seeds(summarize(pair())) == []


def test_quantiles_are_estimated_below_twenty_runs() -> None:
    assert summarize([result(seed=seed) for seed in range(19)])[0].estimated
    assert not summarize([result(seed=seed) for seed in range(20)])[0].estimated


def metrics(results: list[dict[str, Any]], **changes: Any) -> dict[str, list[dict[str, Any]]]:
    """Ten epochs of each run: 80 % at the first, one per cent more at each; 100 weights fewer remain at each."""
    return {
        entry["run"]: [
            {
                "epoch": epoch,
                "test_accuracy": 0.79 + 0.01 * epoch,
                "test_metric": epoch / 10,
                "test_loss": 1 / epoch,
                "remaining": 1000 - 100 * epoch,
            }
            | changes
            for epoch in range(1, entry["epochs"] + 1)
        ]
        for entry in results
    }


def test_single_epochs() -> None:
    results = pair()
    dense, masked = summarize(results, epochs=[2, 10], metrics=metrics(results))
    assert [at.epoch for at in masked.at_epochs] == [2, 10]
    early = dense.at_epochs[0]
    assert early.metric is not None
    assert early.test_loss is not None
    assert early.density is not None
    assert early.metric.mean == pytest.approx(0.81)
    assert early.metric.n == 3
    assert early.test_loss.mean == 0.5
    assert early.density.mean == pytest.approx(800 / 900)


def test_single_epochs_of_another_metric() -> None:
    results = [regression(0, 0.5)]
    (row,) = summarize(results, epochs=[3], metrics=metrics(results, test_accuracy=None))
    assert row.at_epochs[0].metric is not None
    assert row.at_epochs[0].metric.mean == 0.3


def test_a_shorter_row_lacks_an_epoch() -> None:
    results = [result(run="a", epochs=10), result(run="b", label="short", epochs=5)]
    rows = summarize(results, epochs=[5, 8], metrics=metrics(results))
    assert [[at.epoch for at in row.at_epochs] for row in rows] == [[5, 8], [5]]


def test_an_epoch_that_no_run_has() -> None:
    with pytest.raises(ConfigError, match="no run has an epoch 11: the longest trained for 10; epochs count from 1"):
        summarize(pair(), epochs=[5, 11], metrics=metrics(pair()))
    assert summarize([], epochs=[11]) == []


def test_metrics_that_lack_an_epoch() -> None:
    lines = metrics(pair())
    del lines["000000000001"][4]
    with pytest.raises(ConfigError, match=r"run 000000000001 \('signed-supermask', seed 1\) has no epoch 5 in its"):
        summarize(pair(), epochs=[5], metrics=lines)


def test_results_of_older_versions_are_judged_by_accuracy() -> None:
    (row,) = summarize([result()])
    assert (row.metric.name, row.metric.better, row.n_validation, row.precision) == ("accuracy", "higher", 0, "float32")
    assert row.metric.last == row.accuracy
    assert row.metric.best == row.accuracy_best
    assert row.metric.validation_selected is row.metric.validation is None
    assert row.macs.dense is row.macs.convention is row.peak_device_memory is None


def test_validation_is_kept_apart() -> None:
    (row,) = summarize([validated(0), validated(1)])
    assert row.n_validation == 100
    for spread, mean in (
        (row.accuracy, 0.96),
        (row.accuracy_best, 0.97),
        (row.metric.validation_selected, 0.91),
        (row.metric.validation, 0.90),
    ):
        assert spread is not None
        assert spread.mean == pytest.approx(mean)


def test_another_metric_has_no_accuracy() -> None:
    (row,) = summarize([regression(0, 0.2), regression(1, 0.4)])
    assert row.accuracy is row.accuracy_best is None
    assert (row.metric.name, row.metric.better) == ("mae", "lower")
    assert row.metric.last is not None
    assert row.metric.last.mean == pytest.approx(0.3)


@pytest.mark.parametrize("changes", [{"precision": "bfloat16"}, {"n_validation": 50}, {"n_train": 5}])
def test_what_trained_differently_is_not_mixed(changes: dict[str, Any]) -> None:
    assert [row.n for row in summarize([result(), result(**changes)])] == [1, 1]


def test_a_baseline_of_another_size_is_none() -> None:
    wide = sparse(0, 0.9, 90, 11.0, **{"counts.weights_total": 2000})
    assert [row.extra_time for row in summarize([result(), wide])] == [None, None]


def test_macs_and_device_memory() -> None:
    macs = {"dense": 500, "remaining": 50, "convention": "one input"}
    results = [result(macs=macs, memory={"peak_rss": 10, "peak_device": 20})]
    (row,) = summarize(results)
    assert row.macs.dense is not None
    assert row.macs.remaining is not None
    assert row.peak_device_memory is not None
    assert (row.macs.dense.mean, row.macs.remaining.mean, row.macs.convention) == (500, 50, "one input")
    assert row.peak_device_memory.mean == 20


@pytest.mark.parametrize(
    "other",
    [
        {"data": {"name": "digits", "augment": {"padding": 4, "flip": True}}},
        {"model": {"name": "fcn", "head_activation": "relu"}},
        {"precision": "bfloat16"},
        {"batch_size": 64},
        {"passes": 2},
    ],
)
def test_extra_time_refers_to_a_dense_row_of_the_same_conditions(other: dict[str, Any]) -> None:
    wrong = result(label="wrong", **told("w", **other), **{"seconds.train": 1.0})
    right = result(label="right", **told("r"), **{"seconds.train": 10.0})
    masked = sparse(0, 0.9, 90, 12.0, **told("m"))
    extra = next(row.extra_time for row in summarize([wrong, right, masked]) if row.method != "dense")
    assert extra is not None
    assert extra.baseline == "right"
    assert extra.fraction.mean == pytest.approx(0.2)
    assert [row.extra_time for row in summarize([wrong, masked])] == [None, None]


def test_extra_time_needs_as_many_training_examples() -> None:
    assert summarize([result(n_train=5, **told("r")), sparse(0, 0.9, 90, 12.0, **told("m"))])[1].extra_time is None


def test_extra_time_is_paired_on_one_machine() -> None:
    other = {"machines": [{"host": "there", "cpu": "a processor", "cores": 2, "device": "cpu"}]}
    dense = [result(seed=0, **told("r")), result(seed=1, **told("r"), **{"seconds.train": 10.0})]
    masked = [sparse(0, 0.9, 90, 50.0, **told("m", **other)), sparse(1, 0.9, 90, 11.0, **told("m"))]
    row = summarize([*dense, *masked])[1]
    assert row.extra_time is not None
    assert row.extra_time.pairs == 1
    assert row.extra_time.fraction.mean == pytest.approx(0.1)
    assert row.machines == ("here, a processor, 2 cores", "there, a processor, 2 cores")


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_cuda_is_its_first_device(device: str) -> None:
    rows = summarize([result(device="cuda:0"), sparse(0, 0.9, 90, 11.0, device=device)])
    assert rows[1].extra_time is not None
    assert summarize([result(device="cuda:1"), sparse(0, 0.9, 90, 11.0, device=device)])[1].extra_time is None


def test_a_gpu_is_named_with_its_machine() -> None:
    (row,) = summarize([result(**told(machines=[{"cpu": "a processor", "cores": 16, "device": "a GPU"}]))])
    assert row.machines == ("a processor, 16 cores, a GPU",)
    assert summarize([result()])[0].machines == ()


def test_a_row_has_the_epochs_that_all_its_runs_have() -> None:
    results = [result(run="a", epochs=8, **told()), result(run="b", seed=1, epochs=6, **told())]
    (row,) = summarize(results, epochs=[5, 7], metrics=metrics(results))
    assert [at.epoch for at in row.at_epochs] == [5]


def test_results_of_older_versions_know_no_full_model_rounds_or_notes() -> None:
    (row,) = summarize([result()])
    assert row.full.loss is row.full.accuracy is row.full.metric is row.full.best is None
    assert (row.rounds, row.trainings, row.notes) == (None, 1.0, ())


def test_the_full_model_behind_tracked_masks() -> None:
    full = [{"loss": 0.2, "accuracy": accuracy, "metric": accuracy, "best": 0.95} for accuracy in (0.9, 0.8)]
    results = [result(seed=seed, full=measured, rounds=3, notes=[]) for seed, measured in enumerate(full)]
    (row,) = summarize(results)
    assert row.full.accuracy is not None
    assert row.full.accuracy.mean == pytest.approx(0.85)
    assert row.full.metric == row.full.accuracy
    assert row.full.best is not None
    assert row.full.best.mean == pytest.approx(0.95)
    assert row.trainings == 3
    # one run that does not know it: the row does not either
    (row,) = summarize([*results, result(seed=2, full=None, rounds=3)])
    assert row.full.accuracy is None


def test_notes_are_counted_by_runs() -> None:
    (row,) = summarize([result(seed=0, notes=["b", "a", "b"]), result(seed=1, notes=["a"]), result(seed=2)])
    assert [(note.text, note.n) for note in row.notes] == [("b", 1), ("a", 2)]


def test_what_methods_said_is_grouped_by_text() -> None:
    rows = summarize(
        [
            result(notes=["kept one in fc1."]),
            result(seed=1, notes=[]),
            result(label="other", notes=["kept one in fc1", "1", "2", "3", "4"]),
            result(label="third", notes=["5", "6", "7", "8"]),
        ]
    )
    sentences = said(rows, ["a", "b", "c"])
    assert sentences[0] == "a (1 of 2 runs); b (1 of 1 runs): kept one in fc1."
    assert sentences[1:3] == ["b (1 of 1 runs): 1.", "b (1 of 1 runs): 2."]
    assert sentences[-2:] == ["b: 2 further notes, told by --json.", "c: 1 further note, told by --json."]
    assert len(sentences) == 8


def test_single_epochs_of_the_full_model() -> None:
    results = [result(full={"loss": 0.1, "accuracy": 0.9, "metric": 0.9})]
    for changes, mean in (({"full_accuracy": 0.7, "full_metric": 0.7}, 0.7), ({}, None)):
        (row,) = summarize(results, epochs=[2], metrics=metrics(results, **changes))
        full = row.at_epochs[0].full
        assert (None if full is None else full.mean) == mean
