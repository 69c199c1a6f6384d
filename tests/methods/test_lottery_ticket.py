"""Rounds of training, pruning and rewinding; the paper's rates; criteria by hand."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from supermask import Sparsifier
from supermask.core.targets import find_targets
from supermask.errors import DivergedError, HyperparameterError
from supermask.methods import LotteryTicket

from .helpers import bare, train

STEPS = 6


def small() -> nn.Sequential:
    """Biases, a norm with statistics, and two masked layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(9, 8), nn.BatchNorm1d(8), nn.ELU(), nn.Linear(8, 5))


def learn(s: Sparsifier, first: int, last: int, optimizer: torch.optim.Optimizer) -> None:
    for step in range(first, last):
        optimizer.zero_grad()
        x = torch.randn(16, 9, generator=torch.Generator().manual_seed(step))
        F.cross_entropy(s.model(x), torch.arange(16) % 5).backward()
        optimizer.step()


def fresh(s: Sparsifier) -> torch.optim.SGD:
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    s.bind(optimizer, total_steps=STEPS)
    return optimizer


def values(s: Sparsifier) -> dict[str, Tensor]:
    """Everything but masks, by plain name."""
    return {name: tensor.detach().clone() for name, tensor in s._values().items()}


def run(method: LotteryTicket, model: nn.Module | None = None) -> tuple[Sparsifier, list[dict[str, Any]]]:
    """All rounds; what each began and ended with."""
    s = method.attach(small() if model is None else model)
    rounds = []
    for _ in s.rounds():
        seen: dict[str, Any] = {"begin": values(s), "step": s.step, "masks": s.masks()}
        optimizer = fresh(s)
        learn(s, s.step, STEPS, optimizer)
        seen["end"] = values(s)
        rounds.append(seen)
    return s, rounds


def expected(kept: dict[str, Tensor], masks: Any) -> dict[str, Tensor]:
    return {name: tensor * masks[name] if name in masks else tensor for name, tensor in kept.items()}


@pytest.mark.parametrize("scope", ["global", "uniform", "erk"])
def test_the_density_of_each_round_is_exact_and_masks_are_nested(scope: Any) -> None:
    s, rounds = run(LotteryTicket(density=0.1, rounds=5, scope=scope))
    sizes = 9 * 8 + 8 * 5
    assert [seen["masks"].remaining() for seen in rounds] == [
        math.floor(0.1 ** (r / 4) * sizes + 0.5) for r in range(5)
    ]
    for before, after in itertools.pairwise(rounds):
        for name, mask in after["masks"].items():
            assert not bool((mask & ~before["masks"][name]).any())
    assert s.finalize().remaining() == 11


def test_rewinding_to_the_start_is_bitwise_and_covers_all_tensors() -> None:
    _, rounds = run(LotteryTicket(density=0.3, rounds=3))
    for seen in rounds[1:]:
        assert seen["step"] == 0
        wanted = expected(rounds[0]["begin"], seen["masks"])
        assert {"0.bias", "1.weight", "1.running_mean", "1.num_batches_tracked"} <= wanted.keys()
        for name, tensor in seen["begin"].items():
            assert torch.equal(tensor, wanted[name]), name
            assert not torch.equal(rounds[0]["end"][name], tensor)


def test_rewinding_to_a_step_goes_on_from_there() -> None:
    model = small()
    s = LotteryTicket(density=0.3, rounds=3, rewind="step", rewind_step=2).attach(model)
    plain = LotteryTicket(density=0.3, rounds=2).attach(small())
    learn(plain, 0, 2, fresh(plain))
    kept = values(plain)
    for _ in s.rounds():
        if s.round > 0:
            assert s.step == 2
            wanted = expected(kept, s.masks())
            assert all(torch.equal(tensor, wanted[name]) for name, tensor in values(s).items())
        learn(s, s.step, STEPS, fresh(s))
        assert s.step == STEPS
    assert s.remaining() == 34


def test_learning_rate_rewinding_keeps_the_weights() -> None:
    _, rounds = run(LotteryTicket(density=0.3, rounds=3, rewind="none", rewind_step=4))
    for before, after in itertools.pairwise(rounds):
        assert after["step"] == 4
        wanted = expected(before["end"], after["masks"])
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in after["begin"].items())


