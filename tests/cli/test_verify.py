from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from supermask import models
from supermask.cli import app
from supermask.deploy import export, pack, read, trace

from .test_json import EXAMPLES, compare

OPTIONS = {"inputs": 64, "hidden": [8], "classes": 10}


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = models.build("fcn", **OPTIONS).eval()
    graph = trace(model, torch.zeros(1, 1, 8, 8))[0].to_dict()
    pack(model, "net.smk.safetensors", architecture={"name": "fcn", "options": OPTIONS}, graph=graph)
    export(model, "net.pt2", example=torch.randn(3, 1, 8, 8))
    torch.manual_seed(1)
    pack(models.build("fcn", **OPTIONS), "other.smk.safetensors", architecture={"name": "fcn", "options": OPTIONS})
    return tmp_path


def test_a_packed_file_gets_its_certificate(packed: Path) -> None:
    result = CliRunner().invoke(
        app, ["verify", "net.smk.safetensors", "--exported", "net.pt2", "--examples", "7", "--json"]
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    compare(told, EXAMPLES["verify"])
    assert [form["name"] for form in told["certificate"]["forms"]] == ["packed", "run time", "engine", "net.pt2"]
    assert read("net.smk.safetensors").certificate == told["certificate"]


def test_a_file_that_is_another_network(packed: Path) -> None:
    arguments = [
        "verify",
        "net.smk.safetensors",
        "--against",
        "other.smk.safetensors",
        "--no-write",
        "--input",
        "1,8,8",
    ]
    result = CliRunner().invoke(app, [*arguments, "--examples", "5"])
    assert result.exit_code == 1
    assert "NOT every form is the same network: 5 examples (random numbers)" in result.stdout
    assert "DIFFERS" in result.stdout
    assert read("net.smk.safetensors").certificate is None
