from __future__ import annotations

import copy
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.deploy.networks import branches, residual
from torch import Tensor, nn

from supermask.deploy import compile, pack, trace
from supermask.deploy.choosing import Choice, Way, units_of
from supermask.deploy.engine import Engine
from supermask.deploy.network import Network, prepare
from supermask.errors import EngineError, SupermaskError


class Small(nn.Module):
    """Convolutions with unequal padding, a residual block with a strided shortcut of more channels, rows, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.rows = nn.Linear(12, 12)
        self.fc = nn.Linear(12 * 9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.elu(self.norm(self.conv(F.pad(x, (0, 1, 0, 1)))))
        x = F.relu(self.inner(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))
        rows = F.gelu(self.rows(x.flatten(2).transpose(1, 2)))
        return self.fc(F.scaled_dot_product_attention(rows, rows, rows).flatten(1))


def sparse(model: nn.Module, density: float, seed: int = 0, *, ternary: bool = True) -> nn.Module:
    """Zero most weights, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                values = parameter.sign() * 0.3 if ternary else parameter
                parameter.copy_(values * (torch.rand(parameter.shape, generator=generator) < density))
    return model.eval()


def net() -> nn.Module:
    torch.manual_seed(0)
    return sparse(
        nn.Sequential(
            OrderedDict(conv=nn.Conv2d(1, 6, 3, padding=1), pool=nn.MaxPool2d(2), act=nn.ELU(), flat=nn.Flatten(),
                        fc1=nn.Linear(96, 20), act1=nn.ReLU(), fc2=nn.Linear(20, 4))
        ),
        0.2,
    )  # fmt: skip


SHAPE = (1, 8, 8)


def ways(network: Network) -> list[Way]:
    """Everything sparse that can be, nothing, and every second unit."""
    found = []
    for whole in (True, False):
        results = [unit.result for unit in units_of(network, whole) if unit.program is not None]
        found += [Way(whole, frozenset(results[::step]), last) for step in (1, 2) for last in (False, True)]
    return [*found, Way(True, frozenset(), False)]


def engine_of(network: Network, way: Way, threads: int = 1) -> Engine:
    times = {unit.result: (1.0, None if unit.program is None else 1.0) for unit in units_of(network, way.whole_blocks)}
    return Engine(network, {1: Choice(way, 1.0, 1.0, times)}, threads)


@pytest.mark.parametrize("make", [Small, net])
def test_every_way_gives_the_same(make: object) -> None:
    torch.manual_seed(0)
    model: nn.Module = make()  # type: ignore[operator]
    model = sparse(model, 0.2, ternary=make is net)
    shape = SHAPE if make is net else (3, 10, 10)
    x = torch.randn(5, *shape)
    network = prepare(*trace(model, x))
    with torch.no_grad():
        expected = model(x)
    for way in ways(network):
        engine = engine_of(network, way, threads=2)
        torch.testing.assert_close(engine(x), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(engine(x[:1]), expected[:1], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(engine(x.numpy()), engine(x).numpy())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("make", [residual, branches])
def test_every_way_of_strange_graphs(make: object, seed: int) -> None:
    from supermask.deploy.evaluate import evaluate

    graph, arrays = make(seed)  # type: ignore[operator]
    x = np.random.default_rng(0).normal(size=(3, *graph.input_shape)).astype(np.float32)
    expected = evaluate(graph, arrays, x)
    network = prepare(graph, arrays)
    for way in ways(network):
        np.testing.assert_allclose(engine_of(network, way)(x), expected, rtol=1e-4, atol=1e-4)


def test_residual_blocks_are_one_unit_where_they_can() -> None:
    network = prepare(*trace(sparse(Small(), 0.2), torch.randn(2, 3, 10, 10)))
    whole = units_of(network, True)
    assert ["conv"] in [[layer.name for layer in unit.layers] for unit in whole]
    block = next(unit for unit in whole if "inner" in [layer.name for layer in unit.layers])
    assert {node.op for node in block.nodes} >= {"conv", "slice", "pad", "add", "relu"}
    assert block.program is not None
    attention = next(unit for unit in whole if any(node.op == "attention" for node in unit.nodes))
    assert attention.program is None
    assert "attention" in attention.refusal


def test_compile_measures_and_says_why() -> None:
    model = net()
    x = torch.randn(4, *SHAPE)
    engine = compile(model, x, batch_sizes=(1, 4), threads=1, seconds=0.01)
    with torch.no_grad():
        torch.testing.assert_close(engine(x), model(x), rtol=1e-5, atol=1e-5)
    assert [engine.planned_for(n) for n in (0, 1, 2, 3, 4, 100)] == [1, 1, 1, 4, 4, 4]
    plan = engine.plan()
    text = str(plan)
    for part in ("conv", "6x1x3x3", "batch 1", "batch 4", "ms a call, all dense", "sparse", "dense"):
        assert part in text
    content = plan.to_dict()
    assert [row["name"] for row in content["layers"]] == ["conv", "fc1", "fc2"]
    assert set(content["batches"]) == {"1", "4"}
    assert all(row["ways"]["1"]["why"] for row in content["layers"])


def test_removed_layers_are_said() -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.gone, self.two = nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 2)
            nn.init.zeros_(self.gone.weight)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.one(x))
            return self.two(x + F.relu(self.gone(x)))

    engine = compile(Dead().eval(), torch.randn(2, 4), batch_sizes=(2,), seconds=0.01)
    rows = {row.layer.name: row.way(2) for row in engine.plan().layers}
    assert rows["gone"] == "removed"
    assert "gone: removed, nothing that it computes reaches the output" in str(engine.plan())


