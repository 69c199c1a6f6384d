"""The operations a graph may hold: how many inputs each has, which attributes, and what their values may be.

This table is the specification of a node in a file; nothing that is not in it is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

LARGEST: Final = 1 << 28  # of any integer in a graph, and of the entries of one example's value
NAME_LENGTH: Final = 512
SPATIAL: Final = (1, 2)  # axes of the maps that convolutions and pools work on

#: Says what is wrong with a value ("must be ..."); None: nothing.
Check = Callable[[Any], str | None]


def is_integer(value: Any, low: int = -LARGEST) -> bool:
    """Whether a value read from a file is an integer from ``low`` to :data:`LARGEST` (true and false are none)."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= LARGEST


def is_name(value: Any) -> bool:
    """Whether a value read from a file can name something: printable text of 1 to :data:`NAME_LENGTH` characters."""
    return isinstance(value, str) and 0 < len(value) <= NAME_LENGTH and value.isprintable()


def _integer(low: int) -> Check:
    return lambda value: None if is_integer(value, low) else f"must be an integer of at least {low}"


def _integers(low: int, lengths: tuple[int, ...]) -> Check:
    text = f"must be a list of {' or '.join(map(str, lengths))} integers of at least {low}"

    def check(value: Any) -> str | None:
        good = isinstance(value, list) and len(value) in lengths and all(is_integer(v, low) for v in value)
        return None if good else text

    return check


def _number(value: Any) -> str | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return None if good else "must be a finite number"


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "must be true or false"


def _tensor(value: Any) -> str | None:
    return None if is_name(value) else "must be the name of a tensor"


def _choice(*known: str) -> Check:
    return lambda value: None if isinstance(value, str) and value in known else f"must be one of {', '.join(known)}"


def _or_none(check: Check) -> Check:
    def optional(value: Any) -> str | None:
        return None if value is None or check(value) is None else f"{check(value)}, or null"

    return optional


_AXIS = _integer(0)
_ANY_AXES: Final = tuple(range(1, 9))
_OPTIONAL: Final = _or_none(_tensor)


def _window(low_padding: int = 0) -> dict[str, Check]:
    return {
        "kernel": _integers(1, SPATIAL),
        "stride": _integers(1, SPATIAL),
        "padding": _integers(low_padding, SPATIAL),
        "ceil": _flag,
    }


@dataclass(frozen=True)
class Operation:
    """One kind of node.

    Attributes:
        attributes: Name -> check of its value; all are required.
        fewest: Least number of inputs.
        most: Largest number of inputs.
    """

    attributes: Mapping[str, Check] = field(default_factory=dict)
    fewest: int = 1
    most: int = 1

    @property
    def tensors(self) -> tuple[str, ...]:
        """Which of the attributes name a tensor."""
        return tuple(name for name, check in self.attributes.items() if check in (_tensor, _OPTIONAL))


#: Activations with their attributes; each works entry by entry.
ACTIVATIONS: Final[dict[str, Operation]] = {
    "relu": Operation(),
    "elu": Operation({"alpha": _number}),
    "leaky_relu": Operation({"slope": _number}),
    "hardtanh": Operation({"low": _number, "high": _number}),
    "hardswish": Operation(),
    "hardsigmoid": Operation(),
    "sigmoid": Operation(),
    "silu": Operation(),
    "tanh": Operation(),
    "gelu": Operation({"approximate": _choice("none", "tanh")}),
}

#: Two inputs of shapes that numpy would broadcast, entry by entry.
BINARY: Final = ("add", "subtract", "multiply", "divide")

OPERATIONS: Final[dict[str, Operation]] = {
    **ACTIVATIONS,
    **{op: Operation(fewest=2, most=2) for op in BINARY},
    "constant": Operation({"tensor": _tensor}, 0, 0),
    "number": Operation({"value": _number}, 0, 0),
    "conv": Operation(
        {
            "weight": _tensor,
            "bias": _OPTIONAL,
            "stride": _integers(1, SPATIAL),
            "padding": _integers(0, SPATIAL),
            "dilation": _integers(1, SPATIAL),
            "groups": _integer(1),
        }
    ),
    "linear": Operation({"weight": _tensor, "bias": _OPTIONAL}),
    "batch_norm": Operation(
        {"weight": _OPTIONAL, "bias": _OPTIONAL, "mean": _tensor, "variance": _tensor, "epsilon": _number}
    ),
    "layer_norm": Operation({"weight": _OPTIONAL, "bias": _OPTIONAL, "axes": _integer(1), "epsilon": _number}),
    "scale_shift": Operation({"scale": _tensor, "shift": _tensor}),
    "max_pool": Operation({**_window(), "dilation": _integers(1, SPATIAL)}),
    "avg_pool": Operation({**_window(), "count_include_pad": _flag}),
    "adaptive_avg_pool": Operation({"size": _integers(1, SPATIAL)}),
    "flatten": Operation(),
    "reshape": Operation({"shape": _integers(-LARGEST, _ANY_AXES)}),
    "permute": Operation({"axes": _integers(0, _ANY_AXES)}),
    "slice": Operation({"axis": _AXIS, "start": _integer(0), "stop": _integer(0), "step": _integer(1)}),
    "select": Operation({"axis": _AXIS, "index": _integer(0)}),
    "mean": Operation({"axes": _integers(0, _ANY_AXES), "keep": _flag}),
    "pad": Operation({"padding": _integers(0, (2, 4, 6)), "value": _number}),
    "concat": Operation({"axis": _AXIS}, 1, 4096),
    "softmax": Operation({"axis": _AXIS}),
    "matmul": Operation(fewest=2, most=2),
    "attention": Operation({"causal": _flag, "scale": _number}, 3, 3),
}

#: The one operation that no file can hold: a call into torch, kept in memory.
TORCH: Final = "torch"
