"""Masks and models to numbers."""

from __future__ import annotations

from supermask.measure.batchnorm import reestimate_batchnorm
from supermask.measure.latency import Latency, Ratio, latency
from supermask.measure.latency_table import LatencyTable, Verified
from supermask.measure.macs import author_flops, macs
from supermask.measure.path import path_curves
from supermask.measure.sensitivity import Sensitivity, sensitivity
from supermask.measure.size import compression_rate, sizes

__all__ = [
    "Latency",
    "LatencyTable",
    "Ratio",
    "Sensitivity",
    "Verified",
    "author_flops",
    "compression_rate",
    "latency",
    "macs",
    "path_curves",
    "reestimate_batchnorm",
    "sensitivity",
    "sizes",
]
