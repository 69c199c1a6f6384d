"""From the sections of a run to the objects that train: model, loss, sparsifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from supermask import models
from supermask.core.arrays import load_arrays
from supermask.core.initialize import initialize
from supermask.core.sparsifier import Sparsifier
from supermask.errors import ConfigError
from supermask.lab.config import RunConfig
from supermask.lab.reference import is_reference, resolve
from supermask.lab.seeds import module_seed

Loss = Callable[[Tensor, Tensor], Tensor]
Batch = tuple[Tensor, Tensor]


def build_model(config: RunConfig, seed: int, folder: Path, device: torch.device) -> nn.Module:
    """The model with its initial weights, in training mode; torch's global generator is left as it was.

    Raises:
        ConfigError: A reference did not return a module.
    """
    name, options = config.model.name, dict(config.model.options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(module_seed(seed))
        if is_reference(name):
            model = resolve(name, folder, "model.name")(**options)
        else:
            model = models.build(name, **options)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model.name: {name} must return a torch.nn.Module, got {type(model).__name__}")
    if not config.init.keep:
        initialize(model, config.init.initializer, seed)
    return model.to(device).train()


def build_loss(name: str, folder: Path) -> Loss:
    """The loss: (output, integer labels) -> mean over the batch."""
    if is_reference(name):
        return resolve(name, folder, "train.loss")
    return _squared_error if name == "mse" else functional.cross_entropy


def attach(config: RunConfig, model: nn.Module, seed: int, batches: Iterable[Batch], loss: Loss) -> Sparsifier:
    """Attach the run's method, with the initial arrays that ``init`` names.

    Raises:
        AttachError: The method does not fit the model.
        MaskError: The initial arrays do not fit the model.
    """
    init, method = config.init, config.method
    return method.attach(
        model,
        weights=None if init.weights is None else load_arrays(init.weights, layout=init.layout),
        scores=None if init.scores is None else load_arrays(init.scores, layout=init.layout),
        seed=seed,
        data=batches if method.needs_data else None,
        loss_fn=(lambda module, batch: loss(module(batch[0]), batch[1])) if method.needs_data else None,
    )


def _squared_error(output: Tensor, labels: Tensor) -> Tensor:
    """Mean squared difference to one-hot labels."""
    return functional.mse_loss(output, functional.one_hot(labels, output.shape[1]).to(output.dtype))