def test_a_module_that_stays_whole_runs() -> None:
    class Deciding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    engine = compile(Deciding(), torch.ones(2, 3), batch_sizes=(2,), seconds=0.01)
    assert torch.equal(engine(-torch.ones(2, 3)), torch.ones(2, 3))
    assert "Deciding" in str(engine.plan())


def test_indices() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2)).eval()
    x = torch.randint(9, (3, 3))
    engine = compile(model, x, batch_sizes=(3,), seconds=0.01)
    with torch.no_grad():
        torch.testing.assert_close(engine(x), model(x))
    with pytest.raises(EngineError, match="int64 of shape"):
        engine(x.float())


def test_calls_from_several_threads() -> None:
    model = net()
    network = prepare(*trace(model, torch.randn(2, *SHAPE)))
    inputs = [torch.randn(n, *SHAPE) for n in (1, 2, 7, 1, 16, 3)]
    for way in ways(network)[:3]:
        engine = engine_of(network, way, threads=2)
        expected = [engine(x) for x in inputs]
        wrong: list[int] = []

        def work(engine: Engine = engine, expected: list[Tensor] = expected, wrong: list[int] = wrong) -> None:
            for _ in range(20):
                wrong.extend(i for i, x in enumerate(inputs) if not torch.equal(engine(x), expected[i]))

        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not wrong


def test_torch_threads_are_as_before() -> None:
    engine = engine_of(prepare(*trace(net(), torch.randn(2, *SHAPE))), Way(True, frozenset(), False), threads=2)
    before = torch.get_num_threads()
    engine(torch.randn(1, *SHAPE))
    engine(torch.randn(3, *SHAPE))
    assert torch.get_num_threads() == before


