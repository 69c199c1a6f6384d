from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from supermask import models, save_arrays
from supermask.cli import app
from supermask.core.arrays import load_arrays
from supermask.deploy import exported, pack

from .test_json import EXAMPLES, compare

OPTIONS = {"inputs": 64, "hidden": [8], "classes": 10}


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = models.build("fcn", **OPTIONS)
    pack(model, "net.smk.safetensors", architecture={"name": "fcn", "options": OPTIONS})
    save_arrays("dense.npz", model.state_dict())
    return tmp_path


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["export", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_packed_file_becomes_a_program(packed: Path) -> None:
    text = run("net.smk.safetensors", "net.pt2", "--input", "1,8,8", "--examples", "3")
    size = (packed / "net.pt2").stat().st_size
    assert text.splitlines()[0] == f"net.pt2: torch, {size:,} bytes, any batch size"
    assert "equal predictions 100.00 % (3 examples: random numbers)" in text
    assert exported(packed / "net.pt2")(torch.zeros(5, 1, 8, 8).numpy()).shape == (5, 10)


def test_a_batch_that_is_fixed(packed: Path) -> None:
    assert "batches of 4" in run("net.smk.safetensors", "net.pt2", "--input", "1,8,8", "--fixed-batch", "4")


def test_a_dense_checkpoint_as_json(packed: Path) -> None:
    told = json.loads(run("net.smk.safetensors", "dense.safetensors", "--json"))
    compare(told, EXAMPLES["export"])
    assert told["schema"] == 1
    assert (told["format"], told["bytes"]) == ("dense", (packed / "dense.safetensors").stat().st_size)
    assert told["path"] == "dense.safetensors"
    wanted = load_arrays(packed / "dense.npz")
    assert all(torch.equal(value, wanted[name]) for name, value in load_arrays(packed / "dense.safetensors").items())


def test_onnx_tells_what_became_of_large_layers(packed: Path) -> None:
    compare(json.loads(run("fcn", "net.onnx", "--examples", "2", "--two-bit", "1", "--json")), EXAMPLES["export"])
    assert "fc1.weight: stays float32, its remaining weights differ in magnitude within a row" in run(
        "fcn", "net.onnx", "--examples", "2", "--two-bit", "1"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["net.smk.safetensors", "a.pt2", "--input", "8;8"],
            "--input: expected the sizes of one input without the batch: 3,32,32",
        ),
        (["net.smk.safetensors", "a.tflite", "--input", "1,8,8"], "the ending of 'a.tflite' is none of .onnx, .pt2"),
        (["missing.smk.safetensors", "a.pt2"], "'missing.smk.safetensors': there is no such file or folder"),
    ],
)
def test_mistakes(packed: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["export", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
