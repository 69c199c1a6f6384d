from __future__ import annotations

import numpy as np
import pytest
from tests.deploy.networks import Arrays, Maker, branches, residual

from supermask.deploy.dead import drop_dead
from supermask.deploy.evaluate import evaluate
from supermask.deploy.folding import fold
from supermask.deploy.graph import Graph, Node
from supermask.deploy.network import prepare
from supermask.deploy.programs import codes_of
from supermask.deploy.shapes import infer, shapes_of
from supermask.errors import GraphError


def _double(arrays: Arrays) -> Arrays:
    return {name: array.astype(np.float64) for name, array in arrays.items()}


def _input(graph: Graph) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(3, *graph.input_shape)).astype(np.float32)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("make", [residual, branches])
def test_nothing_changes(make: object, seed: int) -> None:
    graph, arrays = make(seed)  # type: ignore[operator]
    before = {name: array.copy() for name, array in arrays.items()}
    x = _input(graph)
    expected = evaluate(graph, _double(arrays), x.astype(np.float64))
    folded, fewer = fold(graph, arrays)
    np.testing.assert_allclose(evaluate(folded, _double(fewer), x.astype(np.float64)), expected, rtol=2e-5, atol=2e-5)
    assert not [node for node in folded.nodes if node.op == "batch_norm"]
    smaller, least = drop_dead(folded, fewer)
    np.testing.assert_allclose(evaluate(smaller, _double(least), x.astype(np.float64)), expected, rtol=2e-5, atol=2e-5)
    assert infer(smaller, shapes_of(least))[smaller.output] == infer(graph, shapes_of(arrays))[graph.output]
    assert sum(a.size for a in least.values()) <= sum(a.size for a in fewer.values())
    assert all((arrays[name] == before[name]).all() for name in before)
    again, same = drop_dead(smaller, least)
    assert again == smaller
    assert all((same[name] == least[name]).all() for name in same)


def test_much_is_dead_in_these_networks() -> None:
    saved = 0
    for seed in range(0, 20, 2):
        graph, arrays = residual(seed)
        _, fewer = fold(graph, arrays)
        _, least = drop_dead(*fold(graph, arrays))
        saved += sum(a.size for a in least.values()) < 0.7 * sum(a.size for a in fewer.values())
    assert saved >= 5


def test_weights_of_one_magnitude_stay_so() -> None:
    m = Maker(0, (3, 6, 6))
    x = m.norm(m.conv("input", 3, 8), 8)
    m.arrays["conv0.weight"] = (np.sign(m.arrays["conv0.weight"]) * np.float32(0.037)).astype(np.float32)
    _, arrays = fold(m.graph(x), m.arrays)
    found = codes_of(arrays["conv0.weight"])
    assert found is not None
    codes, scale = found
    assert set(np.unique(codes)) <= {-1, 0, 1}
    assert ((codes * scale[:, None, None, None]) == arrays["conv0.weight"]).all()
    assert codes_of(np.array([[1, 2]], np.float32)) is None


def test_tied_layers_get_arrays_of_their_own() -> None:
    m = Maker(0, (4,))
    first = m.linear("input", 4, 4)
    second = m.add("linear", m.norm(first, 4), **m.nodes[0].attributes)
    graph = m.graph(second)
    folded, arrays = fold(graph, m.arrays)
    one, two = (node for node in folded.nodes if node.op == "linear")
    assert one["weight"] != two["weight"]
    assert (arrays[two["weight"]] == m.arrays["linear0.weight"]).all()


def test_a_norm_behind_a_value_with_two_readers_stays() -> None:
    m = Maker(0, (4,))
    first = m.linear("input", 4, 4)
    graph = m.graph(m.add("add", first, m.norm(first, 4)))
    assert [node.op for node in fold(graph, m.arrays)[0].nodes] == ["linear", "scale_shift", "add"]


def _padded(padding: list[int], value: float = 0.0) -> tuple[Graph, Arrays]:
    m = Maker(0, (3, 6, 6), density=1)
    return m.graph(m.conv(m.add("pad", "input", padding=padding, value=value), 3, 2)), m.arrays


@pytest.mark.parametrize(
    ("padding", "value", "operations"),
    [
        ([1, 1, 2, 2], 0.0, ["conv"]),
        ([1, 1, 2, 2, 0, 0], 0.0, ["conv"]),
        ([1, 1], 0.0, ["conv"]),
        ([1, 2, 1, 2], 0.0, ["pad", "conv"]),
        ([1, 1, 1, 1], 0.5, ["pad", "conv"]),
    ],
)
def test_zeros_around_images_become_padding(padding: list[int], value: float, operations: list[str]) -> None:
    graph, arrays = _padded(padding, value)
    folded, fewer = fold(graph, arrays)
    assert [node.op for node in folded.nodes] == operations
    x = _input(graph)
    np.testing.assert_allclose(evaluate(folded, fewer, x), evaluate(graph, arrays, x), rtol=1e-5, atol=1e-5)


