from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from typing import Any

import pytest

from supermask.errors import ConfigError
from supermask.report import table
from supermask.report.content import Content, View
from supermask.report.summary import summarize

from .results import pair, regression, result, sparse, told, validated

FAILURE = {
    "schema": 1,
    "run": "feedfeedfeed",
    "label": "signed-supermask",
    "seed": 3,
    "error": "DivergedError: the loss\nis nan",
    "traceback": "...",
}


def render(results: list[dict[str, Any]], format: str = "text", **changes: Any) -> str:
    """A report on results; changes are fields of its view, of its content, or what `summarize` takes."""
    view = {key: changes.pop(key) for key in ("spread", "best", "per_layer", "per_epoch") if key in changes}
    asked = {key: changes.pop(key) for key in ("epochs", "metrics") if key in changes}
    return table.render(Content(rows=summarize(results, **asked), **changes), format, View(**view))


# accuracies .90 .94 .95: 5 % quantile .904, 95 % quantile .949; remaining 90 99 81 of 900; times 11 12 13 over 10
def test_golden_text() -> None:
    lines = render(pair(), failures=[FAILURE], missing=2).splitlines()
    assert lines == [
        "Last epoch, mean [5 %, 95 %] over the runs",
        "label              n            accuracy %  test loss          remaining %",
        "----------------  --  --------------------  ---------  -------------------",
        "dense             3*  96.00 [95.10, 96.90]     0.2000               100.00",
        "signed-supermask  3*  93.00 [90.40, 94.90]     0.2000  10.00 [9.10, 10.90]",
        "",
        "Weights, and compression rate by accounting (means)",
        "label             remaining  targeted  of all %  two-bit %  index %  entropy %",
        "----------------  ---------  --------  --------  ---------  -------  ---------",
        "dense                   900       900    100.00          –        –          –",
        "signed-supermask         90       900     19.00      84.38    80.00      87.50",
        "",
        "Time and memory (means)",
        "label             epochs  s/epoch  training s                extra %  peak MiB",
        "----------------  ------  -------  ----------  ---------------------  --------",
        "dense                 10    1.000        10.0                      –       100",
        "signed-supermask      10    1.200        12.0  +20.0 [+11.0, +29.0]*       100",
        "",
        "Failed runs: 1",
        "run           label             seed  error",
        "------------  ----------------  ----  ------------------------------",
        "feedfeedfeed  signed-supermask     3  DivergedError: the loss is nan",
        "",
        "* n < 20: quantiles are estimated by interpolation.",
        "two-bit, index, entropy: compression rate 1 - bytes / float32 bytes of the dense model, so counted.",
        "extra: training time of an epoch over 'dense' at equal seed, device and threads.",
        "2 planned runs have no result yet.",
    ]


def test_equal_errors_stand_in_one_line() -> None:
    ended = [("a", "dense", 0), ("b", "dense", 1), ("c", "random", 0), ("d", "random", 1), ("e", "random", 2)]
    failures = [FAILURE | {"run": run, "label": label, "seed": seed, "error": "too\nbad"} for run, label, seed in ended]
    text = render([], failures=failures)
    assert "Failed runs: 5" in text
    assert "a and 4 more  dense; random  0, 1; 0, 1, 2  too bad" in text
    assert "a and 3 more  dense; random  0, 1  too bad" in render([], failures=failures[:4])
    assert render([], failures=[*failures, FAILURE]).count("too bad") == 1


def test_standard_deviation() -> None:
    lines = render(pair(), spread="std").splitlines()
    # deviations of .90 .94 .95 from .93: -.03 .01 .02, squares sum to .0014, / 2
    assert lines[0] == "Last epoch, mean ± standard deviation over the runs"
    assert lines[4] == "signed-supermask  3  93.00 ± 2.65     0.2000  10.00 ± 1.00"
    assert any("+20.0 ± 10.0" in line for line in lines)
    assert not any("estimated" in line for line in lines)


def test_one_run_shows_no_spread() -> None:
    text = render([result()])
    assert "dense  1       96.00     0.2000       100.00" in text
    assert "estimated" not in text


def test_twenty_runs_are_not_marked() -> None:
    text = render([result(seed=seed) for seed in range(20)])
    assert "20*" not in text
    assert "estimated" not in text


def test_best_epoch_is_a_column_of_its_own() -> None:
    header, line = render([result()], best=True).splitlines()[1:4:2]
    assert "best epoch %" in header
    assert line.split() == ["dense", "1", "96.00", "97.00", "0.2000", "100.00"]


