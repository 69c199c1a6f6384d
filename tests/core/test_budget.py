from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor, nn

from supermask.core import budget as budgets
from supermask.core.budget import (
    CountedCost,
    budget_report,
    check_budget,
    check_feasible,
    costs_of,
    fractions,
    granularity,
    header_bytes,
    project,
)
from supermask.core.groups import ChannelGroup, Structure
from supermask.errors import BudgetError, DivergedError, HyperparameterError, StructureError
from supermask.measure.macs import macs

from .structures import added, chain, chain_net

WIDTHS = (6, 9, 4)


def keeps_of(structure: Structure, counts: Mapping[str, int]) -> dict[str, Tensor]:
    """The first channels of each group, as many as told."""
    return {name: torch.arange(structure[name].channels) < count for name, count in counts.items()}


def counted(net: nn.Module) -> tuple[int, int, int]:
    """Parameters, multiply-accumulates and bytes of the file of a network that is really there."""
    params = sum(p.numel() for p in net.parameters())
    return params, macs(net, (3, 8, 8), {})["dense"], len(save(net.state_dict()))


@pytest.mark.parametrize("counts", [(6, 9, 4), (1, 1, 1), (3, 9, 2), (6, 1, 4)])
def test_closed_forms_agree_with_a_rebuilt_network(counts: tuple[int, ...]) -> None:
    structure = chain(WIDTHS)
    keeps = keeps_of(structure, {f"conv{i}": count for i, count in enumerate(counts)})
    costs = costs_of(structure)
    params, multiplied, size = counted(chain_net(counts))
    assert costs["params"](keeps) == params
    assert costs["macs"](keeps) == multiplied
    assert costs["bytes"](keeps) - (header_bytes(structure) - header_bytes(structure, keeps)) == size
    assert costs["volume"](keeps) == 64 * sum(counts)
    # what an operation reads and what it writes; the input is held while the first convolution runs
    held = [64 * (3 + counts[0]), *(2 * 64 * n for n in counts), *(64 * (a + b) for a, b in zip(counts, counts[1:]))]
    assert costs["activations"](keeps) == max([*held, counts[-1] * (64 + 16), counts[-1] * 16 + 5])


def test_the_header_of_the_dense_file_is_exact_and_the_longest() -> None:
    structure = chain(WIDTHS)
    data = sum(tensor.numel() * tensor.element_size() for tensor in chain_net(WIDTHS).state_dict().values())
    assert costs_of(structure)["bytes"]({}) == data + header_bytes(structure)
    assert header_bytes(structure, keeps_of(structure, {"conv1": 1})) <= header_bytes(structure)


@pytest.mark.parametrize("kind", [torch.complex64, torch.float64, torch.bfloat16])
def test_the_header_of_other_types(kind: torch.dtype) -> None:
    net = nn.Linear(4, 3, dtype=kind)
    assert costs_of(Structure.by_hand(net, {}))["bytes"]({}) == len(save(net.state_dict()))


def test_a_group_on_two_axes_and_two_writers() -> None:
    structure = added(8, 5)
    costs = costs_of(structure)
    assert costs.keys() == {"params", "macs", "bytes"}  # no activations are known
    keeps = keeps_of(structure, {"stem": 3, "a": 2})
    assert costs["params"](keeps) == 3 * 3 + 2 * 3 + 3 * 2
    assert costs["macs"](keeps) == 210
    assert fractions(costs, keeps)["params"] == 21 / (24 + 40 + 40)


def test_costs_take_microseconds() -> None:
    structure = chain([64] * 100)
    keeps = keeps_of(structure, {"conv3": 5, "conv70": 6})
    for cost in costs_of(structure).values():
        cost(keeps)
        start = time.process_time()
        for _ in range(100):
            cost(keeps)
        assert (time.process_time() - start) / 100 < 2e-3  # 0.05 ms on an idle machine


