from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import pytest

from supermask.report import ranking as module
from supermask.report import table
from supermask.report.content import Content, View
from supermask.report.paired import Difference
from supermask.report.ranking import Ranking
from supermask.report.summary import summarize

from .results import pair, regression, result, sparse


def runs(label: str, *accuracies: float, remaining: int = 90, **changes: Any) -> list[dict[str, Any]]:
    """One run a seed from 0 on, of the method of that name, 900 targeted weights."""
    return [
        result(
            **{
                "label": label,
                "method": label,
                "seed": seed,
                "run": f"{label}-{seed}",
                "accuracy.last": accuracy,
                "counts.weights_remaining": 900 if label == "dense" else remaining,
                **changes,
            }
        )
        for seed, accuracy in enumerate(accuracies)
    ]


DENSE = runs("dense", 0.95, 0.96, 0.97, 0.96, 0.96)


def rank(results: list[dict[str, Any]], classes: Sequence[float] = (), **changes: Any) -> list[Ranking]:
    return module.rank(summarize(results), results, classes={"quickstart": tuple(classes)}, **changes)


def labels(ranking: Ranking) -> list[str]:
    return [line.row.label for line in ranking.lines]


def test_rows_are_sorted_by_their_mean() -> None:
    (ranking,) = rank([*DENSE, *runs("low", 0.5, 0.6), *runs("high", 0.99, 0.99), *runs("same", 0.55, 0.55)])
    assert labels(ranking) == ["high", "dense", "low", "same"]
    assert [line.rank for line in ranking.lines] == [1, 2, 3, 3]
    assert ranking.baseline is ranking.lines[1].row


def test_lower_can_be_better() -> None:
    runs_of = [regression(seed, value, label=label) for label, value in (("a", 0.3), ("b", 0.1)) for seed in (0, 1)]
    for index, run in enumerate(runs_of):
        run["run"] = str(index)
    (ranking,) = rank(runs_of)
    assert [(line.row.label, line.rank) for line in ranking.lines] == [("b", 1), ("a", 2)]


def test_differences_are_paired_by_seed() -> None:
    ours = runs("ours", 0.94, 0.94, 0.96)[::-1]
    (ranking,) = rank([*DENSE, *ours])
    difference = ranking.lines[1].difference
    # .94 - .95, .94 - .96, .96 - .97
    expected = Difference.of([-0.01, -0.02, -0.01])
    assert difference is not None
    assert expected is not None
    assert difference.pairs == 3
    assert difference.mean == pytest.approx(-0.04 / 3)
    assert difference.low == pytest.approx(expected.low)
    assert difference.high == pytest.approx(expected.high)
    assert (ranking.lines[0].difference, ranking.lines[0].unpaired, ranking.lines[1].unpaired) == (None, 0, 0)


def test_seeds_without_a_partner_are_left_out_and_counted() -> None:
    (ranking,) = rank([*DENSE[:2], *runs("ours", 0.94, 0.95, 0.10, 0.10)])
    line = ranking.lines[1]
    assert line.difference is not None
    assert (line.difference.pairs, line.unpaired) == (2, 2)
    assert line.difference.mean == pytest.approx(-0.01)


def test_runs_that_saw_other_batches_are_no_pairs() -> None:
    ours = runs("ours", 0.94, 0.95)
    orders = {run["run"]: "shuffled" for run in DENSE} | {"ours-0": "shuffled", "ours-1": "as they are"}
    (ranking,) = rank([*DENSE, *ours], orders=orders)
    assert ranking.lines[1].difference == Difference.of([0.94 - 0.95])
    assert ranking.lines[1].unpaired == 1


def test_a_seed_that_a_row_holds_twice_is_left_out() -> None:
    (ranking,) = rank([*DENSE, *runs("ours", 0.94, 0.95), *runs("ours", 0.5, run="copy")])
    line = ranking.lines[1]
    assert line.difference is not None
    assert (line.row.n, line.difference.pairs, line.unpaired) == (3, 1, 2)


