"""One step of the optimizer: plain, or in mixed precision and with clipped gradients. The same code on every device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_

from supermask.core.sparsifier import Sparsifier
from supermask.lab.train_section import Clip, TrainSection
from supermask.optim import PlateauRule, Scheduler

Step = Callable[[Tensor, Tensor], Tensor]
Scale = Callable[[Tensor], Tensor]  # of a loss, before its gradients are taken
Divided = Callable[[Step, Scale], Step]
DTYPES: Final = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(section: TrainSection, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A fresh context in which a model computes in the run's precision.

    One for each step: it keeps cast copies of parameters until it ends, and a step changes them.
    """
    if section.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, DTYPES[section.precision])


def grad_scaler(section: TrainSection, device: torch.device) -> GradScaler | None:
    """What keeps small gradients alive in float16; the other precisions need none."""
    return GradScaler(device.type) if section.precision == "float16" else None


def make_step(
    section: TrainSection,
    objective: Step,
    optimizer: torch.optim.Optimizer,
    schedule: Scheduler | PlateauRule,
    sparsifier: Sparsifier,
    scaler: GradScaler | None,
    device: torch.device,
    divided: Divided | None = None,
) -> Step:
    """The function that takes one step on a batch (x, y) and returns what it minimised.

    Args:
        section: The settings of the round.
        objective: From a batch to the mean that is minimised.
        optimizer: The round's.
        schedule: The round's.
        sparsifier: Bound to the optimizer.
        scaler: For float16, else None.
        device: Where the model is.
        divided: Makes the function that computes gradients part by part, see
            :meth:`supermask.lab.parallel.Division.backward`; None: batches are not divided. A step then takes what this
            rank has of a batch, and returns its part of the mean.

    What is switched off costs nothing. A step that the scaler leaves out moves neither weights nor schedules.
    """
    clip = None if section.clip is None else _clipping(section.clip, optimizer)
    if scaler is not None:
        _make_momentum(optimizer)
    update = make_update(section, optimizer, schedule)

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        with autocast(section, device):
            return objective(x, y)

    def whole(x: Tensor, y: Tensor) -> Tensor:
        loss = loss_of(x, y)
        scale(loss).backward()
        return loss

    scale: Scale = _unchanged if scaler is None else scaler.scale
    gradients: Step = whole if divided is None else divided(loss_of, scale)

    def plain(x: Tensor, y: Tensor) -> Tensor:
        loss = objective(x, y)
        loss.backward()
        update()
        return loss

    def unscaled(x: Tensor, y: Tensor) -> Tensor:
        loss = gradients(x, y)
        update()
        return loss

    def scaled(x: Tensor, y: Tensor) -> Tensor:
        assert scaler is not None
        loss = gradients(x, y)
        if clip is not None:
            scaler.unscale_(optimizer)
            clip()
        before = sparsifier.step
        scaler.step(optimizer)
        scaler.update()
        if sparsifier.step != before:
            schedule.step()
        optimizer.zero_grad()
        return loss

    if scaler is not None:
        return scaled
    return plain if section.precision == "float32" and divided is None else unscaled


def _unchanged(loss: Tensor) -> Tensor:
    return loss


def make_update(
    section: TrainSection, optimizer: torch.optim.Optimizer, schedule: Scheduler | PlateauRule
) -> Callable[[], None]:
    """The function that does what follows the backward pass where no scaler is at work.

    Args:
        section: The settings of the round.
        optimizer: The round's; its gradients are there, and gone afterwards.
        schedule: The round's.
    """
    clip = None if section.clip is None else _clipping(section.clip, optimizer)

    def update() -> None:
        if clip is not None:
            clip()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

    return update


def _make_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give SGD its momentum buffers, of zeros, which its first step would make.

    torch's fused SGD makes them without values, and leaves them so where the scaler leaves that step out.
    """
    for group in optimizer.param_groups if isinstance(optimizer, torch.optim.SGD) else ():
        for parameter in group["params"] if group["momentum"] else ():
            state = optimizer.state[parameter]
            state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)


def _clipping(clip: Clip, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    parts = [parameters] if clip.over == "all" else [[parameter] for parameter in parameters]

    def apply() -> None:
        for part in parts:
            clip_grad_norm_(part, clip.norm)

    return apply
