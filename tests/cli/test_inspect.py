"""``supermask inspect``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Invoke

OWN = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.gate = nn.Conv2d(width, 4, 1)
        self.mix = nn.Parameter(torch.ones(2, 4))

    def forward(self, x):
        return torch.einsum("oc,nchw->no", self.mix, torch.sigmoid(self.gate(torch.sigmoid(self.first(x)))))


def make(width=5):
    return Net(width)


def branches():
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    return Branches()
"""


@pytest.fixture
def own(supermask: Invoke, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module of one's own in the working folder."""
    Path("own_networks.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    return "own_networks"


def test_a_network_is_shown_group_by_group(supermask: Invoke) -> None:
    lines = supermask("inspect", "lenet5-caffe").stdout.splitlines()
    rows = [line.split() for line in lines]
    # of one channel of conv2: 25 * 20 weights and a bias, 16 columns of fc1; 64 positions, 16 columns
    assert ["conv2", "50", "8,501", "40,000", "yes"] in rows
    assert "fc2 10 501 500 no: are the network's outputs" in [" ".join(row) for row in rows]
    text = "\n".join(lines)
    assert "all: 431,080 parameters, 2,293,000 MACs; with one channel in each removable group: 89 and 16,026." in text
    assert "zero padding counts" in text


def test_options_change_the_model(supermask: Invoke) -> None:
    content = json.loads(supermask("inspect", "fcn", "--set", "hidden=[30, 20]", "--json").stdout)
    assert [(group["name"], group["channels"]) for group in content["groups"]] == [
        ("fc1", 30),
        ("fc2", 20),
        ("fc3", 10),
    ]
    assert content["parameters"] == content["macs"] == 784 * 30 + 30 * 20 + 20 * 10
    assert content["groups"][0]["members"][1] == {"tensor": "fc2.weight", "axis": 1, "per_channel": 1, "role": "in"}


def test_a_network_of_one_s_own(supermask: Invoke, own: str) -> None:
    text = supermask("inspect", f"{own}:make", "--input", "3,8,8", "--set", "width=6").stdout
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "first 6 32 – yes" in rows
    assert "gate 4 7 – no: einsum in forward is not known to pass channels on" in rows
    assert "MACs are not known: it is not known how often mix are used." in text
    assert "removal changes the outputs: first." in text


def test_what_cannot_be_inspected(supermask: Invoke, own: str, finished: Path) -> None:
    for arguments, message in (
        ((f"{own}:make",), "the shape of one input is not known; say it: --input 3,32,32"),
        ((f"{own}:branches", "--input", "3,8,8"), "the model cannot be traced with torch.export"),
        (("fcn", "--set", "hiden=[3]"), "did you mean 'hidden'?"),
        ((next((finished / "runs").glob("*/*/result.json")).parent, "--set", "width=2"), "has its own"),
    ):
        result = supermask("inspect", *arguments)
        assert result.exit_code == 2
        assert message in result.stderr
