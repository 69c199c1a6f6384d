from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from supermask import models, save_arrays
from supermask.deploy import pack
from supermask.errors import ConfigError, DataError, RunError
from supermask.lab.artefact import examples, load_artefact
from supermask.lab.packing import pack_place
from supermask.lab.store import read_result
from supermask.report.summary import summarize

from .helpers import only_run, run_here

OWN = """
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3, bias=False))

def half():
    return nn.Linear(4, 2)

def nothing():
    return None
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_net.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_finished_run(tmp_path: Path) -> None:
    run_here({"method.name": "signed-supermask", "train.epochs": 1}, tmp_path)
    folder = only_run(tmp_path)
    artefact = load_artefact(str(folder.path))
    assert artefact.folder == folder
    assert artefact.masks is not None
    assert artefact.architecture is not None
    assert artefact.architecture["name"] == "fcn"
    assert artefact.architecture["options"]["hidden"] == [16]
    for name, mask in artefact.masks.items():
        assert torch.equal(artefact.model.get_parameter(name) != 0, mask)
    shown = examples(artefact, 5)
    assert shown is not None
    x, y = shown
    assert tuple(x.shape[1:]) == artefact.input_shape
    assert len(y) == 5
    assert artefact.model(x).shape[0] == 5
    assert artefact.result is not None
    assert not artefact.model.training
    folder.result.unlink()
    with pytest.raises(RunError, match="is no finished run: it has no result.json; `supermask run` finishes it"):
        load_artefact(str(folder.path))


def test_a_run_on_own_data_does_not_know_where_it_is(tmp_path: Path) -> None:
    artefact = load_artefact("fcn")
    assert examples(artefact, 5) is None
    changed = type(artefact)(
        artefact.name, artefact.model, None, None, data={"name": "npz", "normalize": "none", "file": "f"}
    )
    with pytest.raises(DataError, match=r"trained on a data set of your own \(npz\)"):
        examples(changed, 5)


def test_a_model_by_name_is_the_same_every_time() -> None:
    state = torch.random.get_rng_state()
    first, second = load_artefact("lenet5-caffe"), load_artefact("lenet5-caffe")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.model.state_dict().values(), second.model.state_dict().values()))
    assert first.architecture == {"name": "lenet5-caffe", "options": {}}
    assert first.input_shape == (1, 28, 28)


def test_weights_are_loaded_into_a_model(tmp_path: Path) -> None:
    model = models.build("fcn")
    save_arrays(tmp_path / "w.npz", model.state_dict())
    artefact = load_artefact("fcn", weights=tmp_path / "w.npz")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), artefact.model.state_dict().values()))
    with pytest.raises(ConfigError, match="does not fit the model"):
        load_artefact("conv2", weights=tmp_path / "w.npz")
    with pytest.raises(ConfigError, match=r"--weights: expected a file that ends in .npz or .safetensors, got 'w.pt'"):
        load_artefact("fcn", weights=Path("w.pt"))


def test_a_packed_file_of_a_known_model(tmp_path: Path) -> None:
    model = models.build("fcn", inputs=12, hidden=[4], classes=3)
    path = tmp_path / "m.smk.safetensors"
    options = {"inputs": 12, "hidden": [4], "classes": 3}
    pack(model, path, architecture={"name": "fcn", "options": options})
    artefact = load_artefact(str(path), input_shape=(1, 3, 4))
    assert artefact.packed == path
    assert artefact.input_shape == (1, 3, 4)
    x = torch.randn(2, 1, 3, 4)
    assert torch.equal(artefact.model(x), model(x))
    with pytest.raises(ConfigError, match=r"--weights is for a model by name; .* has its own weights"):
        load_artefact(str(path), weights=tmp_path / "w.npz")


def test_an_own_model(own: Path) -> None:
    artefact = load_artefact("own_net:net", input_shape=(3, 2, 2))
    assert isinstance(artefact.model, nn.Sequential)
    assert (artefact.architecture, artefact.input_shape) == (None, (3, 2, 2))
    path = own / "m.smk.safetensors"
    pack(artefact.model, path)
    with pytest.raises(
        ConfigError, match="does not say which model it holds; name it: --model package.module:function"
    ):
        load_artefact(str(path))
    again = load_artefact(str(path), model="own_net:net")
    assert np.array_equal(again.model.state_dict()["1.weight"], artefact.model.state_dict()["1.weight"])
    with pytest.raises(ConfigError, match="does not fit the model"):
        load_artefact(str(path), model="own_net:half")


def test_what_is_none_of_them(own: Path) -> None:
    for place, options, message in (
        (
            "conv22",
            {},
            r"'conv22' is no run folder \(runs/EXPERIMENT/ID\), no packed file, no model and no package.module:function; did",
        ),
        ("own_net:nothing", {}, "own_net:nothing must return a torch.nn.Module, got NoneType"),
        ("fcn", {"model": "own_net:net"}, "--model is for a run or a packed file, and 'fcn' is neither"),
        (str(own), {}, "is no finished run"),
    ):
        with pytest.raises((ConfigError, RunError), match=message):
            load_artefact(place, **options)  # type: ignore[arg-type]


def test_packing_a_run_fills_its_column(tmp_path: Path) -> None:
    run_here({"method.name": "signed-supermask", "train.epochs": 1}, tmp_path)
    folder = only_run(tmp_path)
    before = read_result(folder)
    assert before["bytes"]["packed"] is None
    done = pack_place(str(folder.path), tmp_path / "run.smk.safetensors")
    after = read_result(folder)
    assert after["bytes"]["packed"] == done.report.size == (tmp_path / "run.smk.safetensors").stat().st_size
    assert {**after, "bytes": None} == {**before, "bytes": None}
    (row,) = summarize([after])
    compression = row.compression["packed"]
    assert compression is not None
    assert compression.mean == 1 - done.report.size / after["bytes"]["dense_float32"]


def test_a_file_with_rounded_values_is_not_noted(tmp_path: Path) -> None:
    run_here({"train.epochs": 1}, tmp_path)
    folder = only_run(tmp_path)
    assert pack_place(str(folder.path), tmp_path / "run.smk.safetensors", values="int8").report.largest_error > 0
    assert read_result(folder)["bytes"]["packed"] is None
