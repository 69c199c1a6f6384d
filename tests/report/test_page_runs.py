from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from supermask.cli.collect import collect
from supermask.errors import ConfigError, MissingExtraError, RunError
from supermask.lab.store import RunFolder, read_story
from supermask.report import page as page_module
from supermask.report.content import Content
from supermask.report.page import Heading, page, page_data
from supermask.report.page_figures import figures
from supermask.report.page_rows import blocks
from supermask.report.page_runs import Details, Source, certificates, curve, details, flat

from .page.runs import make_experiment

HEADING = Heading("title", "about", ("supermask run x",), "2026-01-01")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_experiment(tmp_path_factory.mktemp("runs"), seeds=2)


def read(folder: Path, room: int = 10**6, changed: Any = None) -> Details:
    found = collect([str(folder)], [], folder)
    content = found.ranked_content()
    sources = {result["run"]: Source(place, changed) for (place, _), result in found.results.items()}
    made = blocks(content, list(found.results.values()))
    headlines = [
        next((at for at, row in enumerate(block.rows) if row.label == "signed supermask"), 0) for block in made
    ]
    return details(made, headlines, sources, room)


def test_all_of_a_run_where_there_is_room(runs: Path) -> None:
    told = read(runs, changed={"train": {"epochs": 8}, "init": {}})
    assert told.left_out == []
    assert len(told.runs) == 10
    run = told.runs["signedsupermask-0"]
    assert run["curve"]["epoch"] == list(range(1, 9))
    assert run["curve"]["test"][:2] == [None, 0.6]
    assert run["curve"]["density"][0] == 1.0
    assert told.changed == [{"train.epochs": 8, "init": {}}]
    assert run["changed"] == 0
    assert told.environments[run["environment"]]["git.commit"] == "c0ffee"
    assert "host" not in told.environments[0]
    assert set(run["pictures"]["masks"]) == {"conv1.weight", "fc1.weight"}
    assert run["pictures"]["filters"]["layer"] == "conv1.weight"
    assert told.runs["dense-0"]["pictures"]["masks"] == {}
    assert "pictures" not in told.runs["signedsupermask-1"]  # one run a row
    assert run["churn"]["layers"]["conv1.weight"][0] is None  # was not a number
    assert run["scores"]["fc1.weight"]["epoch"] == [1, 4, 8]
    assert "churn" not in told.runs["edge-popup20-0"]
    json.dumps(told.to_dict(), allow_nan=False)


def test_configs_are_told_as_differences_from_what_most_runs_have(runs: Path) -> None:
    told = read(runs)
    assert told.config["train.optimizer.lr"] == 0.1
    assert told.config["method.name"] == "edge-popup"
    assert told.runs["edge-popup20-0"]["config"] == {"method.density": 0.2}
    assert told.runs["dense-0"]["config"] == {"method.name": "dense"}


def test_predictions_come_back_from_their_differences(runs: Path) -> None:
    told = read(runs)
    story = read_story(RunFolder(runs / "dense-0"))
    base, entry = told.targets[0], told.runs["dense-0"]["predictions"]
    assert base["known"]
    back = np.array(base["is"])
    back[np.cumsum(entry["at"])] = entry["is"]
    assert back.tolist() == story["predictions"].tolist()


@pytest.mark.parametrize(
    ("room", "words"),
    [(3_000, "curves and configs of"), (12_000, "pictures of the masks of")],
)
def test_what_does_not_fit_is_told(runs: Path, room: int, words: str) -> None:
    told = read(runs, room)
    assert any(left.startswith(words) for left in told.left_out)
    assert len(json.dumps(told.to_dict(), separators=(",", ":")).encode()) <= room
    assert next(iter(told.runs)) == "signedsupermask-0"  # the verdict's row comes first


def test_the_classes_of_many_test_examples_may_not_fit_either(tmp_path: Path) -> None:
    """They stand on the page once, and count like everything else."""
    make_experiment(tmp_path, seeds=1)
    classes = np.arange(20_000, dtype=np.uint8) % 10
    for path in tmp_path.iterdir():
        save_file({"predictions": classes, "targets": classes}, path / "story.safetensors", {"schema": "1"})
    told = read(tmp_path, 60_000)
    assert told.targets == {}
    assert any(left.startswith("predictions of 5 runs") for left in told.left_out)
    assert read(tmp_path, 10**6).targets[0]["is"] == classes.tolist()


def test_pictures_become_coarser_before_they_are_left_out(tmp_path: Path) -> None:
    make_experiment(tmp_path, seeds=1)
    for path in tmp_path.glob("edge*"):
        shutil.rmtree(path)
    mask = np.random.default_rng(0).random((400, 600)) < 0.5
    save_file({"fc1.weight": mask}, tmp_path / "signedsupermask-0" / "masks.safetensors")
    fine, coarse = (
        read(tmp_path, room).runs["signedsupermask-0"]["pictures"]["masks"]["fc1.weight"]["block"]
        for room in (10**6, 35_000)
    )
    assert fine == [1, 1]
    assert max(coarse) > 1