def test_a_cost_refuses_an_unknown_group() -> None:
    with pytest.raises(StructureError, match="no channel group 'conv9'"):
        costs_of(chain(WIDTHS))["macs"]({"conv9": torch.ones(4, dtype=torch.bool)})


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({}, r"budget must name at least one unit with its fraction, such as \{macs: 0.5\}, got \{\}"),
        (0.5, r"budget must name at least one unit.*got 0.5"),
        ({"macs": 0}, r"budget macs must be a number in \(0, 1\], got 0"),
        ({"macs": -0.1}, r"budget macs .*got -0.1"),
        ({"macs": 50}, r"got 50; did you mean 0.5\? \(a budget is the fraction of the dense"),
        ({"macs": 1.5}, r"got 1.5; did you mean 0.015"),
        ({"macs": 250}, r"got 250 \("),
        ({"macs": float("nan")}, "got nan"),
        ({"macs": True}, "got True"),
        ({"macs": "0.5"}, "got '0.5'"),
        ({"flops": 0.5}, r"budget has the unit 'flops', known are params, .*; did you mean 'macs'\?"),
        ({"FLOPs": 0.5}, "did you mean 'macs'"),
        ({"param": 0.5}, "did you mean 'params'"),
        ({"parameters": 0.5}, "did you mean 'params'"),
        ({"latencies": 0.5}, "did you mean 'latency'"),
        ({7: 0.5}, "budget has the unit 7, known are params, macs, bytes, activations, volume, latency$"),
    ],
)
def test_a_bad_budget_is_refused(budget: object, message: str) -> None:
    with pytest.raises(HyperparameterError, match=f"^some-method: .*{message}"):
        check_budget("some-method", budget)


def test_a_good_budget_is_taken() -> None:
    check_budget("some-method", {"macs": 1, "params": 0.2, "bytes": 0.5, "latency": 0.01})


def test_an_impossible_budget_is_refused_with_what_is_possible() -> None:
    structure = chain(WIDTHS)
    costs = costs_of(structure)
    least = keeps_of(structure, {"conv0": 1, "conv1": 1, "conv2": 1})
    reached = fractions(costs, least)
    assert reached["macs"] < 0.1 < reached["bytes"]
    with pytest.raises(BudgetError) as caught:
        check_feasible(structure, structure.groups, costs, {"macs": 0.001, "bytes": 0.9, "params": 0.5})
    assert "budget {macs: 0.001} cannot be met: with one channel left in each of 3 groups" in str(caught.value)
    shown = {unit: np.ceil(reached[unit] * 1e4) / 1e4 for unit in ("macs", "bytes", "params")}
    assert ", ".join(f"{unit}: {value:g}" for unit, value in shown.items()) in str(caught.value)
    check_feasible(structure, structure.groups, costs, shown)
    with pytest.raises(BudgetError, match="cannot be met"):
        project(structure, structure.groups, {}, ranks_of(structure, 0), costs, {"macs": 0.001})


def test_the_reason_of_a_budget_that_cannot_be_counted() -> None:
    structure = added(8, 5)
    costs = costs_of(structure)
    with pytest.raises(BudgetError, match="budget volume: .*knows no activations; find it with an example"):
        check_feasible(structure, structure.groups, costs, {"volume": 0.5})
    with pytest.raises(BudgetError, match=r"budget latency: .*known: params, bytes, macs\); bring its cost: attach"):
        check_feasible(structure, structure.groups, costs, {"latency": 0.5})
    some = Structure(structure.groups, structure.shapes, {}, structure.positions, uncounted=("b",))
    with pytest.raises(
        BudgetError, match="budget macs: .*known: params, bytes.; b meet sums that are not counted; bring a"
    ):
        check_feasible(some, some.groups, costs_of(some), {"macs": 0.5})
    with pytest.raises(BudgetError, match="latency: the whole network has none of it"):
        check_feasible(structure, structure.groups, {"latency": lambda keeps: 0.0}, {"latency": 0.5})
    kept = ChannelGroup("head", 5, (), kept="its channels are the model's output")
    with pytest.raises(
        BudgetError, match="no channel group may lose a channel .head: its channels are the model's output"
    ):
        check_feasible(Structure((kept,), {"w": (5,)}, {}, {}), (), {"params": lambda keeps: 5.0}, {"params": 0.5})


def test_nothing_to_choose_from_is_refused() -> None:
    structure = chain(WIDTHS)
    with pytest.raises(BudgetError, match="no channel group may lose a channel"):
        project(structure, [], {}, {}, costs_of(structure), {"params": 0.5})


