"""Masks and models to numbers."""

from __future__ import annotations

from supermask.measure.latency import Latency, Ratio, latency
from supermask.measure.macs import macs
from supermask.measure.path import path_curves
from supermask.measure.size import compression_rate, sizes

__all__ = ["Latency", "Ratio", "compression_rate", "latency", "macs", "path_curves", "sizes"]
