from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

import pytest

from supermask.errors import ConfigError
from supermask.report import table
from supermask.report.content import Content, Settings, View
from supermask.report.quoted import Quote
from supermask.report.summary import summarize

from .results import pair, quote, result

SETTINGS = Settings(
    "Baselines",
    ("label", "lr", "lr (table 8)", "steps", "shuffle"),
    (("FCN", 0.008, ".008", 3900, True), ("Conv2", 2.449489742783178, None, 1950, None)),
)


def render(format: str = "text", results: list[dict[str, Any]] | None = None, **changes: Any) -> str:
    view = View(best=changes.pop("best", False))
    return table.render(Content(rows=summarize(pair() if results is None else results), **changes), format, view)


def test_quoted_numbers_stand_below_ours() -> None:
    quotes = [
        quote(
            "signed-supermask", n=50, accuracy=[93.5, 93.0, 94.25], remaining=[0.6], weights=[25800.0], note="Rounded."
        ),
        quote("dense", n=50, remaining=None),
        quote(source="another paper", accuracy=[66.0]),
    ]
    lines = render(quotes=quotes).splitlines()
    assert lines[:8] == [
        "Last epoch, mean [5 %, 95 %] over the runs",
        "label                     n            accuracy %  test loss          remaining %",
        "-----------------------  --  --------------------  ---------  -------------------",
        "dense                    3*  96.00 [95.10, 96.90]     0.2000               100.00",
        "  quoted [1]             50    93.50 [93.0, 94.0]          –                    –",
        "signed-supermask         3*  93.00 [90.40, 94.90]     0.2000  10.00 [9.10, 10.90]",
        "  quoted [1]             50  93.50 [93.00, 94.25]          –                 0.60",
        "Others 2019, quoted [2]   –                 66.00          –                 9.90",
    ]
    # of the weights, one quote says something; of times, none
    assert [line.split()[:3] for line in lines[9:15] if "quoted" in line] == [["quoted", "[1]", "25,800"]]
    assert not any("quoted" in line for line in lines[16:21])
    assert "[1] quoted, not run here: a paper, table 1." in lines
    assert "[2] quoted, not run here: another paper." in lines
    assert "[1] signed-supermask: Rounded." in lines


def test_what_is_recalled_is_not_called_quoted() -> None:
    quotes = [
        quote("dense", source="from memory", trust="recalled", accuracy=[95.0]),
        quote(source="another paper", trust="authors' paper", accuracy=[66.0]),
    ]
    text = render(quotes=quotes)
    assert text.splitlines()[4].startswith("  recalled [1]")
    assert "\n[1] recalled, not checked and not run here: from memory.\n" in text
    assert "\n[2] quoted, not run here: another paper.\n" in text
    assert "\nOthers 2019 recalled [1]  " in render(results=[], literature=[quote(trust="recalled")])


def test_deviations_and_top5_are_printed_as_quoted() -> None:
    text = render(quotes=[quote("dense", accuracy=[98.1], std=0.09, accuracy_top5=[99.5])])
    line = text.splitlines()[4].split("  ")
    assert "98.10 ± 0.09" in line
    assert re.split("  +", text.splitlines()[1])[:4] == ["label", "n", "accuracy %", "top 5 %"]
    assert "99.50" in text.splitlines()[4]
    dense = json.loads(render("json", quotes=[quote("dense", accuracy=[98.1], std=0.09)]))["rows"][0]["quoted"][0]
    assert (dense["accuracy"]["mean"], dense["accuracy"]["std"]) == (0.981, 0.0009)


def test_what_shares_are_of_is_told() -> None:
    quotes = [
        quote("dense", source="a", remaining_of="targeted weights"),
        quote(source="b", remaining_of="weights and biases"),
        quote(source="c", remaining_of="not said"),
    ]
    told = (
        "remaining % where quoted: of weights and biases [2]; not said of what [3]; of the targeted weights otherwise."
    )
    assert told in render(quotes=quotes)
    assert told in render(results=[], literature=quotes)
    assert "remaining % where quoted" not in render(quotes=quotes[:1])


