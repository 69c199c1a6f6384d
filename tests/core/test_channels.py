"""Methods that remove channels: which groups they act on, what is masked and gated, and the end at a budget."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supermask import Method, Sparsifier
from supermask.core.budget import project
from supermask.core.channels import draw_noise, filters_and_weights, fix_gates, install_gates, used
from supermask.core.checks import CHECKS, run_check
from supermask.core.gates import Gate
from supermask.core.groups import ChannelGroup, Structure
from supermask.core.zoo import RESIDUAL, zoo_for
from supermask.errors import (
    AttachError,
    BudgetError,
    HyperparameterError,
    NoTargetsError,
    StateError,
    StructureError,
    UnsupportedModuleError,
)
from supermask.tensors.gates import hard_sigmoid
from supermask.tensors.scores import wide

from .helpers import Cut, ranks
from .structures import chain, chain_net, member

config = dataclass(frozen=True, kw_only=True)


@config
class Gates(Method):
    """A hard sigmoid on every channel."""

    name: ClassVar[str] = "test-gates"
    needs_structure: ClassVar[bool] = True

    noisy: bool = False

    def setup(self, s: Sparsifier) -> None:
        function = partial(hard_sigmoid, slope=1.0)
        dtype = wide(s.targets[0].parameter.dtype)
        starts = {g.name: torch.full((g.channels,), 0.2, dtype=dtype) for g in s.groups}
        install_gates(s, {name: Gate(start, function, noisy=self.noisy) for name, start in starts.items()})
        s.gate_decay = 0.25


def attached(method: Method | None = None, **options: Any) -> Sparsifier:
    model = chain_net([4, 3, 5], size=6, inputs=2, classes=3)
    return (method or Cut()).attach(model, structure=chain([4, 3, 5], size=6, inputs=2, classes=3), **options)


def bound(s: Sparsifier, total_steps: int = 4) -> torch.optim.SGD:
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.05, momentum=0.9)
    s.bind(optimizer, total_steps=total_steps)
    return optimizer


def step(s: Sparsifier, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    x = torch.randn(6, 2, 6, 6, generator=torch.Generator().manual_seed(s.step))
    F.cross_entropy(s.model(x), torch.arange(6) % 3).backward()
    optimizer.step()


def keep(text: str) -> Tensor:
    return torch.tensor([letter == "x" for letter in text])


# ---------------------------------------------------------------------- which groups


def test_targets_are_what_makes_and_scales_the_channels() -> None:
    s = attached()
    assert [group.name for group in s.groups] == ["conv0", "conv1", "conv2"]
    assert [t.name for t in s.targets] == [f"{i}.{kind}" for a in (0, 3, 6) for i, kind in
                                           ((a, "weight"), (a + 1, "weight"), (a + 1, "bias"))]  # fmt: skip
    assert set(s.costs) == {"params", "macs", "bytes", "activations", "volume"}
    assert s.structure is not None


def test_residual_streams_are_for_those_that_ask() -> None:
    example = RESIDUAL.batch()[0]
    for residual, expected in (("inner", ["conv1", "last"]), ("shared", ["stem", "conv1", "last"])):
        s = Cut(residual=residual, budget={"macs": 0.9}).attach(RESIDUAL.build(), example=example)
        assert [group.name for group in s.groups] == expected


def test_ignored_and_frozen_layers_are_left_out_as_groups() -> None:
    assert [g.name for g in attached(ignore="3").groups] == ["conv0", "conv2"]
    assert [g.name for g in attached(targets=["0.weight"], method=Cut(budget={"macs": 0.9})).groups] == ["conv0"]
    model = chain_net([4, 3], size=6, inputs=2)
    model[0].weight.requires_grad_(False)
    s = Cut(budget={"macs": 0.9}).attach(model, structure=chain([4, 3], size=6, inputs=2))
    assert [g.name for g in s.groups] == ["conv1"]


def test_a_part_of_a_group_cannot_be_left_out() -> None:
    with pytest.raises(AttachError, match=r"ignore leaves out 1\.bias, a part of the channels of conv0; .* 0\.weight"):
        attached(ignore=["1.bias"])
    with pytest.raises(
        AttachError, match=r"targets has stem\.weight, whose channels are added to those of conv2\.weight"
    ):
        Cut(residual="shared").attach(RESIDUAL.build(), example=RESIDUAL.batch()[0], targets=["stem.weight"])
    s = Cut(residual="shared", budget={"macs": 0.9}).attach(
        RESIDUAL.build(), example=RESIDUAL.batch()[0], ignore="conv2"
    )
    assert [g.name for g in s.groups] == ["conv1", "last"]


def test_a_model_without_a_group_is_refused_and_the_message_says_why_of_each() -> None:
    structure = chain([4, 3], size=6, inputs=2)
    first, second = structure.groups
    groups = (
        ChannelGroup("conv0", 4, first.members, kept="are the network's outputs"),
        ChannelGroup("conv1", 3, second.members, quiet=False),
    )
    loud = Structure(groups, structure.shapes, structure.buffers, structure.positions, structure.values)
    model = chain_net([4, 3], size=6, inputs=2)
    with pytest.raises(
        UnsupportedModuleError,
        match=r"test-cut removes channels .*conv0: are the network's outputs; conv1: a removed channel would not reach",
    ):
        Cut().attach(model, structure=loud)
    streams = tuple(ChannelGroup(g.name, g.channels, g.members, residual=True) for g in structure.groups)
    stream = Structure(streams, structure.shapes, structure.buffers, structure.positions, structure.values)
    with pytest.raises(UnsupportedModuleError, match="a residual stream, which residual: shared takes"):
        Cut().attach(model, structure=stream)
    with pytest.raises(NoTargetsError):
        Cut().attach(model, structure=structure, ignore=["0", "3", "8"])
    assert all(
        type(module) in (nn.Conv2d, nn.BatchNorm2d, nn.Linear, nn.ReLU, nn.MaxPool2d, nn.Flatten) for module in model
    )


def test_a_structure_of_another_model_is_refused() -> None:
    model = chain_net([4, 3, 6], size=6, inputs=2, classes=3)
    with pytest.raises(StructureError, match=r"6\.weight has shape \(6, 3, 3, 3\), .* is it the same model\?"):
        Cut().attach(model, structure=chain([4, 3, 5], size=6, inputs=2, classes=3))
    with pytest.raises(StructureError, match=r"the structure has 6\.weight, which Sequential lacks"):
        Cut().attach(chain_net([4, 3], size=6, inputs=2), structure=chain([4, 3, 5], size=6, inputs=2))
    with pytest.raises(AttachError, match="structure must be a Structure, got dict"):
        Cut().attach(model, structure={})  # type: ignore[arg-type]


def test_an_infeasible_budget_is_refused_before_anything_is_done() -> None:
    with pytest.raises(BudgetError, match="cannot be met"):
        attached(Cut(budget={"macs": 0.01}))


def test_filters_and_weights_of_a_channel() -> None:
    structure = chain([4, 3])
    assert filters_and_weights(structure, structure["conv1"]) == (1, 4 * 9)
    shapes = {"grouped": (8, 2, 3, 3), "bias": (8,), "transposed": (5, 4, 2, 2)}
    pair = ChannelGroup("g", 4, (member("grouped", 0, 4, "out", 2), member("bias", 0, 4, "out", 2),
                                 member("transposed", 1, 4, "out")))  # fmt: skip
    assert filters_and_weights(Structure((pair,), shapes, {}, {}), pair) == (3, 2 * 18 + 20)


# ---------------------------------------------------------------------- masks


def test_setting_channels_takes_values_and_momentum() -> None:
    s = attached()
    optimizer = bound(s)
    step(s, optimizer)
    keeps = {"conv0": keep("x.xx"), "conv2": keep("..x.x")}
    s.set_channels(keeps)
    now = s.channels()
    assert now["conv0"].tolist() == keeps["conv0"].tolist()
    assert now["conv1"].all()
    assert now["conv2"].tolist() == keeps["conv2"].tolist()
    for target in s.targets:
        gone = ~{"0": keep("x.xx"), "1": keep("x.xx"), "6": keep("..x.x"), "7": keep("..x.x")}.get(
            target.name[0], torch.ones(target.shape[0], dtype=torch.bool)
        )
        assert torch.equal(~target.mask.flatten(1).any(1) if target.mask.dim() > 1 else ~target.mask, gone), target.name
        assert not bool(target.parameter[gone].any())
        (momentum,) = s.slots(target).values()
        assert not bool(momentum[gone].any())
        assert bool(momentum[~gone].any())
    step(s, optimizer)
    assert {n: k.tolist() for n, k in s.channels().items()} == {n: k.tolist() for n, k in now.items()}
    assert not bool(s.model(torch.randn(2, 2, 6, 6)).isnan().any())


def test_channels_can_come_back_from_zero() -> None:
    s = attached()
    s.set_channels({"conv0": keep("x...")})
    s.set_channels({"conv0": keep("xx..")})
    assert s.channels()["conv0"].tolist() == [True, True, False, False]
    assert s.targets[0].mask[1].all()
    assert not bool(s.targets[0].weight[1].any())


def test_channels_that_cannot_be_set() -> None:
    s = attached(ignore="3")
    with pytest.raises(StructureError, match="does not act on the channels of conv1, but on conv0, conv2"):
        s.set_channels({"conv1": keep("x..")})
    with pytest.raises(StructureError, match="no channel of 'conv0' would remain"):
        s.set_channels({"conv0": keep("....")})
    with pytest.raises(StructureError, match="bool of shape"):
        s.set_channels({"conv0": keep("xx")})

    class Bare(Cut):
        def setup(self, s: Sparsifier) -> None:
            """Nothing is put on."""

    with pytest.raises(StateError, match=r"0\.weight has no mask"):
        attached(Bare()).set_channels({"conv0": keep("x...")})


def test_the_end_at_a_budget() -> None:
    s = attached()
    optimizer = bound(s, 2)
    step(s, optimizer)
    assert used(s) == {}
    step(s, optimizer)
    assert {key: float(value) for key, value in used(s).items()} == {"used/macs": 1.0}
    assert s.structure is not None
    expected = project(s.structure, s.groups, {}, ranks(s), s.costs, {"macs": 0.6})
    assert {n: k.tolist() for n, k in s.channels().items()} == {n: k.tolist() for n, k in expected.items()}
    s.finalize()


def test_a_budget_that_is_not_met_is_told_at_the_end() -> None:
    s = attached()
    with pytest.warns(
        UserWarning, match=r"test-cut promises budget macs: 0\.6, but 1\.0000 of the macs are used: no optim"
    ):
        s.finalize()


def test_methods_without_channels_have_none() -> None:
    from supermask import Dense

    s = Dense().attach(nn.Linear(3, 2))
    assert s.channels() == {}
    assert s.structure is None
    with pytest.raises(StructureError, match="dense does not act on the channels of conv0, but on none"):
        s.set_channels({"conv0": keep("x")})


# ---------------------------------------------------------------------- gates


def test_gates_are_one_parameter_a_group_in_a_group_of_their_own() -> None:
    s = attached(Gates())
    assert list(s.gates) == ["conv0", "conv1", "conv2"]
    groups = s.param_groups(weight_decay=0.5, other_weight_decay=0.1)
    assert [group["weight_decay"] for group in groups] == [0.5, 0.1, 0.25]
    assert [p.shape for p in groups[2]["params"]] == [(4,), (3,), (5,)]
    assert len({id(p) for group in groups for p in group["params"]}) == len(list(s.model.parameters()))
    step(s, bound(s))
    assert all(gate.m.grad is not None for gate in s.gates.values())
    fix_gates(s, fold=True)
    assert len(s.param_groups()) == 1


def test_the_summary_names_gates() -> None:
    s = attached(Gates())
    lines = [line.split() for line in s.summary().splitlines()]
    assert ["gates", "of", "conv0", "4", "4", "learnt"] in lines
    assert any(line[0] == "0.weight" and line[-1] == "gated" for line in lines)
    fix_gates(s, fold=False)
    assert ["gates", "of", "conv1", "3", "3", "settled"] in [line.split() for line in s.summary().splitlines()]


def test_folding_keeps_the_function() -> None:
    s = attached(Gates())
    optimizer = bound(s)
    s.gates["conv1"].m.data[0] = -0.7
    step(s, optimizer)
    x = torch.randn(4, 2, 6, 6)
    s.model.eval()
    with torch.no_grad():
        before = s.model(x)
        fix_gates(s, fold=True)
        assert torch.equal(s.model(x), before)
    assert s.channels()["conv1"].tolist() == [False, True, True]
    s.finalize()
    with torch.no_grad():
        assert torch.equal(s.model(x), before)


def test_half_precision_weights_have_gates_of_single_precision() -> None:
    s = Gates().attach(
        chain_net([4, 3], size=6, inputs=2, classes=3).to(torch.bfloat16),
        structure=chain([4, 3], size=6, inputs=2, classes=3),
    )
    assert all(gate.m.dtype == torch.float32 for gate in s.gates.values())
    assert all(target.weight.dtype == torch.bfloat16 for target in s.targets)
    with torch.autocast("cpu", torch.bfloat16):
        s.model(torch.randn(2, 2, 6, 6)).sum().backward()
    assert all(gate.m.grad is not None and gate.m.grad.dtype == torch.float32 for gate in s.gates.values())


def test_a_gated_model_exports() -> None:
    s = attached(Gates(noisy=True))
    x = torch.randn(2, 2, 6, 6)
    s.model.eval()
    exported = torch.export.export(s.model, (x,))
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(x), s.model(x))


def test_noise_of_both_kinds() -> None:
    s = attached(Gates(noisy=True))
    draw_noise(s, "normal", 3, scale=2.0)
    first = torch.cat([gate.noise for gate in s.gates.values() if gate.noise is not None])
    draw_noise(s, "logistic", 3)
    second = torch.cat([gate.noise for gate in s.gates.values() if gate.noise is not None])
    # both come from the same uniform numbers
    uniform = torch.special.ndtr(first.double() / 2.0)
    torch.testing.assert_close(torch.sigmoid(second.double()), uniform, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------- the suite


class AcceptsAnyUnit(Cut):
    """``__post_init__`` does not look at the budget."""


class ForgetsAGate(Gates):
    def setup(self, s: Sparsifier) -> None:
        super().setup(s)
        s.gates.pop("last")


def outcome(check: str, method: Method) -> str:
    result = run_check(check, method, RESIDUAL)
    return f"{result.status} {result.detail}"


def test_the_suite_checks_budgets() -> None:
    assert outcome("keeps_its_budget", Cut(budget={"macs": 0.9})) == "pass "
    assert "accepted" in outcome("refuses_bad_hyperparameters", AcceptsAnyUnit())
    assert "the order differs from the model's" in outcome("keeps_the_parameter_order", ForgetsAGate())


@pytest.mark.parametrize("check", [name for name in CHECKS if name not in ("refuses_bad_hyperparameters", "compiles")])
@pytest.mark.parametrize("method", [Cut(budget={"macs": 0.9}, residual="shared"), Gates()], ids=["masks", "gates"])
def test_a_users_own_method_keeps_every_rule(check: str, method: Method) -> None:
    assert outcome(check, method) == "pass "


def test_a_model_that_does_not_trace_is_a_refusal_by_name() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) if float(x.sum()) > 0 else x  # depends on values

    with pytest.raises((StructureError, UnsupportedModuleError)):
        Cut().attach(Asks(), example=torch.randn(1, 2, 4, 4))


def test_methods_that_remove_channels_get_another_model() -> None:
    assert [zoo.name for zoo in zoo_for(channels=False)] == ["mlp", "conv+bn", "tied", "lstm"]
    assert zoo_for(channels=True)[-1] is RESIDUAL


def test_a_bad_choice_of_residual_names_the_field() -> None:
    with pytest.raises(HyperparameterError, match="residual must be one of inner, shared"):
        Cut(residual="all")
