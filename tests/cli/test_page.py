from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from supermask.cli.collect import Collected
from supermask.cli.page import changed_sections, heading, split_out
from supermask.errors import ConfigError
from supermask.report import page as page_module

from .conftest import Invoke


@pytest.fixture(autouse=True)
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page without the JavaScript of its charts, which takes seconds to bundle."""
    monkeypatch.setattr(page_module, "_library", lambda: "")


def told(path: Path) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_page_of_an_experiment(supermask: Invoke, finished: Path) -> None:
    shutil.copy(finished / "tiny.yaml", "tiny.yaml")
    shutil.copytree(finished / "runs", "my runs")
    done = supermask("report", "tiny.yaml", "--out", "my runs", "--out", "report.html")
    assert (done.stdout, done.stderr) == ("", "wrote report.html\n")
    content = told(Path("report.html"))
    assert content["made"]["commands"] == [
        "supermask run tiny.yaml --out 'my runs'",
        "supermask report tiny.yaml --out 'my runs' --out report.html",
    ]
    (block,) = content["blocks"]
    assert [row["name"] for row in block["rows"]] == ["plain", "supermask"]
    assert len(content["runs"]) == 4
    run = content["runs"][block["rows"][1]["runs"][0]]
    assert content["changed"][run["changed"]]["train.epochs"] == 2
    assert "train.shuffle" not in content["changed"][run["changed"]]  # has its default
    assert content["environments"][run["environment"]]["data.checksum"]


def test_a_page_of_a_folder_beside_the_tables(supermask: Invoke, finished: Path) -> None:
    done = supermask("report", finished / "runs", "--out", "report.html", "--format", "md")
    assert done.stdout == supermask("report", finished / "runs", "--format", "markdown").stdout
    assert told(Path("report.html"))["made"]["commands"] == [f"supermask report {finished / 'runs'} --out report.html"]


def test_what_a_page_says_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a folder or a store are trained by no command that is known here; the folder may be the current one."""
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    made = heading(Path("r.html"), Collected(), ["a.yaml", ".", "s3://bucket/digits"], [], Path("runs"))
    assert made.title == "a, mine, digits"
    assert made.commands == ("supermask run a.yaml", "supermask report a.yaml . s3://bucket/digits --out r.html")


def test_out_is_a_folder_and_a_page() -> None:
    assert split_out([]) == (Path("runs"), None)
    assert split_out([Path("a")]) == (Path("a"), None)
    assert split_out([Path("r.html"), Path("a")]) == (Path("a"), Path("r.html"))
    with pytest.raises(ConfigError, match=r"--out: give one folder of results and one \.html file at most, got a, b"):
        split_out([Path("a"), Path("b")])


def test_a_page_that_cannot_be_written(supermask: Invoke, finished: Path) -> None:
    Path("file").write_text("")
    done = supermask("report", finished / "runs", "--out", "file/report.html")
    assert done.exit_code
    assert re.search(r"--out: file/report\.html cannot be written .*; name another file", done.stderr)


def test_specs_that_this_version_cannot_read_are_left_out(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "runs", tmp_path / "runs")
    folders = {path.name: path for path in sorted((tmp_path / "runs" / "tiny").iterdir())}
    strange, *others = folders
    spec = json.loads((folders[strange] / "spec.json").read_text())
    spec["method"] = {"name": "somebody-elses"}
    (folders[strange] / "spec.json").write_text(json.dumps(spec))
    assert set(changed_sections([{"run": run} for run in folders], folders)) == set(others)


def test_code_that_a_spec_names_is_not_run(finished: Path, tmp_path: Path) -> None:
    """A run folder may be somebody else's."""
    shutil.copytree(finished / "runs", tmp_path / "runs")
    folders = {path.name: path for path in sorted((tmp_path / "runs" / "tiny").iterdir())}
    theirs, *others = folders
    spec = json.loads((folders[theirs] / "spec.json").read_text())
    spec["train"]["loss"] = "theirs:loss"
    (folders[theirs] / "spec.json").write_text(json.dumps(spec))
    (folders[theirs] / "theirs.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')\nloss = print\n")
    assert set(changed_sections([{"run": run} for run in folders], folders)) == set(others)
    assert not (tmp_path / "was-run").exists()


@pytest.mark.slow
def test_figures(supermask: Invoke, finished: Path) -> None:
    supermask("report", finished / "runs", "--figures", "pictures", "--format", "csv")
    assert {"trade-off-density.pdf", "trade-off-density.svg", "training.png"} <= {
        path.name for path in Path("pictures").iterdir()
    }
