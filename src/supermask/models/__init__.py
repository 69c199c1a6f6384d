"""Reference architectures: plain modules that know nothing of masks, each built by name."""

from __future__ import annotations

from supermask.models.catalog import MODELS, ModelInfo, build

__all__ = ["MODELS", "ModelInfo", "build"]
