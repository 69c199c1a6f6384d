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
from supermask.data import DataSet
from supermask.errors import ConfigError
from supermask.lab.config import LOSSES, RunConfig
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


def check_fit(config: RunConfig, model: nn.Module, data: DataSet, seed: int) -> None:
    """Let the plain model see two examples, in evaluation mode; it and torch's generators are left as they were.

    Raises:
        ConfigError: The model does not take the images of the data set, or has not one output for each class.
    """
    name, x = config.model.name, data.train.x[:2]
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), torch.no_grad():
        torch.manual_seed(module_seed(seed))
        model.eval()
        try:
            output = model(x)
        except (RuntimeError, ValueError) as error:
            images = f"images of shape {tuple(x.shape[1:])} from {data.name}"
            raise ConfigError(f"the model {name} does not take {images} ({error}); change model or data") from error
        model.train()
    if config.train.loss not in LOSSES:
        return
    classes = len(data.classes)
    if not isinstance(output, Tensor) or output.dim() != 2:
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise ConfigError(
            f"the model {name} must return a tensor of shape {(len(x), classes)} for two images, got {got}"
        )
    if output.shape[1] < classes:
        way = "set model.classes" if "classes" in config.model.options else "its last layer needs one for each class"
        raise ConfigError(f"the model gives {output.shape[1]} outputs, but {data.name} has {classes} classes: {way}")


def build_loss(name: str, folder: Path) -> Loss:
    """The loss: (output, integer labels) -> mean over the batch."""
    if is_reference(name):
        return _one_number(resolve(name, folder, "train.loss"))
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


def _one_number(loss: Loss) -> Loss:
    """The user's own loss, refused when it does not return a tensor with one number."""

    def checked(output: Tensor, labels: Tensor) -> Tensor:
        value: object = loss(output, labels)
        if not isinstance(value, Tensor) or value.dim() != 0:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError(f"train.loss must return one number, got {got}; return the mean over the batch")
        return value

    return checked