def test_letters_tell_who_can_be_told_apart() -> None:
    near = runs(
        "near", *(value - shift for value, shift in zip((0.95, 0.96, 0.97, 0.96, 0.96), (1e-3, -2e-3, 1e-3, 0, 0)))
    )
    far = runs("far", 0.85, 0.86, 0.88, 0.85, 0.86)
    (ranking,) = rank([*far, *near, *DENSE])
    assert [(line.row.label, line.group) for line in ranking.lines] == [("dense", "a"), ("near", "a"), ("far", "b")]


def test_single_runs_have_no_letter() -> None:
    (ranking,) = rank([*DENSE[:1], *runs("ours", 0.9)])
    assert [line.group for line in ranking.lines] == ["", ""]
    difference = ranking.lines[1].difference
    assert difference is not None
    assert difference.low is difference.high is None
    (ranking,) = rank([*DENSE, *runs("ours", 0.9), *runs("other", 0.5, 0.51, 0.5, 0.5, 0.5)])
    assert [(line.row.label, line.group) for line in ranking.lines] == [("dense", "a"), ("ours", ""), ("other", "b")]


def test_classes_of_remaining_weights() -> None:
    rows = [
        *DENSE,
        *runs("ten", 0.90, 0.91, remaining=90),
        *runs("eight", 0.92, 0.91, remaining=72),  # 8 %: within 1.25 of 10 %
        *runs("five", 0.88, 0.88, remaining=45),
        *runs("half", 0.93, 0.93, remaining=450),
    ]
    tenth, twentieth, rest = rank(rows, [0.1, 0.05])
    assert [(r.density, r.rest) for r in (tenth, twentieth, rest)] == [(0.1, False), (0.05, False), (None, True)]
    assert labels(tenth) == ["dense", "eight", "ten"]
    assert labels(twentieth) == ["dense", "five"]
    assert labels(rest) == ["dense", "half"]
    # a class without rows is no ranking
    assert [ranking.density for ranking in rank([*DENSE, *runs("five", 0.8, remaining=45)], [0.1, 0.05])] == [0.05]


def test_what_cannot_be_compared_is_ranked_apart() -> None:
    other = {"model": "conv2", "run": "x"}
    rows = [*DENSE, *runs("a", 0.9), *runs("b", 0.8, **other), *runs("c", 0.7, **other | {"run": "y"})]
    assert [labels(ranking) for ranking in rank(rows)] == [["dense", "a"], ["b", "c"]]
    assert rank(rows)[1].baseline is None
    # a row alone is no ranking; nor is one of an experiment that was not asked for
    assert rank([*DENSE, *runs("b", 0.8, n_train=100)]) == []
    assert module.rank(summarize(rows), rows, classes={}) == []


def test_a_row_without_its_metric_comes_last() -> None:
    (ranking,) = rank([*runs("broken", 0.99, float("nan")), *DENSE, *runs("gone", None)])  # type: ignore[arg-type]
    assert [(line.row.label, line.rank) for line in ranking.lines] == [("dense", 1), ("broken", None), ("gone", None)]


def show(results: list[dict[str, Any]], classes: Sequence[float] = (), format: str = "text", **view: Any) -> str:
    rows = summarize(results)
    found = module.rank(rows, results, classes={"quickstart": tuple(classes)})
    return table.render(Content(rows=rows, rankings=found), format, View(**view))


# differences of (.90 .94 .95) to (.95 .96 .97): -5 -2 -2. Of their 27 resamples one has the mean -5, six -4, twelve -3, eight
# -2: the 2.5 % quantile is -4.35, the 97.5 % one -2, their arms are stretched by 4.3027 * sqrt(3 / 2) / 1.95996 = 2.6887
def test_golden_text() -> None:
    text = show(pair())
    assert text.split("\n\n")[1].splitlines() == [
        "Ranking",
        "label             rank   n            accuracy %          remaining %               to dense  group",
        "----------------  ----  --  --------------------  -------------------  ---------------------  -----",
        "dense                1  3*  96.00 [95.10, 96.90]               100.00                      –  a",
        "signed-supermask     2  3*  93.00 [90.40, 94.90]  10.00 [9.10, 10.90]  -3.00 [-6.63, -0.31]†  b",
    ]
    notes = text.splitlines()
    assert (
        "to dense: mean difference over the runs of the same seed and batches, in points [95 % bootstrap interval]."
        in notes
    )
    assert "† fewer than 5 pairs: trust neither the interval nor the letters." in notes
    assert notes.count("* n < 20: quantiles are estimated by interpolation.") == 1
    assert any(note.startswith("group: rows that share a letter cannot be told apart at this n") for note in notes)
    assert not any("left out of the difference" in note for note in notes)


