"""Looking at a model in training: as it will be after ``finalize``, or under one random mask after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from supermask.core.gates import Gate, Gated
from supermask.core.parametrizations import Masked, Sampled

if TYPE_CHECKING:
    from supermask.core.sparsifier import Sparsifier
    from supermask.core.targets import Target


@contextlib.contextmanager
def as_finalized(targets: list[Target]) -> Iterator[None]:
    """Inside, tracked masks are applied, soft ones are rounded, and gates have no noise."""
    installed = [target.parametrization for target in targets]
    tracked = [p for p in installed if isinstance(p, Masked) and not p.applied]
    soft = [p for p in installed if isinstance(p, Sampled) and p.soft]
    gated = [p for p in installed if isinstance(p, Gated)]
    gates = [gate for p in gated for gate in p.gates if isinstance(gate, Gate)]
    together: tuple[Gate | Gated, ...] = (*gated, *gates)
    noisy = [module for module in together if not module.steady]
    for masked in tracked:
        masked.applied = True
    for sampled in soft:
        sampled.rounded = True
    for module in noisy:
        module.steady = True
    try:
        yield
    finally:
        for masked in tracked:
            masked.applied = False
        for sampled in soft:
            sampled.rounded = False
        for module in noisy:
            module.steady = False


def over_draws(s: Sparsifier, count: int) -> Iterator[int]:
    """Put on the random masks of so many test draws, one after the other; at the end those that were on before."""
    installed = [p for t in s.targets if (p := t.parametrization) is not None]
    before = [{name: buffer.clone() for name, buffer in p.named_buffers()} for p in installed]
    try:
        for index in range(count):
            with torch.no_grad():
                s.method.draw(s, index)
            yield index
    finally:
        for parametrization, buffers in zip(installed, before, strict=True):
            for name, buffer in parametrization.named_buffers():
                buffer.copy_(buffers[name])
