"""A shrunk model is a plain one: it is packed, compiled, exported and trained on like any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from supermask import Magnitude
from supermask.deploy import compile, export, load, pack, shrink, trace, unpack

from .smaller import example, outputs, random_keeps
from .test_shrinking_models import built


@pytest.fixture
def small() -> nn.Module:
    model, x, structure = built("wrn-16-4")
    return shrink(model, x, keeps=random_keeps(structure, 1), structure=structure, zero=True, examples=2).model.eval()


def test_it_is_packed_and_runs_without_torch(small: nn.Module, tmp_path: Path) -> None:
    x = built("wrn-16-4")[1]
    graph, _ = trace(small, x)
    pack(small, tmp_path / "small.smk.safetensors", graph=graph.to_dict())
    state = small.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in unpack(tmp_path / "small.smk.safetensors").items())
    run = load(tmp_path / "small.smk.safetensors", threads=1)
    torch.testing.assert_close(torch.from_numpy(run(x.numpy())), outputs(small, x), rtol=1e-4, atol=1e-5)


def test_it_is_compiled(small: nn.Module) -> None:
    x = built("wrn-16-4")[1]
    engine = compile(small, x, batch_sizes=(2,), seconds=0.01)
    torch.testing.assert_close(engine(x), outputs(small, x), rtol=1e-4, atol=1e-5)


def test_it_is_exported(small: nn.Module, tmp_path: Path) -> None:
    report = export(small, tmp_path / "small.pt2", example=built("wrn-16-4")[1])
    assert report.max_difference <= 1e-5
    assert export(small, tmp_path / "small.safetensors").max_difference == 0


def test_a_method_is_attached_to_it(small: nn.Module) -> None:
    x = example(4, (3, 32, 32))
    sparsifier = Magnitude(density=0.5).attach(small)
    optimizer = torch.optim.SGD(sparsifier.param_groups(), lr=0.01, momentum=0.9)
    for _ in sparsifier.rounds():
        sparsifier.bind(optimizer, total_steps=2)
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(small.train()(x), torch.arange(4)).backward()
            optimizer.step()
    assert sparsifier.finalize().density() == pytest.approx(0.5, abs=1e-3)