def test_what_methods_ask_for_has_a_table() -> None:
    needs = {
        "pretraining": True,
        "pruning_steps": "many",
        "extra_hyperparameters": True,
        "augmented_objective": False,
        "architecture_constraints": False,
    }
    lines = render(quotes=[quote(**needs), quote("dense")]).splitlines()
    at = lines.index("What the methods ask for, as quoted")
    assert lines[at + 1].split() == [
        *("label", "pretraining", "pruning", "steps", "more", "hyper-parameters", "more", "in", "the", "loss"),
        *("by", "architecture"),
    ]
    assert lines[at + 3].split() == ["Others", "2019", "[1]", "yes", "many", "yes", "no", "no"]
    assert lines[at + 4] == ""
    assert "What the methods ask for" not in render(quotes=[quote()])


def test_equal_remarks_are_told_once() -> None:
    quotes = [quote(label=label, note="read off a figure.") for label in ("a, b", "c")]
    assert render(quotes=quotes).count("read off a figure") == 1
    assert "\n[1] a, b; c: read off a figure.\n" in render(quotes=quotes)


def test_a_quote_belongs_to_the_row_of_its_experiment() -> None:
    text = render(results=[result(), result(experiment="other")], quotes=[quote("dense")])
    lines = text.splitlines()
    assert lines[3].startswith("quickstart / dense")
    assert lines[4].startswith("  quoted [1]")
    assert lines[5].startswith("other / dense")
    assert "quoted" not in lines[6]


def test_what_has_no_result_yet_is_quoted_by_its_label() -> None:
    text = render(results=[], quotes=[quote("Conv2")], missing=3)
    assert text.splitlines()[3].startswith("Conv2, quoted [1]")
    assert text.endswith("3 planned runs have no result yet.\n")


def test_costs_and_compression() -> None:
    cells = {"seconds_per_epoch": [1.5], "extra_time": [6.0, 5.5, 7.0], "compression": [93.8], "epochs": 100}
    text = render(quotes=[quote("signed-supermask", **cells)])
    size, cost = text.split("\n\n")[1:3]
    assert size.splitlines()[1].endswith("entropy %  unnamed %")
    assert size.splitlines()[5].split()[-2:] == ["–", "93.8"]
    assert cost.splitlines()[-1].split() == ["quoted", "[1]", "100", "1.5", "–", "6.0", "[5.5,", "7.0]", "–"]
    assert "unnamed: compression rate, quoted; how the source counts bytes is not known." in text


def test_runs_of_another_length_than_published_are_told() -> None:
    text = render(quotes=[quote("signed-supermask", epochs=100), quote("dense", epochs=10)])
    assert "\nsigned-supermask: 10 epochs here, 100 where quoted.\n" in text
    assert "dense: 10 epochs" not in text


def test_a_quoted_best_epoch_is_not_mixed_with_the_last() -> None:
    text = render(quotes=[quote("dense", accuracy=None, accuracy_best=[95.5])])
    assert re.split("  +", text.splitlines()[1]) == [
        "label",
        "n",
        "accuracy %",
        "best epoch %",
        "test loss",
        "remaining %",
    ]
    assert text.splitlines()[4].split() == ["quoted", "[1]", "–", "–", "95.50", "–", "9.90"]
    assert "best epoch" not in render(quotes=[quote("dense", accuracy_best=[95.5])])


def test_latex_names_the_sources_below_each_table() -> None:
    text = render("latex", quotes=[quote("signed-supermask", source="R&D 100 %")])
    first, second, _ = text.split("\n\\end{table}\n")[:3]
    assert r"\quad quoted [1] & -- & 93.50 [93.0, 94.0] & -- & 9.90 \\" in first
    assert r"[1] quoted, not run here: R\&D 100 \%.\par" in first
    assert "not run here" not in second


