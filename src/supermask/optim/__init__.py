"""Optimizers and learning-rate schedules, usable in any training loop."""

from __future__ import annotations

from supermask.optim.configs import (
    OPTIMIZERS,
    AdamConfig,
    AdamWConfig,
    OptimizerConfig,
    SGDConfig,
    SGDWConfig,
    build_optimizer,
)
from supermask.optim.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    Exponential,
    OneCycle,
    Plateau,
    PlateauRule,
    Schedule,
    Scheduler,
    Step,
    WarmUp,
)
from supermask.optim.sgdw import SGDW

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "SGDW",
    "AdamConfig",
    "AdamWConfig",
    "Constant",
    "Cosine",
    "Exponential",
    "OneCycle",
    "OptimizerConfig",
    "Plateau",
    "PlateauRule",
    "SGDConfig",
    "SGDWConfig",
    "Schedule",
    "Scheduler",
    "Step",
    "WarmUp",
    "build_optimizer",
]
