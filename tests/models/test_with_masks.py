"""One model of each family under a method: attach, a step, finalize."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from supermask import RandomMask
from supermask.core.targets import find_targets
from supermask.models import MODELS, build

from .helpers import weights


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("lenet-300-100", {}, (1, 28, 28)),
        ("lenet5-caffe", {}, (1, 28, 28)),
        ("lenet5-dessilbi", {}, (1, 28, 28)),
        ("alexnet-s", {}, (3, 32, 32)),
        ("vgg-c", {}, (3, 32, 32)),
        ("vgg16-bn", {"hidden": [32]}, (3, 32, 32)),
        ("resnet20", {}, (3, 16, 16)),
        ("resnet20", {"shortcut": "projection"}, (3, 16, 16)),
        ("resnet18", {"classes": 10}, (3, 64, 64)),
        ("resnet164", {"width": 0.25}, (3, 16, 16)),
        ("wrn-22-2", {}, (3, 16, 16)),
        ("lstm-s", {"hidden": 32}, (1, 28, 28)),
        ("gru-s", {"hidden": 32}, (1, 28, 28)),
    ],
)
def test_attach_step_finalize(name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = build(name, **options)
    keys, total = list(model.state_dict()), weights(model)
    x, labels = torch.randn(4, *shape), torch.tensor([0, 1, 2, 3])
    sparsifier = RandomMask(density=0.1).attach(model, seed=0)
    optimizer = torch.optim.SGD(sparsifier.param_groups(), lr=0.01, momentum=0.9)
    sparsifier.bind(optimizer, total_steps=1)
    F.cross_entropy(model(x), labels).backward()
    optimizer.step()
    model.eval()
    with torch.no_grad():
        before = model(x)
        masks = sparsifier.finalize()
        after = model(x)
    assert torch.isfinite(after).all()
    torch.testing.assert_close(after, before)
    assert list(model.state_dict()) == keys
    assert sum(mask.numel() for mask in masks.values()) == total
    assert sum(int(mask.sum()) for mask in masks.values()) == (total + 5) // 10  # rounded half up
    state = model.state_dict()
    for target, mask in masks.items():
        assert not state[target][~mask].any()
        assert state[target][mask].any()


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name].weights < 3_000_000])
def test_every_convolution_and_linear_layer_is_a_target(name: str) -> None:
    assert sum(target.size for target in find_targets(build(name))) == MODELS[name].weights