def test_inputs_that_need_care() -> None:
    model = net()
    engine = compile(model, torch.randn(2, *SHAPE), batch_sizes=(1,), seconds=0.01)
    assert engine(torch.empty(0, *SHAPE)).shape == (0, 4)
    x = torch.randn(8, 8, 1, 3, requires_grad=True).permute(3, 2, 0, 1)
    with torch.no_grad():
        torch.testing.assert_close(engine(x), model(x), rtol=1e-5, atol=1e-5)
    assert not engine(x).requires_grad
    fixed = np.zeros((2, *SHAPE), np.float32)
    fixed.flags.writeable = False
    assert engine(fixed).shape == (2, 4)
    for wrong in (
        torch.zeros(2, 1, 8, 7),
        torch.zeros(1, 8, 8),
        torch.zeros(2, *SHAPE).double(),
        torch.zeros(2, *SHAPE).bfloat16(),
        np.zeros((2, 64), np.float32),
    ):
        with pytest.raises(EngineError, match=r"x: must be float32 of shape \(N, 1, 8, 8\), got"):
            engine(wrong)
    with pytest.raises(EngineError, match="got a list"):
        engine([1.0])  # type: ignore[type-var]
    with pytest.raises(EngineError, match="got a tensor on meta"):
        engine(torch.zeros(2, *SHAPE, device="meta"))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"batch_sizes": ()}, "batch_sizes"),
        ({"batch_sizes": (0,)}, "batch_sizes"),
        ({"batch_sizes": 128}, "batch_sizes: must be a list of integers from 1 on, at least one, got 128"),
        ({"batch_sizes": ("a", 1)}, "batch_sizes"),
        ({"threads": 0}, "threads"),
        ({"threads": 1.5}, "threads: must be an integer"),
        ({"seconds": 0.0}, "seconds"),
        ({"seconds": "long"}, "seconds: must be a positive number, got 'long'"),
        ({"example": None}, "example: a module needs a batch"),
        ({"example": [[1.0]]}, "example: must be a tensor or an array, got a list"),
        ({"model": {}}, "model: must be a module, a packed file or its path, got a dict"),
    ],
)
def test_wrong_options(options: dict[str, object], problem: str) -> None:
    with pytest.raises(EngineError, match=problem):
        compile(**{"model": net(), "example": torch.randn(1, *SHAPE), **options})  # type: ignore[arg-type]


def _packed(path: Path) -> Path:
    model = net()
    graph, _ = trace(model, torch.randn(1, *SHAPE))
    pack(model, path, graph=graph.to_dict())
    return path


def test_packed_files_keep_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _packed(tmp_path / "net.smk.safetensors")
    x = torch.randn(4, *SHAPE)
    engine = compile(path, batch_sizes=(1, 4), threads=1, seconds=0.01)
    with torch.no_grad():
        torch.testing.assert_close(engine(x), net()(x), rtol=1e-5, atol=1e-5)
    engine.save_plan(path)

    def refuse(*args: object) -> Choice:
        raise AssertionError("measured again")

    monkeypatch.setattr("supermask.deploy.engine.measure", refuse)
    again = compile(path, batch_sizes=(1, 4), threads=1)
    assert str(again.plan()) == str(engine.plan())
    assert torch.equal(again(x), engine(x))
    for options in ({"remeasure": True, "threads": 1}, {"threads": 3}, {"threads": 1, "batch_sizes": (9,)}):
        with pytest.raises(AssertionError, match="measured again"):
            compile(path, **options)  # type: ignore[arg-type]


def test_damaged_plans_and_files_without_a_graph(tmp_path: Path) -> None:
    from supermask.deploy import annotate, read

    path = _packed(tmp_path / "net.smk.safetensors")
    compile(path, batch_sizes=(1,), threads=1, seconds=0.01).save_plan(path)
    plan = dict(read(path).sections["plan"])
    good = plan["batches"]["1"]
    for change in (
        {"sparse": ["elsewhere"]},
        {"units": {name: [times[0], None] for name, times in good["units"].items()}},
        {"seconds": 10**400},
    ):
        annotate(path, plan={**plan, "batches": {"1": {**good, **change}}})
        with pytest.raises(EngineError, match="its plan is damaged"):
            compile(path, batch_sizes=(1,), threads=1)
    for wrong in (torch.randn(2, *SHAPE).double(), torch.randn(0, *SHAPE), torch.randn(2, 3)):
        with pytest.raises(EngineError, match=r"example: must be float32 of shape \(N, 1, 8, 8\), N >= 1, got"):
            compile(path, wrong, batch_sizes=(1,), threads=1, remeasure=True)
    bare = tmp_path / "bare.safetensors"
    pack(net(), bare)
    with pytest.raises(EngineError, match="holds no graph, so nothing is compiled from it that could use a plan"):
        compile(net(), torch.randn(1, *SHAPE), batch_sizes=(1,), seconds=0.01).save_plan(bare)
    with pytest.raises(EngineError, match="holds no graph"):
        compile(bare)
    with pytest.raises(SupermaskError):
        compile(tmp_path / "missing.safetensors")


