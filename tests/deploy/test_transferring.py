"""Optimizers of a dense model go on with its shrunk form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer

from supermask.deploy import Shrunk, shrink
from supermask.errors import StructureError
from supermask.optim import SGDW

from .smaller import example, small_net, small_structure, without

KEEPS = {"conv1": without(8, 1, 6), "conv2": without(6, 0), "fc1": without(5, 4)}

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "sgdw": lambda p: SGDW(p, lr=0.01, momentum=0.9, weight_decay=1e-4),
    "adam": lambda p: torch.optim.Adam(p, lr=0.001, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.001, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.001, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "plain": lambda p: torch.optim.SGD(p, lr=0.01),
}


def silent_net() -> nn.Sequential:
    """The small net in evaluation mode, with zeros in the channels that will go: they stay zero, as they get no gradient."""
    net = small_net().eval()
    with torch.no_grad():
        for name, keep in KEEPS.items():
            for owner in (name, name.replace("conv", "bn")):
                for parameter in net.get_submodule(owner).parameters():
                    parameter[~keep] = 0
    return net


def groups_of(model: nn.Module) -> list[dict[str, Any]]:
    parameters = list(model.parameters())
    return [{"params": parameters[:3], "lr": 0.02}, {"params": parameters[3:], "weight_decay": 0.0}]


def train(model: nn.Module, optimizer: Optimizer, steps: int, seed: int) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(example(6, seed=seed + step)), torch.arange(6) % 4).backward()
        optimizer.step()


def shrink_it(net: nn.Module) -> Shrunk:
    return shrink(net, example(), keeps=KEEPS, structure=small_structure(net))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_as_with_the_zeros(kind: str) -> None:
    net = silent_net()
    optimizer = OPTIMIZERS[kind](groups_of(net))
    train(net, optimizer, 3, 10)
    shrunk = shrink_it(net)
    before = {id(p): {k: torch.as_tensor(v).clone() for k, v in s.items()} for p, s in optimizer.state.items()}
    new = shrunk.transfer(optimizer)
    assert type(new) is type(optimizer)
    for old_group, group in zip(optimizer.param_groups, new.param_groups, strict=True):
        assert {k: v for k, v in group.items() if k != "params"} == {
            k: v for k, v in old_group.items() if k != "params"
        }
    assert [id(p) for g in new.param_groups for p in g["params"]] == [id(p) for p in shrunk.model.parameters()]
    assert list(new.state_dict()) == list(optimizer.state_dict())
    for parameter, state in new.state.items():
        assert all(v.shape in ((), parameter.shape) for v in state.values() if isinstance(v, torch.Tensor))
    train(net, optimizer, 3, 20)
    train(shrunk.model, new, 3, 20)
    wanted = shrink_it(net).model
    for (name, a), b in zip(shrunk.model.named_parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    assert before.keys() == {id(p) for p in optimizer.state}


def test_hooks_and_schedulers_stay_with_the_old_one() -> None:
    net = silent_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    calls: list[int] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append(1))
    train(net, optimizer, 1, 0)
    scheduler.step()
    shrunk = shrink_it(net)
    new = shrunk.transfer(optimizer)
    assert (new.param_groups[0]["lr"], new.param_groups[0]["initial_lr"]) == (pytest.approx(0.001), 0.01)
    calls.clear()
    before = [p.detach().clone() for p in net.parameters()]
    train(shrunk.model, new, 1, 0)
    assert not calls
    assert all(torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))
    again = torch.optim.lr_scheduler.StepLR(new, 1)
    train(shrunk.model, new, 1, 0)
    again.step()
    assert new.param_groups[0]["lr"] == pytest.approx(0.0001)


def test_parameters_and_state_that_do_not_follow_are_refused() -> None:
    net = silent_net()
    shrunk = shrink_it(net)
    with pytest.raises(
        StructureError, match=r"SGD: parameter 0 of group 0, of shape \(8, 3, 3, 3\), is none of the model"
    ):
        shrunk.transfer(torch.optim.SGD(small_net().parameters(), lr=0.1))
    factored = torch.optim.Adafactor(net.parameters(), lr=0.01)
    train(net, factored, 1, 0)
    with pytest.raises(
        StructureError, match=r"Adafactor: row_var of conv1.weight has the shape .*not known how it is sliced"
    ):
        shrunk.transfer(factored)
    extra = torch.optim.SGD(net.parameters(), lr=0.1)
    extra.inner = torch.optim.SGD(net.parameters(), lr=0.1)  # type: ignore[attr-defined]  # as Lookahead does
    with pytest.raises(StructureError, match="SGD keeps inner, a SGD, beside its state"):
        shrunk.transfer(extra)
    stray = torch.optim.SGD(net.parameters(), lr=0.1)
    stray.state[torch.zeros(2)]["momentum_buffer"] = torch.zeros(2)
    with pytest.raises(StructureError, match="keeps state of something that is none of its parameters"):
        shrunk.transfer(stray)


def test_the_dense_model_is_not_kept_alive() -> None:
    net = silent_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    shrunk = shrink_it(net)
    assert shrunk.transfer(optimizer).param_groups[0]["params"][0] is shrunk.model.conv1.weight
    del net, optimizer
    assert all(reference() is None for reference, _ in shrunk._sources)
