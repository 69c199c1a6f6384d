"""The compiled step of SGD against torch's fused kernel, bit by bit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from supermask.kernels import library, sgd
from supermask.optim import SGDW

OPTIONS = {"lr": 0.03, "momentum": 0.9, "nesterov": True, "decay": 0.0}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


needs_step = pytest.mark.skipif(sgd._same_as_torch() is None, reason="no compiled step gives torch's bits here")


def draw(*shapes: tuple[int, ...]) -> list[list[Tensor]]:
    """Parameters, gradients and momenta."""
    generator = torch.Generator().manual_seed(0)
    return [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(3)]


def bits(groups: list[list[Tensor]]) -> list[list[int]]:
    return [tensor.view(torch.int32).flatten().tolist() for group in groups for tensor in group]


@needs_step
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("decay", [0.0, 1e-3])
def test_torchs_bits(nesterov: bool, decay: float) -> None:
    """Sizes with and without a remainder, over several steps, and what is no ordinary number."""
    shapes = ((300, 784), (10, 7), (1,), (3, 5, 3, 3), (16,), (0, 4))
    ours, theirs = draw(*shapes), draw(*shapes)
    for group in (ours, theirs):
        group[1][0][0, :4] = torch.tensor([torch.inf, -torch.inf, -0.0, 1e-42])
    options = OPTIONS | {"nesterov": nesterov, "decay": decay}
    for _ in range(3):
        assert sgd.momentum_step(*ours, **options)
        sgd._torch_step(*theirs, **options)
    finite = [[torch.nan_to_num(tensor, nan=7.0) for tensor in group] for group in (*ours, *theirs)]
    assert bits(finite[:3]) == bits(finite[3:])


@needs_step
def test_a_graph_that_needs_the_old_weights_is_refused() -> None:
    """Torch tells by a tensor's version, which only its own functions count up."""
    weight = nn.Parameter(torch.ones(3))
    loss = (weight * weight).sum()
    weight.grad = torch.ones(3)
    optimizer = SGDW([weight], lr=0.1)
    optimizer.step()
    buffer = optimizer.state[weight]["momentum_buffer"]
    before = buffer._version
    optimizer.step()
    assert buffer._version > before
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@needs_step
def test_channels_last() -> None:
    ours, theirs = draw((4, 3, 5, 5)), draw((4, 3, 5, 5))
    for group in (*ours, *theirs):
        group[0] = group[0].to(memory_format=torch.channels_last)
    assert sgd.momentum_step(*ours, **OPTIONS)
    sgd._torch_step(*theirs, **OPTIONS)
    assert bits([ours[0], ours[2]]) == bits([theirs[0], theirs[2]])


@needs_step
def test_what_it_leaves_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing is changed."""
    with_gaps = draw((4, 6))
    for group in with_gaps:
        group[0] = group[0][:, ::2]
    half = [[tensor.to(torch.bfloat16) for tensor in group] for group in draw((4,))]
    sparse = draw((4,))
    sparse[1][0] = sparse[1][0].to_sparse()
    subclass = draw((4,))
    subclass[0][0] = subclass[0][0].as_subclass(type("Special", (Tensor,), {}))
    for group in (with_gaps, half, sparse, subclass):
        before = group[0][0].clone()
        assert not sgd.momentum_step(*group, **OPTIONS)
        assert torch.equal(group[0][0], before)
    torch.set_num_threads(2)
    assert not sgd.momentum_step(*draw((4,)), **OPTIONS)
    torch.set_num_threads(1)
    monkeypatch.setattr(sgd, "_same_as_torch", lambda: None)
    assert not sgd.momentum_step(*draw((4,)), **OPTIONS)


@needs_step
def test_another_rounding_is_noticed() -> None:
    """A step that rounds as vectors of another width would is not torch's."""
    steps = [sgd._step(width) for width in sgd._WIDTHS]
    agreeing = [step is not None and sgd._agrees(step, True) for step in steps]
    assert agreeing.count(True) == 1


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in ("off", "generic"):  # generic processors have no fused multiply-add
        if setting == "generic" and library.library() is None:
            continue
        monkeypatch.setenv(library.SETTING, setting)
        library.loaded.cache_clear()
        assert sgd._step(8) is None
    library.loaded.cache_clear()


@needs_step
def test_sgdw_takes_it_and_trains_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    def train() -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(9, 31), nn.ELU(), nn.Linear(31, 3))
        optimizer = SGDW(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        for step in range(6):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + step // 3)
            optimizer.zero_grad()
            model(torch.ones(5, 9)).square().sum().backward()
            optimizer.step()
        return [tensor.detach() for tensor in model.parameters()]

    taken: list[bool] = []
    real = sgd.momentum_step
    monkeypatch.setattr("supermask.optim.sgdw.momentum_step", lambda *a: taken.append(real(*a)) or taken[-1])
    compiled = train()
    assert taken == [True] * 6
    monkeypatch.setattr("supermask.optim.sgdw.momentum_step", lambda *_: False)
    assert bits([compiled]) == bits([train()])
