"""Every node in torch: what the engine runs where no sparse program does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from supermask.deploy.graph import Graph, Node
from supermask.deploy.operations import TORCH
from supermask.deploy.programs import Array

Function = Callable[..., Tensor]


class Dense:
    """The nodes of a graph, ready to be computed by torch.

    Args:
        graph: The network.
        arrays: Beside it; shared, not copied, except where ``channels_last`` asks for another order.
        channels_last: Whether convolutions keep the channels of a pixel together in memory.
    """

    def __init__(self, graph: Graph, arrays: Mapping[str, Array], *, channels_last: bool = False) -> None:
        tensors = {n: torch.from_numpy(a if a.flags.writeable else a.copy()) for n, a in arrays.items()}
        if channels_last:
            for node in graph.nodes:
                if node.op == "conv" and tensors[node["weight"]].dim() == 4:
                    weight = tensors[node["weight"]]
                    tensors[node["weight"]] = weight.contiguous(memory_format=torch.channels_last)
        self._functions = {node.name: _BUILDERS[node.op](node, tensors) for node in graph.nodes if node.op in _BUILDERS}

    def compute(self, node: Node, examples: int, inputs: list[Any]) -> Any:
        """The value of a node."""
        if node.op == TORCH:
            return node.call(examples, *inputs)
        return self._functions[node.name](*inputs)

    def given(self, graph: Graph) -> dict[str, Any]:
        """Values of the nodes without inputs."""
        return {n.name: self._functions[n.name]() for n in graph.nodes if n.op in ("constant", "number")}


def to_array(value: Tensor) -> Array:
    """A contiguous float32 array over the same memory where possible."""
    array: Array = value.detach().contiguous().numpy()
    return array


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Inside, operations of torch that the calling thread starts use that many threads.

    Torch keeps this number a thread, so that others that compute at the same time are not disturbed.
    """
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


Tensors = Mapping[str, Tensor]


def _optional(node: Node, key: str, tensors: Tensors) -> Tensor | None:
    return None if node[key] is None else tensors[node[key]]


def _conv(node: Node, tensors: Tensors) -> Function:
    weight, bias = tensors[node["weight"]], _optional(node, "bias", tensors)
    function: Any = F.conv2d if weight.dim() == 4 else F.conv1d
    options = (node["stride"], node["padding"], node["dilation"], node["groups"])
    return lambda x: function(x, weight, bias, *options)


def _linear(node: Node, tensors: Tensors) -> Function:
    weight, bias = tensors[node["weight"]], _optional(node, "bias", tensors)
    return lambda x: F.linear(x, weight, bias)


def _batch_norm(node: Node, tensors: Tensors) -> Function:
    weight, bias = _optional(node, "weight", tensors), _optional(node, "bias", tensors)
    mean, variance = tensors[node["mean"]], tensors[node["variance"]]
    return lambda x: F.batch_norm(x, mean, variance, weight, bias, eps=node["epsilon"])


def _layer_norm(node: Node, tensors: Tensors) -> Function:
    weight, bias = _optional(node, "weight", tensors), _optional(node, "bias", tensors)
    return lambda x: F.layer_norm(x, x.shape[-node["axes"] :], weight, bias, node["epsilon"])


def _scale_shift(node: Node, tensors: Tensors) -> Function:
    scale, shift = tensors[node["scale"]], tensors[node["shift"]]

    def run(x: Tensor) -> Tensor:
        ones = [1] * (x.dim() - 2)
        return torch.addcmul(shift.view(-1, *ones), x, scale.view(-1, *ones))

    return run


def _max_pool(node: Node, tensors: Tensors) -> Function:  # noqa: ARG001
    function: Any = F.max_pool2d if len(node["kernel"]) == 2 else F.max_pool1d
    options = (node["kernel"], node["stride"], node["padding"], node["dilation"], node["ceil"])
    return lambda x: function(x, *options)


def _avg_pool(node: Node, tensors: Tensors) -> Function:  # noqa: ARG001
    function: Any = F.avg_pool2d if len(node["kernel"]) == 2 else F.avg_pool1d
    options = (node["kernel"], node["stride"], node["padding"], node["ceil"], node["count_include_pad"])
    return lambda x: function(x, *options)


def _adaptive(node: Node, tensors: Tensors) -> Function:  # noqa: ARG001
    function: Any = F.adaptive_avg_pool2d if len(node["size"]) == 2 else F.adaptive_avg_pool1d
    return lambda x: function(x, node["size"])


def _reshape(node: Node, tensors: Tensors) -> Function:  # noqa: ARG001
    shape = [n if n > 0 else -1 for n in node["shape"]]
    return lambda x: x.reshape(shape)


def _slice(node: Node, tensors: Tensors) -> Function:  # noqa: ARG001
    part = (slice(None),) * node["axis"] + (slice(node["start"], node["stop"], node["step"]),)
    return lambda x: x[part]


def _attention(node: Node, tensors: Tensors) -> Function:  # noqa: ARG001
    options = {"is_causal": node["causal"], "scale": node["scale"]}
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options)


def _constant(node: Node, tensors: Tensors) -> Function:
    tensor = tensors[node["tensor"]]
    return lambda: tensor


def _number(node: Node, tensors: Tensors) -> Function:  # noqa: ARG001
    number = torch.tensor(node["value"], dtype=torch.float32)
    return lambda: number


def _plain(function: Any, **names: str) -> Callable[[Node, Tensors], Function]:
    """A function of torch whose options are attributes under other names."""

    def build(node: Node, tensors: Tensors) -> Function:  # noqa: ARG001
        options = {theirs: node[ours] for ours, theirs in names.items()}
        return lambda *inputs: function(*inputs, **options)

    return build


_BUILDERS: Final[dict[str, Callable[[Node, Tensors], Function]]] = {
    "relu": _plain(torch.relu),
    "elu": _plain(F.elu, alpha="alpha"),
    "leaky_relu": _plain(F.leaky_relu, slope="negative_slope"),
    "hardtanh": _plain(torch.clamp, low="min", high="max"),
    "hardswish": _plain(F.hardswish),
    "hardsigmoid": _plain(F.hardsigmoid),
    "sigmoid": _plain(torch.sigmoid),
    "silu": _plain(F.silu),
    "tanh": _plain(torch.tanh),
    "gelu": _plain(F.gelu, approximate="approximate"),
    "add": _plain(torch.add),
    "subtract": _plain(torch.sub),
    "multiply": _plain(torch.mul),
    "divide": _plain(torch.div),
    "matmul": _plain(torch.matmul),
    "constant": _constant,
    "number": _number,
    "conv": _conv,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "scale_shift": _scale_shift,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "adaptive_avg_pool": _adaptive,
    "flatten": _plain(lambda x: x.flatten(1)),
    "reshape": _reshape,
    "permute": _plain(torch.permute, axes="dims"),
    "slice": _slice,
    "select": _plain(torch.select, axis="dim", index="index"),
    "mean": _plain(torch.mean, axes="dim", keep="keepdim"),
    "pad": _plain(F.pad, padding="pad", value="value"),
    "concat": _plain(lambda *parts, dim: torch.cat(parts, dim), axis="dim"),
    "softmax": _plain(torch.softmax, axis="dim"),
    "attention": _attention,
}
