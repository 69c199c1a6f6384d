from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from supermask.errors import ConfigError, HyperparameterError
from supermask.optim import (
    OPTIMIZERS,
    SGDW,
    AdagradConfig,
    AdamConfig,
    AdamWConfig,
    AMSGradConfig,
    RAdamConfig,
    SGDConfig,
    SGDWConfig,
    build_optimizer,
)


def params() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(3))]


@pytest.mark.parametrize(
    ("config", "made"),
    [
        (SGDConfig(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4), torch.optim.SGD),
        (SGDWConfig(lr=0.1, momentum=0.8, nesterov=False, weight_decay=1e-4), SGDW),
        (AdamConfig(lr=0.1, betas=(0.8, 0.99), eps=1e-7, weight_decay=1e-4), torch.optim.Adam),
        (AdamWConfig(lr=0.1, betas=(0.8, 0.99), eps=1e-7, weight_decay=1e-4), torch.optim.AdamW),
        (AMSGradConfig(lr=0.1, betas=(0.8, 0.99), eps=1e-7, weight_decay=1e-4), torch.optim.Adam),
        (RAdamConfig(lr=0.1, betas=(0.8, 0.99), eps=1e-7, weight_decay=1e-4), torch.optim.RAdam),
        (AdagradConfig(lr=0.1, eps=1e-7, weight_decay=1e-4), torch.optim.Adagrad),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_every_field_reaches_the_optimizer_and_the_kernel_is_fused(config: Any, made: type) -> None:
    assert OPTIMIZERS[config.name] is type(config)
    own = params()
    optimizer = config.build(iter(own))
    assert type(optimizer) is made
    group = optimizer.param_groups[0]
    for field, value in config._options().items():
        assert group[field] == value
    assert set(vars(config)) - set(config._options()) == {
        "decay_on"
    }  # which the groups hold, see tests/core/test_decay.py
    assert group.get("fused") is (None if config.name == "radam" else True)  # torch has no fused RAdam
    assert group.get("amsgrad", False) is (config.name == "amsgrad")
    own[0].grad = torch.ones(3)
    optimizer.step()
    assert bool((own[0] < 1).all())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_groups_names_and_unfusable_parameters(name: str) -> None:
    optimizer = build_optimizer(
        name, [{"params": params()}, {"params": nn.Parameter(torch.ones(2)), "lr": 0.5}], lr=0.1
    )
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]
    assert optimizer.param_groups[1].get("fused") is (None if name == "radam" else True)
    named = build_optimizer(name, nn.Linear(2, 2).named_parameters(), lr=0.1)
    assert named.param_groups[0]["param_names"] == ["weight", "bias"]
    complex_one = build_optimizer(name, [nn.Parameter(torch.ones(2, dtype=torch.complex64))], lr=0.1)
    assert complex_one.param_groups[0].get("fused") is None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sdg", {"lr": 0.1}, "there is no optimizer 'sdg'; did you mean 'sgd"),
        ("lamb!", {"lr": 0.1}, "known: sgd, sgdw, adam, adamw, amsgrad, radam, adagrad"),
        ("sgdw", {"lr": 0.1, "wieght_decay": 0.1}, "sgdw has no option 'wieght_decay'; did you mean 'weight_decay'"),
        ("sgd", {}, "sgd needs the option lr; it has no default"),
    ],
)
def test_unknown_names_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_optimizer(name, params(), **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGDConfig(lr=0.0), "lr must be a finite number > 0 .*got 0.0"),
        (lambda: SGDConfig(lr=0.1, nesterov=True), "nesterov is True but momentum is 0; set momentum"),
        (lambda: SGDConfig(lr=0.1, momentum=1.2), r"momentum must be in \[0, 1\) .*got 1.2"),
        (lambda: SGDConfig(lr=0.1, weight_decay=-1.0), "weight_decay must be .*got -1.0"),
        (lambda: SGDWConfig(lr=0.1, weight_decay=1.0), "weight_decay must be .*fraction each step takes off.*got 1.0"),
        (lambda: SGDWConfig(lr=0.1, nesterov=None), "nesterov must be True or False, got None"),  # type: ignore[arg-type]
        (lambda: AdamConfig(lr=0.1, betas=(0.9, 1.0)), "betas must be two numbers .*got 1.0"),
        (lambda: AdamConfig(lr=0.1, betas=0.9), "betas must be two numbers .*got 0.9"),  # type: ignore[arg-type]
        (lambda: AdamWConfig(lr=0.1, eps=0.0), "eps must be a number > 0 .*got 0.0"),
    ],
)
def test_bad_values_name_the_field(make: Any, message: str) -> None:
    with pytest.raises(HyperparameterError, match=message):
        make()
