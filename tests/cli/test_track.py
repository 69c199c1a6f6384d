from __future__ import annotations

import json
from pathlib import Path

import pytest

from supermask.errors import ConfigError
from supermask.lab.trackers import tracking

from .conftest import Invoke

SHORT = ("--workers", 0, "--set", "vary.seed=[0]", "--set", "train.epochs=1")


def test_tracked_runs_are_the_same_runs(supermask: Invoke, tiny: Path) -> None:
    result = supermask("run", tiny, *SHORT, "--track", "tensorboard:board", "--json")
    assert result.exit_code == 0
    ids = {run["run"] for run in json.loads(result.stdout)["runs"]}
    assert {path.name.rpartition("-")[2] for path in Path("board/tiny").iterdir()} == ids
    again = supermask("run", tiny, *SHORT, "--json")
    assert {run["run"]: run["state"] for run in json.loads(again.stdout)["runs"]} == dict.fromkeys(ids, "skipped")


def test_a_tracker_that_fails_is_a_warning(
    supermask: Invoke, tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    result = supermask("run", tiny, *SHORT, "--track", "tensorboard:file")
    assert result.exit_code == 0
    assert result.stderr.count("warning: --track tensorboard:file: ") == 1
    assert "It is told nothing more; the runs go on" in result.stderr


def test_an_unknown_tracker_stops_before_anything_trains(supermask: Invoke, tiny: Path) -> None:
    result = supermask("run", tiny, *SHORT, "--track", "tensorbord")
    assert result.exit_code == 2
    assert "no tracker is called 'tensorbord'; did you mean 'tensorboard'?" in result.stderr
    assert not list(Path("runs").rglob("spec.json"))


def test_every_tracker_is_in_the_help(supermask: Invoke) -> None:
    text = " ".join(supermask("run", "--help").stdout.replace("│", " ").split())
    assert f"tell a tracker: {', '.join(tracking.TRACKERS)}." in text


def test_the_error_is_ours() -> None:
    with pytest.raises(ConfigError):
        tracking.open_tracker(":somewhere")
