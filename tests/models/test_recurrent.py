from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from supermask.models import build
from supermask.models.recurrent import GRUCell, LSTMCell


def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 1, 28, 28, dtype=torch.float64, generator=generator)


def test_lstm_is_torchs_with_one_bias_vector() -> None:
    torch.manual_seed(0)
    model = build("lstm-s", hidden=6, forget_bias=0.0).double()
    reference = nn.LSTM(6, 6, batch_first=True).double()
    with torch.no_grad():
        reference.weight_ih_l0.copy_(model.cell.input.weight)
        reference.weight_hh_l0.copy_(model.cell.hidden.weight)
        reference.bias_ih_l0.copy_(model.cell.input.bias)
        reference.bias_hh_l0.zero_()
        rows = images().squeeze(1) @ model.embed.weight.t() + model.embed.bias
        expected = reference(rows)[0][:, -1] @ model.fc.weight.t() + model.fc.bias
        torch.testing.assert_close(model(images()), expected, rtol=1e-12, atol=1e-12)


def test_the_forget_bias_is_added_to_the_forget_gate() -> None:
    torch.manual_seed(1)
    with_constant = build("lstm-s", hidden=5, forget_bias=0.75).double()
    without = build("lstm-s", hidden=5, forget_bias=0.0).double()
    state = with_constant.state_dict()
    assert "cell.forget_bias" not in state
    state["cell.input.bias"] = state["cell.input.bias"].clone()
    state["cell.input.bias"][5:10] += 0.75
    without.load_state_dict(state)
    torch.testing.assert_close(with_constant(images()), without(images()), rtol=1e-12, atol=1e-12)


def test_two_steps_of_the_gru_in_numbers() -> None:
    """One hidden unit: h' = z h + (1 - z) tanh(n + u (r h)), beginning at h = 0."""
    cell = GRUCell(1, 1).double()
    with torch.no_grad():
        cell.input.weight.copy_(torch.tensor([[0.5], [-0.3], [0.8]], dtype=torch.float64))
        cell.input.bias.copy_(torch.tensor([0.1, 0.2, -0.4], dtype=torch.float64))
        cell.gates.weight.copy_(torch.tensor([[0.7], [0.6]], dtype=torch.float64))
        cell.candidate.weight.fill_(0.9)

    def sigmoid(value: float) -> float:
        return 1.0 / (1.0 + math.exp(-value))

    h = 0.0
    for x in (1.5, -0.5):
        r = sigmoid(0.5 * x + 0.1 + 0.7 * h)
        z = sigmoid(-0.3 * x + 0.2 + 0.6 * h)
        h = z * h + (1.0 - z) * math.tanh(0.8 * x - 0.4 + 0.9 * (r * h))
    found = cell(torch.tensor([[[1.5], [-0.5]]], dtype=torch.float64)).item()
    assert found == pytest.approx(h, abs=1e-14)


def test_gru_with_an_open_reset_gate_is_torchs() -> None:
    """Resetting before or after the product is the same when nothing is reset."""
    torch.manual_seed(2)
    cell = GRUCell(4, 5).double()
    reference = nn.GRU(4, 5, batch_first=True).double()
    with torch.no_grad():
        cell.input.bias[:5] = 50.0
        reference.weight_ih_l0.copy_(cell.input.weight)
        reference.weight_hh_l0.copy_(torch.cat([cell.gates.weight, cell.candidate.weight]))
        reference.bias_ih_l0.copy_(cell.input.bias)
        reference.bias_hh_l0.zero_()
        x = torch.randn(2, 7, 4, dtype=torch.float64)
        torch.testing.assert_close(cell(x), reference(x)[0][:, -1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["lstm-s", "gru-s"])
def test_one_bias_vector_a_cell(name: str) -> None:
    with torch.device("meta"):
        model = build(name)
    gates = 4 if name.startswith("lstm") else 3
    biases = {key: tuple(value.shape) for key, value in model.state_dict().items() if "bias" in key}
    assert biases == {"embed.bias": (128,), "cell.input.bias": (gates * 128,), "fc.bias": (10,)}


@pytest.mark.parametrize("name", ["lstm-s", "gru-s"])
def test_rows_are_steps_from_the_top(name: str) -> None:
    """Every row counts, the last ones most; rows that are left out at the top are steps that are not made."""
    torch.manual_seed(3)
    model = build(name, hidden=8).double()
    x = images()
    assert torch.equal(model(x.flatten(1)), model(x))
    steps: list[int] = []
    model.cell.input.register_forward_hook(lambda _, __, out: steps.append(out.shape[1]))
    model(x[:, :, 8:])
    gradient = torch.autograd.grad(model(x.requires_grad_()).square().sum(), x)[0].abs().sum((0, 1, 3))
    assert steps == [20, 28]
    assert (gradient > 0).all()
    assert gradient[-1] > gradient[0]


@pytest.mark.parametrize("name", ["lstm-s", "gru-s"])
def test_second_derivatives(name: str) -> None:
    torch.manual_seed(4)
    cell = (LSTMCell(3, 4, 1.0) if name == "lstm-s" else GRUCell(3, 4)).double()
    x = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(cell, (x,))


def test_other_rows() -> None:
    model = build("gru-s", inputs=8, hidden=4, classes=3)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        model(torch.zeros(2, 1, 7, 7))
