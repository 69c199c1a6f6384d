"""Every operation: torch's own result, the numpy reference, and torch from the graph agree; so do the shapes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supermask.deploy.dense import Dense
from supermask.deploy.evaluate import apply, evaluate
from supermask.deploy.graph import INPUT, Graph, Node
from supermask.deploy.operations import OPERATIONS
from supermask.deploy.shapes import infer, shapes_of
from supermask.deploy.tracing import trace
from supermask.errors import GraphError


class Apply(nn.Module):
    def __init__(self, function: object, **tensors: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parameters())  # type: ignore[operator, no-any-return]


def _norm(module: nn.Module) -> nn.Module:
    for buffer in (module.running_mean, module.running_var):
        assert isinstance(buffer, Tensor)
        buffer.uniform_(0.5, 2)
    return module


torch.manual_seed(0)
IMAGE, SIGNAL, ROWS, VECTOR = (3, 4, 9, 7), (3, 4, 11), (3, 5, 6), (3, 6)
MODULES = {
    "conv": (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), IMAGE, ["conv"]),
    "conv-dilated": (nn.Conv2d(4, 6, (3, 2), dilation=(2, 1), bias=False), IMAGE, ["conv"]),
    "conv-depthwise": (nn.Conv2d(4, 8, 3, groups=4), IMAGE, ["conv"]),
    "conv-same": (nn.Conv2d(4, 6, (2, 3), padding="same"), IMAGE, ["pad", "conv"]),
    "conv-valid": (nn.Conv2d(4, 6, 3, padding="valid"), IMAGE, ["conv"]),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=2), SIGNAL, ["conv"]),
    "linear": (nn.Linear(6, 5), VECTOR, ["linear"]),
    "linear-rows": (nn.Linear(6, 5, bias=False), ROWS, ["linear"]),
    "batch-norm": (_norm(nn.BatchNorm2d(4)), IMAGE, ["batch_norm"]),
    "batch-norm-plain": (_norm(nn.BatchNorm1d(6, affine=False)), VECTOR, ["batch_norm"]),
    "layer-norm": (nn.LayerNorm(6), ROWS, ["layer_norm"]),
    "layer-norm-plain": (nn.LayerNorm((5, 6), elementwise_affine=False), ROWS, ["layer_norm"]),
    "max-pool": (nn.MaxPool2d(3, stride=2, padding=1), IMAGE, ["max_pool"]),
    "max-pool-ceil": (nn.MaxPool2d(2, ceil_mode=True), IMAGE, ["max_pool"]),
    "max-pool-dilated": (nn.MaxPool2d(2, stride=1, dilation=2), IMAGE, ["max_pool"]),
    "max-pool-1d": (nn.MaxPool1d(3), SIGNAL, ["max_pool"]),
    "avg-pool": (nn.AvgPool2d(3, stride=2, padding=1), IMAGE, ["avg_pool"]),
    "avg-pool-inside": (nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False), IMAGE, ["avg_pool"]),
    "avg-pool-ceil": (nn.AvgPool2d(2, ceil_mode=True, padding=1), IMAGE, ["avg_pool"]),
    "avg-pool-1d": (nn.AvgPool1d(2), SIGNAL, ["avg_pool"]),
    "adaptive": (nn.AdaptiveAvgPool2d((4, 3)), IMAGE, ["adaptive_avg_pool"]),
    "adaptive-1d": (nn.AdaptiveAvgPool1d(3), SIGNAL, ["adaptive_avg_pool"]),
    "relu": (nn.ReLU(inplace=True), IMAGE, ["relu"]),
    "elu": (nn.ELU(0.7), IMAGE, ["elu"]),
    "leaky-relu": (nn.LeakyReLU(0.2), IMAGE, ["leaky_relu"]),
    "relu6": (nn.ReLU6(), IMAGE, ["hardtanh"]),
    "hardtanh": (nn.Hardtanh(-0.3, 0.4), IMAGE, ["hardtanh"]),
    "clamp": (Apply(lambda x: x.clamp(-0.1, 0.2)), IMAGE, ["hardtanh"]),
    "hardswish": (nn.Hardswish(), IMAGE, ["hardswish"]),
    "hardsigmoid": (nn.Hardsigmoid(), IMAGE, ["hardsigmoid"]),
    "sigmoid": (nn.Sigmoid(), IMAGE, ["sigmoid"]),
    "silu": (nn.SiLU(), IMAGE, ["silu"]),
    "tanh": (nn.Tanh(), IMAGE, ["tanh"]),
    "gelu": (nn.GELU(), IMAGE, ["gelu"]),
    "gelu-tanh": (nn.GELU("tanh"), IMAGE, ["gelu"]),
    "softmax": (nn.Softmax(-1), ROWS, ["softmax"]),
    "flatten": (nn.Flatten(), IMAGE, ["flatten"]),
    "reshape": (Apply(lambda x: x.reshape(len(x), 2, 18, 7)), IMAGE, ["reshape"]),
    "view-rows": (
        Apply(lambda x: x.view(-1, 7)[..., None].reshape(len(x), -1)),
        IMAGE,
        ["reshape", "reshape", "reshape"],
    ),
    "permute": (Apply(lambda x: x.permute(0, 2, 3, 1)), IMAGE, ["permute"]),
    "transpose": (Apply(lambda x: x.transpose(-1, 1)), IMAGE, ["permute"]),
    "slice": (Apply(lambda x: x[:, :, 1:-1:2]), IMAGE, ["slice"]),
    "select": (Apply(lambda x: x[:, :, -2]), IMAGE, ["select"]),
    "mean": (Apply(lambda x: x.mean((2, 3))), IMAGE, ["mean"]),
    "mean-keep": (Apply(lambda x: x.mean(-1, keepdim=True)), IMAGE, ["mean"]),
    "pad": (Apply(lambda x: F.pad(x, (1, 2, 0, 3), value=0.5)), IMAGE, ["pad"]),
    "concat": (Apply(lambda x: torch.cat([x, x * 2], 1)), IMAGE, ["number", "multiply", "concat"]),
    "scalars": (Apply(lambda x: (x - 1) / 3 + 2), VECTOR, ["number", "subtract", "number", "divide", "number", "add"]),
    "parameter": (Apply(lambda x, p: x * p, p=torch.randn(6)), VECTOR, ["constant", "multiply"]),
    "matmul": (Apply(lambda x: x @ x.transpose(1, 2)), ROWS, ["permute", "matmul"]),
    "attention": (Apply(lambda x: F.scaled_dot_product_attention(x, x, x)), ROWS, ["attention"]),
    "attention-causal": (
        Apply(lambda x: F.scaled_dot_product_attention(x, x * 2, x, is_causal=True, scale=0.3)),
        ROWS,
        ["number", "multiply", "attention"],
    ),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", MODULES)
def test_every_operation(name: str) -> None:
    module, shape, operations = MODULES[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 2
    graph, arrays = trace(module, x)
    assert [node.op for node in graph.nodes] == operations
    graph = Graph.from_json(graph.to_json())
    with torch.no_grad():
        expected = module.eval()(x.clone()).numpy()
    found = evaluate(graph, arrays, x.numpy())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)
    dense, values = Dense(graph, arrays), {INPUT: x}
    with torch.no_grad():
        for node in graph.nodes:
            values[node.name] = dense.compute(node, len(x), [values[i] for i in node.inputs])
    np.testing.assert_allclose(values[graph.output].numpy(), expected, rtol=1e-5, atol=1e-6)
    inferred = infer(graph, shapes_of(arrays))
    for node in graph.nodes:
        full = tuple(n if n > 0 else -n * len(x) for n in inferred[node.name])
        assert full == tuple(values[node.name].shape)


def test_every_operation_is_tested() -> None:
    seen = {op for _, _, operations in MODULES.values() for op in operations}
    assert OPERATIONS.keys() - seen == {"scale_shift"}  # no operation of torch: made by folding


def test_scale_shift() -> None:
    node = Node("scale_shift", "s", (INPUT,), {"scale": "a", "shift": "b"})
    arrays = {"a": np.array([2, 3], np.float32), "b": np.array([-1, 1], np.float32)}
    x = np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3)
    expected = x * arrays["a"][:, None, None] + arrays["b"][:, None, None]
    assert (apply(node, arrays, [x]) == expected).all()
    graph = Graph((2, 2, 3), (node,), "s")
    assert (Dense(graph, arrays).compute(node, 1, [torch.from_numpy(x)]).numpy() == expected).all()


def test_values_on_the_way() -> None:
    nodes = (Node("relu", "r"), Node("tanh", "t", ("r",)))
    x = np.array([[-1.0, 2.0]], np.float32)
    kept = evaluate(Graph((2,), nodes, "t"), {}, x, keep=["r", "t"])
    assert kept["r"].tolist() == [[0, 2]]
    assert kept["t"][0, 1] == pytest.approx(math.tanh(2))


def test_what_needs_torch_is_named() -> None:
    node = Node("torch", "sorted", (INPUT,), {"target": "aten.sort", "shape": None}, lambda n, x: x)
    with pytest.raises(GraphError, match="sorted is aten.sort"):
        evaluate(Graph((2,), (node,), "sorted"), {}, np.zeros((1, 2), np.float32))
