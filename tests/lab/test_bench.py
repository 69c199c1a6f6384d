from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from supermask import models
from supermask.deploy import pack, trace
from supermask.errors import ConfigError, ExportError
from supermask.lab import bench as module
from supermask.lab.bench import Options, bench

OPTIONS = {"inputs": 64, "hidden": [48], "classes": 10}
QUICK = Options(batches=(1, 5), rounds=5, max_seconds=0.5, compile_seconds=0)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = models.build("fcn", **OPTIONS)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.where(torch.rand_like(weight) < 0.1, 0.25, 0.0))
    graph, _ = trace(model, torch.zeros(1, 1, 8, 8))
    path = tmp_path_factory.mktemp("bench") / "net.smk.safetensors"
    pack(model, path, architecture={"name": "fcn", "options": OPTIONS}, graph=graph.to_dict())
    return path


@pytest.mark.slow
def test_a_packed_file(packed: Path) -> None:
    told: list[str] = []
    found = bench({"place": str(packed)}, options=QUICK, tell=told.append)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["input_shape"] == [1, 8, 8]
    assert {(row["contender"], row["batch"]) for row in found["rows"]} == {
        (name, batch) for name in ("eager", "onnxruntime", "engine", "runtime") for batch in (1, 5)
    }
    assert {entry["contender"]: entry["reason"] for entry in found["skipped"]} == {
        "channels_last": "the network has no convolution in two dimensions",
        "compiled": "not asked for",
    }
    assert max(found["differences"].values()) < 1e-5
    assert found["bytes"] == {"dense_float32": 4 * (64 * 48 + 480), "packed": packed.stat().st_size}
    assert found["macs"]["dense"] == 64 * 48 + 480
    assert found["macs"]["remaining"] == found["weights"]["nonzero"]
    for row in found["rows"]:
        assert 0 < row["p50"] <= row["p95"]
        assert row["per_second"] == row["batch"] / row["p50"]
        assert row["ratio_to_engine"]["low"] <= row["ratio_to_engine"]["median"] <= row["ratio_to_engine"]["high"]
    memory = {row["contender"]: row["peak_memory"] for row in found["rows"] if row["batch"] == 1}
    if memory["runtime"] is not None:
        assert memory["runtime"] < memory["eager"] / 2  # no torch is loaded there
    assert found["verdict"].startswith(("The engine gains", "NO GAIN"))
    assert told[0] == "starting eager"
    assert told[-1] == "measuring batch 5"


@pytest.mark.slow
def test_against_another_network_and_what_cannot_be_run(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise ExportError("not this one")

    monkeypatch.setattr(module, "export", refuse)
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    options = Options(batches=(2,), rounds=5, max_seconds=0.5)
    found = bench({"place": str(packed)}, against={"place": str(packed)}, options=options)
    assert found["against"] == packed.name
    assert found["differences"] is None
    reasons = {entry["contender"]: entry["reason"] for entry in found["skipped"]}
    assert reasons["onnxruntime"] == "not this one"
    assert reasons["compiled"] == "torch.compile needs a C++ compiler, and there is none"


def test_shapes_must_be_known_and_agree(packed: Path) -> None:
    with pytest.raises(ConfigError, match=r"got \(1, 8, 8\) and \(3, 32, 32\); say it: --input 3,32,32"):
        bench({"place": str(packed)}, against={"place": "conv2"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batches": ()}, "batches must be different numbers >= 1, got none"),
        ({"batches": (1, 1)}, "batches must be different numbers >= 1, got 1, 1"),
        ({"batches": (0,)}, "batches must be different numbers >= 1, got 0"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"clock": "sun"}, "clock must be 'wall' or 'cpu', got 'sun'"),
        ({"clock": "cpu", "threads": 2}, "clock 'cpu' adds up the time of 2 threads, which is no latency: take 'wall'"),
    ],
)
def test_bad_options(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Options(**change)  # type: ignore[arg-type]
