"""Shrinking agrees with torch-pruning where both work: the same channels leave the same tensors."""

from __future__ import annotations

import copy
import os
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from supermask.core.groups import Structure
from supermask.deploy import shrink
from supermask.deploy.patching import named

from .smaller import random_keeps
from .test_shrinking_models import built

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it builds on parts of torch that are deprecated
        import torch_pruning
except ImportError:
    if os.environ.get("CI"):
        raise
    pytest.skip("torch-pruning is not installed: pip install 'supermask[torch-pruning]'", allow_module_level=True)

NAMES = (
    "lenet-300-100",
    "lenet5-caffe",
    "conv6",
    "vgg16-bn",
    "resnet20-signed",
    "wrn-16-4",
    "Concat",
    "Shared",
    "UNet",
)


def prune(model: nn.Module, x: torch.Tensor, structure: Structure, keeps: dict[str, torch.Tensor]) -> nn.Module:
    """What torch-pruning makes of the same choice, starting from the first layer that makes each group's channels."""
    model = copy.deepcopy(model).eval()
    pruners: dict[type, Any] = {
        nn.Conv2d: torch_pruning.prune_conv_out_channels,
        nn.ConvTranspose2d: torch_pruning.prune_conv_out_channels,
        nn.Linear: torch_pruning.prune_linear_out_channels,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=x)
        for name, keep in keeps.items():
            maker = next(m for m in structure[name].of_role("out") if m.tensor.endswith(".weight"))
            layer = model.get_submodule(maker.tensor.removesuffix(".weight"))
            gone = maker.entries[~keep].flatten().tolist()
            if gone:
                group = graph.get_pruning_group(layer, pruners[type(layer)], idxs=gone)
                assert graph.check_pruning_group(group), name
                group.prune()
    return model


@pytest.mark.parametrize("name", NAMES)
def test_the_same_tensors_remain(name: str) -> None:
    model, x, structure = built(name)
    keeps = random_keeps(structure, 7, 0.4)
    small = shrink(model, x, keeps=keeps, structure=structure, zero=True, examples=2).model
    theirs = prune(model, x, structure, keeps)
    for key, tensor in named(theirs).items():
        assert torch.equal(tensor, named(small)[key]), key
    attributes = ("in_channels", "out_channels", "groups", "num_features", "in_features", "out_features")
    for path, module in theirs.named_modules():
        ours = small.get_submodule(path)
        for attribute in attributes:
            assert getattr(module, attribute, None) == getattr(ours, attribute, None), f"{path}.{attribute}"
