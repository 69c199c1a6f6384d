"""Optimizers and learning-rate schedules, usable in any training loop."""

from __future__ import annotations

from supermask.optim.configs import (
    OPTIMIZERS,
    AdagradConfig,
    AdamConfig,
    AdamWConfig,
    AMSGradConfig,
    OptimizerConfig,
    RAdamConfig,
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
    "AMSGradConfig",
    "AdagradConfig",
    "AdamConfig",
    "AdamWConfig",
    "Constant",
    "Cosine",
    "Exponential",
    "OneCycle",
    "OptimizerConfig",
    "Plateau",
    "PlateauRule",
    "RAdamConfig",
    "SGDConfig",
    "SGDWConfig",
    "Schedule",
    "Scheduler",
    "Step",
    "WarmUp",
    "build_optimizer",
]
