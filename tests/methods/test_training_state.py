"""Memory of training: a method adds at most one byte a weight to what dense training keeps between two steps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from supermask import Dense, Initializer, Magnitude, Method, RandomMask, SignedSupermask, models
from supermask.methods import (
    MPT,
    SET,
    EdgePopup,
    GemMiner,
    IteRand,
    LotteryTicket,
    MulticoatedSupermask,
    RigL,
    SynFlow,
    ZhouSupermask,
)
from supermask.optim import SGDW

WEIGHTS = 266_200


def _state_bytes(method: Method, *, given: bool = False) -> int:
    """Bytes of parameters, buffers, gradients and optimizer state after a step, each storage once."""
    model = models.build("fcn")
    weights = None
    if given:
        drawn = SignedSupermask().attach(models.build("fcn"))
        weights = {target.name: target.dense for target in drawn.targets}
    sparsifier = method.attach(model, weights=weights)
    optimizer = SGDW(sparsifier.param_groups(), 0.01, momentum=0.9)
    sparsifier.bind(optimizer, total_steps=10)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 1, 28, 28, generator=generator)
    F.cross_entropy(model(x), torch.arange(8)).backward()
    optimizer.step()
    tensors = [*model.parameters(), *model.buffers(), *sparsifier.state.values()]
    tensors += [p.grad for p in model.parameters() if p.grad is not None]
    tensors += [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


SMALL = 64  # thresholds: two scalars a layer


def test_dense_is_weight_gradient_and_momentum() -> None:
    assert _state_bytes(Dense()) == 3 * 4 * WEIGHTS


@pytest.mark.parametrize(
    ("method", "given", "extra"),
    [
        (SignedSupermask(), False, 0),  # the sign is absorbed into the score
        (SignedSupermask(threshold_rule="relative", threshold=0.4), False, 0),
        (SignedSupermask(), True, 1),  # signs that no seed reproduces: one byte each
        (SignedSupermask(signed=False), False, 1),
        (SignedSupermask(threshold_rule="variable"), False, 1),
        (RandomMask(density=0.1), False, 1),
        (Magnitude(density=0.1), False, 1),
        (SynFlow(iterations=2, input_shape=(1, 28, 28)), False, 1),
        (SET(density=0.1), False, 1),
        (RigL(density=0.1), False, 1),
        (LotteryTicket(rewind="none"), False, 1),
    ],
    ids=[
        "absolute",
        "relative",
        "given",
        "binary",
        "variable",
        "random",
        "magnitude",
        "synflow",
        "set",
        "rigl",
        "ticket",
    ],
)
def test_at_most_one_byte_a_weight_more(method: Method, given: bool, extra: int) -> None:
    assert _state_bytes(method, given=given) - _state_bytes(Dense()) - extra * WEIGHTS in range(SMALL)


def test_different_magnitudes_cost_their_own_size() -> None:
    """Uniform or normal frozen weights have to be kept: four bytes a weight, and no more."""
    uniform = SignedSupermask(weights=Initializer(distribution="uniform", rule="he"))
    assert _state_bytes(uniform) - _state_bytes(Dense()) - 4 * WEIGHTS in range(SMALL)


@pytest.mark.parametrize(
    ("method", "extra"),
    [
        (LotteryTicket(), 5),
        (EdgePopup(), 5),
        (IteRand(), 5),
        (MulticoatedSupermask(), 5),
        (ZhouSupermask(), 5),
        (GemMiner(), 6),
        (MPT(), 9),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_other_methods_say_they_keep(method: Method, extra: int) -> None:
    assert _state_bytes(method) - _state_bytes(Dense()) - extra * WEIGHTS in range(SMALL)