def test_long_curves_are_thinned_but_keep_what_was_tested() -> None:
    lines = [
        {"epoch": e, "round": e // 300, "remaining": 5, "test_accuracy": 0.5 if e % 50 == 0 else None}
        for e in range(1, 601)
    ]
    result = {"counts": {"weights_targeted": 10}}
    found = curve(lines, result)
    assert found is not None
    assert len(found["epoch"]) <= 101
    assert (found["epoch"][0], found["epoch"][-1]) == (1, 600)
    assert sum(value is not None for value in found["value"]) == 12
    assert found["rounds"] == [300, 600]
    assert curve([], result) is None
    assert curve([{"epoch": 1, "remaining": 0, "train_loss": float("nan")}], {"counts": {"weights_targeted": 0}}) == {
        "epoch": [1],
        "train": [None],
        "test": [None],
        "value": [None],
        "density": [None],
        "rounds": [],
    }


def test_flat() -> None:
    assert flat({"a": {"b": {"c": 1}, "d": {}}, "e": [1]}) == {"a.b.c": 1, "a.d": {}, "e": [1]}


def test_certificates_of_packed_files_and_of_removed_channels(tmp_path: Path) -> None:
    make_experiment(tmp_path, seeds=1)
    place = tmp_path / "signedsupermask-0"
    form = {"name": "engine", "max_difference": 1e-7, "agreement": 1.0}
    certificate = {"examples": 360, "forms": [form]}
    save_file({"a": np.zeros(1)}, place / "m.smk.safetensors", {"supermask": json.dumps({"certificate": certificate})})
    result = json.loads((place / "result.json").read_text())
    result["channels"] = {"groups": [], "costs": {}, "shrunk": {"max_difference": None, "why": "no"}, "latency": None}
    (place / "result.json").write_text(json.dumps(result))
    assert certificates(RunFolder(place), result) == [
        {"of": "channels taken out", "difference": None, "why": "no"},
        {"of": "m.smk.safetensors, engine", "difference": 1e-7, "agreement": 1.0, "examples": 360},
    ]
    (place / "m.smk.safetensors").write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"m\.smk\.safetensors: damaged .* pack the run again"):
        certificates(RunFolder(place), result)


def test_the_page_refuses_more_rows_than_fit(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "_library", lambda: "")
    monkeypatch.setattr(page_module, "LIMIT", 50_000)
    found = collect([str(runs)], [], runs)
    with pytest.raises(ConfigError, match=r"bytes more than 50,000 for 5 settings alone; report fewer experiments"):
        page(found.ranked_content(), list(found.results.values()), {}, HEADING)


def test_the_page_keeps_its_limit_where_runs_take_more_than_estimated(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "_library", lambda: "")
    monkeypatch.setattr(page_module, "_SLACK", 200)
    found = collect([str(runs)], [], runs)
    sources = {result["run"]: Source(place) for (place, _), result in found.results.items()}

    def size(sources: dict[str, Source]) -> int:
        return len(page(found.ranked_content(), list(found.results.values()), sources, HEADING).encode())

    bare, whole = size({}), size(sources)
    limit = bare + (whole - bare) // 2
    monkeypatch.setattr(page_module, "LIMIT", limit)
    monkeypatch.setattr("supermask.report.page_runs._size", lambda value: len(json.dumps(value)) // 3)
    assert bare < size(sources) <= limit


def test_data_cannot_end_their_element(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "_library", lambda: "")
    failure = {"run": "a", "label": "</script><script>alert(1)", "seed": 0, "error": "e", "traceback": ""}
    text = page(Content(failures=[failure]), [], {}, Heading("<i>", "", (), "2026-01-01"))
    assert "</script><script>alert" not in text
    assert "<title>&lt;i&gt;</title>" in text


def test_what_the_page_says_as_a_whole(runs: Path) -> None:
    found = collect([str(runs)], [], runs)
    told = page_data(found.ranked_content(), list(found.results.values()), HEADING)
    json.dumps(told, allow_nan=False)
    assert told["made"]["commands"] == ["supermask run x"]
    assert len(told["blocks"]) == 1
    assert told["missing"] == 0


def test_failures_beyond_the_list_are_counted() -> None:
    failures = [{"run": str(number), "label": "a", "seed": number, "error": "e"} for number in range(250)]
    told = page_data(Content(failures=failures), [], HEADING)
    assert (told["failures"], len(told["failed"])) == (250, 200)


def test_a_run_that_two_experiments_share(tmp_path: Path) -> None:
    """It is told once, and stands in a row of each."""
    make_experiment(tmp_path / "one", seeds=1)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for path in (tmp_path / "two").rglob("result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"experiment": "other"}))
    shutil.rmtree(tmp_path / "two" / "signedsupermask-0")
    told = read(tmp_path)
    assert len(told.runs) == 5
    assert told.runs["signedsupermask-0"]["rows"].keys() == {told.runs["signedsupermask-0"]["block"]}
    first, second = told.runs["dense-0"]["rows"], told.runs["edge-popup5-0"]["rows"]
    assert first.keys() == second.keys() == {0, 1}
    assert all(first[block] != second[block] for block in (0, 1))


@pytest.mark.parametrize("package", ["altair", "vl_convert"])
def test_missing_packages_are_named_with_their_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    page_module._library.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingExtraError, match=r"python -m pip install 'supermask\[report\]'"):
        page(Content(), [], {}, HEADING)


@pytest.mark.slow
def test_figures_for_a_paper(runs: Path) -> None:
    found = collect([str(runs)], [], runs)
    sources = {result["run"]: Source(place) for (place, _), result in found.results.items()}
    made = figures(found.ranked_content(), list(found.results.values()), sources)
    names = ("trade-off-density", "trade-off-macs", "trade-off-bytes", "training")
    assert set(made) == {f"{name}.{kind}" for name in names for kind in ("pdf", "svg", "png")}
    assert all(content.startswith(b"%PDF") for name, content in made.items() if name.endswith("pdf"))
    assert all(content.startswith(b"\x89PNG") for name, content in made.items() if name.endswith("png"))
    assert "var(" not in made["trade-off-density.svg"].decode()
    assert "seed 1" in made["training.svg"].decode()