def test_json_has_our_units() -> None:
    content = json.loads(render("json", quotes=[quote("signed-supermask", n=50, extra_time=[6.0]), quote()]))
    dense, masked = content["rows"]
    assert dense["quoted"] == []
    (cells,) = masked["quoted"]
    assert cells["accuracy"] == {"mean": 0.935, "low": 0.93, "high": 0.94, "std": None, "n": 50}
    assert cells["density"] == {"mean": 0.099, "low": None, "high": None, "std": None, "n": 50}
    assert cells["extra_time"]["mean"] == 0.06
    assert [cells["label"] for cells in content["quoted"]] == ["Others 2019"]


def test_csv_lines_name_their_source() -> None:
    quotes = [quote("signed-supermask", compression=[93.8], extra_time=[6.0]), quote()]
    dense, masked, beside, other = csv.DictReader(io.StringIO(render("csv", quotes=quotes)))
    assert (dense["source"], masked["source"]) == ("", "")
    assert (beside["label"], beside["experiment"], beside["source"]) == (
        "signed-supermask",
        "quickstart",
        "a paper, table 1",
    )
    assert float(beside["accuracy.mean"]) == 0.935
    assert float(beside["compression.unnamed.mean"]) == 0.938
    assert float(beside["extra_time.fraction.mean"]) == 0.06
    assert beside["metric.last.mean"] == beside["compression.two_bit.mean"] == ""
    assert (other["label"], other["density.mean"], other["density.low"]) == ("Others 2019", "0.099", "")
    assert render("csv", quotes=quotes).splitlines()[0] == render("csv").splitlines()[0]


def test_settings_show_what_is_quoted_below_ours() -> None:
    assert render(results=[], settings=[SETTINGS]).splitlines() == [
        "Baselines",
        "label               lr       steps  shuffle",
        "------------------  -------  -----  -------",
        "FCN                 0.008    3,900  True",
        "  quoted (table 8)  .008     –      –",
        "Conv2               2.44949  1,950  –",
    ]


def test_settings_come_before_results() -> None:
    text = render(settings=[SETTINGS])
    assert text.startswith("Baselines\n")
    assert "\n\nLast epoch" in text


def test_settings_as_values() -> None:
    first, second = csv.DictReader(io.StringIO(render("csv", settings=[SETTINGS])))
    assert (first["lr"], first["lr (table 8)"]) == ("0.008", ".008")
    assert (second["lr"], second["lr (table 8)"]) == ("2.449489742783178", "")
    (content,) = json.loads(render("json", settings=[SETTINGS]))["settings"]
    assert content["headers"] == list(SETTINGS.headers)
    assert content["rows"][1] == ["Conv2", 2.449489742783178, None, 1950, None]
    with pytest.raises(ConfigError, match="CSV holds one table: name one experiment with settings"):
        render("csv", settings=[SETTINGS, SETTINGS])


def test_literature_has_a_table_of_its_own() -> None:
    facts = {"bits": 1.0, "trained_weights": False, "batchnorm": False, "start_weights": 4300992, "epochs": 100}
    literature = [quote(**facts), quote(label="More", source="another paper", trained_weights=True, accuracy=None)]
    lines = render(results=[], literature=literature).splitlines()
    assert lines == [
        "Quoted from the literature",
        "label              weights  remaining %  bits  trained  batch norm  epochs          accuracy %",
        "---------------  ---------  -----------  ----  -------  ----------  ------  ------------------",
        "Others 2019 [1]  4,300,992         9.90     1       no          no     100  93.50 [93.0, 94.0]",
        "More [2]                 –         9.90     –      yes           –       –                   –",
        "",
        "trained: whether the weights themselves were trained, beside which of them remain.",
        "[1] quoted, not run here: a paper, table 1.",
        "[2] quoted, not run here: another paper.",
    ]
    first, second = csv.DictReader(io.StringIO(render("csv", results=[], literature=literature)))
    assert (first["bits"], first["density.mean"], first["extra_time.mean"]) == ("1.0", "0.099", "")
    assert second["accuracy.mean"] == ""
    content = json.loads(render("json", results=[], literature=literature))
    assert [cells["label"] for cells in content["quoted"]] == ["Others 2019", "More"]


