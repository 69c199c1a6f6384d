from __future__ import annotations

import torch

from supermask.tensors.noise import fast_uniform

CPU = torch.device("cpu")


def test_it_follows_from_the_seed_and_touches_no_global_generator() -> None:
    state = torch.get_rng_state()
    first, second, other = (fast_uniform((3, 5), seed, CPU) for seed in (7, 7, 8))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())
    assert first.dtype == torch.float32
    assert first.shape == (3, 5)


def test_it_is_uniform() -> None:
    """Moments within five standard errors, and both halves of a word alike; odd sizes, too."""
    values = fast_uniform((200_001,), 3, CPU).double()
    for part in (values, values[0::2], values[1::2]):
        error = 5.0 / len(part) ** 0.5
        assert abs(float(part.mean()) - 1 / 2) < error * 0.2887
        assert abs(float(part.square().mean()) - 1 / 3) < error * 0.2981
        assert 0.0 <= float(part.min()) < 1e-3
        assert 1 - 1e-3 < float(part.max()) <= 1.0
    pairs = values[:200_000].view(-1, 2) - 0.5
    assert abs(float(pairs.prod(1).mean())) < 5 / 12 / 100_000**0.5
