"""What weight decay acts on, by hand on a network with every sort of parameter."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from supermask import Sparsifier
from supermask.core import decay
from supermask.errors import HyperparameterError
from supermask.methods import EdgePopup, RandomMask
from supermask.optim import configs


class Mixed(nn.Module):
    """A convolution, norms of one and of two dimensions, attention, and numbers that belong to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.group = nn.GroupNorm(1, 2)
        self.layer = nn.LayerNorm((2, 2))
        self.attention = nn.MultiheadAttention(4, 1)
        self.gain = nn.Parameter(torch.ones(3))
        self.head = nn.Linear(4, 3)


NORMS = [f"{norm}.{name}" for norm in ("norm", "group", "layer") for name in ("weight", "bias")]
MATRICES = ["conv.weight", "attention.in_proj_weight", "attention.out_proj.weight", "head.weight"]
BIASES = ["conv.bias", "attention.in_proj_bias", "attention.out_proj.bias", "head.bias"]
SPARED = {
    "all": [],
    "no-norms": NORMS,
    "no-biases": [*BIASES, "norm.bias", "group.bias", "layer.bias"],
    "weights": ["gain", *BIASES, *NORMS],
}


def names(s: Sparsifier, group: dict[str, Any]) -> list[str]:
    known = {id(p): name for name, p in s._parameters().items()}
    return [known[id(p)] for p in group["params"]]


@pytest.mark.parametrize("decay_on", SPARED)
def test_what_is_left_out(decay_on: Any) -> None:
    s = RandomMask().attach(Mixed())
    first, *others = s.param_groups(decay_on=decay_on)
    everything = list(s._parameters())
    assert names(s, first) == [name for name in everything if name not in SPARED[decay_on]]
    assert list(first) == ["params"]
    if decay_on == "all":
        assert not others
        return
    (spared,) = others
    assert sorted(names(s, spared)) == sorted(SPARED[decay_on])
    assert spared["weight_decay"] == 0.0


def test_beside_a_decay_of_its_own_for_everything_else() -> None:
    s = EdgePopup().attach(Mixed())  # whose targets are scores
    groups = s.param_groups(weight_decay=0.1, other_weight_decay=0.2, decay_on="no-norms")
    assert [group["weight_decay"] for group in groups] == [0.1, 0.2, 0.0]
    assert sorted(names(s, groups[0])) == sorted(MATRICES)
    assert sorted(names(s, groups[1])) == sorted(["gain", *BIASES])
    assert all(target.parameter is p for target, p in zip(s.targets, groups[0]["params"], strict=True))


def test_no_group_is_empty() -> None:
    s = RandomMask().attach(nn.Linear(3, 2, bias=False))
    assert len(s.param_groups(decay_on="weights")) == 1
    frozen = nn.Linear(3, 2, bias=False)
    s = RandomMask().attach(frozen, targets="*")
    frozen.requires_grad_(False)
    assert s.param_groups(decay_on="weights") == [{"params": []}]


def test_an_unknown_choice_is_refused() -> None:
    s = RandomMask().attach(nn.Linear(3, 2))
    message = "decay_on must be one of all, no-norms, no-biases, weights; got 'norms'"
    with pytest.raises(HyperparameterError, match=message):
        s.param_groups(decay_on="norms")  # type: ignore[arg-type]
    with pytest.raises(HyperparameterError, match=message):
        configs.SGDConfig(lr=0.1, decay_on="norms")  # type: ignore[arg-type]


def test_experiment_files_know_the_same_choices() -> None:
    assert get_args(configs.DecayOn) == get_args(decay.DecayOn) == tuple(SPARED)


@pytest.mark.parametrize("name", configs.OPTIMIZERS)
def test_every_optimizer_leaves_out_what_it_should(name: str) -> None:
    """Without a gradient decay is all that moves; only what is decayed does."""
    config = configs.OPTIMIZERS[name](lr=0.1, weight_decay=0.1, decay_on="weights")
    s = RandomMask(density=1.0).attach(Mixed())
    with torch.no_grad():
        for parameter in s._parameters().values():
            parameter.fill_(0.5)
    optimizer = config.build(s.param_groups(decay_on=config.decay_on))
    for parameter in s._parameters().values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moved = {n for n, p in s._parameters().items() if not torch.equal(p, torch.full_like(p, 0.5))}
    assert moved == set(MATRICES)


@pytest.mark.parametrize("name", configs.OPTIMIZERS)
def test_bare_parameters_do_not_tell_what_to_leave_out(name: str) -> None:
    config = configs.OPTIMIZERS[name](lr=0.1, decay_on="no-norms")
    parameters: list[Tensor] = list(nn.Linear(2, 2).parameters())
    with pytest.raises(HyperparameterError, match=r"build on sparsifier.param_groups\(decay_on='no-norms'\)"):
        config.build(parameters)
