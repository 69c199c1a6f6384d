"""BAR against hand-computed numbers, in float64."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from supermask import Sparsifier
from supermask.core.groups import Structure
from supermask.core.tracing import find_structure
from supermask.core.zoo import RESIDUAL
from supermask.errors import AttachError, BudgetError, HyperparameterError
from supermask.methods import BAR

from .test_mask_conv_net import DOUBLE, Net, batch, macs, net

AREA = 36
DENSE = AREA * (6 + 5 + 4)  # entries of the three maps


def attached(**fields: Any) -> Sparsifier:
    defaults = {"pretrain": False, "fine_tune": False, "cap": 100.0}
    return BAR(**{**defaults, **fields}).attach(net(), example=batch()[0], seed=3)


def bound(s: Sparsifier, total_steps: int = 10, lr: float = 0.05) -> torch.optim.SGD:
    optimizer = torch.optim.SGD(s.param_groups(), lr=lr, momentum=0.9, weight_decay=1e-3)
    s.bind(optimizer, total_steps=total_steps)
    return optimizer


def train(s: Sparsifier, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(s.step, s.step + steps):
        optimizer.zero_grad()
        x, y = batch(step % 7)
        F.cross_entropy(s.model(x), y).backward()
        optimizer.step()


def run(s: Sparsifier, steps: int = 4, lr: float = 0.05) -> None:
    """All rounds, each with a fresh optimizer."""
    for _ in s.rounds():
        train(s, bound(s, steps, lr), steps)


def set_m(s: Sparsifier, value: float, **closed: int) -> None:
    for name, gate in s.gates.items():
        gate.m.data.fill_(value)
        gate.m.data[: closed.get(name, 0)] = -5.0


# ---------------------------------------------------------------------- the gates


def test_gates_act_on_scales_and_shifts_and_where_there_are_none_on_the_layer() -> None:
    s = attached()
    scaled = {t.name for t in s.targets if t.parametrization.scales}  # type: ignore[union-attr]
    assert scaled == {"bn1.weight", "bn1.bias", "bn2.weight", "bn2.bias", "conv3.weight", "conv3.bias"}
    assert {t.name for t in s.targets} - scaled == {"conv1.weight", "conv2.weight", "conv2.bias"}


def test_the_start_is_half_open_and_a_little_apart() -> None:
    s = attached()
    m = torch.cat([gate.m.detach() for gate in s.gates.values()])
    assert m.dtype == DOUBLE
    assert 0.0 < float(m.min()) < float(m.max()) < 0.01
    torch.testing.assert_close(s.gates["conv1"].values(), torch.sigmoid(s.gates["conv1"].m.detach()) * 1.2 - 0.1)
    later = attached(start=0.9)
    assert float(later.gates["conv1"].m.detach().min()) > math.log(9.0)


def test_noise_is_new_at_every_step_follows_from_the_seed_and_is_for_training_alone() -> None:
    seen = []
    for _ in range(2):
        s = attached()
        optimizer = bound(s, lr=1e-9)
        gate = s.gates["conv2"]
        for _ in range(3):
            assert gate.noise is not None
            seen.append(gate.noise.clone())
            expected = torch.clamp(torch.sigmoid((gate.noise + gate.m.detach()) * 1.5) * 1.2 - 0.1, 0.0, 1.0)
            torch.testing.assert_close(gate().detach(), expected)
            train(s, optimizer, 1)
        s.model.eval()
        torch.testing.assert_close(gate().detach(), gate.values())
    assert all(torch.equal(a, b) for a, b in zip(seen[:3], seen[3:], strict=True))
    assert not bool((seen[0] == seen[1]).any())


def test_statistics_of_batch_norm_do_not_see_the_gates() -> None:
    """The maps before batch norm are those of the ungated network."""
    s, plain = attached(), net()
    set_m(s, 0.0, conv1=3)
    outputs: list[Tensor] = []
    for model in (s.model, plain):
        assert isinstance(model, Net)
        model.conv1.register_forward_hook(lambda _, __, out: outputs.append(out))
        model(batch()[0])
    assert torch.equal(outputs[0], outputs[1])


def test_a_closed_gate_is_exactly_zero_and_its_channel_goes() -> None:
    s = attached()
    set_m(s, 3.0, conv1=2, conv3=1)
    x = batch()[0]
    s.model.eval()
    with s.sparse(), torch.no_grad():
        out = s.model(x)
        assert torch.equal(out, s.model(x))
        hidden = s.model.bn1(s.model.conv1(x))  # type: ignore[operator]
    assert not bool(hidden[:, :2].any())
    assert s.channels()["conv1"].tolist() == [False, False, True, True, True, True]
    with pytest.warns(UserWarning, match="promises budget volume"):
        masks = s.finalize()
    assert torch.equal(s.model(x), out)
    found = find_structure(s.model, x).found(s.model.state_dict())
    assert found["conv1"].tolist() == [False, False, True, True, True, True]
    assert found["conv3"].tolist() == [False, True, True, True]
    assert not bool(masks["conv1.weight"][:2].any())


# ---------------------------------------------------------------------- size and barrier


def test_the_size_by_hand() -> None:
    s = attached(budget={"volume": 0.5}, lam=2e-3)
    bound(s)
    set_m(s, 0.3, conv2=2)
    s.state["barrier/volume"] = torch.tensor(7.0, dtype=DOUBLE)
    penalty = s.method.penalty(s)
    assert penalty is not None
    chance = [1.0 / (1.0 + math.exp(-(m + 2.0 / 3.0 * math.log(11.0)))) for m in (0.3, -5.0)]
    assert penalty.item() == pytest.approx(2e-3 * 7.0 * AREA * (13 * chance[0] + 2 * chance[1]), rel=1e-12)
    (gradient,) = torch.autograd.grad(penalty, [s.gates["conv1"].m])
    assert gradient.tolist() == [pytest.approx(2e-3 * 7.0 * AREA * chance[0] * (1.0 - chance[0]), rel=1e-12)] * 6


def test_other_units_are_scaled_to_the_volume() -> None:
    s = attached(budget={"macs": 0.5}, lam=1.0)
    one_less = macs(6, 5, 4) - macs(5, 5, 4)
    assert s.state["size/macs"][:6].tolist() == [pytest.approx(one_less / macs(6, 5, 4) * DENSE, rel=1e-12)] * 6


def test_the_barrier_and_the_moving_budget_by_hand() -> None:
    s = attached(budget={"volume": 0.6}, cap=1e10)
    bound(s, total_steps=4)
    set_m(s, 1.0, conv1=4)
    used = AREA * 11 / DENSE
    low = 0.6 - 1.01e-4
    for s.step in (1, 2):
        s.method.after_step(s)
        c = 1.0 / (1.0 + math.exp(5.0))
        t = (1.0 / (1.0 + math.exp(-10.0 * (s.step / 4 - 0.5))) - c) / (1.0 - 2.0 * c)
        limit = (1.0 - t) * 1.01 + t * 0.6
        expected = (used - low) ** 2 / ((limit - low) * (limit - used))
        assert float(s.state["barrier/volume"]) == pytest.approx(expected, rel=1e-9)
    s.step = 3
    s.method.after_step(s)
    assert float(s.state["barrier/volume"]) == 1e10  # the limit has passed what is used
    set_m(s, 1.0, conv1=5, conv2=4)
    s.method.after_step(s)
    assert float(s.state["barrier/volume"]) == 0.0


def test_several_budgets_add_up() -> None:
    s = attached(budget={"volume": 0.5, "params": 0.5}, lam=1.0)
    bound(s)
    chance = torch.sigmoid(torch.cat([g.m.detach() for g in s.gates.values()]) + 2.0 / 3.0 * math.log(11.0))
    s.state["barrier/volume"] = torch.tensor(2.0, dtype=DOUBLE)
    s.state["barrier/params"] = torch.tensor(3.0, dtype=DOUBLE)
    expected = sum(f * (s.state[f"size/{unit}"] * chance).sum() for unit, f in (("volume", 2.0), ("params", 3.0)))
    penalty = s.method.penalty(s)
    assert penalty is not None
    assert penalty.item() == pytest.approx(float(expected), rel=1e-12)


# ---------------------------------------------------------------------- the rounds


def test_three_rounds() -> None:
    s = attached(pretrain=True, fine_tune=True, budget={"volume": 0.6}, lam=1e-4)
    modes, penalties, groups = [], [], []
    for _ in s.rounds():
        modes.append({gate.mode for gate in s.gates.values()})
        penalties.append(s.method.penalty(s) is not None)
        optimizer = bound(s, 4)
        groups.append(len(optimizer.param_groups))
        train(s, optimizer, 4)
    assert modes == [{"fixed"}, {"open"}, {"fixed"}]
    assert penalties == [False, True, False]
    assert groups == [1, 2, 1]
    used = float(s.costs["volume"](s.channels())) / DENSE
    assert 0.6 - AREA / DENSE < used <= 0.6
    results = s.method.results(s)
    assert set(results) == {"gates/conv1", "gates/conv2", "gates/conv3", "used/volume"}
    assert 0.0 < float(results["gates/conv1"].max()) < 1.0  # as learnt, not as fixed
    before = s.channels()
    masks = s.finalize()
    assert {name: int(keep.sum()) for name, keep in before.items()} == {
        name: int(masks[f"{name}.weight"].flatten(1).any(1).sum()) for name in before
    }


def test_pre_training_is_that_of_the_plain_network() -> None:
    s, plain = attached(pretrain=True), net()
    train(s, bound(s, 5), 5)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    for step in range(5):
        optimizer.zero_grad()
        x, y = batch(step)
        F.cross_entropy(plain(x), y).backward()
        optimizer.step()
    for target in s.targets:
        assert torch.equal(target.weight, plain.get_parameter(target.name)), target.name


@pytest.mark.parametrize("end", ["fold", "binary"])
def test_what_gates_become_before_fine_tuning(end: Any) -> None:
    s = attached(fine_tune=True, end=end, budget={"volume": 0.6}, lam=1e-4)
    rounds = s.rounds()
    next(rounds)
    train(s, bound(s, 4), 4)
    x = batch()[0]
    s.model.eval()
    with s.sparse(), torch.no_grad():
        before = s.model(x)
        stored = {t.name: t.parameter.detach().clone() for t in s.targets}
    next(rounds)
    with torch.no_grad():
        after = s.model(x)
    assert torch.allclose(after, before, rtol=1e-12, atol=1e-12) == (end == "fold")
    for target in s.targets:
        if end == "binary":
            assert torch.equal(target.parameter, stored[target.name])


def test_what_the_budget_brings_back_can_be_trained_again() -> None:
    s = attached(fine_tune=True, budget={"volume": 0.8}, lam=0.0)
    rounds = s.rounds()
    next(rounds)
    set_m(s, 1.0, conv1=6, conv3=3)
    s.gates["conv3"].m.data[:3] = -4.0  # come back first
    train(s, bound(s, 1, lr=1e-9), 1)
    stored = {t.name: t.parameter.detach().clone() for t in s.targets}
    back = s.channels()["conv3"] & (s.gates["conv3"].values() == 0)
    assert bool(back.any())
    next(rounds)
    weights = {t.name: t.weight for t in s.targets}
    assert torch.equal(weights["conv3.weight"][back], stored["conv3.weight"][back])
    gone = ~s.channels()["conv1"]
    assert bool(gone.any())
    assert not bool(weights["bn1.weight"][gone].any())
    before = s.model.get_parameter("conv3.parametrizations.weight.original").detach().clone()
    train(s, bound(s, 3), 3)
    after = s.model.get_parameter("conv3.parametrizations.weight.original")
    assert not torch.equal(after[back], before[back])


def test_an_interrupted_search_goes_on_bitwise() -> None:
    fields: dict[str, Any] = {"budget": {"volume": 0.6, "macs": 0.5}, "lam": 0.05}
    whole = attached(**fields)
    optimizer = bound(whole, 8)
    train(whole, optimizer, 3)
    saved = copy.deepcopy([whole.model.state_dict(), whole.state_dict(), optimizer.state_dict()])
    train(whole, optimizer, 5)
    other = attached(**fields)
    other.model.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    optimizer = bound(other, 8)
    optimizer.load_state_dict(saved[2])
    train(other, optimizer, 5)
    for key, value in whole.state.items():
        assert torch.equal(value, other.state[key]), key
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name


def test_without_projection_the_barrier_alone_decides() -> None:
    s = attached(project=False, lam=0.0, budget={"volume": 0.6})
    run(s)
    assert s.method.promised_budget() is None
    assert float(s.method.results(s)["used/volume"]) == 1.0
    assert all(bool(keep.all()) for keep in s.channels().values())
    s.finalize()


def test_the_barrier_closes_gates() -> None:
    """Long enough, and with a weight for so small a network, the search itself comes to the budget."""
    s = attached(budget={"volume": 0.5}, lam=1e-3)
    optimizer = torch.optim.Adam(s.param_groups(), lr=0.05)
    s.bind(optimizer, total_steps=120)
    train(s, optimizer, 120)
    assert float(s.method.results(s)["used/volume"]) < 0.75


def test_shared_channels() -> None:
    example = RESIDUAL.batch()[0]
    s = BAR(residual="shared", budget={"volume": 0.7}).attach(RESIDUAL.build(), example=example)
    assert list(s.gates) == ["stem", "conv1", "last"]
    inner = BAR(budget={"volume": 0.7}).attach(RESIDUAL.build(), example=example)
    assert list(inner.gates) == ["conv1", "last"]


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"budget": {"volume": 1.5}}, "budget volume"),
        ({"lam": -1.0}, "lam"),
        ({"schedule": "linear"}, "schedule"),
        ({"steepness": 0.0}, "steepness"),
        ({"cap": 0.0}, "cap"),
        ({"start": 1.0}, "start must be below 1"),
        ({"start": 0.0}, "start"),
        ({"temperature": 0.0}, "temperature"),
        ({"stretch": 0.0}, "stretch"),
        ({"end": "round"}, "end"),
        ({"pretrain": "no"}, "pretrain"),
    ],
)
def test_bad_fields_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperparameterError, match=message):
        BAR(**fields)


def test_an_infeasible_budget_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"volume: 0\.2"):
        attached(budget={"volume": 0.1})


def test_a_structure_without_activations_has_no_volume() -> None:
    model = net()
    found = find_structure(model, batch()[0])
    bare = Structure(found.groups, found.shapes, found.buffers, found.positions)
    with pytest.raises(AttachError, match="the volume, which this structure does not know"):
        BAR(budget={"macs": 0.5}).attach(model, structure=bare)
    assert not hasattr(model.conv1, "parametrizations")
