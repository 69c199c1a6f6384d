"""Running statistics of batch norm, taken anew: after channels are gone, those of training no longer fit exactly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from supermask.errors import DataError, HyperparameterError


def reestimate_batchnorm(model: nn.Module, batches: Iterable[Any]) -> int:
    """Replace running means and variances by the mean over batches; in place, and only when called.

    Batch norms are in training mode meanwhile, so that each sees what the ones before it give in training; everything else
    is in evaluation mode (dropout is off). No parameter changes. Batches count alike: leave out a smaller last one. Take
    training data, as it is trained on; never the test set.

    Args:
        model: Any module; modes and momentum are as before afterwards.
        batches: Inputs, or tuples that begin with the inputs.

    Returns:
        How many batches were seen.

    Raises:
        HyperparameterError: The model has no batch norm with running statistics.
        DataError: There is no batch. After this and any other error the statistics are as before.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        raise HyperparameterError(
            f"model: {type(model).__name__} has no batch norm with running statistics, so there is nothing to estimate"
        )
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    seen = 0
    try:
        model.eval()
        for norm in norms:
            norm.train()
            norm.momentum = None  # the plain mean
            norm.reset_running_stats()
        with torch.no_grad():
            for batch in batches:
                model(batch if isinstance(batch, Tensor) else batch[0])
                seen += 1
        if not seen:
            raise DataError(
                "batches: there is none, so the running statistics stay as they were; give training batches"
            )
    except BaseException:
        for norm, buffers in zip(norms, before, strict=True):
            for name, buffer in norm.named_buffers():
                buffer.copy_(buffers[name])
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
    return seen