def test_reinit_permutes_the_initial_values_of_each_layer() -> None:
    s, rounds = run(LotteryTicket(density=None, rounds=3, rewind="reinit", linear_rate=0.0, output_rate=0.0))
    start = rounds[0]["begin"]
    orders = set()
    for seen in rounds[1:]:
        for name in ("0.weight", "3.weight"):
            assert torch.equal(seen["begin"][name].flatten().sort().values, start[name].flatten().sort().values)
            orders.add(tuple(seen["begin"][name].flatten().tolist()))
        assert torch.equal(seen["begin"]["0.bias"], start["0.bias"])
    assert len(orders) == 4  # another one in each round and layer
    assert s.density() == 1.0


# ---------------------------------------------------------------------- the paper's rates


def percent(shapes: list[tuple[int, ...]], prunings: int, **rates: float) -> float:
    layers = [
        nn.Conv2d(s[1], s[0], 3, bias=False) if len(s) == 4 else nn.Linear(s[1], s[0], bias=False) for s in shapes
    ]
    targets = find_targets(nn.Sequential(*layers))
    counts = LotteryTicket(density=None, **rates)._counts(targets, prunings)  # type: ignore[arg-type]
    return 100 * sum(counts) / sum(target.size for target in targets)


CONVS = {
    "fcn": ([(300, 784), (100, 300), (10, 100)], {}, {1: 80.04, 5: 32.87, 10: 10.83, 15: 3.58, 20: 1.19, 24: 0.50}),
    "conv2": (
        [(64, 3, 3, 3), (64, 64, 3, 3), (256, 16384), (256, 256), (10, 256)],
        {},
        {1: 80.10, 5: 33.02, 10: 10.97, 15: 3.68, 20: 1.26, 24: 0.54},
    ),
    "conv4": (
        [(64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3), (128, 128, 3, 3), (256, 8192), (256, 256), (10, 256)],
        {},
        {1: 81.08, 5: 35.61, 10: 13.35, 15: 5.37, 20: 2.34, 24: 1.28},
    ),
    "conv6": (
        [
            *[(64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3), (128, 128, 3, 3), (256, 128, 3, 3), (256, 256, 3, 3)],
            *[(256, 4096), (256, 256), (10, 256)],
        ],
        {"conv_rate": 0.15},
        {1: 82.54, 5: 38.67, 10: 15.30, 15: 6.18, 20: 2.54, 24: 1.27},
    ),
}


@pytest.mark.parametrize("network", CONVS)
def test_what_the_papers_rates_keep(network: str) -> None:
    shapes, rates, table = CONVS[network]
    assert {r: percent(shapes, r, **rates) for r in table} == pytest.approx(table, abs=0.0055)


def test_rates_prune_each_layer_by_itself() -> None:
    s, rounds = run(LotteryTicket(density=None, rounds=3, linear_rate=0.5, output_rate=0.25))
    assert [[int(m.sum()) for m in seen["masks"].values()] for seen in rounds] == [[72, 40], [36, 30], [18, 23]]
    assert s.method.promised_density() is None


# ---------------------------------------------------------------------- criteria


def score_order(criterion: str, *, same_sign: bool = False) -> list[int]:
    """Positions from the first that goes to the last that remains, one a round."""
    initial = torch.tensor([[0.1, -0.5, 0.9, -0.3, 0.7]], dtype=torch.float64)
    final = torch.tensor([[0.4, -0.6, 0.2, 0.35, -0.8]], dtype=torch.float64)
    model = bare(5, 1, dtype=torch.float64)
    with torch.no_grad():
        model[0].weight.copy_(initial)
    s = LotteryTicket(density=0.2, rounds=5, criterion=criterion, same_sign=same_sign).attach(model)  # type: ignore[arg-type]
    gone: list[int] = []
    for number in range(4):
        s.targets[0].parameter.data.copy_(final)
        s.round = number
        kept = math.floor(0.2 ** ((number + 1) / 4) * 5 + 0.5)
        (mask,) = s.method._masks(s)  # type: ignore[attr-defined]
        assert int(mask.sum()) == kept
        gone += [i for i in range(5) if i not in gone and not bool(mask[0, i])]
        s.set_mask(s.targets[0], mask)
    return gone


