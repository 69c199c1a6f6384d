from __future__ import annotations

import pytest
import torch

from supermask.core.zoo import ZOO, ZooModel

ALL = pytest.mark.parametrize("zoo", ZOO.values(), ids=ZOO)


def test_the_four_models_of_the_design() -> None:
    assert list(ZOO) == ["mlp", "conv+bn", "tied", "lstm"]


@ALL
def test_models_and_batches_follow_from_their_numbers(zoo: ZooModel) -> None:
    state = torch.get_rng_state()
    a, b, other = zoo.build(1), zoo.build(1), zoo.build(2)
    x, y = zoo.batch(3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(a.parameters(), other.parameters(), strict=True))
    assert torch.equal(x, zoo.batch(3)[0])
    assert not torch.equal(x, zoo.batch(4)[0])
    assert a(x).shape == (16, 4)
    assert y.tolist() == [0] * 6 + [1] * 5 + [2] * 3 + [3] * 2
