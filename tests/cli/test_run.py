from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from supermask.lab.remote import Store

from .conftest import Invoke


def test_run_trains_compares_and_says_where(supermask: Invoke, tiny: Path) -> None:
    result = supermask("run", tiny, "--workers", 0)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("supermask, seed 0: done, epoch 2/2, loss ")
    table = lines.index("Last epoch, mean [5 %, 95 %] over the runs")
    assert lines[table + 3].split()[:2] == ["plain", "2*"]
    assert lines[table + 4].split()[:2] == ["supermask", "2*"]
    assert "* n < 20: quantiles are estimated by interpolation." in lines
    assert "extra: training time of an epoch over 'plain' at equal seed, machine, device and threads." in lines
    assert lines[-1] == "run folders: runs/tiny"
    assert len(list(Path("runs/tiny").glob("*/result.json"))) == 4


def test_the_same_command_repeats_nothing(supermask: Invoke, finished: Path) -> None:
    result = supermask("run", finished / "tiny.yaml", "--out", finished / "runs")
    assert result.exit_code == 0
    assert result.stdout.startswith("finished before: 4 of 4 runs\n")
    assert "seed 0: done" not in result.stdout


def test_worker_processes(supermask: Invoke, tiny: Path, tmp_path: Path) -> None:
    """It is they that copy runs to a store."""
    short, url = ("--set", "vary.seed=[0]", "--set", "train.epochs=1"), f"file://{tmp_path}/store"
    result = supermask("run", tiny, "--workers", 1, *short, "--store", url)
    assert result.exit_code == 0
    assert "plain, seed 0: done, epoch 1/1" in result.stdout
    assert len(Store(url).finished("tiny")) == 2


def test_a_failed_run_is_listed_and_the_others_go_on(supermask: Invoke, tiny: Path) -> None:
    other = supermask("init", "fcn", "--method", "dense", "--seed", 0, "--out", "wrong.npz")
    assert other.exit_code == 0
    bad = "    bad: {method: {name: dense}, init.weights: wrong.npz}\n"
    tiny.write_text(tiny.read_text() + bad)
    result = supermask("run", tiny, "--workers", 0, "--set", "vary.seed=[3]")
    assert result.exit_code == 1
    assert "bad, seed 3: failed: the weights " in result.stdout
    table = result.stdout[result.stdout.index("Failed runs: 1") :].splitlines()
    assert table[3].split()[1:3] == ["bad", "3"]
    assert "plain, seed 3: done" in result.stdout


def test_json_is_all_there_is_on_stdout(supermask: Invoke, tiny: Path) -> None:
    result = supermask("run", tiny, "--workers", 0, "--set", "vary.seed=[0]", "--set", "train.epochs=1", "--json")
    content = json.loads(result.stdout)
    assert [(run["label"], run["state"]) for run in content["runs"]] == [("supermask", "done"), ("plain", "done")]
    assert [row["label"] for row in content["report"]["rows"]] == ["plain", "supermask"]
    assert "plain, seed 0: done" in result.stderr


def test_missing_data_is_told_before_anything_starts(supermask: Invoke, tiny: Path, tmp_path: Path) -> None:
    result = supermask("run", tiny, "--set", "data.name=cifar10", "--data-dir", tmp_path / "nothing")
    assert result.exit_code == 2
    assert "error: the data set 'cifar10' is not on this machine" in result.stderr
    assert str(tmp_path / "nothing" / "cifar-10-batches-bin") in result.stderr
    assert not Path("runs").exists()


def test_finished_runs_need_no_data(supermask: Invoke, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)  # digits are gone
    assert supermask("run", finished / "tiny.yaml", "--out", finished / "runs").exit_code == 0
    result = supermask("run", finished / "tiny.yaml")
    assert (result.exit_code, "'digits' is not on this machine" in result.stderr) == (2, True)


def test_an_unknown_device_is_told(supermask: Invoke, tiny: Path) -> None:
    result = supermask("run", tiny, "--device", "abacus")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --device abacus: ")
    assert "use --device cpu" in result.stderr


@pytest.mark.parametrize(("there", "device"), [(True, "cuda"), (False, "cpu")])
def test_auto_takes_what_is_there(there: bool, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from supermask.cli.prepare import resolve_device

    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    assert resolve_device("auto") == device


def test_a_wrong_setting_is_told_with_its_path(supermask: Invoke, tiny: Path) -> None:
    result = supermask("run", tiny, "--set", "train.epoch=3")
    assert result.exit_code == 2
    assert "train.epoch: unknown key; did you mean 'epochs'?" in result.stderr


def test_ctrl_c_says_that_the_same_command_resumes(
    supermask: Invoke, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("supermask.lab.run.run_experiment", interrupt)
    result = supermask("run", tiny)
    assert result.exit_code == 130
    assert "the same command resumes the unfinished runs" in result.stderr


@pytest.mark.slow
def test_a_real_ctrl_c_and_the_resume(supermask: Invoke, tiny: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "supermask", "run", str(tiny), "--workers", "1"]
    command += ["--set", "vary.seed=[0]", "--set", "train.epochs=400", "--checkpoint-seconds", "0.2"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(Path("runs").glob("tiny/*/checkpoint/last.pt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the same command resumes" in errors
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 0, again.stderr
    assert "seed 0: resumed, epoch " in again.stdout
