"""What methods of several rounds use: keeping values, putting them back, leaving steps out, notes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from supermask.errors import StateError

from .helpers import Sound, half, mlp, noise, sgd, train


def test_values_come_back_bitwise_and_hidden_weights_stay_zero() -> None:
    model = nn.Sequential(mlp()[0], nn.BatchNorm1d(16), nn.ELU(), mlp()[2])
    model(noise(8, 12))  # statistics that are not those of a new module
    s = Sound(density=1.0).attach(model)
    s.keep_values("start")
    start = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = sgd(s)
    train(model, optimizer, 3)
    for target in s.targets:
        s.set_mask(target, half(target.shape))
    s.restore_values("start")
    for name, value in model.state_dict().items():
        if name.endswith("mask"):
            continue
        if name.endswith("original"):
            expected = start[name] * half(value.shape)
        else:
            expected = start[name]
        assert torch.equal(value, expected), name


def test_nothing_was_kept() -> None:
    s = Sound().attach(mlp())
    with pytest.raises(StateError, match="nothing was kept of 0.bias under 'start'"):
        s.restore_values("start")


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_a_skipped_step_moves_nothing_and_counts(name: str) -> None:
    class Skips(Sound):
        def before_step(self, s) -> None:  # type: ignore[no-untyped-def]
            if s.step == 2:
                s.skip_step()

    model = mlp()
    s = Skips().attach(model)
    options = {"momentum": 0.9} if name == "SGD" else {}
    optimizer = getattr(torch.optim, name)(s.param_groups(), lr=0.1, weight_decay=0.1, **options)
    s.bind(optimizer, total_steps=4)
    train(model, optimizer, 2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    train(model, optimizer, 1, first=2)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert s.step == 3
    train(model, optimizer, 1, first=3)
    assert not all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_notes_are_shown_once_and_saved() -> None:
    s = Sound().attach(mlp())
    s.note("a guard acted")
    s.note("a guard acted")
    assert s.summary().splitlines()[-1] == "note: a guard acted"
    other = Sound().attach(mlp())
    other.load_state_dict(s.state_dict())
    assert other.notes == ["a guard acted"]
    older = {key: value for key, value in s.state_dict().items() if key != "notes"}
    other.load_state_dict(older)  # of a version that knew no notes
    assert other.notes == ["a guard acted"]


def test_state_follows_the_model_to_its_device() -> None:
    s = Sound().attach(mlp())
    s.state = {"kept/0.weight": torch.ones(3), "number": torch.ones(())}
    saved = s.state_dict()
    other = Sound().attach(mlp())
    other.model.to("meta")
    other.load_state_dict(saved)
    assert {tensor.device.type for tensor in other.state.values()} == {"meta"}
    s.model.to("meta")
    s.bind(torch.optim.SGD(s.param_groups(), lr=0.1), total_steps=2)
    assert {tensor.device.type for tensor in s.state.values()} == {"meta"}
    assert saved["state"]["number"].device.type == "cpu"
