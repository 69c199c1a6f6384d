"""Gates: one learnt factor for each channel of a group, shared by every tensor that makes or scales the channel.

A :class:`Gate` holds the parameter, a :class:`Gated` parametrization multiplies one tensor by it. Which function turns the
parameter into a factor is the method's. Like other parametrizations they hold no reference to a sparsifier or an optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal

import torch
from torch import Tensor, nn

GateFunction = Callable[[Tensor, Tensor | None], Tensor]
"""(parameter, noise) -> factors in [0, 1], entry by entry; the noise is None in tests and for gates that have none."""

Empty = Literal["keep-one", "keep-all"]
"""What remains of a group all of whose factors are 0: the channel of the largest parameter, or all of them."""

Mode = Literal["open", "decided", "fixed"]
_MODES: Final[tuple[Mode, ...]] = ("open", "decided", "fixed")


class Gate(nn.Module):
    """The factors of one group's channels.

    ``open``: a factor is the function of the parameter, and a channel remains while it is above 0. ``decided``: the same
    factors, but which channels remain is settled, and the others have a factor of 0. ``fixed``: that alone; a factor is 0
    or 1, and nothing is learnt.

    Args:
        start: First values of the parameter, (channels,), float32 at least; not copied.
        function: Makes factors; a plain function or a ``functools.partial``, so that a model can be copied and compiled.
        noisy: Whether the function takes noise while training; the method writes it into :attr:`noise`.
        empty: What remains of a group whose factors are all 0.

    Attributes:
        m: The parameter.
        noise: Added by the function in training mode; None for gates that have none.
        keep: Bool (channels,): which channels remain, once that is settled.
        steady: Whether noise is left out in training mode, too: set inside ``sparse()``.
    """

    keep: Tensor
    noise: Tensor | None

    def __init__(
        self, start: Tensor, function: GateFunction, *, noisy: bool = False, empty: Empty = "keep-one"
    ) -> None:
        super().__init__()
        self.m = nn.Parameter(start)
        self.function = function
        self.empty = empty
        self.mode: Mode = "open"
        self.steady = False
        self.register_buffer("keep", torch.ones_like(start, dtype=torch.bool))
        self.register_buffer("noise", torch.zeros_like(start) if noisy else None)

    def forward(self) -> Tensor:
        """The factors, (channels,)."""
        if self.mode == "fixed":
            return self.keep.to(self.m.dtype)
        factors = self.function(self.m, self.noise if self.training and not self.steady else None)
        return factors if self.mode == "open" else factors * self.keep

    def values(self) -> Tensor:
        """What was learnt: the factors without noise, also of channels that a decision removed; detached."""
        return self.keep.to(self.m.dtype) if self.mode == "fixed" else self.function(self.m.detach(), None)

    def folded(self) -> Tensor:
        """What to multiply in before the gate is fixed: the factors; 1 for what remains at 0, and else could not train."""
        values = self.values()
        return torch.where(values > 0, values, 1.0) * self.remaining()

    def remaining(self) -> Tensor:
        """Bool (channels,), True = remaining; at least one is."""
        if self.mode != "open":
            return self.keep
        alive = self.values() > 0
        spare = torch.ones_like(alive)
        if self.empty == "keep-one":
            spare = torch.arange(len(spare), device=spare.device) == self.m.detach().argmax()
        return alive | (spare & ~alive.any())

    def open(self) -> None:
        """Learn which channels remain."""
        self._enter("open")
        self.keep.fill_(True)

    def decide(self, keep: Tensor) -> None:
        """Settle which channels remain; the others have a factor of 0 from now on."""
        self._enter("decided")
        self.keep.copy_(keep)

    def fix(self, keep: Tensor) -> None:
        """Settle which channels remain, at a factor of 1, and learn no longer."""
        self._enter("fixed")
        self.keep.copy_(keep)

    def get_extra_state(self) -> Tensor:
        """The mode, as its position in the order above."""
        return torch.tensor(_MODES.index(self.mode))

    def set_extra_state(self, state: Tensor) -> None:
        """Take over a mode that :meth:`get_extra_state` gave."""
        self._enter(_MODES[int(state)])

    def _enter(self, mode: Mode) -> None:
        self.mode = mode
        self.m.requires_grad_(mode != "fixed")


class Gated(nn.Module):
    """``weight = dense * factor``, one factor for each entry along an axis.

    Args:
        gates: Those that own entries of this tensor.
        position: int64, length of the axis: where an entry's factor stands in the gates' channels one after the other, and
            behind them a 1 for entries that no gate owns. None: those of one gate in their order.
        axis: Along which the channels lie.
        scales: False leaves the tensor as it is: removed channels of it are zero in ``sparse()`` and after ``finalize``.

    Attributes:
        steady: Set inside ``sparse()``.
    """

    position: Tensor | None

    def __init__(self, gates: Sequence[Gate], position: Tensor | None, axis: int, *, scales: bool = True) -> None:
        super().__init__()
        self.gates = nn.ModuleList(gates)
        self.axis = axis
        self.scales = scales
        self.steady = False
        self.register_buffer("position", position, persistent=False)

    def forward(self, dense: Tensor) -> Tensor:
        """The effective weight."""
        if self.scales:
            return dense * self._spread([gate() for gate in self.gates], dense.dim()).to(dense.dtype)
        return dense * self._remaining(dense.dim()) if self.steady else dense

    def fold(self, dense: Tensor) -> Tensor:
        """What to store before the gates are fixed."""
        if not self.scales:
            return dense
        return dense * self._spread([g.folded() for g in self.gates if isinstance(g, Gate)], dense.dim()).to(
            dense.dtype
        )

    def remaining(self, shape: torch.Size) -> Tensor:
        """Bool, True = remaining, of the tensor's shape."""
        return self._remaining(len(shape)).expand(shape)

    def _remaining(self, dims: int) -> Tensor:
        return self._spread([gate.remaining() for gate in self.gates if isinstance(gate, Gate)], dims)

    def _spread(self, parts: list[Tensor], dims: int) -> Tensor:
        """What the gates' channels have, along the axis of a tensor."""
        along = parts[0]
        if self.position is not None:
            along = torch.cat([*parts, along.new_ones(1)])[self.position]
        return along.view([-1 if axis == self.axis else 1 for axis in range(dims)])
