from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from supermask.errors import DataError, HyperparameterError
from supermask.measure.batchnorm import reestimate_batchnorm


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.ReLU(), nn.Linear(4, 2), nn.BatchNorm1d(2)
    )


def batches(count: int = 3) -> list[torch.Tensor]:
    return [torch.randn(8, 3, generator=torch.Generator().manual_seed(i)) + i for i in range(count)]


def test_statistics_are_the_mean_over_batches() -> None:
    model = net().eval()
    model[1].momentum = 0.3
    model[1].running_mean.fill_(100.0)
    parameters = [parameter.clone() for parameter in model.parameters()]
    assert reestimate_batchnorm(model, [(x, "label") for x in batches()]) == 3
    hidden = [model[0](x) for x in batches()]
    assert torch.allclose(model[1].running_mean, torch.stack([h.mean(0) for h in hidden]).mean(0), atol=1e-6)
    assert torch.allclose(model[1].running_var, torch.stack([h.var(0) for h in hidden]).mean(0), atol=1e-5)
    # the second one sees what the first gives with each batch's own statistics, and no dropout
    after = [
        model[4](torch.relu(nn.functional.batch_norm(h, None, None, model[1].weight, model[1].bias, True)))
        for h in hidden
    ]
    assert torch.allclose(model[5].running_mean, torch.stack([a.mean(0) for a in after]).mean(0), atol=1e-5)
    assert (model[1].momentum, model.training, model[1].training) == (0.3, False, False)
    assert all(torch.equal(a, b) for a, b in zip(parameters, model.parameters(), strict=True))


def test_nothing_to_estimate_from() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(DataError, match="batches: there is none"):
        reestimate_batchnorm(model, [])
    with pytest.raises(RuntimeError):
        reestimate_batchnorm(model, [*batches(1), torch.zeros(8, 99)])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training
    with pytest.raises(HyperparameterError, match="Linear has no batch norm with running statistics"):
        reestimate_batchnorm(nn.Linear(2, 2), [])
