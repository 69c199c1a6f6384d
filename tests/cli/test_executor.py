from __future__ import annotations

import sys
from pathlib import Path

import pytest

from .conftest import Invoke

SHORT = ("--set", "vary.seed=[0]", "--set", "train.epochs=1")


def test_a_shared_folder(supermask: Invoke, tiny: Path) -> None:
    result = supermask("run", tiny, "--executor", "shared", "--workers", 0, "--with", "lease_seconds=5", *SHORT)
    assert result.exit_code == 0
    assert "plain, seed 0: done, epoch 1/1" in result.stdout
    assert len(list(Path("runs/tiny").glob("*/result.json"))) == 2
    assert list(Path("runs").rglob("lease")) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--executor", "rey"), "--executor rey: expected local or shared or ray or slurm; did you mean 'ray'?"),
        (("--executor", "ray", "--with", "gpu=1"), "--with.gpu: unknown key; did you mean 'gpus'?"),
        (("--with", "pack"), "--with pack: expected KEY=VALUE; the local executor has pack"),
        (
            ("--with", "pack=true"),
            "pack puts several runs on one GPU, the device is 'cpu'; say --device cuda, or leave it out",
        ),
        (
            ("--executor", "slurm", "--device", "auto"),
            "--device auto looks at this machine, and slurm trains on others; say --device cpu or cuda",
        ),
    ],
)
def test_errors_tell_the_way_out(supermask: Invoke, tiny: Path, arguments: tuple[str, ...], message: str) -> None:
    result = supermask("run", tiny, *arguments)
    assert (result.exit_code, result.stderr.startswith(f"error: {message}")) == (2, True), result.stderr


@pytest.mark.parametrize("name", ["ray", "slurm"])
def test_a_missing_extra(supermask: Invoke, tiny: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data and device are those of other machines, so that they are not looked at here."""
    monkeypatch.setitem(sys.modules, {"ray": "ray", "slurm": "submitit"}[name], None)
    result = supermask("run", tiny, "--executor", name, "--set", "data.name=cifar10", "--device", "cpu")
    assert result.exit_code == 2
    assert f"python -m pip install 'supermask[{name}]'" in result.stderr


def test_ctrl_c_says_what_it_leaves(supermask: Invoke, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("supermask.lab.run.run_experiment", interrupt)
    result = supermask("run", tiny, "--executor", "slurm")
    assert result.exit_code == 130
    assert "they stay with Slurm: the same command follows them again" in result.stderr
