"""MaskConvNet against hand-computed numbers, in float64."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supermask import Sparsifier
from supermask.core.groups import Structure
from supermask.core.tracing import find_structure
from supermask.core.zoo import RESIDUAL
from supermask.errors import AttachError, BudgetError, HyperparameterError, UnsupportedModuleError
from supermask.methods import MaskConvNet

DOUBLE = torch.float64


class Net(nn.Module):
    """Three convolutions, the last with a bias and no batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 5, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(5)
        self.conv3 = nn.Conv2d(5, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.head(F.relu(self.conv3(x)).mean((2, 3)))  # type: ignore[no-any-return]


def net() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net().double()


def batch(step: int = 0) -> tuple[Tensor, Tensor]:
    x = torch.randn(12, 2, 6, 6, generator=torch.Generator().manual_seed(step), dtype=DOUBLE)
    return x, torch.arange(12) % 3


def attached(method: MaskConvNet | None = None, **fields: Any) -> Sparsifier:
    s = (method or MaskConvNet(**{"warmup": 0.0, **fields})).attach(net(), example=batch()[0])
    assert list(s.gates) == ["conv1", "conv2", "conv3"]
    return s


def bound(s: Sparsifier, total_steps: int = 1000, lr: float = 0.1) -> torch.optim.SGD:
    optimizer = torch.optim.SGD(s.param_groups(), lr=lr, momentum=0.9)
    s.bind(optimizer, total_steps=total_steps)
    return optimizer


def train(s: Sparsifier, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(s.step, s.step + steps):
        optimizer.zero_grad()
        x, y = batch(step % 7)
        F.cross_entropy(s.model(x), y).backward()
        optimizer.step()


def put(s: Sparsifier, seed: int = 1, low: float = -0.45, high: float = 0.45) -> Tensor:
    """Random parameters for all gates, inside the linear part; returns them together."""
    generator = torch.Generator().manual_seed(seed)
    for gate in s.gates.values():
        drawn = torch.rand(len(gate.m), generator=generator, dtype=DOUBLE)
        gate.m.data.copy_(low + (high - low) * drawn)
    return torch.cat([gate.m.detach() for gate in s.gates.values()])


def close(s: Sparsifier, **closed: int) -> None:
    """Let the first so many gates of a group be closed, and all others open."""
    for name, gate in s.gates.items():
        gate.m.data.fill_(0.1)
        gate.m.data[: closed.get(name, 0)] = -0.6


# ---------------------------------------------------------------------- the gates


def test_every_gate_starts_half_open_and_acts_on_everything_that_makes_and_scales_a_channel() -> None:
    s = attached()
    assert {name: gate.values().tolist() for name, gate in s.gates.items()} == {
        "conv1": [0.5] * 6,
        "conv2": [0.5] * 5,
        "conv3": [0.5] * 4,
    }
    plain = net()
    names = ["conv1.weight", "bn1.weight", "bn1.bias", "conv2.weight", "conv2.bias", "bn2.weight", "bn2.bias",
             "conv3.weight", "conv3.bias"]  # fmt: skip
    assert sorted(target.name for target in s.targets) == sorted(names)
    for target in s.targets:
        assert torch.equal(target.weight, plain.get_parameter(target.name) * 0.5)


def test_start_and_temperature() -> None:
    s = attached(start=0.75, temperature=2.0)
    assert s.gates["conv1"].m.tolist() == [0.125] * 6
    assert s.gates["conv1"].values().tolist() == [0.75] * 6


def test_a_closed_channel_is_exactly_zero_behind_batch_norm_in_training_and_in_tests() -> None:
    s = attached()
    model = s.model
    assert isinstance(model, Net)
    with torch.no_grad():
        for norm in (model.bn1, model.bn2):
            norm.running_mean.uniform_(-3.0, 3.0)  # type: ignore[union-attr]
            norm.running_var.uniform_(0.1, 9.0)  # type: ignore[union-attr]
        for target in s.targets:
            if target.name.endswith("bias"):
                target.parameter.fill_(1.7)
    for gate in s.gates.values():
        gate.m.data[0] = -0.5
        gate.m.data[2] = -2.0
    outputs: list[Tensor] = []
    for layer in (model.bn1, model.bn2, model.conv3):
        layer.register_forward_hook(lambda _, __, out: outputs.append(out))
    for mode in (True, False):
        model.train(mode)(batch()[0])
    assert len(outputs) == 6
    for out in outputs:
        assert not bool(out[:, [0, 2]].any())
        assert bool(out[:, 1].any())


def test_the_gradient_of_a_gate_is_that_of_the_factor_inside_and_none_at_the_ends() -> None:
    s = attached()
    put(s)
    gate = s.gates["conv2"]
    gate.m.data[:2] = torch.tensor([-0.5, 0.5])
    x, y = batch()
    F.cross_entropy(s.model(x), y).backward()
    assert gate.m.grad is not None
    assert gate.m.grad[:2].tolist() == [0.0, 0.0]
    for i in range(2, 5):
        losses = []
        for h in (1e-6, -1e-6):
            gate.m.data[i] += h
            losses.append(F.cross_entropy(s.model(x), y).item())
            gate.m.data[i] -= h
        assert gate.m.grad[i].item() == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-5, abs=1e-9)


# ---------------------------------------------------------------------- the loss


def value_of_penalty(s: Sparsifier) -> float:
    penalty = s.method.penalty(s)
    assert penalty is not None
    return penalty.item()


def gradient_of_penalty(s: Sparsifier) -> Tensor:
    penalty = s.method.penalty(s)
    assert penalty is not None
    return torch.cat(torch.autograd.grad(penalty, [gate.m for gate in s.gates.values()]))


def test_the_penalty_and_its_gradient_in_closed_form() -> None:
    s = attached(lam_mean=3.0, lam_var=4.0, budget={"macs": 0.3})
    bound(s)
    k = put(s) + 0.5
    n, mu, var = len(k), k.mean(), k.var()
    d = 0.7
    guarded = mu + 1e-8
    assert value_of_penalty(s) == pytest.approx(float(d * (3.0 * mu - 4.0 * var / guarded)), rel=1e-12)
    closed = d * (3.0 / n - 4.0 * (2.0 * (k - mu) / ((n - 1) * guarded) - var / (n * guarded**2)))
    gradient = gradient_of_penalty(s)
    torch.testing.assert_close(gradient, closed, rtol=1e-10, atol=1e-12)
    for i in (0, 7, 13):
        values = []
        for h in (1e-6, -1e-6):
            moved = k.clone()
            moved[i] += h
            values.append(d * (3.0 * moved.mean() - 4.0 * moved.var() / (moved.mean() + 1e-8)))
        assert float(gradient[i]) == pytest.approx(float(values[0] - values[1]) / 2e-6, rel=1e-5)


def test_saturated_gates_are_pooled_but_not_pressed() -> None:
    s = attached()
    bound(s)
    put(s)
    s.gates["conv1"].m.data[:3] = torch.tensor([-0.5, 0.5, 0.9])
    assert gradient_of_penalty(s)[:3].tolist() == [0.0, 0.0, 0.0]
    k = torch.cat([gate.values() for gate in s.gates.values()])
    assert value_of_penalty(s) == pytest.approx(float(0.5 * (3.0 * k.mean() - 4.0 * k.var() / (k.mean() + 1e-8))))


def test_two_budgets_add_up_each_with_its_own_multipliers() -> None:
    s = attached(
        budget={"params": 0.2, "macs": 0.6}, lam_mean={"params": 3.0, "macs": 5.0}, lam_var={"macs": 6.0, "params": 4.0}
    )
    bound(s)
    k = put(s) + 0.5
    mu, spread = k.mean(), k.var() / (k.mean() + 1e-8)
    expected = 0.8 * (3.0 * mu - 4.0 * spread) + 0.4 * (5.0 * mu - 6.0 * spread)
    assert value_of_penalty(s) == pytest.approx(float(expected), rel=1e-12)


def test_pooling_by_weight() -> None:
    s = attached(pool="weight", budget={"macs": 0.5})
    bound(s)
    k = put(s) + 0.5
    counts = torch.tensor([2 * 9] * 6 + [6 * 9] * 5 + [5] * 4)
    repeated = k.repeat_interleave(counts)
    expected = 0.5 * (3.0 * repeated.mean() - 4.0 * repeated.var() / (repeated.mean() + 1e-8))
    assert value_of_penalty(s) == pytest.approx(float(expected), rel=1e-12)


def test_pooling_by_weight_is_for_params_alone_where_there_are_several_budgets() -> None:
    s = attached(pool="weight", budget={"params": 0.5, "macs": 0.5}, lam_mean={"params": 0.0, "macs": 1.0}, lam_var=0.0)
    bound(s)
    k = put(s) + 0.5
    assert value_of_penalty(s) == pytest.approx(0.5 * float(k.mean()), rel=1e-12)


def test_a_gate_that_several_convolutions_share_counts_for_each() -> None:
    model, example = RESIDUAL.build(), RESIDUAL.batch()[0]
    s = MaskConvNet(residual="shared").attach(model, example=example)
    assert s.state["counts"][:, 0].tolist() == [2] * 8 + [1] * 6 + [1] * 5
    assert s.state["counts"][:8, 1].tolist() == [2 * 9 + 6 * 9] * 8
    assert list(MaskConvNet().attach(RESIDUAL.build(), example=example).gates) == ["conv1", "last"]


# ---------------------------------------------------------------------- the controller


def state(s: Sparsifier, key: str, unit: str = "macs") -> float:
    return float(s.state[f"{key}/{unit}"])


def macs(*widths: int) -> float:
    """Multiply-accumulates of the net above with these widths."""
    a, b, c = widths
    return 36 * (2 * a * 9 + a * b * 9 + b * c) + c * 3


def test_the_controller_by_hand() -> None:
    s = attached(budget={"macs": 0.4}, interval=50)
    bound(s)
    assert (state(s, "sparsity"), state(s, "deviation")) == (0.0, pytest.approx(0.6))
    close(s, conv1=3, conv2=1)
    first = 1.0 - macs(3, 4, 4) / macs(6, 5, 4)
    s.step = 49
    s.method.after_step(s)
    assert state(s, "sparsity") == 0.0
    s.step = 50
    s.method.after_step(s)
    assert state(s, "sparsity") == pytest.approx(0.9 * first, rel=1e-14)
    assert state(s, "deviation") == pytest.approx(0.6 - 0.9 * first, rel=1e-14)
    close(s, conv1=5, conv2=4, conv3=3)
    second = 1.0 - macs(1, 1, 1) / macs(6, 5, 4)
    s.step = 100
    s.method.after_step(s)
    smoothed = 0.9 * second + 0.1 * 0.9 * first
    assert state(s, "sparsity") == pytest.approx(smoothed, rel=1e-14)
    assert state(s, "deviation") == pytest.approx(0.6 - smoothed, rel=1e-14)
    assert state(s, "deviation") < 0.0  # too much is gone: the pressure is turned around
    before = put(s)
    gradient = gradient_of_penalty(s)
    assert bool((gradient[before < before.mean()] < 0.0).any())  # descent opens gates


def test_each_budget_has_a_controller() -> None:
    s = attached(budget={"macs": 0.4, "params": 0.7}, interval=1, smoothing=1.0)
    bound(s)
    close(s, conv1=2)
    s.step = 1
    s.method.after_step(s)
    assert state(s, "deviation") == pytest.approx(0.6 - (1.0 - macs(4, 5, 4) / macs(6, 5, 4)), rel=1e-14)
    params = 2 * 9 * 6 + 12 + 6 * 5 * 9 + 5 + 10 + 5 * 4 + 4 + 4 * 3 + 3
    gone = 2 * (2 * 9 + 2 + 5 * 9)
    assert state(s, "deviation", "params") == pytest.approx(0.3 - gone / params, rel=1e-14)


def test_warm_up_measures_but_does_not_press() -> None:
    s = attached(warmup=0.25, interval=1, integral=0.5)
    bound(s, total_steps=100)
    close(s, conv1=3)
    s.step = 24
    s.method.after_step(s)
    assert s.method.penalty(s) is None
    assert state(s, "sparsity") > 0.0
    assert state(s, "summed") == 0.0  # errors are not summed up before anything can be done about them
    s.step = 25
    assert s.method.penalty(s) is not None


def test_alternate_steps() -> None:
    s = attached(alternate=3)
    bound(s, total_steps=100)
    pressed = []
    for s.step in range(12):
        pressed.append(s.method.penalty(s) is not None)
    assert pressed == [False, False, False, True, True, True] * 2


def test_the_integral_is_summed_and_bounded() -> None:
    s = attached(budget={"macs": 0.8}, interval=1, smoothing=1.0, integral=0.1)
    bound(s)
    close(s)  # nothing is gone: the error stays 0.2
    for s.step in range(1, 5):
        s.method.after_step(s)
        assert state(s, "summed") == pytest.approx(0.2 * s.step)
        assert state(s, "deviation") == pytest.approx(0.2 + 0.1 * 0.2 * s.step)
    for s.step in range(5, 100):
        s.method.after_step(s)
    assert state(s, "deviation") == pytest.approx(0.4)


def test_an_interrupted_controller_goes_on_bitwise() -> None:
    fields: dict[str, Any] = {
        "interval": 3,
        "integral": 0.05,
        "noise": 0.2,
        "warmup": 0.2,
        "budget": {"macs": 0.5, "params": 0.6},
    }
    whole = attached(**fields)
    optimizer = bound(whole, total_steps=20)
    train(whole, optimizer, 7)  # between two measurements
    saved = copy.deepcopy([whole.model.state_dict(), whole.state_dict(), optimizer.state_dict()])
    train(whole, optimizer, 13)
    other = attached(**fields)
    other.model.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    optimizer = bound(other, total_steps=20)
    optimizer.load_state_dict(saved[2])
    train(other, optimizer, 13)
    assert whole.state.keys() == other.state.keys()
    for key, value in whole.state.items():
        assert torch.equal(value, other.state[key]), key
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name


def test_noise_follows_from_seed_and_step() -> None:
    drawn = []
    for seed in (0, 0, 1):
        s = MaskConvNet(noise=0.3).attach(net(), example=batch()[0], seed=seed)
        bound(s)
        noise = [gate.noise.clone() for gate in s.gates.values() if gate.noise is not None]
        s.step = 1
        s.method.after_step(s)
        later = [gate.noise.clone() for gate in s.gates.values() if gate.noise is not None]
        drawn.append(torch.cat([*noise, *later]))
    assert torch.equal(drawn[0], drawn[1])
    assert not bool((drawn[0] == drawn[2]).any())
    assert len(set(drawn[0].tolist())) == 30
    assert 0.15 < float(drawn[0].std()) < 0.45


# ---------------------------------------------------------------------- mask decay


def test_gates_are_a_group_with_a_decay_of_their_own() -> None:
    s = attached(mask_decay=5e-4)
    groups = s.param_groups(weight_decay=1e-3)
    assert [group["weight_decay"] for group in groups] == [1e-3, 5e-4]
    assert {id(p) for p in groups[1]["params"]} == {id(gate.m) for gate in s.gates.values()}


@pytest.mark.parametrize(("decay", "m"), [(5e-4, -0.55), (5e-4, 0.55)])
def test_mask_decay_brings_a_stuck_gate_back_after_about_190_steps(decay: float, m: float) -> None:
    """ln(0.55 / 0.5) / (lr * decay / (1 - momentum)) = 190.6, and some steps until momentum has built up."""
    s = attached(mask_decay=decay, warmup=1.0)
    optimizer = bound(s)
    gate = s.gates["conv1"]
    gate.m.data[0] = m
    while abs(gate.m[0].item()) >= 0.5:
        optimizer.zero_grad()
        gate.m.grad = torch.zeros_like(gate.m)
        optimizer.step()
        assert s.step < 400
    assert s.step == pytest.approx(math.log(0.55 / 0.5) / 5e-4 + 9, abs=2)


def test_both_ends_hold_what_reaches_them_without_decay() -> None:
    s = attached(mask_decay=0.0, interval=1, lam_mean=50.0)
    optimizer = bound(s, total_steps=30)
    put(s)
    ends = torch.tensor([-0.5, -0.55, 0.5, 0.55], dtype=DOUBLE)
    s.gates["conv1"].m.data[:4] = ends
    free = s.gates["conv1"].m[4:].clone()
    train(s, optimizer, 12)
    assert torch.equal(s.gates["conv1"].m[:4], ends)
    assert not torch.equal(s.gates["conv1"].m[4:], free)


# ---------------------------------------------------------------------- the end


def test_the_budget_is_met_by_removing_the_smallest() -> None:
    s = attached(budget={"macs": 0.5}, lam_mean=0.0, lam_var=0.0, mask_decay=0.0)
    optimizer = bound(s, total_steps=2, lr=1e-6)
    put(s, low=0.0)
    train(s, optimizer, 2)
    m = {name: gate.m.detach() for name, gate in s.gates.items()}
    keeps = s.channels()
    used = float(s.costs["macs"](keeps)) / macs(6, 5, 4)
    assert used <= 0.5
    for name, keep in keeps.items():
        if not bool(keep.all()):
            assert float(m[name][keep].min()) > float(m[name][~keep].max())
            more = keep.clone()
            more[(~keep).nonzero()[0]] = True
            assert float(s.costs["macs"]({**keeps, name: more})) / macs(6, 5, 4) > 0.5
    results = s.method.results(s)
    assert float(results["used/macs"]) == 1.0  # alone, the controller had removed nothing
    torch.testing.assert_close(results["gates/conv1"], m["conv1"] + 0.5, rtol=0, atol=0)
    x = batch()[0]
    with s.sparse(), torch.no_grad():
        before = s.model.eval()(x)
    masks = s.finalize()
    assert torch.equal(s.model(x), before)
    structure = find_structure(s.model, x)
    for found in (structure.found(masks), structure.found(s.model.state_dict())):
        assert {name: keep.tolist() for name, keep in found.items()} == {n: k.tolist() for n, k in keeps.items()}


def test_where_too_much_was_removed_the_largest_remain_at_a_gate_of_0() -> None:
    s = attached(budget={"macs": 0.9}, lam_mean=0.0, lam_var=0.0, mask_decay=0.0)
    optimizer = bound(s, total_steps=1, lr=1e-9)
    close(s, conv1=5, conv2=4)
    s.gates["conv1"].m.data[1] = -0.51
    with torch.no_grad():
        before = s.model.eval()(batch()[0])
    s.model.train()
    train(s, optimizer, 1)
    keeps = s.channels()
    assert keeps["conv1"][1]
    assert 0.75 < float(s.costs["macs"](keeps)) / macs(6, 5, 4) <= 0.9
    assert float(s.method.results(s)["used/macs"]) == pytest.approx(macs(1, 1, 4) / macs(6, 5, 4))
    masks = s.finalize()
    assert masks["conv1.weight"][1].all()
    assert not bool(s.model.get_parameter("conv1.weight")[1].any())
    assert s.model.eval()(batch()[0]).shape == before.shape


def test_a_training_that_ends_early_meets_the_budget_all_the_same() -> None:
    s = attached()
    optimizer = bound(s, total_steps=100)
    for _ in s.rounds():
        train(s, optimizer, 3)
    assert float(s.costs["macs"](s.channels())) / macs(6, 5, 4) <= 0.5
    s.finalize()


def test_the_papers_form_ends_where_the_controller_left_it() -> None:
    s = attached(budget={"macs": 0.9}, project=False)
    optimizer = bound(s, total_steps=1, lr=1e-9)
    close(s, conv1=4)
    train(s, optimizer, 1)
    assert s.channels()["conv1"].tolist() == [False] * 4 + [True] * 2
    assert s.method.promised_budget() is None
    assert float(s.method.results(s)["used/macs"]) == pytest.approx(macs(2, 5, 4) / macs(6, 5, 4))
    s.finalize()  # without a warning


@pytest.mark.parametrize(("empty", "remaining"), [("keep-one", [2]), ("keep-all", [0, 1, 2, 3])])
def test_a_layer_without_an_open_gate(empty: Any, remaining: list[int]) -> None:
    s = attached(empty=empty, project=False, interval=1, smoothing=1.0)
    optimizer = bound(s, total_steps=1, lr=1e-9)
    close(s, conv3=4)
    s.gates["conv3"].m.data[2] = -0.55
    assert s.channels()["conv3"].nonzero().flatten().tolist() == remaining
    train(s, optimizer, 1)
    assert state(s, "sparsity") == pytest.approx(1.0 - macs(6, 5, len(remaining)) / macs(6, 5, 4))
    masks = s.finalize()
    (note,) = (note for note in s.notes if "no gate of conv3 is open, so it computes nothing" in note)
    assert ("one channel" in note) is (empty == "keep-one")
    assert masks["conv3.bias"].nonzero().flatten().tolist() == remaining
    assert not bool(s.model.get_parameter("conv3.weight").any())


def test_a_budget_that_training_never_came_to_is_told() -> None:
    s = attached()
    bound(s, total_steps=5)
    with pytest.warns(UserWarning, match=r"promises budget macs: 0\.5, but 1\.0000 of the macs are used: step 0 of 5"):
        s.finalize()


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"budget": {"macs": 0}}, r"budget macs must be a number in \(0, 1\], got 0"),
        ({"budget": {"macs": 50}}, r"did you mean 0\.5"),
        ({"budget": {"flops": 0.5}}, "did you mean 'macs'"),
        ({"budget": {}}, "budget must name at least one unit"),
        ({"budget": 0.5}, "budget must name at least one unit"),
        ({"lam_mean": {"params": 3.0}}, "lam_mean must have one number for each unit of budget, macs; got params"),
        ({"lam_var": {"macs": -1.0}}, "lam_var"),
        ({"warmup": 1.5}, "warmup"),
        ({"interval": 0}, "interval"),
        ({"smoothing": 0.0}, "smoothing"),
        ({"start": 0.0}, "start"),
        ({"empty": "drop"}, "empty"),
        ({"residual": "all"}, "residual"),
        ({"alternate": -1}, "alternate"),
        ({"project": 1}, "project"),
    ],
)
def test_bad_fields_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperparameterError, match=message):
        MaskConvNet(**fields)


