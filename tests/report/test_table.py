from __future__ import annotations

import csv
import io
import json

import pytest

from supermask.errors import ConfigError
from supermask.report.summary import summarize
from supermask.report.table import render

from .results import pair, result, sparse

FAILURE = {
    "schema": 1,
    "run": "feedfeedfeed",
    "label": "signed-supermask",
    "seed": 3,
    "error": "DivergedError: the loss\nis nan",
    "traceback": "...",
}


# accuracies .90 .94 .95: 5 % quantile .904, 95 % quantile .949; remaining 90 99 81 of 900; times 11 12 13 over 10
def test_golden_text() -> None:
    lines = render(summarize(pair()), failures=[FAILURE], missing=2).splitlines()
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
        "label             epochs  s/epoch  training s               extra %  peak MiB",
        "----------------  ------  -------  ----------  --------------------  --------",
        "dense                 10    1.000        10.0                     –       100",
        "signed-supermask      10    1.200        12.0  +20.0 [+11.0, +29.0]       100",
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
    lines = render(summarize(pair()), spread="std").splitlines()
    # deviations of .90 .94 .95 from .93: -.03 .01 .02, squares sum to .0014, / 2
    assert lines[0] == "Last epoch, mean ± standard deviation over the runs"
    assert lines[4] == "signed-supermask  3  93.00 ± 2.65     0.2000  10.00 ± 1.00"
    assert any("+20.0 ± 10.0" in line for line in lines)
    assert not any("estimated" in line for line in lines)


def test_one_run_shows_no_spread() -> None:
    text = render(summarize([result()]))
    assert "dense  1       96.00     0.2000       100.00" in text
    assert "estimated" not in text


def test_twenty_runs_are_not_marked() -> None:
    text = render(summarize([result(seed=seed) for seed in range(20)]))
    assert "20*" not in text
    assert "estimated" not in text


def test_best_epoch_is_a_column_of_its_own() -> None:
    header, line = render(summarize([result()]), best=True).splitlines()[1:4:2]
    assert "best epoch %" in header
    assert line.split() == ["dense", "1", "96.00", "97.00", "0.2000", "100.00"]


def test_layers() -> None:
    text = render(summarize(pair()), per_layer=True)
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
    text = render(summarize([result(**{"counts.weights_targeted": 0, "counts.weights_remaining": 0})]))
    assert text.splitlines()[3].split() == ["dense", "1", "96.00", "0.2000", "–"]


def test_rows_of_several_models_are_told_apart() -> None:
    text = render(summarize([result(model="fcn"), result(model="conv2")]))
    assert "fcn / dense" in text
    assert "conv2 / dense" in text


def test_times_on_different_machines_are_marked() -> None:
    results = [result(), result(label="gpu", device="cuda")]
    assert "different devices or thread counts" in render(summarize(results))
    assert "different devices" not in render(summarize(pair()))


def test_unpaired_runs_are_told() -> None:
    assert "only the pairs are compared" in render(summarize([result(), *pair()[:3]]))


def test_markdown() -> None:
    text = render(summarize(pair()), "markdown", missing=1)
    assert "| label | n | accuracy % | test loss | remaining % |\n| :-- | --: | --: | --: | --: |\n" in text
    assert "| signed-supermask | 3\\* | 93.00 [90.40, 94.90] |" in text
    assert "\n- \\* n < 20: quantiles are estimated by interpolation.\n" in text
    assert text.endswith("- 1 planned run has no result yet.\n")


def test_csv_has_raw_numbers() -> None:
    dense, masked = csv.DictReader(io.StringIO(render(summarize(pair()), "csv")))
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
        return render(summarize(results), "csv").splitlines()[0]

    assert header([result()]) == header(pair()) == header([result(**{"counts.weights_targeted": 0})])


def test_csv_of_layers() -> None:
    first, second = csv.DictReader(io.StringIO(render(summarize(pair()), "csv", per_layer=True)))
    assert (first["label"], first["layer"], first["shape"]) == ("signed-supermask", "0.weight", "10 30")
    assert float(first["keep"]) == pytest.approx(11 / 300)
    assert second["size"] == "600"


def test_json_is_strict_and_complete() -> None:
    content = json.loads(render(summarize([*pair(), sparse(9, 0.9, 90, 1.0, **{"loss.test": float("nan")})]), "json"))
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
        render([], **{keyword: value})  # type: ignore[arg-type]
