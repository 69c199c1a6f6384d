"""``supermask shrink``, and what other verbs make of its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from supermask import models, save_arrays
from supermask.deploy import load_shrunk
from supermask.deploy.shrunk_files import read_shrunk

from .conftest import Invoke
from .test_json import EXAMPLES, compare
from .test_pack import run_of

OPTIONS = {"inputs": 64, "hidden": [16], "classes": 10}


def net() -> nn.Module:
    """The dense model, as a user's own function."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.build("fcn", **OPTIONS)


def silent() -> nn.Module:
    """A user's own model with zeros."""
    model = net()
    with torch.no_grad():
        model.get_parameter("fc1.weight")[[2, 5, 11]] = 0
    return model


OWN = f"{__name__}:silent"


def test_a_model_of_ones_own(supermask: Invoke) -> None:
    shown = supermask("shrink", OWN, "--input", "1,8,8", "--out", "a.shrunk.safetensors")
    assert shown.exit_code == 0, shown.output
    assert "fc1                  16      13" in shown.stdout
    assert "parameters 1,184 -> 962 (81.25 %)" in shown.stdout
    assert "multiply-accumulates 1,184 -> 962 (81.25 %)" in shown.stdout
    assert (
        "128 examples, 64 of them random; compared with the plain model, zero where channels were removed"
        in shown.stdout
    )
    assert "(random numbers)" in shown.stdout
    small = load_shrunk("a.shrunk.safetensors", net)
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(small(x), silent()(x), rtol=0, atol=1e-5)
    assert read_shrunk("a.shrunk.safetensors").architecture is None
    refused = supermask("export", "a.shrunk.safetensors", "b.safetensors")
    assert (refused.exit_code, "does not say which model it holds; name it: --model" in refused.stderr) == (2, True)
    shown = supermask("export", "a.shrunk.safetensors", "b.safetensors", "--model", f"{__name__}:net")
    assert shown.exit_code == 0, shown.output


def test_a_run(supermask: Invoke, finished: Path, tmp_path: Path) -> None:
    run = run_of(finished, "dense")
    shown = supermask("shrink", run, "--out", "a.shrunk.safetensors")
    assert shown.exit_code == 0, shown.output
    assert "no channel is zero: nothing was taken out" in shown.stdout
    assert "(test data of digits)" in shown.stdout
    described = read_shrunk("a.shrunk.safetensors").architecture
    assert described is not None
    assert described["input_shape"] == [1, 8, 8]
    shown = supermask("verify", "a.shrunk.safetensors")  # it knows the shape of its inputs
    assert shown.exit_code == 0, shown.output
    assert described["name"] == "fcn"
    assert described["options"].items() >= OPTIONS.items()
    refused = supermask("shrink", "a.shrunk.safetensors")
    assert (refused.exit_code, "is shrunk already; shrink the run" in refused.stderr) == (2, True)


def shrunk_fcn(supermask: Invoke) -> str:
    """A file that says which model it holds."""
    state = models.build("fcn").state_dict()
    state["fc1.weight"][::3] = 0
    save_arrays("weights.safetensors", state)
    shown = supermask("shrink", "fcn", "--weights", "weights.safetensors", "--out", "a.shrunk.safetensors")
    assert shown.exit_code == 0, shown.output
    return "a.shrunk.safetensors"


def test_other_verbs_take_the_file(supermask: Invoke) -> None:
    path = shrunk_fcn(supermask)
    shown = supermask("export", path, "b.safetensors")
    assert shown.exit_code == 0, shown.output
    shown = supermask("pack", path, "--out", "c.smk.safetensors")
    assert shown.exit_code == 0, shown.output
    assert "fc1.weight  200x784" in shown.stdout


def test_a_description_that_does_not_fit_is_refused_before_it_is_built(supermask: Invoke) -> None:
    from tests.deploy.test_shrunk_files import edited

    path = Path(shrunk_fcn(supermask))
    huge = {"name": "fcn", "options": {"inputs": 1 << 20, "hidden": [1 << 20], "classes": 10}}  # 4 TiB
    other = edited(path, lambda about: about.update(architecture=huge))
    refused = supermask("export", other, "b.safetensors")
    assert refused.exit_code == 2
    assert "is it the same model" in refused.stderr
    other = edited(path, lambda about: about["architecture"].update(input_shape=[1, -8]))
    assert (
        "its input_shape should be a list of sizes, got [1, -8]" in supermask("export", other, "b.safetensors").stderr
    )
    other = edited(path, lambda about: about.update(architecture={"name": 3}))
    assert "an architecture needs a name and options" in supermask("export", other, "b.safetensors").stderr


@pytest.mark.parametrize("zeros", [True, False])
def test_json(zeros: bool, supermask: Invoke) -> None:
    place = OWN if zeros else f"{__name__}:net"
    shown = supermask("shrink", place, "--input", "1,8,8", "--out", "a.safetensors", "--json")
    found = json.loads(shown.stdout)
    compare(found, EXAMPLES["shrink"])
    assert found["size"] == Path("a.safetensors").stat().st_size
    assert found["groups"]["fc1"] == {"before": 16, "after": 13 if zeros else 16}
