"""Large linear layers of an ONNX model in two bits a weight, where onnxruntime is faster that way.

A layer whose rows have one magnitude each, c in {-1, 0, +1} times a scale, is exactly what the operator MatMulNBits of
onnxruntime stores with two bits. onnxruntime multiplies such codes directly only with ``accuracy_level`` 4, for which it
rounds the layer's inputs to 8 bits, and in blocks of some sizes; with any other setting it first unpacks the whole layer at
every call, which is several times slower than float32. Only the fast way is ever written, and only where it was measured to
be faster than float32.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from supermask.core.clock import time_calls
from supermask.deploy.session import onnx_session

_LARGE: Final = 1 << 16  # weights; below, calling the operator takes longer than what it does
_BLOCK: Final = 128  # inputs that share a scale
_ROUND_TO_8_BITS: Final = 4  # the one accuracy level that does not unpack
_ZERO: Final = 2  # the code of a weight of zero
_FASTER: Final = 1.1  # by which it must be measured to be faster
_ROUNDS: Final = 9
_ROUND_SECONDS: Final = 0.004


@dataclass(frozen=True)
class Layer:
    """A layer that is stored in two bits.

    Attributes:
        shape: (outputs, inputs).
        speedup: Time in float32 over time in two bits, the median of paired rounds on one thread.
        batch: The batch size at which it was measured.
    """

    shape: tuple[int, int]
    speedup: float
    batch: int


def rewrite(proto: Any, batch: int) -> tuple[dict[str, Layer], dict[str, str]]:
    """Put large layers of one magnitude a row into two bits where that is faster, in place.

    Args:
        proto: An ONNX model.
        batch: The batch size at which it is to be faster.

    Returns:
        Name of the weight -> the layer, for those that were changed; and name -> why not, for other large linear layers.
    """
    from onnx import numpy_helper

    graph = proto.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    changed: dict[str, Layer] = {}
    kept: dict[str, str] = {}
    for node in list(graph.node):
        found = _linear(node, stored)
        if found is None:
            continue
        name, transposed, bias = found
        array = numpy_helper.to_array(stored[name])
        weight = np.ascontiguousarray(array.T if transposed else array)
        if weight.size < _LARGE:
            continue
        coded = _codes(weight)
        if coded is None:
            kept[name] = "its remaining weights differ in magnitude within a row"
        elif len([other for other in graph.node if name in other.input]) > 1:
            kept[name] = "several layers share it"
        else:
            packed = _operator(name, *coded, node.input[0], node.output[0], bias)
            speedup = _speedup(weight, packed, batch)
            if speedup < _FASTER:
                kept[name] = f"it would run at {speedup:.2f} times the speed of float32 at batch {batch}"
                continue
            operator, tensors = packed
            at = list(graph.node).index(node)
            graph.node.remove(node)
            graph.node.insert(at, operator)
            graph.initializer.remove(stored[name])
            graph.initializer.extend(tensors)
            changed[name] = Layer((weight.shape[0], weight.shape[1]), speedup, batch)
    if changed:
        opset = proto.opset_import.add()
        opset.domain, opset.version = "com.microsoft", 1
    return changed, kept


def _linear(node: Any, stored: dict[str, Any]) -> tuple[str, bool, str] | None:
    """(name of the weight, whether it is stored as (inputs, outputs), name of the bias) of a linear layer."""
    if node.op_type not in ("Gemm", "MatMul") or len(node.input) < 2 or node.input[1] not in stored:
        return None
    tensor = stored[node.input[1]]
    if len(tensor.dims) != 2 or tensor.data_type != 1:  # float32
        return None
    attributes = {a.name: a.f if a.type == 1 else a.i for a in node.attribute}
    if node.op_type == "MatMul":
        return node.input[1], True, ""
    if attributes.get("transA", 0) or attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1:
        return None
    return node.input[1], not attributes.get("transB", 0), node.input[2] if len(node.input) > 2 else ""


def _codes(weight: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]] | None:
    """Codes 1, 2, 3 for -1, 0, +1, and the magnitude of each row; None where a row has several."""
    scale = np.abs(weight).max(axis=1)
    if not ((weight == 0) | (np.abs(weight) == scale[:, None])).all():
        return None
    return (np.sign(weight) + _ZERO).astype(np.uint8), scale


def _operator(
    name: str, codes: NDArray[np.uint8], scale: NDArray[np.float32], x: str, y: str, bias: str
) -> tuple[Any, list[Any]]:
    """The node, and the tensors it needs."""
    from onnx import helper, numpy_helper

    outputs, inputs = codes.shape
    blocks = -(-inputs // _BLOCK)
    padded = np.full((outputs, blocks * _BLOCK), _ZERO, np.uint8)
    padded[:, :inputs] = codes
    quads = padded.reshape(outputs, blocks, _BLOCK // 4, 4)
    packed = quads[..., 0] | quads[..., 1] << 2 | quads[..., 2] << 4 | quads[..., 3] << 6
    scales = np.repeat(scale[:, None], blocks, axis=1)
    tensors = [numpy_helper.from_array(packed, f"{name}.codes"), numpy_helper.from_array(scales, f"{name}.scales")]
    node = helper.make_node(
        "MatMulNBits",
        [x, f"{name}.codes", f"{name}.scales", *(["", "", bias] if bias else [])],
        [y],
        name=f"{name}.two_bit",
        domain="com.microsoft",
        K=inputs,
        N=outputs,
        bits=2,
        block_size=_BLOCK,
        accuracy_level=_ROUND_TO_8_BITS,
    )
    return node, tensors


def _speedup(weight: NDArray[np.float32], packed: tuple[Any, list[Any]], batch: int) -> float:
    """Time of the layer in float32 over its time in two bits: alone, on one thread, in rounds that take turns."""
    from onnx import helper, numpy_helper

    node, tensors = packed
    alone = type(node)()
    alone.CopyFrom(node)
    del alone.input[3:]  # the bias
    alone.input[0], alone.output[0] = "x", "y"
    dense = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
    both = [(dense, [numpy_helper.from_array(weight, "w")]), (alone, tensors)]
    calls = [_single(operator, initial, weight.shape, batch) for operator, initial in both]
    return statistics.median(_ratios(*calls))


def _single(operator: Any, tensors: list[Any], shape: tuple[int, ...], batch: int) -> Callable[[], object]:
    from onnx import TensorProto, helper

    outputs, inputs = shape
    graph = helper.make_graph(
        [operator],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, outputs])],
        tensors,
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    session = onnx_session(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
    x = np.random.default_rng(0).standard_normal((batch, inputs), np.float32)
    return lambda: session.run(None, {"x": x})


def _ratios(dense: Callable[[], object], packed: Callable[[], object]) -> Iterator[float]:
    once = max(statistics.median(time_calls(dense, 3)), 1e-7)
    calls = max(1, round(_ROUND_SECONDS / once))
    time_calls(packed, 2)
    for _ in range(_ROUNDS):
        a, b = time_calls(dense, calls), time_calls(packed, calls)
        yield statistics.median(a) / statistics.median(b)
