from __future__ import annotations

import copy
from functools import partial

import torch
from torch import nn

from supermask.core.gates import Gate, Gated
from supermask.tensors.gates import hard_sigmoid


def gate(*m: float, **options: object) -> Gate:
    return Gate(torch.tensor(m, dtype=torch.float64), partial(hard_sigmoid, slope=1.0), **options)  # type: ignore[arg-type]


def test_an_open_gate_is_the_function_of_its_parameter() -> None:
    g = gate(-0.6, -0.3, 0.7)
    torch.testing.assert_close(g().detach(), torch.tensor([0.0, 0.2, 1.0], dtype=torch.float64))
    assert g.remaining().tolist() == [False, True, True]


def test_what_remains_of_an_empty_group() -> None:
    assert gate(-0.6, -0.5, -0.7).remaining().tolist() == [False, True, False]
    assert gate(-0.6, -0.5, -0.7, empty="keep-all").remaining().tolist() == [True, True, True]
    assert gate(-0.6, 0.5, -0.7, empty="keep-all").remaining().tolist() == [False, True, False]


def test_a_decision_closes_and_says_what_remains() -> None:
    g = gate(-0.6, 0.1, 0.2)
    g.decide(torch.tensor([True, False, True]))
    torch.testing.assert_close(g().detach(), torch.tensor([0.0, 0.0, 0.7], dtype=torch.float64))
    torch.testing.assert_close(g.values(), torch.tensor([0.0, 0.6, 0.7], dtype=torch.float64))
    assert g.remaining().tolist() == [True, False, True]  # the first at a factor of 0
    g.open()
    assert g.remaining().tolist() == [False, True, True]


def test_a_fixed_gate_is_0_or_1_and_learns_nothing() -> None:
    g = gate(-0.6, 0.1)
    g.fix(torch.tensor([True, False]))
    assert g().tolist() == [1.0, 0.0]
    assert g.values().tolist() == [1.0, 0.0]
    assert not g.m.requires_grad
    g.open()
    assert g.m.requires_grad
    assert g.keep.tolist() == [True, True]


def test_noise_is_for_training_alone() -> None:
    g = gate(0.0, 0.0, noisy=True)
    assert g.noise is not None
    g.noise.copy_(torch.tensor([0.25, -0.75]))
    assert g().tolist() == [0.75, 0.0]
    g.steady = True
    assert g().tolist() == [0.5, 0.5]
    g.steady = False
    assert g.eval()().tolist() == [0.5, 0.5]
    assert g.train().values().tolist() == [0.5, 0.5]
    assert g.remaining().tolist() == [True, True]


def test_a_state_dict_restores_the_mode() -> None:
    g, other = gate(-0.6, 0.1), gate(0.0, 0.0)
    g.fix(torch.tensor([True, False]))
    other.load_state_dict(g.state_dict())
    assert other.mode == "fixed"
    assert not other.m.requires_grad
    assert other.remaining().tolist() == [True, False]
    other.load_state_dict(gate(0.3, 0.4).state_dict())
    assert other.mode == "open"
    assert other.m.requires_grad


def test_one_gate_in_order_multiplies_an_axis() -> None:
    g = gate(-0.5, 0.0, 0.5)
    weight = torch.ones(3, 2, 1, 1)
    assert Gated([g], None, 0)(weight)[:, 0, 0, 0].tolist() == [0.0, 0.5, 1.0]
    transposed = torch.ones(2, 3, 1, 1)
    effective = Gated([g], None, 1)(transposed)
    assert effective.dtype == torch.float32  # the weight's, not the gate's
    assert effective[0, :, 0, 0].tolist() == [0.0, 0.5, 1.0]
    assert Gated([g], None, 1).remaining(transposed.shape)[1, :, 0, 0].tolist() == [False, True, True]


def test_several_gates_interleaved_with_entries_of_nobody() -> None:
    a, b = gate(-0.3, 0.5), gate(0.1)
    position = torch.tensor([0, 3, 1, 0, 2])  # a, nobody, a, a, b
    gated = Gated([a, b], position, 0)
    torch.testing.assert_close(gated(torch.full((5,), 2.0)).detach(), torch.tensor([0.4, 2.0, 2.0, 0.4, 1.2]))
    a.decide(torch.tensor([False, True]))
    assert gated.remaining(torch.Size([5])).tolist() == [False, True, True, False, True]
    assert gated(torch.full((5,), 2.0))[[0, 3]].tolist() == [0.0, 0.0]


def test_a_tensor_that_is_not_scaled_only_loses_what_is_removed() -> None:
    g = gate(-0.6, -0.2)
    gated = Gated([g], None, 0, scales=False)
    dense = torch.ones(2, 3)
    assert gated(dense) is dense
    gated.steady = True
    assert torch.equal(gated(dense), torch.tensor([[0.0] * 3, [1.0] * 3]))


def test_a_shared_gate_is_one_in_a_copy_as_well() -> None:
    g = gate(0.1, 0.2)
    both = nn.ModuleList([Gated([g], None, 0), Gated([g], None, 0)])
    copied = copy.deepcopy(both)
    assert copied[0].gates[0] is copied[1].gates[0]  # type: ignore[union-attr,index]
    assert copied[0].gates[0] is not g  # type: ignore[union-attr,index]
    assert len(list(copied.parameters())) == 1
