from __future__ import annotations

from pathlib import Path

import pytest

from supermask.core.arrays import load_arrays

from .conftest import Invoke

SMALL = ("--set", "model.inputs=64", "--set", "model.hidden=[16]")
ONE = ("--workers", 0, "--set", "vary.seed=[1]", "--set", "train.epochs=1")


@pytest.mark.parametrize(
    ("method", "suffix"), [("signed-supermask", "safetensors"), ("signed-supermask", "npz"), ("dense", "npz")]
)
def test_a_run_from_files_equals_the_run_that_draws(method: str, suffix: str, supermask: Invoke, tiny: Path) -> None:
    arguments = ["--out", f"w.{suffix}"] + (["--scores", f"s.{suffix}"] if method != "dense" else [])
    assert supermask("init", "fcn", "--method", method, "--seed", 1, *SMALL, *arguments).exit_code == 0
    tiny.write_text(tiny.read_text().partition("  variant:")[0] + f"method: {{name: {method}}}\n")
    files = ["--set", f"init.weights=w.{suffix}"] + (["--set", f"init.scores=s.{suffix}"] if method != "dense" else [])
    assert supermask("run", tiny, *ONE, "--out", "drawn").exit_code == 0
    assert supermask("run", tiny, *ONE, *files, "--out", "given").exit_code == 0
    (drawn,), (given,) = (list(Path(out).rglob("weights.safetensors")) for out in ("drawn", "given"))
    assert drawn.parent.name != given.parent.name
    assert drawn.read_bytes() == given.read_bytes()


def test_settings_change_the_start(supermask: Invoke) -> None:
    for name, setting in (("elu", "init.rule=elu"), ("he", "init.rule=he")):
        supermask("init", "fcn", "--method", "dense", "--seed", 0, *SMALL, "--out", f"{name}.npz", "--set", setting)
    elu, he = load_arrays("elu.npz"), load_arrays("he.npz")
    assert list(elu) == list(he) == ["fc1.weight", "fc2.weight"]
    assert tuple(elu["fc1.weight"].shape) == (16, 64)
    assert not elu["fc1.weight"].equal(he["fc1.weight"])


def test_it_says_what_was_written(supermask: Invoke) -> None:
    result = supermask("init", "fcn", "--method", "signed-supermask", "--seed", 0, *SMALL, "--out", "w.npz")
    assert result.stdout.splitlines() == [
        "weights of 2 tensors: w.npz",
        "The scores were not written; --scores FILE writes them, otherwise the seed draws them.",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "dense", "--scores", "s.npz"], "--scores: dense learns no scores; leave the option out"),
        (
            ["--method", "dense", "--set", "lr=3"],
            "--set lr=...: expected model.KEY=VALUE, init.KEY=VALUE or method.KEY=",
        ),
        (["--method", "dense", "--set", "model.hiden=3"], "model.hiden: unknown key; did you mean 'hidden'?"),
        (["--method", "densee"], "did you mean 'dense'?"),
        (["--method", "magnitude", "--set", "method.density=90"], "density"),
    ],
)
def test_wrong_options_are_told(arguments: list[str], message: str, supermask: Invoke) -> None:
    result = supermask("init", "fcn", "--seed", 0, "--out", "w.npz", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not Path("w.npz").exists()


def test_a_wrong_ending_is_told(supermask: Invoke) -> None:
    result = supermask("init", "fcn", "--method", "dense", "--seed", 0, "--out", "w.pkl")
    assert result.exit_code == 2
    assert ".safetensors or .npz" in result.stderr


def test_methods_that_look_at_data_are_refused(supermask: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supermask.methods.Dense.needs_data", True)
    result = supermask("init", "fcn", "--method", "dense", "--seed", 0, "--out", "w.npz")
    assert result.exit_code == 2
    assert "dense computes its start from training data" in result.stderr
