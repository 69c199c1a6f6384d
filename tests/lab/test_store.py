"""Reading run folders, writing and hashing files."""

import copy
import json
import re

import pytest
import torch

from supermask import save_arrays
from supermask.errors import RunError
from supermask.lab.files import canonical_json, sha256, write_json
from supermask.lab.store import RunFolder, read_extras, read_failures, read_metrics, read_results, run_folder

from .helpers import run_here


def test_results_and_failures_of_a_folder(tmp_path):
    run_here({}, tmp_path, vary={"seed": 2})
    run_here({"model": {"name": "userparts:build_broken"}, "train.epochs": 1}, tmp_path)
    results = read_results(tmp_path)
    assert sorted(result["seed"] for result in results) == [0, 1]
    (failure,) = read_failures(tmp_path)
    assert failure["error"].startswith("RuntimeError: this model cannot be built (")
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
        (b'{"schema": 1, "run": 3}', r"'run' should be str, is 3; delete the file to redo the run"),
    ],
)
def test_damaged_results(tmp_path, content, message):
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(RunError, match=message):
        read_results(tmp_path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    out = tmp_path_factory.mktemp("sound")
    run_here({"train.epochs": 1}, out)
    return json.loads(next(out.rglob("result.json")).read_text())


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("accuracy", "last"), "0.9", "'accuracy.last' should be int or float or null, is '0.9'"),
        (("accuracy", "best"), ..., "'accuracy.best' should be int or float or null, is missing"),
        (("loss", "test"), True, "'loss.test' should be int or float or null, is True"),
        (("counts", "weights_remaining"), 3.5, "'counts.weights_remaining' should be int, is 3.5"),
        (("counts", "layers", 0, "size"), None, "'counts.layers[0].size' should be int, is None"),
        (("counts", "layers", 0, "keep"), ..., "'counts.layers[0].keep' should be int or null, is missing"),
        (("counts", "layers", 0), "conv1", "'counts.layers[0].name' should be str, is missing"),
        (("bytes", "dense_float32"), ..., "'bytes.dense_float32' should be int or float or null, is missing"),
        (("bytes", "zip"), "4 kB", "'bytes.zip' should be int or float or null, is '4 kB'"),
        (("seconds", "per_epoch"), None, "'seconds.per_epoch' should be int or float, is None"),
        (("memory", "peak_rss"), ..., "'memory.peak_rss' should be int or float or null, is missing"),
        (("macs", "dense"), [1], "'macs.dense' should be int or float or null, is [1]"),
        (("n_validation",), None, "'n_validation' should be int, is None"),
        (("precision",), 32, "'precision' should be str, is 32"),
        (("metric",), {"name": "mae"}, "'metric.better' should be str, is missing"),
        (("setting",), None, "'setting' should be str, is None"),
        (("epochs_planned",), 1.5, "'epochs_planned' should be int, is 1.5"),
        (("full",), {"loss": 0.5}, "'full.accuracy' should be int or float or null, is missing"),
        (("rounds",), None, "'rounds' should be int, is None"),
        (("notes",), ["a text", 3], "'notes.1' should be str, is 3"),
        (("conditions", "batch_size"), ..., "'conditions.batch_size' should be int, is missing"),
        (("conditions", "machines", 0), "mine", "'conditions.machines[0]' should be dict, is 'mine'"),
    ],
)
def test_what_reports_read_is_checked(path, value, message, sound, tmp_path):
    result = copy.deepcopy(sound)
    place = result
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    write_json(tmp_path / "result.json", result)
    with pytest.raises(
        RunError, match=re.escape(f"{tmp_path / 'result.json'}: {message}; delete the file to redo the run")
    ):
        read_results(tmp_path)


def test_results_of_earlier_versions_are_read(sound, tmp_path):
    later = (
        "n_validation",
        "precision",
        "metric",
        "setting",
        "epochs_planned",
        "conditions",
        "full",
        "rounds",
        "notes",
    )
    assert set(later) <= sound.keys()
    early = {key: value for key, value in sound.items() if key not in later}
    early["macs"] = {"dense": None, "remaining": None}
    write_json(tmp_path / "result.json", early)
    assert read_results(tmp_path) == [early]


def test_metrics(tmp_path):
    folder = RunFolder(tmp_path)
    assert read_metrics(folder) == []
    folder.metrics.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert read_metrics(folder) == read_metrics(tmp_path) == [{"epoch": 1}, {"epoch": 2}]
    folder.metrics.write_text('{"epoch": 1}\nnonsense\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 2: damaged"):
        read_metrics(folder)


def test_extras(tmp_path):
    run = RunFolder(tmp_path)
    assert read_extras(run) == {}
    save_arrays(run.extras, {"path/fc1.weight": torch.tensor([[3, -1]], dtype=torch.int32)})
    (name,) = found = read_extras(run)
    assert (name, found[name].tolist()) == ("path/fc1.weight", [[3, -1]])
    run.extras.write_bytes(run.extras.read_bytes()[:-3])
    with pytest.raises(
        RunError, match=r"extras\.safetensors: damaged \(.*; delete the run folder to train this run again"
    ):
        read_extras(run)


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


def test_a_run_tells_its_machine(sound):
    (machine,) = sound["conditions"]["machines"]
    assert machine["cpu"]
    assert machine["device"] == "cpu"
    assert sound["epochs_planned"] == sound["epochs"] == 1