def test_channels_of_other_groups_can_be_too_many_already() -> None:
    structure = chain(WIDTHS)
    costs, ranks = costs_of(structure), ranks_of(structure, 0)
    keeps = keeps_of(structure, {"conv1": 1})
    found = project(structure, structure.groups[:1], keeps, ranks, costs, {"params": 0.5})
    assert torch.equal(found["conv1"], keeps["conv1"])
    with pytest.raises(BudgetError, match="no less|that remain are too many"):
        project(structure, structure.groups[:1], {}, ranks, costs, {"params": 0.5})
    grown = dict(keeps_of(structure, {"conv2": 4}))
    limit = {"params": 0.45}
    check_feasible(structure, structure.groups[:2], costs, limit)
    assert fractions(costs, project(structure, structure.groups[:2], grown, ranks, costs, limit))["params"] <= 0.45


def ranks_of(structure: Structure, seed: int, levels: int = 1000) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {g.name: torch.randint(levels, (g.channels,), generator=generator).float() for g in structure}


UNITS = st.sampled_from(["params", "macs", "bytes", "activations", "volume"])


@settings(max_examples=60, deadline=None)
@given(
    widths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    seed=st.integers(0, 2**20),
    levels=st.sampled_from([1, 3, 1000]),
    wanted=st.dictionaries(UNITS, st.floats(0.01, 1.0), min_size=1, max_size=3),
    gone=st.floats(0.0, 0.9),
)
def test_projection_meets_every_limit_and_leaves_no_room(
    widths: list[int], seed: int, levels: int, wanted: dict[str, float], gone: float
) -> None:
    structure = chain(widths)
    costs, ranks = costs_of(structure), ranks_of(structure, seed, levels)
    least = fractions(costs, keeps_of(structure, {g.name: 1 for g in structure}))
    budget = {unit: max(fraction, least[unit]) for unit, fraction in wanted.items()}
    generator = torch.Generator().manual_seed(seed)
    before = {g.name: torch.rand(g.channels, generator=generator) >= gone for g in structure}
    found = project(structure, structure.groups, before, ranks, costs, budget)
    structure.check(found)
    spent = fractions({unit: costs[unit] for unit in budget}, found)
    for unit, limit in budget.items():
        assert spent[unit] <= limit * (1 + 1e-12)
    for group in structure:
        keep, rank = found[group.name], ranks[group.name]
        for channel in (~keep).nonzero().flatten().tolist():
            more = keep.clone()
            more[channel] = True
            now = fractions({unit: costs[unit] for unit in budget}, {**found, group.name: more})
            assert any(now[unit] > limit for unit, limit in budget.items())
        present = before[group.name]
        value = torch.where(present, rank + levels, rank)  # what was there ranks above what was gone
        if keep.any() and not keep.all():
            assert value[keep].min() >= value[~keep].max()
        ties = value == value[keep].min()
        assert keep[ties].tolist() == sorted(keep[ties].tolist(), reverse=True)  # the earlier of equals
    again = project(structure, structure.groups, before, ranks, costs, budget)
    assert all(torch.equal(found[name], again[name]) for name in found)


def test_the_lowest_go_first_over_all_groups() -> None:
    structure = chain((4, 4), size=2)
    ranks = {"conv0": torch.tensor([0.9, 0.8, 0.1, 0.7]), "conv1": torch.tensor([0.2, 0.95, 0.6, 0.5])}
    costs = costs_of(structure)
    limit = costs["volume"]({}) - 3 * 4  # each channel is four entries: three must go
    found = project(structure, structure.groups, {}, ranks, costs, {"volume": limit / costs["volume"]({})})
    assert found["conv0"].tolist() == [True, True, False, True]
    assert found["conv1"].tolist() == [False, True, True, False]


def test_what_fits_comes_back() -> None:
    structure = chain((8, 8), size=2, inputs=1)
    cost = {"conv0": 1.0, "conv1": 10.0}
    injected = {"latency": lambda keeps: sum(w * int(keeps[n].sum()) if n in keeps else 8 * w for n, w in cost.items())}
    ranks = {"conv0": torch.zeros(8), "conv1": torch.ones(8)}  # all of conv0 goes before any of conv1
    found = project(structure, structure.groups, {}, ranks, injected, {"latency": 75.0 / 88.0})
    assert (int(found["conv0"].sum()), int(found["conv1"].sum())) == (5, 7)