def test_layers() -> None:
    text = render(pair(), per_layer=True)
    table = text[text.index("signed-supermask: layers") :].splitlines()
    assert table[:5] == [
        "signed-supermask: layers, mean over 3 runs",
        "layer     shape  weights  remaining %  keep %  invert %",
        "--------  -----  -------  -----------  ------  --------",
        "0.weight  10x30      300        10.00    3.67      6.33",
        "2.weight  20x30      600        10.00    0.00     10.00",
    ]
    assert "dense: layers" not in text


def test_unknown_values_are_dashes() -> None:
    text = render([result(**{"counts.weights_targeted": 0, "counts.weights_remaining": 0})])
    assert text.splitlines()[3].split() == ["dense", "1", "96.00", "0.2000", "–"]


def test_rows_of_several_models_are_told_apart() -> None:
    text = render([result(model="fcn"), result(model="conv2")])
    assert "fcn / dense" in text
    assert "conv2 / dense" in text


def test_times_on_different_machines_are_marked() -> None:
    results = [result(), result(label="gpu", device="cuda")]
    assert "different machines, devices or thread counts" in render(results)
    assert "different machines" not in render(pair())


def test_baselines_are_named_in_one_sentence() -> None:
    other = {"model": "conv2", "label": "conv2"}
    results = [*pair(), result(**other | {"label": "conv2 dense"}), sparse(0, 0.9, 90, 11.0, **other)]
    text = render(results)
    assert "extra: training time of an epoch over 'dense' or 'conv2 dense' at equal seed, device and threads." in text


def test_unpaired_runs_are_told() -> None:
    assert "only the pairs are compared" in render([result(), *pair()[:3]])


def test_markdown() -> None:
    text = render(pair(), "markdown", missing=1)
    assert "| label | n | accuracy % | test loss | remaining % |\n| :-- | --: | --: | --: | --: |\n" in text
    assert "| signed-supermask | 3\\* | 93.00 [90.40, 94.90] |" in text
    assert "\n- \\* n < 20: quantiles are estimated by interpolation.\n" in text
    assert text.endswith("- 1 planned run has no result yet.\n")


def test_csv_has_raw_numbers() -> None:
    dense, masked = csv.DictReader(io.StringIO(render(pair(), "csv")))
    assert masked["label"] == "signed-supermask"
    assert float(masked["accuracy.mean"]) == pytest.approx(0.93)
    assert float(masked["accuracy.low"]) == pytest.approx(0.904)
    assert masked["seeds"] == "0 1 2"
    assert masked["bytes.packed.mean"] == ""
    assert masked["extra_time.baseline"] == "dense"
    assert float(masked["extra_time.fraction.mean"]) == pytest.approx(0.2)
    assert dense["extra_time.fraction.mean"] == ""


def test_csv_columns_do_not_depend_on_what_is_known() -> None:
    def header(results: list[dict[str, object]]) -> str:
        return render(results, "csv").splitlines()[0]

    assert header([result()]) == header(pair()) == header([result(**{"counts.weights_targeted": 0})])


def test_csv_of_layers() -> None:
    first, second = csv.DictReader(io.StringIO(render(pair(), "csv", per_layer=True)))
    assert (first["label"], first["layer"], first["shape"]) == ("signed-supermask", "0.weight", "10 30")
    assert float(first["keep"]) == pytest.approx(11 / 300)
    assert second["size"] == "600"


def test_json_is_strict_and_complete() -> None:
    content = json.loads(render([*pair(), sparse(9, 0.9, 90, 1.0, **{"loss.test": float("nan")})], "json"))
    assert content["schema"] == 1
    assert [row["label"] for row in content["rows"]] == ["dense", "signed-supermask"]
    assert content["rows"][1]["test_loss"]["mean"] is None
    assert content["rows"][1]["n"] == 4


def test_json_leaves_tracebacks_out() -> None:
    content = json.loads(render([], "json", failures=[FAILURE], missing=4))
    assert content["failed"] == [{key: FAILURE[key] for key in ("run", "label", "seed", "error")}]
    assert (content["missing"], content["rows"]) == (4, [])


