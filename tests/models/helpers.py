"""What the tests of the models share: counts, and a batch norm written out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LAYERS = nn.Linear | nn.Conv2d
NORMS = nn.BatchNorm1d | nn.BatchNorm2d


def weights(model: nn.Module) -> int:
    """Weights of convolutions and linear layers."""
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, LAYERS))


def biases(model: nn.Module) -> int:
    """Biases of convolutions and linear layers."""
    return sum(m.bias.numel() for m in model.modules() if isinstance(m, LAYERS) and m.bias is not None)


def parameters(model: nn.Module) -> int:
    """All trained numbers."""
    return sum(p.numel() for p in model.parameters())


def randomize_norms(model: nn.Module) -> None:
    """Random scales, shifts and running statistics, so that each of them matters."""
    for module in model.modules():
        if isinstance(module, NORMS):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)


def norm(x: Tensor, module: nn.Module, training: bool, eps: float) -> Tensor:
    """A batch norm of (N, C) or (N, C, H, W)."""
    over = [0, *range(2, x.dim())]
    shape = (1, -1, *[1] * (x.dim() - 2))
    mean = x.mean(over) if training else module.running_mean
    variance = x.var(over, unbiased=False) if training else module.running_var
    scaled = (x - mean.view(shape)) / torch.sqrt(variance.view(shape) + eps)
    return scaled * module.weight.view(shape) + module.bias.view(shape)