def test_what_was_gone_comes_back_last_and_only_as_far_as_it_fits() -> None:
    structure = chain((4,), size=2)
    costs, ranks = costs_of(structure), {"conv0": torch.tensor([4.0, 3.0, 2.0, 1.0])}
    before = {"conv0": torch.tensor([False, False, True, True])}
    for limit, expected in ((0.5, [0, 0, 1, 1]), (0.75, [1, 0, 1, 1]), (0.25, [0, 0, 1, 0]), (1.0, [1, 1, 1, 1])):
        found = project(structure, structure.groups, before, ranks, costs, {"volume": limit})
        assert found["conv0"].int().tolist() == expected


def test_a_limit_that_a_cost_meets_to_the_last_digit_is_met() -> None:
    structure = chain((10,), size=2)
    costs = costs_of(structure)
    for kept in range(1, 11):
        found = project(structure, structure.groups, {}, ranks_of(structure, 1), costs, {"volume": kept / 10})
        assert int(found["conv0"].sum()) == kept


def test_a_cost_that_is_not_monotone_still_keeps_its_limit() -> None:
    structure = chain((50,), size=2)
    bumpy = {
        "latency": lambda keeps: float(n + 5 * (n % 7)) if (n := int(keeps.get("conv0", torch.ones(50)).sum())) else 0
    }
    found = project(structure, structure.groups, {}, ranks_of(structure, 1), bumpy, {"latency": 0.5})
    assert bumpy["latency"](found) <= 0.5 * bumpy["latency"]({})


def test_nan_ranks_are_refused() -> None:
    structure, ranks = chain((4,)), {"conv0": torch.tensor([1, torch.nan, 2, 3])}
    with pytest.raises(DivergedError, match="channels of conv0 are ranked by values that are not numbers"):
        project(structure, structure.groups, {}, ranks, costs_of(structure), {"macs": 0.5})


def test_thousands_of_channels_are_projected_in_well_under_a_second() -> None:
    structure = chain([512] * 12, size=4)
    costs, ranks = costs_of(structure), ranks_of(structure, 0, 10**6)
    start = time.process_time()
    found = project(structure, structure.groups, {}, ranks, costs, {"macs": 0.3, "params": 0.4, "activations": 0.9})
    assert time.process_time() - start < 0.5
    assert 0.29 < fractions(costs, found)["macs"] <= 0.3


def test_counted_and_other_costs_project_alike() -> None:
    structure = chain((12, 20, 9))
    costs, ranks = costs_of(structure), ranks_of(structure, 3)
    assert isinstance(costs["macs"], CountedCost)
    plain = {"macs": lambda keeps: costs["macs"](keeps)}
    a = project(structure, structure.groups, {}, ranks, costs, {"macs": 0.4})
    b = project(structure, structure.groups, {}, ranks, plain, {"macs": 0.4})
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_report_states_limit_spending_and_granularity() -> None:
    structure = chain((10, 20), size=4)
    costs = costs_of(structure)
    found = project(structure, structure.groups, {}, ranks_of(structure, 0), costs, {"macs": 0.5})
    report = budget_report(structure.groups, found, costs, {"macs": 0.5})
    assert report.keys() == costs.keys()
    entry = report["macs"]
    assert entry.limit == 0.5
    assert report["params"].limit is None
    assert entry.cost == costs["macs"](found)
    assert entry.dense == costs["macs"]({})
    assert entry.limit - entry.granularity < entry.fraction <= entry.limit
    assert str(entry).startswith(f"macs: {100 * entry.fraction:.2f} % (")
    assert "at most 50 %, one channel is up to" in str(entry)
    assert "at most" not in str(report["params"])


def test_granularity_is_the_largest_step_of_one_channel() -> None:
    structure = chain((4, 2), size=2)
    steps = granularity(structure.groups, {}, {"volume": costs_of(structure)["volume"]})
    assert steps == {"volume": 1 / 6}
    alone = keeps_of(structure, {"conv0": 4, "conv1": 2})
    assert granularity(structure.groups, alone, {"volume": costs_of(structure)["volume"]}) == steps
    single = chain((1,))
    assert granularity(single.groups, {}, {"volume": costs_of(single)["volume"]}) == {"volume": 0.0}


def test_other_words_lead_to_units() -> None:
    assert set(budgets._OTHER_WORDS.values()) <= set(budgets.UNITS)