def test_an_infeasible_budget_is_refused_with_the_smallest_that_is_not() -> None:
    least = macs(1, 1, 1) / macs(6, 5, 4)
    up = math.ceil(least * 1e4) / 1e4
    with pytest.raises(BudgetError, match=rf"there remains \{{macs: {up:g}\}}; ask for no less"):
        attached(budget={"macs": 0.01})
    attached(budget={"macs": up})
    with pytest.raises(BudgetError, match="latency"):
        attached(budget={"latency": 0.5})


def test_a_cost_of_the_callers_own() -> None:
    model = net()
    s = MaskConvNet(budget={"latency": 0.6}, interval=1, smoothing=1.0).attach(
        model, example=batch()[0], costs={"latency": lambda keeps: 1.0 + int(keeps["conv2"].sum()) if keeps else 6.0}
    )
    bound(s)
    close(s, conv2=2)
    s.step = 1
    s.method.after_step(s)
    assert state(s, "sparsity", "latency") == pytest.approx(1.0 - 4.0 / 6.0)


def test_neither_structure_nor_example() -> None:
    with pytest.raises(AttachError, match=r"attach\(model, example=x\).*attach\(model, structure="):
        MaskConvNet().attach(net())


def test_networks_without_convolutions_are_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(UnsupportedModuleError, match="removes channels of convolutions.*0: no convolution makes it"):
        MaskConvNet().attach(model, example=torch.zeros(1, 4))


def test_a_structure_given_by_hand_is_the_same_as_one_found() -> None:
    model = net()
    structure = find_structure(model, batch()[0])
    assert isinstance(structure, Structure)
    given, found = MaskConvNet().attach(model, structure=structure), attached(MaskConvNet())
    assert [t.name for t in given.targets] == [t.name for t in found.targets]
    assert given.structure is structure


def test_a_round_is_settled_once_also_when_it_is_resumed() -> None:
    s = attached()
    optimizer = bound(s, total_steps=2)
    train(s, optimizer, 1)
    before = s.state_dict()
    s.settle()
    used, keeps = s.method.results(s)["used/macs"], s.channels()
    resumed = attached()
    resumed.model.load_state_dict(s.model.state_dict())
    resumed.load_state_dict(s.state_dict())
    for one in (s, resumed):
        one.settle()
        assert one.method.results(one)["used/macs"] == used == 1.0
        assert all(torch.equal(keep, keeps[name]) for name, keep in one.channels().items())
    resumed.load_state_dict({key: value for key, value in before.items() if key != "settled"})
    resumed.settle()
    assert resumed.method.results(resumed)["used/macs"] < 1.0, "an older state does not say that it is"