def test_criteria_by_hand() -> None:
    """Densities .669, .447, .299, .2 of five weights leave 3, 2, 1, 1. Who goes, those of one pruning in index order."""
    assert score_order("large-final") == [2, 3, 0, 1]  # .4 .6 .2 .35 .8
    assert score_order("small-final") == [1, 4, 0, 3]
    assert score_order("large-init") == [0, 3, 1, 4]  # .1 .5 .9 .3 .7
    assert score_order("small-init") == [2, 4, 1, 3]
    assert score_order("magnitude-increase") == [2, 3, 1, 4]  # .3 .1 -.7 .05 .1; the last is larger by its rounding
    assert score_order("movement") == [0, 1, 3, 2]  # .3 .1 .7 .65 1.5
    # ranks of |w_i|: 0 2 4 1 3, of |w_f|: 2 3 0 1 4, the lower: 0 2 0 1 3; of 1 3 4 then 1 0 2 both; of 1 4 0 1
    assert score_order("large-init-large-final") == [0, 2, 3, 1]
    # ranks of -|w_i|: 4 2 0 3 1, of -|w_f|: 2 1 4 3 0, the lower: 2 1 0 3 0; of 0 1 3 then 1 0 1; 0 and 3 are equal at last
    assert score_order("small-init-small-final") == [2, 4, 1, 3]


def test_same_sign_lets_flipped_weights_go_first() -> None:
    """Positions 3 and 4 changed their sign; 4 has the largest magnitude of all."""
    assert score_order("large-final", same_sign=True) == [3, 4, 2, 0]


def test_random_tickets_differ_by_seed_and_are_nested() -> None:
    found = []
    for seed in (0, 0, 1):
        s = LotteryTicket(density=0.2, rounds=3, criterion="random").attach(small(), seed=seed)
        for _ in s.rounds():
            learn(s, 0, STEPS, fresh(s))
        found.append(s.masks())
    assert all(torch.equal(mask, found[1][name]) for name, mask in found[0].items())
    assert not torch.equal(found[0]["0.weight"], found[2]["0.weight"])


@settings(max_examples=20, deadline=None)
@given(
    st.permutations(range(6)), st.integers(0, 50), st.sampled_from(["large-final", "movement", "large-init-large-final"])
)  # fmt: skip
def test_permuting_outputs_permutes_the_mask(rows: list[int], seed: int, criterion: Any) -> None:
    generator = torch.Generator().manual_seed(seed)
    initial, final = (torch.randn(6, 4, generator=generator) for _ in range(2))

    def ticket(w: Tensor, v: Tensor) -> Tensor:
        model = bare(4, 6)
        model[0].weight.data.copy_(w)
        s = LotteryTicket(density=0.4, rounds=2, criterion=criterion).attach(model)
        s.targets[0].parameter.data.copy_(v)
        assert s.method.next_round(s)
        return s.targets[0].mask

    first, second = ticket(initial, final), ticket(initial[rows], final[rows])
    if criterion == "large-init-large-final":  # two minima may be equal, and then the earlier one is kept
        assert int(first.sum()) == int(second.sum())
    else:
        assert torch.equal(second, first[rows])


# ---------------------------------------------------------------------- interruptions and bad input


@pytest.mark.parametrize(
    "method",
    [
        LotteryTicket(density=0.2, rounds=3),
        LotteryTicket(density=0.2, rounds=3, rewind="step", rewind_step=2),
        LotteryTicket(density=None, rounds=3, rewind="reinit", criterion="movement"),
    ],
    ids=["init", "step", "reinit"],
)
def test_stopped_after_any_step_of_any_round(method: LotteryTicket) -> None:
    """Resumes at the round, bitwise: also when it was stopped between the last step of a round and the pruning."""
    whole, saved = method.attach(small()), []
    for _ in whole.rounds():
        optimizer = fresh(whole)
        for step in range(whole.step, STEPS):
            learn(whole, step, step + 1, optimizer)
            saved.append(copy.deepcopy((whole.model.state_dict(), whole.state_dict(), optimizer.state_dict())))
    assert len(saved) == 3 * STEPS - 2 * method.rewind_step
    for model, state, slots in saved:
        s = method.attach(small())
        s.model.load_state_dict(model)
        s.load_state_dict(state)
        resumed = True
        for _ in s.rounds():
            optimizer = fresh(s)
            if resumed:
                optimizer.load_state_dict(slots)
            resumed = False
            learn(s, s.step, STEPS, optimizer)
        for name, tensor in values(s).items():
            assert torch.equal(tensor, values(whole)[name]), (state["round"], state["step"], name)
        assert all(torch.equal(mask, whole.masks()[name]) for name, mask in s.masks().items())


