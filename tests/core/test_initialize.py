from __future__ import annotations

import torch
from torch import nn

from supermask import Initializer, SignedSupermask
from supermask.core.initialize import initialize
from supermask.core.zoo import ZOO

ELU = Initializer(distribution="uniform", rule="elu")


def test_values_follow_from_seed_and_name_only() -> None:
    one, two = nn.Sequential(nn.Linear(4, 3)), nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    initialize(one, ELU, 5)
    torch.rand(3)  # somebody draws in between
    initialize(two, ELU, 5)
    assert torch.equal(one[0].weight, two[0].weight)
    initialize(two, ELU, 6)
    assert not torch.equal(one[0].weight, two[0].weight)


def test_biases_are_zero_and_norms_are_left_alone() -> None:
    model = ZOO["conv+bn"].build()
    model.bn1.bias.data.fill_(3.0)
    model.conv1.bias.data.fill_(3.0)
    initialize(model, ELU, 0)
    assert not bool(model.conv1.bias.any())
    assert bool((model.bn1.bias == 3.0).all())
    lstm = nn.LSTM(3, 4)
    initialize(lstm, ELU, 0)
    assert not bool(lstm.bias_ih_l0.any())
    attention = nn.MultiheadAttention(4, 2)
    attention.in_proj_bias.data.fill_(1.0)
    initialize(attention, ELU, 0)
    assert not bool(attention.in_proj_bias.any())


def test_it_draws_from_no_global_generator_and_keeps_requires_grad() -> None:
    state = torch.get_rng_state()
    model = ZOO["mlp"].build(3)
    model[0].weight.requires_grad_(False)
    initialize(model, ELU, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert not model[0].weight.requires_grad
    assert model[2].weight.requires_grad


def test_a_supermask_and_a_dense_run_at_one_seed_share_their_stream() -> None:
    """Same initialiser, same seed: the same weights, whoever draws them."""
    drawn = Initializer(distribution="normal", rule="he")
    model = ZOO["mlp"].build()
    initialize(model, drawn, 7)
    s = SignedSupermask(weights=drawn).attach(ZOO["mlp"].build(), seed=7)
    for target in s.targets:
        assert torch.equal(target.dense, model.get_parameter(target.name))


def test_dtypes_agree_up_to_rounding() -> None:
    single, double = nn.Linear(4, 3), nn.Linear(4, 3).double()
    initialize(single, ELU, 0)
    initialize(double, ELU, 0)
    assert torch.equal(double.weight.float(), single.weight)