@pytest.mark.parametrize(("keyword", "value"), [("format", "html"), ("spread", "range")])
def test_unknown_words_are_refused(keyword: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{keyword} must be one of .*, got '{value}'"):
        render([], **{keyword: value})


def test_another_metric_has_a_column_of_its_own() -> None:
    lines = render([result(), regression(0, 0.125), regression(1, 0.135)]).splitlines()
    assert lines[1].split() == ["label", "n", "accuracy", "%", "mae", "test", "loss", "remaining", "%"]
    assert lines[3].split()[2:4] == ["96.00", "–"]
    assert lines[4].split()[2:6] == ["–", "0.1300", "[0.1255,", "0.1345]"]
    assert "mae: lower is better." in lines


def test_a_metric_by_reference_is_called_by_its_function() -> None:
    def headers(*names: str) -> list[str]:
        results = [regression(0, 1234.5, **{"label": name, "metric.name": name}) for name in names]
        return re.split("  +", render(results, best=True).splitlines()[1])

    assert headers("mine:error")[2:4] == ["error", "best epoch error"]
    assert headers("a:error", "b:error")[2:6] == ["a:error", "b:error", "best epoch a:error", "best epoch b:error"]
    assert "1,234 " in render([regression(0, 1234.4)])


def test_validation_has_a_table_of_its_own() -> None:
    text = render([result(), validated(0, label="held")])
    table_of = text.split("\n\n")[1].splitlines()
    assert table_of == [
        "Validation split",
        "label  held out  validation %  selected %",
        "-----  --------  ------------  ----------",
        "held        100         90.00       91.00",
    ]
    assert "selected: on the test set, in the epoch that was best on the held-out examples." in text
    assert "Validation" not in render(pair())


def test_epochs_have_a_table_of_their_own() -> None:
    results = [result(run="a"), result(run="b", label="short", epochs=5)]
    lines = {
        entry["run"]: [
            {"epoch": epoch, "test_accuracy": epoch / 10, "test_loss": 0.5, "remaining": 90 * epoch}
            for epoch in range(1, entry["epochs"] + 1)
        ]
        for entry in results
    }
    asked: dict[str, Any] = {"epochs": [5, 8], "metrics": lines, "per_epoch": True}
    text = render(results, **asked)
    assert text.split("\n\n")[1].splitlines() == [
        "At single epochs",
        "label  epoch  accuracy %  test loss  remaining %",
        "-----  -----  ----------  ---------  -----------",
        "dense      5       50.00     0.5000        50.00",
        "dense      8       80.00     0.5000        80.00",
        "short      5       50.00     0.5000        50.00",
    ]
    assert "ends at epoch 5: short." in text
    table_of = list(csv.DictReader(io.StringIO(render(results, "csv", **asked))))
    assert [(line["label"], line["epoch"], float(line["value.mean"])) for line in table_of] == [
        ("dense", "5", 0.5),
        ("dense", "8", 0.8),
        ("short", "5", 0.5),
    ]
    with pytest.raises(ConfigError, match="CSV holds one table: ask for one of layers, epochs, ranking and path"):
        render(results, "csv", per_layer=True, **asked)
    (first, _) = json.loads(render(results, "json", **asked))["rows"]
    assert [at["epoch"] for at in first["at_epochs"]] == [5, 8]


def test_precision_is_named() -> None:
    results = [result(), result(precision="bfloat16"), result(label="in float16", precision="float16")]
    names = [line.partition("  ")[0] for line in render(results).splitlines()[3:6]]
    assert names == ["dense", "dense (bfloat16)", "in float16"]


def test_equal_labels_are_told_apart() -> None:
    def names(**changes: Any) -> list[str]:
        return [line.partition("  ")[0] for line in render([result(), result(**changes)]).splitlines()[3:5]]

    assert names(epochs=20) == ["dense, 10 epochs", "dense, 20 epochs"]
    assert names(n_train=5) == ["dense, 1437 examples", "dense, 5 examples"]
    assert names(experiment="other") == ["quickstart / dense", "other / dense"]
    assert names(label="random", model="conv2") == ["dense", "random"]


def test_macs_are_shown_with_the_layers() -> None:
    results = [result(macs={"dense": 266200, "remaining": 10000, "convention": "Weights only."}), result(label="old")]
    text = render(results, per_layer=True)
    table_of = next(part for part in text.split("\n\n") if part.startswith("Multiply-accumulates"))
    assert table_of.splitlines()[3].split() == ["dense", "266,200", "10,000", "3.76"]
    assert table_of.splitlines()[4].split() == ["old", "–", "–", "–"]
    assert "MACs: Weights only." in text
    assert "Multiply" not in render(results)


def test_memory_of_a_gpu() -> None:
    text = render([result(device="cuda", memory={"peak_rss": 2**20, "peak_device": 3 * 2**20})])
    assert text.split("\n\n")[2].splitlines()[1].endswith("peak MiB  GPU MiB")
    assert text.split("\n\n")[2].splitlines()[3].split()[-2:] == ["1", "3"]


def test_runs_that_agree_exactly_have_no_band() -> None:
    same = [result(seed=seed, **{"accuracy.last": 0.1 + 0.2}) for seed in range(3)]
    assert "30.00 [" not in render(same)


def test_latex_keeps_failures_as_comments() -> None:
    text = render(pair(), "latex", failures=[FAILURE], missing=1)
    assert text.startswith("% needs \\usepackage{booktabs}\n% 1 planned run has no result yet.\n% Failed runs: 1\n")
    assert text.count("\\begin{table}") == text.count("\\caption{") == text.count("\\end{table}") == 3
    assert r"signed-supermask & 3* & 93.00 [90.40, 94.90] & 0.2000 & 10.00 [9.10, 10.90] \\" in text
    assert r"* n \textless{} 20: quantiles are estimated by interpolation.\par" in text
    assert all(line.startswith("%") for line in text.split("\n\n")[0].splitlines())


def test_epochs_are_a_mean_where_runs_stopped_early() -> None:
    results = [result(seed=seed, epochs=epochs, **told(planned=80)) for seed, epochs in enumerate((60, 64, 71, 71))]
    text = render([*results, result(label="whole", epochs=80, **told("b", 80)), result(label="old", epochs=7)])
    cost = next(part.splitlines() for part in text.split("\n\n") if part.startswith("Time"))
    assert [line.split()[1] for line in cost[3:]] == ["66.5", "80", "7"]
    assert "\ndense: 80 epochs planned, the schedule ended training earlier.\n" in text
    assert text.count("epochs planned") == 1


def test_a_row_without_an_epoch_says_why() -> None:
    results = [result(run="a", epochs=8, **told()), result(run="b", seed=1, epochs=6, **told())]
    results += [result(run="c", label="long", epochs=9)]
    lines = {
        entry["run"]: [
            {"epoch": epoch, "test_accuracy": 0.5, "test_loss": 0.5, "remaining": 90}
            for epoch in range(1, entry["epochs"] + 1)
        ]
        for entry in results
    }
    text = render(results, epochs=[5, 7], metrics=lines, per_epoch=True)
    assert "\nno epoch 7, as a run ended before it: dense.\n" in text


def test_estimated_quantiles_are_marked_wherever_they_stand() -> None:
    def held(n: int) -> list[dict[str, Any]]:
        results = []
        for seed in range(n):
            entry = validated(seed)
            entry["metric"] |= {"validation": 0.9 + seed / 1000, "validation_selected": 0.91}
            results.append(entry)
        return results

    def table_of(text: str, title: str) -> list[str]:
        return next(part.splitlines() for part in text.split("\n\n") if part.startswith(title))

    few, many = (table_of(render(held(n)), "Validation") for n in (3, 20))
    assert few[3].split() == ["dense", "100", "90.10", "[90.01,", "90.19]*", "91.00"]  # equal values have no quantiles
    assert not many[3].count("*")
    assert "*" not in table_of(render(held(3), spread="std"), "Validation")[3]
    results = pair()
    metrics = {
        run["run"]: [{"epoch": 1, "test_accuracy": 0.8 + run["seed"] / 100, "test_loss": 1.0, "remaining": 90}]
        for run in results
    }
    asked: dict[str, Any] = {"epochs": [1], "metrics": metrics, "per_epoch": True}
    assert table_of(render(results, **asked), "At single")[3].split()[2:5] == ["81.00", "[80.10,", "81.90]*"]
    # 25 runs, of which 3 have a baseline
    text = render([*pair()[3:], *(sparse(seed, 0.9, 90, 11.0 + seed) for seed in range(25))])
    assert table_of(text, "Last epoch")[4].split()[1] == "25"
    assert table_of(text, "Time")[4].split()[4:7] == ["+20.0", "[+11.0,", "+29.0]*"]
    assert text.count("* n < 20: quantiles are estimated by interpolation.") == 1
    latex = render(held(3), "latex").split("end{table}")
    assert [r"* n \textless{} 20" in part for part in latex[:4]] == [True, True, False, False]


def test_settings_of_one_label_have_different_names() -> None:
    rows = summarize([result(**told("0123456789ab")), result(**told("ba9876543210"))])
    shown = table.render(Content(rows=[replace(rows[0], apart="method.batchnorm=trained"), rows[1]]))
    assert [line.partition("  ")[0] for line in shown.splitlines()[3:5]] == [
        "dense, method.batchnorm=trained",
        "dense, setting ba9876543210",
    ]
    # a label that is told apart already stays short
    other = [replace(row, apart="x=1") for row in summarize([result(), result(label="b", **told())])]
    assert "x=1" not in table.render(Content(rows=other))


def test_machines_are_compared_too() -> None:
    other = {"machines": [{"cpu": "another", "cores": 8, "device": "cpu"}]}
    here, there = result(**told()), result(label="there", **told("b", **other))
    assert "different machines" in render([here, there])
    assert "different machines" not in render([here, result(label="there", **told("b"))])
    assert "different machines" not in render([result(device="cuda"), result(label="b", device="cuda:0")])
    assert "at equal seed, machine, device and threads." in render([here, sparse(0, 0.9, 90, 1.0, **told("m"))])


def test_failures_without_a_label() -> None:
    text = render([], failures=[FAILURE | {"label": "", "seed": None}])
    assert text.splitlines()[3].split()[:3] == ["feedfeedfeed", "–", "–"]


def tracked(seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A run whose dense model was tested beside the one under its masks."""
    full = {"loss": 0.1, "accuracy": 0.98, "metric": 0.98}
    own = {"run": f"t{seed}", "label": "tracked", "method": "dessilbi", "full": full, "rounds": 1, "notes": []}
    return result(seed=seed, **(own | changes))


def test_the_full_model_has_a_column_where_there_is_one() -> None:
    lines = render([result(), tracked()]).splitlines()
    assert re.split("  +", lines[1]) == ["label", "n", "accuracy %", "full accuracy %", "test loss", "remaining %"]
    assert lines[3].split()[2:4] == ["96.00", "–"]
    assert lines[4].split()[2:4] == ["96.00", "98.00"]
    assert any(line.startswith("full: the dense model while its masks are only tracked, ") for line in lines)
    assert "full" not in render([result()])


def test_the_best_epoch_of_the_full_model_has_a_column_where_asked_for() -> None:
    known = tracked()
    known["full"]["best"] = 0.985
    lines = render([result(), known, tracked(1, **{"label": "earlier"})], best=True).splitlines()
    assert re.split("  +", lines[1])[3:6] == ["full accuracy %", "best epoch %", "full best epoch %"]
    assert [line.split()[5] for line in lines[3:6]] == ["–", "98.50", "–"]
    assert "full best" not in render([result(), known])


def test_the_full_model_by_another_metric() -> None:
    run = regression(0, 0.5) | {"full": {"loss": 0.1, "accuracy": None, "metric": 0.25}}
    lines = render([run]).splitlines()
    assert re.split("  +", lines[1])[2:4] == ["mae", "full mae"]
    assert lines[3].split()[2:4] == ["0.5000", "0.2500"]


def test_the_full_model_at_single_epochs() -> None:
    line = {"epoch": 4, "test_accuracy": 0.5, "test_loss": 0.5, "remaining": 90}
    results = [result(run="a"), tracked()]
    metrics = {"a": [line], "t0": [line | {"full_accuracy": 0.75}]}
    text = render(results, epochs=[4], metrics=metrics, per_epoch=True)
    table_of = text[text.index("At single epochs") :].splitlines()
    assert re.split("  +", table_of[1])[2:4] == ["accuracy %", "full accuracy %"]
    assert [row.split()[2:4] for row in table_of[3:5]] == [["50.00", "–"], ["50.00", "75.00"]]
    first, second = csv.DictReader(io.StringIO(render(results, "csv", epochs=[4], metrics=metrics, per_epoch=True)))
    assert (first["full.mean"], second["full.mean"]) == ("", "0.75")


def test_notes_of_methods_stand_below_the_tables() -> None:
    runs = [result(seed=0, notes=["the guard kept 3 weights"]), result(seed=1, notes=["the guard kept 3 weights"])]
    assert "dense (2 of 2 runs): the guard kept 3 weights." in render(runs).splitlines()
    (line,) = csv.DictReader(io.StringIO(render(runs, "csv")))
    assert line["notes"] == "the guard kept 3 weights (2)"
    assert json.loads(render(runs, "json"))["rows"][0]["notes"] == [{"text": "the guard kept 3 weights", "n": 2}]


def test_rounds_have_a_column_where_there_are_several() -> None:
    results = [result(rounds=1), result(label="tickets", rounds=3, epochs=28, **{"epochs_planned": 30})]
    text = render(results)
    block = text[text.index("Time and memory") :].splitlines()
    assert re.split("  +", block[1])[:3] == ["label", "rounds", "epochs"]
    assert [line.split()[:3] for line in block[3:5]] == [["dense", "1", "10"], ["tickets", "3", "28"]]
    assert (
        "tickets: 30 epochs planned, further rounds began later than at the first, or the schedule ended earlier."
        in text
    )
    assert "rounds" not in render([result(rounds=1)])
