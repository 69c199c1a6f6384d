from __future__ import annotations

import torch

from supermask import Dense

from .helpers import bare, train


def test_it_is_ordinary_training() -> None:
    model, plain = bare(9, 8, 5), bare(9, 8, 5)
    s = Dense().attach(model)
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert s.masks().density() == 1.0
    train(s, 5)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    other = Dense().attach(plain)
    train(other, 5, optimizer=optimizer)  # not bound
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)
    before = list(model.parameters())
    assert s.finalize().density() == 1.0
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))