def test_a_step_that_no_round_has() -> None:
    s = LotteryTicket(rounds=2, rewind="step", rewind_step=STEPS).attach(small())
    with pytest.raises(HyperparameterError, match="rewind_step must be less than the 6 steps of a round, got 6"):
        learn(s, 0, 1, fresh(s))


def test_a_density_below_one_weight_is_refused_before_training() -> None:
    with pytest.raises(HyperparameterError, match="density 0.001 keeps none of 112 weights"):
        LotteryTicket(density=0.001).attach(small())


def test_a_layer_that_loses_everything_is_noted() -> None:
    s, _ = run(LotteryTicket(density=None, rounds=2, linear_rate=0.99, output_rate=0.99))
    assert s.remaining() == 1
    assert not s.notes
    s.finalize()
    assert s.notes == ["no weight of 3.weight remains at the end"]


def test_finalizing_after_the_first_round_says_what_is_missing() -> None:
    s = LotteryTicket(rounds=2).attach(small())
    learn(s, 0, STEPS, fresh(s))
    with pytest.warns(
        UserWarning, match="promises density 0.1, but 100.00 % of the weights remain.*every round of rounds"
    ):
        s.finalize()


def test_weights_that_are_not_numbers() -> None:
    s = LotteryTicket(rounds=2).attach(small())
    s.targets[1].parameter.data[0, 0] = math.nan
    with pytest.raises(DivergedError, match="3.weight holds values that are not numbers"):
        s.method.next_round(s)


def test_tied_weights_rewind_too() -> None:
    model = bare(6, 6, 6)
    model[2].weight = model[0].weight
    start = model[0].weight.detach().clone()
    s = LotteryTicket(density=0.5, rounds=2, criterion="movement").attach(model)
    for _ in s.rounds():
        if s.round == 1:
            assert torch.equal(s.targets[0].dense, start * s.targets[0].mask)
        optimizer = torch.optim.SGD(s.param_groups(), lr=0.1)
        s.bind(optimizer, total_steps=3)
        train(s, 3, optimizer=optimizer)
    assert s.remaining() == 18


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"density": 0.0}, "density must be"),
        ({"rounds": 1}, "rounds must be a whole number of trainings >= 2, got 1"),
        ({"linear_rate": 1.0}, r"linear_rate must be a number in \[0, 0.99\]"),
        ({"criterion": "largest"}, "criterion must be one of large-final, "),
        ({"rewind": "late"}, "rewind must be one of init, step, none, reinit"),
        ({"rewind": "step"}, "rewind_step must be at least 1 with rewind: step, got 0"),
        ({"linear_rate": 0.3}, "linear_rate acts only without a density, got 0.3 and density 0.1"),
        ({"density": None, "scope": "erk"}, "scope acts only with a density, got 'erk' and density None"),
        ({"rewind_step": 5}, "rewind_step must be 0 with rewind: init, got 5"),
        ({"rewind": "reinit", "rewind_step": 5}, "rewind_step must be 0 with rewind: reinit, got 5"),
    ],
)
def test_bad_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperparameterError, match=f"lottery-ticket: {message}"):
        LotteryTicket(**fields)


@pytest.mark.parametrize("criterion", ["movement", "magnitude-increase"])
def test_movement_is_counted_from_what_a_round_began_with(criterion: Any) -> None:
    """With a new order of the initial weights in every round: where nothing is trained, nothing has moved or flipped."""
    method = LotteryTicket(density=0.3, rounds=4, rewind="reinit", criterion=criterion, same_sign=True)
    s = method.attach(small())
    for number in range(4):
        for target in s.targets:
            score = method._score(s, target)
            assert not bool(score[target.mask].any())
            assert bool((score[~target.mask] == -math.inf).all())
        s.step = STEPS
        assert method.next_round(s) == (number < 3)
        s.round += 1


def test_small_weights_of_half_precision_keep_their_sign() -> None:
    """The product of two of them would be 0 in float16."""
    model = bare(4, 1).half()
    start = torch.tensor([[1e-5, -1e-5, 2e-5, 3e-5]])
    model[0].weight.data.copy_(start)
    s = LotteryTicket(density=0.5, rounds=2, same_sign=True).attach(model)
    s.targets[0].parameter.data.copy_(start * torch.tensor([[1, 1, -1, -1]]))
    assert s.method.next_round(s)
    assert s.targets[0].mask.tolist() == [[True, True, False, False]]