@pytest.mark.parametrize(
    ("number", "text"),
    [(68, "68"), (68.0, "68.00"), (97.425, "97.425"), ([77.4, 76, 78.25], "77.40 [76.00, 78.25]")],
)
def test_digits_of_a_source_are_kept(number: Any, text: str) -> None:
    assert Quote.of({"label": "a", "source": "b", "accuracy": number}).text("accuracy") == text


def test_two_numbers_are_no_quote() -> None:
    with pytest.raises(AssertionError, match="a mean, or mean, low and high"):
        quote(accuracy=[1.0, 2.0])


def test_experiments_of_one_name_may_share_a_label() -> None:
    """The quotes stand beside the runs of their own files."""
    results = [result(run="a", model="fcn"), result(run="b", model="conv2")]
    quotes = [
        Quote.of({"source": "s", "accuracy": [number]}, experiment="quickstart", beside="dense", runs=[run])
        for run, number in (("a", 97.42), ("b", 68.79))
    ]
    lines = render(results=results, quotes=quotes).splitlines()
    assert [line.split()[:2] for line in lines[3:7]] == [
        ["fcn", "/"],
        ["quoted", "[1]"],
        ["conv2", "/"],
        ["quoted", "[1]"],
    ]
    assert "97.42" in lines[4]
    assert "68.79" in lines[6]
    assert [len(row["quoted"]) for row in json.loads(render("json", results=results, quotes=quotes))["rows"]] == [1, 1]


def test_one_quote_beside_two_rows() -> None:
    results = [result(run="a", epochs=5), result(run="b", epochs=6)]
    both = Quote.of({"source": "s", "accuracy": [97.42]}, experiment="quickstart", beside="dense", runs=["a", "b"])
    lines = render(results=results, quotes=[both]).splitlines()
    assert [line.startswith("  quoted [1]") for line in lines[3:7]] == [False, True, False, True]
    assert lines[7] == ""


NOTE = {"label": "All", "accuracy": None, "remaining": None, "note": "Nothing but a remark."}


def test_a_quote_without_figures_is_told() -> None:
    lines = render(quotes=[quote(**NOTE)]).splitlines()
    assert lines.count("[1] All: Nothing but a remark.") == 1
    assert lines.count("[1] quoted, not run here: a paper, table 1.") == 1
    assert not any(line.startswith("All") for line in lines)
    # also where no run is finished, and where there is another quote of its source
    assert "[1] All: Nothing but a remark.\n" in render(results=[], quotes=[quote(**NOTE)], missing=1)
    first = render("latex", quotes=[quote(**NOTE), quote("dense")]).split("end{table}")[0]
    assert first.count("not run here") == first.count("Nothing but a remark") == 1


def test_a_range_stands_in_its_column() -> None:
    cells = {"accuracy": None, "remaining": None, "extra_time": "6 to 10", "compression": "at least 93.8"}
    given = quote(label="All", **cells)
    size, cost = render(quotes=[given]).split("\n\n")[1:3]
    assert size.splitlines()[-1].startswith("All, quoted [1]")
    assert size.splitlines()[-1].endswith("  at least 93.8")
    assert re.split("  +", cost.splitlines()[-1]) == ["All, quoted [1]", "–", "–", "–", "6 to 10", "–"]
    (content,) = json.loads(render("json", quotes=[given]))["quoted"]
    assert content["extra_time"] is content["compression"] is None
    assert content["texts"] == {"extra_time": "6 to 10", "compression": "at least 93.8"}
    line = list(csv.DictReader(io.StringIO(render("csv", quotes=[given]))))[-1]
    assert (line["label"], line["extra_time.fraction.mean"]) == ("All", "")


def test_remarks_on_the_report_stand_at_its_end() -> None:
    text = render(remarks=["something was changed"])
    assert text.endswith("\nsomething was changed.\n")
    assert json.loads(render("json", remarks=["something was changed"]))["notes"] == ["something was changed"]