def test_notes_of_a_ranking() -> None:
    rows = [*DENSE, *runs("ours", 0.94, 0.95, 0.96, 0.96, 0.94, 0.9), *runs("half", 0.9, remaining=450)]
    text = show(rows)
    assert "no baseline run of their seed and batches, left out of the difference: ours 1 of 6." in text
    assert "the rows keep 10.00 to 50.00 % of their weights; `table: {rank: [0.1, 0.01]}`" in text
    assert "†" not in text
    text = show(rows, [0.1])
    assert "Ranking near 10 % remaining weights\n" in text
    assert "Ranking at other remaining weights\n" in text
    assert "near: within a factor of 1.25; dense rows stand in each ranking." in text
    assert "the rows keep" not in text


def test_places_are_named_where_there_are_several() -> None:
    other = {"data": "mnist", "run": "x"}
    text = show([*DENSE, *runs("a", 0.9), *runs("b", 0.8, **other), *runs("c", 0.7, **other | {"run": "y"})])
    assert "quickstart, fcn on digits, 1,437 examples: Ranking\n" in text
    assert "quickstart, fcn on mnist, 1,437 examples: Ranking\n" in text


def test_another_metric_keeps_its_unit() -> None:
    rows = [regression(seed, 0.5 + 0.1 * seed, label="dense", method="dense") | {"run": f"d{seed}"} for seed in (0, 1)]
    rows += [regression(seed, 0.25, label="regression", method="random") for seed in (0, 1)]
    block = show(rows).split("\n\n")[1].splitlines()
    assert block[1].split()[:4] == ["label", "rank", "n", "mae"]
    assert block[3].split()[:4] == ["regression", "1", "2*", "0.2500"]
    assert "-0.3000 [" in block[3]
    assert "mae: lower is better." in show(rows)


def test_formats() -> None:
    assert "| signed-supermask | 2 | 3\\* |" in show(pair(), format="markdown")
    assert r"\textdagger{}" in show(pair(), format="latex")
    assert r"\caption{Ranking}" in show(pair(), format="latex")
    dense, masked = csv.DictReader(io.StringIO(show(pair(), [0.1], "csv", rank=True)))
    assert (dense["label"], dense["rank"], dense["difference.mean"], dense["class"]) == ("dense", "1", "", "0.1")
    assert float(masked["difference.mean"]) == pytest.approx(-0.03)
    assert (masked["difference.trusted"], masked["group"], masked["baseline"]) == ("False", "b", "dense")
    assert "rank" not in show(pair(), [0.1], "csv").splitlines()[0].split(",")
    (ranking,) = json.loads(show(pair(), [0.1], "json"))["rankings"]
    assert (ranking["class"], ranking["baseline"], ranking["level"]) == (0.1, "dense", 0.95)
    assert [row["label"] for row in ranking["rows"]] == ["dense", "signed-supermask"]
    assert ranking["rows"][1]["difference"]["pairs"] == 3


def test_rank_intervals_stand_behind_all_better_and_before_all_worse_rows() -> None:
    seeds = range(6)
    scatter = (0.0, 0.001, -0.001, 0.0005, -0.0005, 0.0002)
    runs = [result(seed=seed, run=f"d{seed}", **{"accuracy.last": 0.95 + scatter[seed]}) for seed in seeds]
    for label, gain in (("equal", 0.0), ("worst", -0.2), ("best", 0.02)):
        runs += [
            sparse(seed, 0.95 + gain - scatter[seed], 90, 10.0, label=label, run=f"{label}{seed}") for seed in seeds
        ]
    (ranking,) = module.rank(summarize(runs), runs, classes={"quickstart": ()})
    assert {line.row.label: line.between for line in ranking.lines} == {
        "best": (1, 1),
        "dense": (2, 3),
        "equal": (2, 3),
        "worst": (4, 4),
    }
    assert ranking.to_dict()["rows"][0]["rank_interval"] == [1, 1]
