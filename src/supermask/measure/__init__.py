"""Masks and models to numbers."""

from __future__ import annotations

from supermask.measure.macs import macs
from supermask.measure.path import path_curves
from supermask.measure.size import compression_rate, sizes

__all__ = ["compression_rate", "macs", "path_curves", "sizes"]
