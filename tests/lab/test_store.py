"""Reading run folders, writing and hashing files."""

import json

import pytest

from supermask.errors import RunError
from supermask.lab.files import canonical_json, sha256, write_json
from supermask.lab.store import RunFolder, read_failures, read_metrics, read_results, run_folder

from .helpers import run_here


def test_results_and_failures_of_a_folder(tmp_path):
    run_here({}, tmp_path, vary={"seed": 2})
    run_here({"model": {"name": "userparts:build_broken"}, "train.epochs": 1}, tmp_path)
    results = read_results(tmp_path)
    assert sorted(result["seed"] for result in results) == [0, 1]
    (failure,) = read_failures(tmp_path)
    assert failure["error"] == "RuntimeError: this model cannot be built"
    assert "userparts.py" in failure["traceback"]
    assert read_results(tmp_path / "test" / results[0]["run"]) == [results[0]]


def test_missing_folder(tmp_path):
    with pytest.raises(RunError, match=r"no results folder '.*none'; `supermask run` makes one"):
        read_results(tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"schema": 1, "ru', r"result\.json: damaged \(.*\); delete the run folder"),
        (b"[1]", r"result\.json: expected a JSON object, got list"),
        (b'{"schema": 9}', r"schema 9, this version reads 1; use the version that wrote it"),
        (b'{"schema": 1, "run": 3}', r"'run' should be str, is 3; delete it to redo the run"),
    ],
)
def test_damaged_results(tmp_path, content, message):
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(RunError, match=message):
        read_results(tmp_path)


def test_metrics(tmp_path):
    folder = RunFolder(tmp_path)
    assert read_metrics(folder) == []
    folder.metrics.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert read_metrics(folder) == read_metrics(tmp_path) == [{"epoch": 1}, {"epoch": 2}]
    folder.metrics.write_text('{"epoch": 1}\nnonsense\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 2: damaged"):
        read_metrics(folder)


def test_names_with_slashes_are_nested_folders(tmp_path):
    assert run_folder(tmp_path, "paper/table-2", "abc").result == tmp_path / "paper" / "table-2" / "abc" / "result.json"


def test_canonical_json():
    assert canonical_json({"b": 1.0, "a": [True, None]}) == '{"a":[true,null],"b":1.0}'
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(float("nan"))


def test_json_is_written_whole(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_hash_of_a_folder_sees_names_and_contents(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    for folder in (first, second):
        (folder / "a").mkdir(parents=True)
        (folder / "a" / "x").write_text("content")
    assert sha256(first) == sha256(second)
    (second / "a" / "x").rename(second / "a" / "y")
    assert sha256(first) != sha256(second)
