"""An LSTM and a GRU that read an image row by row, with the numbers of weights of SNIP's table 2.

That table's networks are described nowhere and their code was not released. Its counts, biases included, are those of a
linear layer from a row to ``hidden`` values, a cell from ``hidden`` to ``hidden`` with one bias vector, and a linear layer
to the classes (within 0.7 thousand for the larger LSTM); so that is what is built here.

torch's own recurrent layers have two bias vectors. The cells here are made of linear layers, the one of the input with the
bias and the one of the hidden state without: methods, counts of multiply-accumulates and second derivatives treat them as
any other linear layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from supermask.errors import ConfigError
from supermask.models.layers import count


class LSTMCell(nn.Module):
    """A long short-term memory; one bias vector.

    With the four parts i, f, g, o of ``input(x) + hidden(h)``::

        c' = sigmoid(f + forget_bias) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    Args:
        inputs: Values a step.
        hidden: Size of h and c.
        forget_bias: Constant added to the forget gate.
    """

    def __init__(self, inputs: int, hidden: int, forget_bias: float) -> None:
        super().__init__()
        self.forget_bias = forget_bias
        self.input = nn.Linear(inputs, 4 * hidden)
        self.hidden = nn.Linear(hidden, 4 * hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The last h, (N, hidden), of sequences (N, steps, inputs); h and c start at zero."""
        h = c = x.new_zeros(len(x), self.hidden.in_features)
        for part in self.input(x).unbind(1):
            i, f, g, o = (part + self.hidden(h)).chunk(4, dim=1)
            c = torch.sigmoid(f + self.forget_bias) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return h


class GRUCell(nn.Module):
    """A gated recurrent unit in the form of Cho et al. 2014, which resets before the product; one bias vector.

    With the three parts r, z, n of ``input(x)`` and the two parts of ``gates(h)``::

        r, z = sigmoid(r + gates(h)_r), sigmoid(z + gates(h)_z)
        h'   = z * h + (1 - z) * tanh(n + candidate(r * h))

    Args:
        inputs: Values a step.
        hidden: Size of h.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.input = nn.Linear(inputs, 3 * hidden)
        self.gates = nn.Linear(hidden, 2 * hidden, bias=False)
        self.candidate = nn.Linear(hidden, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The last h, (N, hidden), of sequences (N, steps, inputs); h starts at zero."""
        size = self.candidate.in_features
        h = x.new_zeros(len(x), size)
        for part in self.input(x).unbind(1):
            r, z = torch.sigmoid(part[:, : 2 * size] + self.gates(h)).chunk(2, dim=1)
            h = z * h + (1.0 - z) * torch.tanh(part[:, 2 * size :] + self.candidate(r * h))
        return h


class RowReader(nn.Module):
    """``embed`` (linear, no activation) on each row, ``cell`` over the rows, ``fc`` on the last hidden state.

    Input (N, ...) with a multiple of ``inputs`` values an example, cut into rows of ``inputs``: (N, 1, 28, 28) is 28
    steps. Output (N, classes), logits.

    Args:
        make_cell: Makes the cell for the given inputs and hidden size.
        inputs: Values a row.
        hidden: Size of the hidden state, and of what ``embed`` gives.
        classes: Outputs.
    """

    def __init__(self, make_cell: Callable[[int, int], nn.Module], inputs: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Linear(count("inputs", inputs), count("hidden", hidden))
        self.cell = make_cell(hidden, hidden)
        self.fc = nn.Linear(hidden, count("classes", classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images whose rows have ``inputs`` values."""
        rows = x.reshape(len(x), -1, self.embed.in_features)
        out: Tensor = self.fc(self.cell(self.embed(rows)))
        return out


def lstm(*, inputs: int = 28, hidden: int = 128, classes: int = 10, forget_bias: float = 1.0) -> RowReader:
    """Build the LSTM.

    Args:
        inputs: Values a row, which is a step.
        hidden: Size of the hidden state.
        classes: Outputs.
        forget_bias: Constant added to the forget gate, not trained. 1 is the default of the cells of TensorFlow, which
            SNIP's authors used; what they did is not known. 0 leaves it out.

    Raises:
        ConfigError: An option is out of range.
    """
    if isinstance(forget_bias, bool) or not isinstance(forget_bias, int | float) or not math.isfinite(forget_bias):
        raise ConfigError(f"forget_bias must be a finite number such as 1.0, got {forget_bias!r}")
    return RowReader(partial(LSTMCell, forget_bias=forget_bias), inputs, hidden, classes)


def gru(*, inputs: int = 28, hidden: int = 128, classes: int = 10) -> RowReader:
    """Build the GRU.

    Args:
        inputs: Values a row, which is a step.
        hidden: Size of the hidden state.
        classes: Outputs.

    Raises:
        ConfigError: An option is out of range.
    """
    return RowReader(GRUCell, inputs, hidden, classes)


lstm_s = partial(lstm, hidden=128)
lstm_b = partial(lstm, hidden=256)
gru_s = partial(gru, hidden=128)
gru_b = partial(gru, hidden=256)