class Recurrent(nn.Module):
    """A layer of torch that gives a tuple, read by what has a sparse form."""

    def __init__(self, layer: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.layer = layer(4, 6, batch_first=True)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.layer(x)[0]).mean(1))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        return torch.relu(self.attention(x, x, x)[0].mean(0))


class Rearranged(nn.Module):
    """Values that lie in memory in another order than torch.export saw."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.fc = nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        odd = (self.conv(x)[:, :, ::2, 1::2].contiguous() > 0).transpose(1, 2)
        rows = self.fc(self.conv(x)[:, :, ::2, 1::2].flatten(1))
        return rows.unsqueeze(0).permute(1, 2, 0).reshape(len(x), -1) + odd.reshape(len(x), -1)[:, :3]


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: Recurrent(nn.LSTM), (5, 4)),
        (lambda: Recurrent(nn.GRU), (5, 4)),
        (Attending, (5, 4)),
        (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()), (2, 7, 7)),
        (lambda: nn.Sequential(nn.AdaptiveMaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)), (2, 7, 7)),
        (Rearranged, (2, 7, 8)),
        (lambda: nn.Sequential(nn.ConvTranspose2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3)), (2, 7, 7)),
        (lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), nn.ReLU()), (2, 7, 7)),
        (lambda: nn.Sequential(nn.Conv3d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2)), (2, 4, 4, 4)),
    ],
    ids=["lstm", "gru", "attention", "norm", "max", "memory", "transposed", "circular", "3d"],
)
def test_what_stays_with_torch_runs(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = sparse(make(), 0.3, ternary=False)
    engine = compile(model, torch.randn(2, *shape), batch_sizes=(1, 4), threads=1, seconds=0.005)
    for n in (1, 2, 4, 7):
        x = torch.randn(n, *shape)
        with torch.no_grad():
            torch.testing.assert_close(engine(x), model(x), rtol=1e-5, atol=1e-5)


def test_no_examples_give_results_of_the_same_type() -> None:
    class Choosing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.argmax(1)

    out = compile(Choosing(), torch.randn(2, 3), batch_sizes=(1,), seconds=0.005)(torch.empty(0, 3))
    assert (out.dtype, out.shape) == (torch.int64, (0,))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_must_be_finite(value: float) -> None:
    model = net()
    with torch.no_grad():
        model.get_parameter("fc1.weight")[3, 5] = value
    with pytest.raises(EngineError, match="fc1.weight holds NaN or infinity; engines leave out zeros"):
        compile(model, torch.randn(2, *SHAPE))


def test_a_batch_norm_that_makes_weights_infinite() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    with torch.no_grad():
        model[0].weight.fill_(3e38)
        model[1].weight.fill_(1e3)
    with pytest.raises(EngineError, match="0.weight holds NaN or infinity after the batch norm"):
        compile(model, torch.zeros(2, 2))


def test_copies_and_pickles() -> None:
    engine = compile(net(), torch.randn(2, *SHAPE), batch_sizes=(1,), seconds=0.005)
    assert copy.deepcopy(engine) is engine
    with pytest.raises(EngineError, match="cannot be pickled: give the other process the packed file"):
        pickle.dumps(engine)


def test_tensors_that_are_not_plain() -> None:
    engine = compile(net(), torch.randn(2, *SHAPE), batch_sizes=(1,), seconds=0.005)
    with pytest.raises(
        EngineError, match=r"x: must be a plain tensor, got the layout torch.sparse_coo; x.to_dense\(\)"
    ):
        engine(torch.randn(2, *SHAPE).to_sparse())
