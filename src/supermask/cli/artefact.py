"""What the verbs on networks have in common: shapes, batch sizes, and inputs to compare on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from supermask.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

    from supermask.lab.artefact import Artefact


def parse_shape(text: str | None) -> tuple[int, ...] | None:
    """The shape of one input from ``3,32,32``.

    Raises:
        ConfigError: Something else stands there.
    """
    return None if text is None else _numbers(text, "--input", "the sizes of one input without the batch: 3,32,32")


def parse_batches(text: str) -> tuple[int, ...]:
    """Batch sizes from ``1,32,128``.

    Raises:
        ConfigError: Something else stands there.
    """
    return _numbers(text, "--batch", "batch sizes: 1,32,128")


def example_inputs(artefact: Artefact, number: int, data_dir: Path | None) -> tuple[Tensor, str]:
    """Inputs to compare on, and where they are from: test data of the run, or random numbers where there is none.

    Raises:
        ConfigError: The shape of one input is not known.
    """
    import torch

    from supermask.lab.artefact import examples

    try:
        found = examples(artefact, number, data_dir)
        missing = ""
    except DataError:
        found, missing = None, ", as the run's data set is not here"
    if found is not None:
        assert artefact.data is not None
        return found[0], f"test data of {artefact.data['name']}"
    if artefact.input_shape is None:
        raise ConfigError("the shape of one input is not known; say it: --input 3,32,32")
    generator = torch.Generator().manual_seed(0)
    return torch.randn(number, *artefact.input_shape, generator=generator), f"random numbers{missing}"


def _numbers(text: str, option: str, wanted: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[1-9][0-9]{0,8}", part) for part in parts):
        raise ConfigError(f"{option}: expected {wanted}; got {text!r}")
    return tuple(map(int, parts))
