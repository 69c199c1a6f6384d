from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from supermask.core.tracing import find_structure
from supermask.errors import HyperparameterError, StructureError
from supermask.measure.sensitivity import sensitivity


def net() -> nn.Sequential:
    """A sigmoid keeps zeros no zeros: cutting means more than zeroing what makes a channel."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Sigmoid(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(6, 3),
    ).eval()  # fmt: skip


def output(model: nn.Module) -> float:
    with torch.no_grad():
        return float(model(torch.ones(1, 2, 6, 6))[0, 1])


def test_each_group_alone_is_cut_and_comes_back() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    structure = find_structure(model, torch.zeros(1, 2, 6, 6))
    found = sensitivity(model, structure, output, shares=(1.0, 0.5, 0.01))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert found.groups.keys() == {"0", "3"}
    assert found.whole == output(model)
    assert [count for count, _ in found.groups["0"]] == [4, 2, 1]
    assert found.groups["0"][0][1] == found.whole
    # by hand: a network without these channels
    sums = model[0].weight.detach().abs().sum((1, 2, 3))
    keep = sums.argsort(descending=True)[:2].sort().values
    small = copy.deepcopy(model)
    small[0].weight = nn.Parameter(model[0].weight.detach()[keep])
    small[1] = nn.BatchNorm2d(2).eval()
    small[3].weight = nn.Parameter(model[3].weight.detach()[:, keep])
    assert found.groups["0"][1][1] == pytest.approx(output(small), abs=1e-6)
    assert str(found).startswith("whole network: ")
    assert " with 2, " in str(found)


def test_given_ranks_and_groups() -> None:
    model = net()
    structure = find_structure(model, torch.zeros(1, 2, 6, 6))
    seen: list[list[bool]] = []

    def evaluate(m: nn.Module) -> float:
        seen.append((m[3].weight != 0).flatten(1).any(1).tolist())  # type: ignore[index]
        return 0.0

    ranks = {"3": torch.tensor([0.0, 5.0, 1.0, 5.0, 2.0, 3.0])}
    sensitivity(model, structure, evaluate, shares=(0.5,), ranks=ranks, groups=["3"])
    assert seen == [[True] * 6, [False, True, False, True, False, True]]


def test_the_model_comes_back_after_a_failure() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    calls = iter([0.0])
    with pytest.raises(StopIteration):
        sensitivity(model, find_structure(model, torch.zeros(1, 2, 6, 6)), lambda _: next(calls))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("share", [0.0, 1.5, -0.1, True])
def test_bad_shares_are_refused(share: float) -> None:
    model = net()
    with pytest.raises(HyperparameterError, match="shares must be numbers in"):
        sensitivity(model, find_structure(model, torch.zeros(1, 2, 6, 6)), output, shares=(share,))


def test_groups_that_must_stay_are_refused() -> None:
    model = net()
    structure = find_structure(model, torch.zeros(1, 2, 6, 6))
    with pytest.raises(StructureError, match="no channel group 'x'"):
        sensitivity(model, structure, output, groups=["x"])
    kept = next(group.name for group in structure if not group.removable)
    with pytest.raises(StructureError, match=f"no channel of '{kept}' can be removed"):
        sensitivity(model, structure, output, groups=[kept])
    alone = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(StructureError, match="nothing to cut"):
        sensitivity(alone, find_structure(alone, torch.zeros(1, 4)), lambda _: 0.0)
