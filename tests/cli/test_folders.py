"""What the verbs say about runs that failed, and about folders of other versions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from .conftest import Invoke


def one_line(text: str) -> str:
    """Text without its line breaks and columns."""
    return " ".join(text.split())


def test_a_diverging_run_among_good_ones(supermask: Invoke, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "wild.py").write_text("def loss(output, labels):\n    return (output * float('inf')).mean()\n")
    tiny.write_text(tiny.read_text() + "    wild: {method: {name: dense}, train.loss: 'wild:loss'}\n")
    result = supermask("run", tiny, "--workers", 0, "--set", "vary.seed=[0]")
    assert result.exit_code == 1
    told = one_line(result.stdout)
    assert "wild, seed 0: failed: the training loss is" in told
    assert "training diverged; lower train.optimizer.lr, or look at the data for values that are not finite" in told
    assert "Failed runs: 1" in told
    assert "plain, seed 0: done" in told
    assert "supermask, seed 0: done" in told
    report = supermask("report", tiny, "--set", "vary.seed=[0]")
    assert "training diverged; lower train.optimizer.lr" in one_line(report.stdout)
    (failed,) = (run for run in plan(supermask, tiny) if run["state"] == "failed")
    assert failed["label"] == "wild"
    assert "training diverged" in json.loads((Path(failed["folder"]) / "failed.json").read_text())["error"]


def plan(supermask: Invoke, tiny: Path) -> list[dict[str, str]]:
    """The runs of the plan, one seed."""
    runs: list[dict[str, str]] = json.loads(supermask("plan", tiny, "--set", "vary.seed=[0]", "--json").stdout)["runs"]
    return runs


def test_a_result_of_a_newer_version(supermask: Invoke, tiny: Path) -> None:
    """It is neither used nor replaced; the other runs are trained and compared."""
    newer = plan(supermask, tiny)[0]
    folder = Path(newer["folder"])
    folder.mkdir(parents=True)
    content = json.dumps({"schema": 2, "run": newer["run"], "verdict": "good"})
    (folder / "result.json").write_text(content)
    message = f"{folder}/result.json: schema 2, this version reads 1; use the version that wrote it"

    result = supermask("run", tiny, "--workers", 0, "--set", "vary.seed=[0]", "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert {run["run"]: run["message"] for run in told["runs"] if run["state"] == "failed"} == {newer["run"]: message}
    assert [run["state"] for run in told["runs"]].count("done") == 1
    assert [failure["error"] for failure in told["report"]["failed"]] == [message]
    assert [row["n"] for row in told["report"]["rows"]] == [1]
    assert (folder / "result.json").read_text() == content

    report = supermask("report", tiny, "--set", "vary.seed=[0]")
    assert report.exit_code == 0
    assert "this version reads 1" in one_line(report.stdout)
    whole = json.loads(supermask("report", "runs", "--json").stdout)
    assert whole["failed"] == [{"run": newer["run"], "label": "", "seed": None, "error": message}]
    assert [row["n"] for row in whole["rows"]] == [1]


def test_a_folder_that_holds_another_spec(supermask: Invoke, tiny: Path) -> None:
    first = plan(supermask, tiny)[0]
    supermask("run", tiny, "--workers", 0, "--set", "vary.seed=[0]", "--set", "train.epochs=1")
    (other,) = (path for path in Path("runs/tiny").glob("*/spec.json") if "signed" in path.read_text())
    folder = Path(first["folder"])
    folder.mkdir()
    (folder / "spec.json").write_text(other.read_text())
    result = supermask("run", tiny, "--workers", 0, "--set", "vary.seed=[0]")
    assert result.exit_code == 1
    assert f"{folder} holds a run of the same id whose full spec differs: train.epochs (1 there, 2 now)" in (
        one_line(result.stdout + result.stderr)
    )
    assert not list(folder.glob("result.json"))
    assert [run["state"] for run in plan(supermask, tiny) if run["seed"] == 0] == ["new", "done"], "the other goes on"


def test_damaged_files_are_failures_of_a_folder(supermask: Invoke, finished: Path) -> None:
    shutil.copytree(finished / "runs", "runs")
    first, second, *_ = sorted(Path("runs/tiny").iterdir())
    (first / "result.json").write_text('{"schema": 1, "ru')
    (second / "result.json").unlink()
    (second / "failed.json").write_text("[]")
    report = supermask("report", "runs")
    assert report.exit_code == 0
    assert "Failed runs: 2" in report.stdout
    assert f"{first}/result.json: damaged" in one_line(report.stdout)
    assert f"{second}/failed.json: expected a JSON object, got list" in one_line(report.stdout)
    content = json.loads(supermask("report", "runs", "--json").stdout)
    assert (sum(row["n"] for row in content["rows"]), content["missing"]) == (2, 0)


def test_a_run_that_failed_before_it_was_done_counts_once(supermask: Invoke, finished: Path) -> None:
    """As the driver of a dead process may leave it that wrote its record while another one finished the run."""
    shutil.copytree(finished / "runs", "runs")
    first, *_ = sorted(Path("runs/tiny").iterdir())
    record = {"schema": 1, "run": first.name, "label": "plain", "seed": 0, "error": "killed", "traceback": ""}
    (first / "failed.json").write_text(json.dumps(record))
    content = json.loads(supermask("report", "runs", "--json").stdout)
    assert (sum(row["n"] for row in content["rows"]), content["failed"]) == (4, [])


def test_a_run_that_lies_in_two_folders(supermask: Invoke, finished: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(finished / "runs", name)
    shown = supermask("report", "one", "two", "one")
    assert "two: 4 of its runs lie elsewhere in these folders too; each counts once" in one_line(shown.stdout)
    content = json.loads(supermask("report", "one", "two", "--json").stdout)
    assert sum(row["n"] for row in content["rows"]) == 4
