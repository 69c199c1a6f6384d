"""From the sections of a run to the objects that train: model, loss, metric, sparsifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from numbers import Real
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from supermask import models
from supermask.core.arrays import load_arrays
from supermask.core.initialize import initialize
from supermask.core.sparsifier import Sparsifier
from supermask.data import DataSet
from supermask.errors import ConfigError
from supermask.lab.channels import Traced
from supermask.lab.config import RunConfig
from supermask.lab.reference import is_reference, resolve
from supermask.lab.seeds import module_seed
from supermask.lab.train_section import LOSSES, METRICS

Loss = Callable[[Tensor, Tensor], Tensor]
Metric = Callable[[Tensor, Tensor], float]
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


def lay_out(config: RunConfig, model: nn.Module) -> None:
    """Bring the tensors of a model into the memory format that the run trains in; their values stay as they are.

    Called after a method was attached: its random scores are the same in every format.
    """
    if config.train.channels_last:
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.dim() == 4:
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)


def check_fit(config: RunConfig, model: nn.Module, data: DataSet, seed: int) -> bool:
    """Let the plain model see two examples, in evaluation mode; it and torch's generators are left as they were.

    Returns:
        Whether the model changes its input in place: such a model must not be given the data itself.

    Raises:
        ConfigError: The model does not take the images of the data set, or has not one output for each class (or number
            to predict), or loss or metric are made for other targets.
    """
    _check_targets(config, data)
    name, x = config.model.name, data.train.batch(slice(0, 2))[0].clone()
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), torch.no_grad():
        torch.manual_seed(module_seed(seed))
        model.eval()
        try:
            output = model(x)
        except (RuntimeError, ValueError) as error:
            images = f"images of shape {tuple(x.shape[1:])} from {data.name}"
            raise ConfigError(f"the model {name} does not take {images} ({error}); change model or data") from error
        model.train()
    loss_known, metric_known = config.train.loss in LOSSES, config.train.metric in METRICS
    numbers = _are_numbers(data)
    wanted = data.train.y.shape[1] if numbers else len(data.classes)
    if not isinstance(output, Tensor) or ((loss_known or metric_known) and output.dim() != 2):
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise ConfigError(
            f"the model {name} must return a tensor of shape {(len(x), wanted)} for two images, got {got}"
        )
    if numbers:
        unfit = (loss_known or metric_known) and output.shape[1] != wanted
    else:
        unfit = loss_known and output.shape[1] < wanted
    if unfit:
        what = "numbers to predict" if numbers else "classes"
        way = "set model.classes" if "classes" in config.model.options else "its last layer needs one for each"
        raise ConfigError(f"the model gives {output.shape[1]} outputs, but {data.name} has {wanted} {what}: {way}")
    return x._version > 0


def _are_numbers(data: DataSet) -> bool:
    """Whether the targets are numbers to predict, not classes."""
    return data.train.y.is_floating_point()


def _check_targets(config: RunConfig, data: DataSet) -> None:
    """Refuse a loss or metric of classes for numbers, and the other way round."""
    loss, metric, numbers = config.train.loss, config.train.metric, _are_numbers(data)
    if numbers and loss == "cross-entropy":
        raise ConfigError(
            f"train.loss is cross-entropy, but the targets of {data.name} are numbers: set it to mse (or save class numbers "
            "as integers)"
        )
    if numbers and metric == "accuracy":
        raise ConfigError(
            f"train.metric is accuracy, but the targets of {data.name} are numbers: set it to {', '.join(NUMERIC)} or a "
            "reference"
        )
    if numbers and config.train.teachers:
        raise ConfigError(
            f"train.distill compares scores of classes, but the targets of {data.name} are numbers; remove it"
        )
    if not numbers and metric in NUMERIC:
        raise ConfigError(f"train.metric is {metric}, but the targets of {data.name} are classes: set it to accuracy")


def build_loss(name: str, folder: Path) -> Loss:
    """The loss: (output, targets) -> mean over the batch."""
    if is_reference(name):
        return _one_number(resolve(name, folder, "train.loss"))
    return _squared_error if name == "mse" else functional.cross_entropy


def build_metric(name: str, folder: Path) -> Metric | None:
    """The metric: (all outputs, all targets of a split) -> number; None for the accuracy, which is counted by batches."""
    if is_reference(name):
        return _called_once(resolve(name, folder, "train.metric"))
    return NUMERIC.get(name)


def attach(
    config: RunConfig, model: nn.Module, seed: int, batches: Iterable[Batch], loss: Loss, traced: Traced | None
) -> Sparsifier:
    """Attach the run's method, with the initial arrays that ``init`` names.

    Raises:
        AttachError: The method does not fit the model.
        MaskError: The initial arrays do not fit the model.
        BudgetError: No choice of channels meets the method's budget.
    """
    init, method = config.init, config.method
    return method.attach(
        model,
        weights=None if init.weights is None else load_arrays(init.weights, layout=init.layout),
        scores=None if init.scores is None else load_arrays(init.scores, layout=init.layout),
        seed=seed,
        data=batches,
        loss_fn=lambda module, batch: loss(module(batch[0]), batch[1]),
        structure=None if traced is None else traced.structure,
        costs=None if traced is None else traced.costs,
    )


def _squared_error(output: Tensor, labels: Tensor) -> Tensor:
    """Mean squared difference to one-hot labels, or to targets that are numbers."""
    if labels.is_floating_point():
        return functional.mse_loss(output, labels)
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


def _mean_absolute_error(outputs: Tensor, targets: Tensor) -> float:
    return float((outputs.double() - targets).abs().mean())


def _root_mean_square_error(outputs: Tensor, targets: Tensor) -> float:
    return float((outputs.double() - targets).square().mean().sqrt())


def _explained_variance(outputs: Tensor, targets: Tensor) -> float:
    """1 - (sum of squared errors) / (sum of squares around the mean), for each number to predict; their mean."""
    targets = targets.double()
    around = (targets - targets.mean(dim=0)).square().sum(dim=0)
    if not bool(around.all()):
        raise ConfigError(
            "train.metric: r2 is undefined where all targets of a split are equal, as here; set it to mae or rmse"
        )
    return float((1.0 - (outputs.double() - targets).square().sum(dim=0) / around).mean())


NUMERIC: Final[dict[str, Metric]] = {
    "mae": _mean_absolute_error,
    "rmse": _root_mean_square_error,
    "r2": _explained_variance,
}


def _called_once(metric: Callable[[Tensor, Tensor], object]) -> Metric:
    """The user's own metric, refused when it does not return a number."""

    def checked(outputs: Tensor, targets: Tensor) -> float:
        value = metric(outputs, targets)
        if isinstance(value, Tensor) and value.dim() == 0:
            return float(value)
        if isinstance(value, bool) or not isinstance(value, Real):
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError(f"train.metric must return one number, got {got}")
        return float(value)

    return checked