def test_reshaping_to_the_same_shape_is_left_out() -> None:
    nodes = (
        Node("flatten", "f"),
        Node("permute", "p", ("f",), {"axes": [0, 1]}),
        Node("relu", "r", ("p",)),
        Node("slice", "s", ("r",), {"axis": 1, "start": 0, "stop": 4, "step": 1}),
    )
    folded, _ = fold(Graph((4,), nodes, "s"), {})
    assert [node.name for node in folded.nodes] == ["r"]
    assert folded.output == "r"


def _constant_channel(padding: int) -> tuple[Graph, Arrays]:
    m = Maker(0, (2, 5, 5), density=1)
    first = m.conv("input", 2, 3)
    m.arrays["conv0.weight"][1] = 0  # its channel holds its bias, 0.7, which a zero padding does not
    m.arrays["conv0.bias"][:] = [0.1, 0.7, 0.2]
    second = m.conv(m.add("elu", first, alpha=1.0), 3, 2, bias=False)
    m.nodes[-1] = Node("conv", second, m.nodes[-1].inputs, {**m.nodes[-1].attributes, "padding": [padding] * 2})
    return m.graph(second), m.arrays


def test_a_constant_moves_into_a_bias_only_without_padding() -> None:
    graph, arrays = _constant_channel(0)
    smaller, least = drop_dead(*fold(graph, arrays))
    assert least["conv2.weight"].shape == (2, 2, 3, 3)
    assert least["conv2/bias"] == pytest.approx(0.7 * arrays["conv2.weight"][:, 1].sum((1, 2)), rel=1e-5)
    graph, arrays = _constant_channel(1)
    padded, kept = drop_dead(*fold(graph, arrays))
    assert kept["conv2.weight"].shape == (2, 3, 3, 3)
    for found, weights in ((smaller, least), (padded, kept)):
        graph, arrays = _constant_channel(int(found is padded))
        x = _input(graph)
        np.testing.assert_allclose(evaluate(found, weights, x), evaluate(graph, arrays, x), rtol=1e-5, atol=1e-5)


def test_a_zero_channel_goes_in_spite_of_padding() -> None:
    graph, arrays = _constant_channel(1)
    arrays["conv0.bias"][1] = 0
    _, least = drop_dead(*fold(graph, arrays))
    assert least["conv2.weight"].shape == (2, 2, 3, 3)
    assert least["conv0.weight"].shape == (2, 2, 3, 3)


def test_columns_behind_a_flatten_go_by_channel() -> None:
    m = Maker(0, (2, 4, 4), density=1)
    first = m.same("input", 2, 3)
    graph = m.graph(m.linear(m.add("flatten", m.add("relu", first)), 48, 2))
    m.arrays["linear3.weight"][:, 16:32] = 0
    m.arrays["linear3.weight"][0, 3] = 0
    smaller, least = drop_dead(*fold(graph, m.arrays))
    assert least["conv0.weight"].shape[0] == 2
    assert least["linear3.weight"].shape == (2, 32)
    x = _input(graph)
    np.testing.assert_allclose(evaluate(smaller, least, x), evaluate(graph, m.arrays, x), rtol=1e-5, atol=1e-5)


def test_a_dead_branch_is_removed_whole() -> None:
    m = Maker(0, (2, 4, 4), density=1)
    x = m.same("input", 2, 3)
    branch = m.same(m.add("relu", m.same(x, 3, 5)), 5, 3, bias=False)
    m.arrays["conv3.weight"][:] = 0
    graph = m.graph(m.add("flatten", m.add("relu", m.add("add", branch, x))))
    network = prepare(graph, m.arrays)
    assert [node.name for node in network.graph.nodes] == ["conv0", "relu5", "flatten6"]
    assert [layer.after is None for layer in network.layers] == [False, True, True]
    assert network.layers[0].macs == 3 * 2 * 9 * 16


def test_weights_of_another_type_are_refused() -> None:
    m = Maker(0, (4,))
    graph = m.graph(m.linear("input", 4, 4))
    with pytest.raises(GraphError, match=r"linear0 \(linear\): linear0.weight must be float32, got int64"):
        prepare(graph, {**m.arrays, "linear0.weight": np.ones((4, 4), np.int64)})
