from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from supermask.deploy.evaluate import evaluate
from supermask.deploy.graph import Graph
from supermask.deploy.tracing import trace
from supermask.errors import EngineError, GraphError
from supermask.models.catalog import MODELS, build


@pytest.mark.parametrize("name", ["fcn", "conv2", pytest.param("resnet20", marks=pytest.mark.slow)])
def test_our_models_become_graphs_without_torch(name: str) -> None:
    model, x = build(name).eval(), torch.randn(2, *MODELS[name].input_shape)
    graph, arrays = trace(model, x)
    assert Graph.from_json(graph.to_json()) == graph
    layers = [node.name for node in graph.nodes if node.op in ("conv", "linear")]
    modules = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert sorted(layers) == sorted(modules)
    assert arrays.keys() <= model.state_dict().keys()
    with torch.no_grad():
        np.testing.assert_allclose(evaluate(graph, arrays, x.numpy()), model(x).numpy(), atol=1e-5)


class Sorting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        values, order = self.fc(x).sort(-1)
        return values.gather(1, order) + torch.zeros(x.shape[0] * 2, 3).view(x.shape[0], 6)


def test_what_has_no_node_is_run_by_torch() -> None:
    model = Sorting().eval()
    graph, arrays = trace(model, torch.randn(1, 4))
    targets = [node["target"] for node in graph.torch_nodes()]
    assert "aten.sort.default" in targets
    assert [node.name for node in graph.nodes if node.op == "linear"] == ["fc"]
    from supermask.deploy.dense import Dense

    dense, x = Dense(graph, arrays), torch.randn(5, 4)
    values = {"input": x}
    with torch.no_grad():
        for node in graph.nodes:
            values[node.name] = dense.compute(node, len(x), [values[name] for name in node.inputs])
        assert torch.equal(values[graph.output], model(x))


class Deciding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_module_that_looks_at_its_data_stays_whole() -> None:
    graph, arrays = trace(Deciding(), torch.randn(2, 3))
    (node,) = graph.nodes
    assert (node.op, node["target"], arrays) == ("torch", "Deciding", {})
    assert "torch.export cannot follow it" in node["why"]
    x = -torch.ones(2, 3)
    assert torch.equal(node.call(2, x), -x)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


def test_a_module_that_remembers_stays_whole() -> None:
    graph, _ = trace(Counting(), torch.randn(2, 3))
    assert [node.op for node in graph.nodes] == ["torch"]


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.words(x).mean(1))


def test_indices_as_input() -> None:
    graph, _ = trace(Table(), torch.zeros(2, 3, dtype=torch.int64))
    assert graph.input_dtype == "int64"
    assert [node.op for node in graph.nodes][-2:] == ["mean", "linear"]


def test_the_model_and_the_generators_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.BatchNorm1d(4))
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    graph, _ = trace(model, torch.randn(2, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [node.op for node in graph.nodes] == ["linear", "batch_norm"]


def test_arrays_are_copies() -> None:
    model = nn.Linear(3, 2)
    _, arrays = trace(model, torch.randn(1, 3))
    arrays["weight"][:] = 0
    assert model.weight.abs().sum() > 0


class _Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


class Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Total(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum()


def _parametrized() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 2))
    parametrize.register_parametrization(model[0], "weight", _Half())
    return model


@pytest.mark.parametrize(
    ("model", "example", "problem"),
    [
        (_parametrized(), torch.randn(2, 3), r"0 carries a mask or another parametrization still; call finalize\(\)"),
        (nn.Linear(3, 2), torch.randn(2, 4), "example: the model does not take a batch"),
        (nn.Linear(3, 2), torch.randn(0, 3), "example: must be a batch"),
        (nn.Linear(3, 2), torch.tensor(1.0), "example: must be a batch"),
        (nn.Linear(3, 2), torch.randn(2, 3).double(), "example: must be a batch"),
        (nn.Linear(3, 2), np.zeros((2, 3)), "got ndarray"),
        (nn.Linear(3, 2).double(), torch.randn(2, 3), r"weight has the type torch.float64; .* model.float\(\)"),
        (nn.Linear(3, 2, device="meta"), torch.randn(2, 3), r"weight is on meta; .* model.cpu\(\)"),
        (Two(), torch.randn(2, 3), "one tensor with one row an example, got a tuple"),
        (Total(), torch.randn(2, 3), r"one row an example, got \(\)"),
    ],
)
def test_what_cannot_be_traced_is_refused(model: nn.Module, example: Tensor, problem: str) -> None:
    with pytest.raises(EngineError, match=problem):
        trace(model, example)


class Looking(nn.Module):
    """Does something else for some numbers of examples."""

    def __init__(self, factor: Callable[[int], float]) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * self.factor(x.shape[0])


@pytest.mark.parametrize(
    ("factor", "why"),
    [
        (lambda n: 5.0 if n == 1 else 1.0, "for 1 example it does something else than was traced"),
        (lambda n: 5.0 if n > 100 else 1.0, "its code looks at the number of examples"),
        (lambda n: 5.0 if n % 2 == 0 else 1.0, "its code looks at the number of examples"),
    ],
    ids=["one", "many", "even"],
)
def test_a_module_that_looks_at_the_number_of_examples_stays_whole(factor: Callable[[int], float], why: str) -> None:
    model = Looking(factor).eval()
    graph, _ = trace(model, torch.randn(2, 4))
    (node,) = graph.nodes
    assert node.op == "torch"
    assert why in node["why"]
    with pytest.raises(
        GraphError, match="Looking, which only torch can run: .* the number of examples|than was traced"
    ):
        graph.to_dict()
    for n in (1, 2, 3, 101):
        x = torch.randn(n, 4)
        with torch.no_grad():
            assert torch.equal(node.call(n, x), model(x))


def test_a_batch_of_one_may_lose_its_batch_in_the_module() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 4), Squeeze(), nn.Linear(3, 2))
    graph, _ = trace(model, torch.randn(2, 1, 4, 4))
    assert [node.op for node in graph.nodes] == ["conv", "flatten", "linear"]


class Squeeze(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze()


def test_numbers_that_are_not_finite_stay_with_torch() -> None:
    class Infinite(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - float("inf")

    graph, _ = trace(Infinite(), torch.randn(2, 3))
    assert [node["target"] for node in graph.torch_nodes()] == ["aten.sub.Tensor"]


def test_torch_does_not_print_what_it_cannot_follow(capfd: pytest.CaptureFixture[str]) -> None:
    trace(Deciding(), torch.randn(2, 3))
    assert capfd.readouterr() == ("", "")
