from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from supermask.report.pair import Side, compare, grids

from .conftest import Invoke


@pytest.fixture
def runs(finished: Path) -> dict[tuple[str, int], Path]:
    """(label, seed) -> folder."""
    folders = (path.parent for path in (finished / "runs").rglob("result.json"))
    results = ((folder, json.loads((folder / "result.json").read_text())) for folder in folders)
    return {(result["label"], result["seed"]): folder for folder, result in results}


def test_two_seeds_of_a_supermask(supermask: Invoke, runs: dict[tuple[str, int], Path]) -> None:
    result = supermask("compare", runs["supermask", 0], runs["supermask", 1])
    assert result.exit_code == 0
    text = result.stdout
    assert re.search(r"^seed +0 +1$", text, re.M)
    assert "accuracy, last epoch %" in text
    assert "keep % (first)" in text
    assert re.search(r"\d+ of 360 test examples are judged differently: \d+ right only by the second", text)
    assert f"first: {runs['supermask', 0]}" in text


def test_every_number_is_that_of_the_files(runs: dict[tuple[str, int], Path]) -> None:
    first, second = runs["supermask", 0], runs["supermask", 1]
    found = compare(Side.read(first), Side.read(second))
    masks = [load_file(folder / "masks.safetensors") for folder in (first, second)]
    assert [layer["name"] for layer in found["layers"]] == ["fc1.weight", "fc2.weight"]
    for layer in found["layers"]:
        left, right = (mask[layer["name"]] for mask in masks)
        both = (left != 0) & (right != 0)
        assert layer["both"] == both.sum()
        assert layer["overlap"] == both.sum() / ((left != 0) | (right != 0)).sum()
        assert layer["same_sign"] == (both & (left == right)).sum()
        assert layer["first"]["keep"] == (left > 0).sum()
        assert layer["second"]["invert"] == (right < 0).sum()
        shares = (left != 0).mean(), (right != 0).mean()
        assert layer["by_chance"] == pytest.approx(shares[0] * shares[1] / (sum(shares) - shares[0] * shares[1]))
    stories = [load_file(folder / "story.safetensors") for folder in (first, second)]
    changed = np.flatnonzero(stories[0]["predictions"] != stories[1]["predictions"])
    examples = found["examples"]
    assert [entry["example"] for entry in examples["list"]] == changed.tolist()
    assert examples["changed"] == len(changed)
    accuracies = [json.loads((folder / "result.json").read_text())["accuracy"]["last"] for folder in (first, second)]
    assert (examples["gained"] - examples["lost"]) / 360 == pytest.approx(accuracies[1] - accuracies[0])


def test_a_run_beside_itself(runs: dict[tuple[str, int], Path]) -> None:
    side = Side.read(runs["supermask", 0])
    found = compare(side, side)
    assert found["config"] == []
    assert [layer["overlap"] for layer in found["layers"]] == [1.0, 1.0]
    assert (found["examples"]["changed"], found["examples"]["list"]) == (0, [])
    assert "no setting differs" in grids(found)[1]


def test_another_method_has_other_keys_and_no_masks(runs: dict[tuple[str, int], Path]) -> None:
    found = compare(Side.read(runs["plain", 0]), Side.read(runs["supermask", 0]))
    config = {entry["key"]: (entry["first"], entry["second"]) for entry in found["config"]}
    assert config["method.name"] == ("dense", "signed-supermask")
    assert config["method.threshold"][0] is None
    assert "seed" not in config
    tables, _ = grids(found)
    assert tables[0].title == "settings that differ"


def test_runs_of_different_networks(supermask: Invoke, tiny: Path, runs: dict[tuple[str, int], Path]) -> None:
    other = supermask("run", tiny, "--workers", 0, "--set", "vary.seed=[0]", "--set", "model.hidden=[8]")
    assert other.exit_code == 0
    narrow = next(p.parent for p in Path("runs").rglob("result.json") if '"supermask"' in p.read_text())
    layer = compare(Side.read(runs["supermask", 0]), Side.read(narrow))["layers"][0]
    assert (layer["first"]["size"], layer["second"]["size"]) == (1024, 512)
    assert (layer["both"], layer["overlap"]) == (None, None)


def test_what_is_not_recorded_is_said(runs: dict[tuple[str, int], Path], tmp_path: Path) -> None:
    old, other = tmp_path / "old", tmp_path / "other"
    shutil.copytree(runs["plain", 0], old)
    (old / "story.safetensors").unlink()
    found = compare(Side.read(runs["plain", 0]), Side.read(old))
    assert found["examples"] is None
    assert found["notes"] == ["which test examples changed is not known: the second run recorded no predictions."]
    shutil.copytree(runs["plain", 0], other)
    story = load_file(other / "story.safetensors")
    save_file({name: value[:100] for name, value in story.items()}, other / "story.safetensors", {"schema": "1"})
    found = compare(Side.read(runs["plain", 0]), Side.read(other))
    assert found["notes"] == ["which test examples changed cannot be told: the runs were tested on different data."]
    environment = json.loads((old / "env.json").read_text())
    environment["starts"][-1]["data"]["checksum"] = "another"
    (other / "env.json").write_text(json.dumps(environment))
    shutil.copy(runs["plain", 0] / "story.safetensors", other)
    assert compare(Side.read(runs["plain", 0]), Side.read(other))["examples"] is None


def test_runs_are_found_by_the_beginning_of_their_id(
    supermask: Invoke, finished: Path, runs: dict[tuple[str, int], Path]
) -> None:
    first, second = runs["plain", 0], runs["plain", 1]
    result = supermask("compare", first.name, second.name[:11], "--out", finished / "runs", "--json")
    content = json.loads(result.stdout)
    assert (content["first"]["run"], content["second"]["run"]) == (first.name, second.name)


def test_what_cannot_be_found_is_told(supermask: Invoke, finished: Path, runs: dict[tuple[str, int], Path]) -> None:
    out = finished / "runs"
    result = supermask("compare", "nothing", runs["plain", 0], "--out", out)
    assert (result.exit_code, result.stderr.startswith("error: 'nothing' is neither a run's folder nor")) == (2, True)
    for name in ("aa1", "aa2"):
        Path("runs", name).mkdir(parents=True)
        Path("runs", name, "spec.json").touch()
    result = supermask("compare", "aa", runs["plain", 0])
    assert "2 runs below runs begin with 'aa' (runs/aa1, runs/aa2" in result.stderr
    assert "name one by its folder" in result.stderr
    result = supermask("compare", out, runs["plain", 0])
    assert "has no result.json: only finished runs can be compared" in result.stderr
