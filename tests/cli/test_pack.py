"""``supermask pack`` and ``unpack``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from supermask import load_arrays, models
from supermask.deploy import annotate, read, unpack
from supermask.errors import ConfigError, MissingDataError
from supermask.lab import packing
from supermask.lab.packing import pack_place

from .conftest import Invoke
from .test_json import EXAMPLES, compare


def run_of(finished: Path, method: str) -> Path:
    """The folder of a finished run."""
    results = [
        path for path in sorted(finished.rglob("result.json")) if json.loads(path.read_text())["method"] == method
    ]
    return results[0].parent


def test_a_run_becomes_a_file_and_a_state_dict(supermask: Invoke, finished: Path) -> None:
    run = run_of(finished, "signed-supermask")
    shown = supermask("pack", run, "--out", "a.smk.safetensors")
    assert shown.exit_code == 0, shown.output
    assert "fc1.weight  16x64  sparse signs" in shown.stdout
    weights = load_arrays(run / "weights.safetensors")
    shown = supermask("unpack", "a.smk.safetensors", "--out", "b.safetensors")
    assert "b.safetensors: state dict of" in shown.stdout
    assert '"name": "fcn"' in shown.stdout
    found = load_arrays("b.safetensors")
    assert list(found) == list(weights)
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())


def test_the_file_says_all_that_is_known_of_the_run(supermask: Invoke, finished: Path) -> None:
    run = run_of(finished, "signed-supermask")
    result = json.loads((run / "result.json").read_text())
    supermask("pack", run, "--out", "a.smk.safetensors")
    packed = read("a.smk.safetensors")
    assert packed.architecture is not None
    assert packed.provenance is not None
    assert packed.graph is not None
    model = models.build(packed.architecture["name"], **packed.architecture["options"])
    model.load_state_dict(unpack("a.smk.safetensors"))
    assert packed.graph["input"]["shape"] == [1, 8, 8]
    assert packed.classes == list("0123456789")
    assert packed.normalization == {"kind": "image", "scale": 16.0, "values": 64, "floor": 0.125}
    assert {key: packed.provenance[key] for key in ("run", "seed", "method", "data")} == {
        key: result[key] for key in ("run", "seed", "method", "data")
    }
    assert packed.provenance["accuracy"] == result["accuracy"]["last"]


def test_a_state_dict_and_a_packed_file_can_be_packed(supermask: Invoke, finished: Path) -> None:
    run = run_of(finished, "signed-supermask")
    shown = supermask("pack", run / "weights.safetensors", "--out", "a.smk.safetensors")
    assert "no architecture and no graph is stored" in shown.stdout
    supermask("pack", run, "--out", "b.smk.safetensors")
    supermask("pack", "b.smk.safetensors", "--out", "c.smk.safetensors")
    first, second = read("b.smk.safetensors"), read("c.smk.safetensors")
    assert second.sections == first.sections
    assert all(np.array_equal(second.array(name), first.array(name)) for name in first.entries)


def test_values_can_be_rounded(supermask: Invoke, finished: Path) -> None:
    run = run_of(finished, "dense")
    assert (
        "rounded: values differ by up to" in supermask("pack", run, "--values", "int8", "--out", "a.safetensors").stdout
    )
    assert supermask("pack", run, "--out", "b.safetensors").exit_code == 0
    assert Path("a.safetensors").stat().st_size < Path("b.safetensors").stat().st_size / 2
    refused = supermask("pack", run, "--values", "int4")
    assert (refused.exit_code, refused.stderr) == (2, "error: values must be one of exact, float16, int8, got 'int4'\n")


@pytest.mark.parametrize("own", [False, True])
def test_json(own: bool, supermask: Invoke, finished: Path) -> None:
    place = run_of(finished, "signed-supermask") / ("weights.safetensors" if own else "")
    packed = json.loads(supermask("pack", place, "--out", "a.safetensors", "--json").stdout)
    compare(packed, EXAMPLES["pack"])
    assert packed["layers"]
    assert bool(packed["notes"]) == own
    unpacked = json.loads(supermask("unpack", "a.safetensors", "--out", "b.npz", "--json").stdout)
    compare(unpacked, EXAMPLES["unpack"])
    assert unpacked["written"] == "b.npz"
    assert unpacked["size"] == packed["size"] == Path("a.safetensors").stat().st_size


def test_what_cannot_be_unpacked_is_an_error(supermask: Invoke, finished: Path) -> None:
    weights = run_of(finished, "dense") / "weights.safetensors"
    refused = supermask("unpack", weights)
    assert refused.exit_code == 2
    assert "it is a safetensors file, but not a packed one" in refused.stderr
    assert "no such file" in supermask("unpack", "nothing.safetensors").stderr
    supermask("pack", weights, "--out", "a.safetensors")
    assert supermask("unpack", "a.safetensors", "--limit", 1).exit_code == 0
    content = Path("a.safetensors").read_bytes()
    Path("a.safetensors").write_bytes(content[:-3])
    assert "there are" in supermask("unpack", "a.safetensors").stderr


def test_a_run_without_its_data_is_packed_without_its_constants(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise MissingDataError("the files are not there\nput them there")

    monkeypatch.setattr(packing.data, "load", missing)
    done = pack_place(str(run_of(finished, "dense")), tmp_path / "a.safetensors")
    assert done.notes == ("no normalisation is stored: the files are not there",)
    assert read(tmp_path / "a.safetensors").normalization is None
    assert read(tmp_path / "a.safetensors").classes == list("0123456789")


def test_a_description_that_does_not_fit_is_refused_before_it_is_built(finished: Path, tmp_path: Path) -> None:
    done = pack_place(str(run_of(finished, "dense")), tmp_path / "a.safetensors")
    architecture = {"name": "fcn", "options": {"inputs": 1 << 20, "hidden": [1 << 20], "classes": 10}}  # 4 TiB
    annotate(done.report.path, architecture=architecture)
    with pytest.raises(ConfigError, match="its tensors are not those of the model it names, 'fcn'"):
        pack_place(str(done.report.path), tmp_path / "b.safetensors")
