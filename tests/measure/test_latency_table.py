from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from supermask.core.budget import costs_of, fractions, project
from supermask.core.groups import Structure
from supermask.core.tracing import find_structure
from supermask.errors import HyperparameterError, MaskError
from supermask.measure import latency_table
from supermask.measure.latency import Latency
from supermask.measure.latency_table import LatencyTable


class Net(nn.Module):
    """Plain, depthwise and grouped convolutions, batch norm, an addition, poolings, a linear layer."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.deep = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.second = nn.Conv2d(width, 24, 1, stride=2)
        self.third = nn.Conv2d(24, 24, 1)
        self.head = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = nn.functional.max_pool2d(torch.relu(self.deep(x)), 2)
        x = torch.relu(self.second(x))
        x = x + torch.relu(self.third(x))
        out: torch.Tensor = self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return out


def structure() -> Structure:
    return find_structure(Net(), torch.zeros(1, 3, 8, 8))


Fake = Callable[..., dict[str, Latency]]


def fake(seconds: Callable[[str], float], seen: list[str] | None = None) -> Fake:
    """In place of measuring: what a name says."""

    def timed(candidates: Mapping[str, Callable[[], object]], **options: Any) -> dict[str, Latency]:
        for name, call in candidates.items():
            call()  # it must run
            if seen is not None:
                seen.append(name)
        return {name: Latency(((seconds(name),),) * 5, "wall") for name in candidates}

    return timed


def product(name: str) -> float:
    """Seconds of a layer: the product of its lengths, where it is a plain convolution or linear."""
    first, second = map(int, name.rpartition(": ")[2].split("x"))
    return 1e-6 * first * second


def test_a_table_of_products_gives_multiply_accumulates_without_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    found = structure()
    monkeypatch.setattr(latency_table, "latency", fake(product))
    table = LatencyTable.measure(Net(), found, points=4)
    layers = {part.tensor: grid for part, grid in zip(table.parts, table.grids, strict=True) if part.tensor}
    assert layers["first.weight"][:2] == ((1, 5, 11, 15, 16), (3,))
    assert layers["second.weight"][:2] == (
        (1, 5, 13, 23, 24),
        (1, 5, 11, 15, 16),
    )  # no whole blocks of eight between the ends
    assert layers["deep.weight"][:2] == ((1, 5, 11, 15, 16), (1,))

    def total(keeps: dict[str, torch.Tensor]) -> float:
        """Layers are bilinear in their lengths, other operations linear in their channels: interpolation is exact."""
        seconds = 0.0
        for part in table.parts:
            first, second = found.lengths(part.tensor, keeps)[:2] if part.tensor else part.lengths
            names = [] if part.tensor else [name for name, _ in found.values[part.value].parts if name in keeps]
            seconds += 1e-6 * (sum(int(keeps[name].sum()) for name in names) if names else first * second)
        return seconds

    keeps = {group.name: torch.arange(group.channels) < 7 for group in found.removable()}
    assert len(table.parts) == 5 + 8  # layers; batch norm, four ReLUs, two poolings, an addition
    assert table.cost({}) == pytest.approx(total({}))
    assert total(keeps) < 0.6 * total({})
    assert table.cost(keeps) == pytest.approx(total(keeps))


def test_a_real_table_is_monotone_and_makes_a_budget(tmp_path: Path) -> None:
    net, found = Net(), structure()
    table = LatencyTable.measure(net, found, batch=2, threads=1, points=3, rounds=5, clock="cpu", folder=tmp_path)
    groups = [group for group in found.removable() if group.channels > 1]
    costs = {**costs_of(found), "latency": table.cost}
    seconds = [table.cost({g.name: torch.arange(g.channels) < count for g in groups}) for count in (1, 3, 8, 9, 15)]
    assert seconds == sorted(seconds)
    assert 0.0 < seconds[0] < table.cost({})
    least = fractions({"latency": table.cost}, {g.name: torch.arange(g.channels) < 1 for g in groups})["latency"]
    limit = (1.0 + least) / 2
    ranks = {group.name: torch.arange(group.channels).float() for group in groups}
    chosen = project(found, groups, {}, ranks, costs, {"latency": limit})
    assert fractions(costs, chosen)["latency"] <= limit
    said = table.verify({}, net, net, rounds=5)
    assert said.predicted_fraction == 1.0
    assert said.measured.p50 > 0
    assert "the table says" in str(said)
    assert net.training


def test_what_was_measured_is_kept_and_belongs_to_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(latency_table, "latency", fake(product, seen))
    first = LatencyTable.measure(Net(), structure(), threads=1, points=3, folder=tmp_path)
    assert len(seen) == len(set(seen)) > 10
    (file,) = tmp_path.glob("*.json")
    content = json.loads(file.read_text())
    assert content["machine"].keys() == {"processor", "cores", "torch", "threads", "batch", "clock"}
    assert content["seconds"].keys() == set(seen)
    count = len(seen)
    again = LatencyTable.measure(Net(), structure(), threads=1, points=3, folder=tmp_path)
    assert len(seen) == count
    assert again.cost({}) == first.cost({})
    LatencyTable.measure(Net(), structure(), threads=1, points=4, folder=tmp_path)  # what is new is added
    assert count < len(seen) < 2 * count + len(json.loads(file.read_text())["seconds"])
    LatencyTable.measure(Net(), structure(), threads=2, points=3, folder=tmp_path)
    LatencyTable.measure(Net(), structure(), threads=1, points=3, batch=4, folder=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 3


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 9, "machine": {}, "seconds": {}}', '{"format": 1}'])
def test_a_damaged_file_is_refused(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_table, "latency", fake(product))
    LatencyTable.measure(Net(), structure(), threads=1, points=2, folder=tmp_path)
    (file,) = tmp_path.glob("*.json")
    file.write_text(content)
    with pytest.raises(MaskError, match=r"delete it"):
        LatencyTable.measure(Net(), structure(), threads=1, points=2, folder=tmp_path)


def test_noise_is_evened_out_but_whole_layers_may_be_faster() -> None:
    noisy = np.array([[1.0, 3.0, 2.0, 0.5], [2.0, 2.5, 4.0, 1.0], [1.0, 2.0, 3.0, 0.1]])
    even = latency_table._evened(noisy)
    assert bool((np.diff(even[:2, :3], axis=0) >= 0).all())
    assert bool((np.diff(even[:2, :3], axis=1) >= 0).all())
    assert even[2].tolist() == [1.0, 2.0, 3.0, 0.1]
    assert even[:2, 3].tolist() == [0.5, 1.0]
    steady = np.add.outer(np.arange(3.0), np.arange(4.0))
    assert np.array_equal(latency_table._evened(steady), steady)
    assert np.array_equal(latency_table._evened(np.array([[3.0]])), [[3.0]])


def test_a_calibration_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on sees the costs that it began with."""
    net, found, seen = Net(), structure(), []
    monkeypatch.setattr(latency_table, "latency", fake(product))
    table = LatencyTable.measure(net, found, points=3, folder=tmp_path)
    monkeypatch.setattr(latency_table, "latency", fake(lambda name: 1.0 + len(seen), seen))
    first = table.calibrated([({}, net)])
    again = LatencyTable.measure(net, found, points=3, folder=tmp_path).calibrated([({}, net)])
    assert seen == ["0"]
    assert again.cost({}) == first.cost({})
    small = {found.groups[0].name: torch.arange(16) < 4}
    table.calibrated([(small, net)])
    assert len(seen) == 2


def test_calibration_fits_whole_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    net, found = Net(), structure()
    monkeypatch.setattr(latency_table, "latency", fake(product))
    table = LatencyTable.measure(net, found, points=3)
    small = {found.groups[0].name: torch.arange(16) < 4}
    sums = table.cost({}), table.cost(small)
    monkeypatch.setattr(latency_table, "latency", fake(lambda name: 0.5 + 2.0 * sums[int(name)]))
    fitted = table.calibrated([({}, net), (small, net)])
    assert (fitted.offset, fitted.scale) == (pytest.approx(0.5), pytest.approx(2.0))
    assert fitted.cost(small) == pytest.approx(0.5 + 2.0 * sums[1])
    alone = table.calibrated([({}, net)])
    assert (alone.offset, alone.cost({})) == (0.0, pytest.approx(0.5 + 2.0 * sums[0]))
    again = fitted.calibrated([({}, net), (small, net)])  # from the plain sums, not on top of the last fit
    assert again.scale == pytest.approx(2.0)
    monkeypatch.setattr(latency_table, "latency", fake(lambda name: 1.0 + int(name)))  # the smaller is slower
    assert table.calibrated([({}, net), (small, net)]).offset == 0.0
    with pytest.raises(HyperparameterError, match="networks: there is nothing to fit to"):
        table.calibrated([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch must be a whole number >= 1, got 0"),
        ({"threads": -1}, "threads must be"),
        ({"threads": 0}, "threads must be"),
        ({"clock": "cpu", "threads": 2}, "clock 'cpu' adds up the time of all threads.*got threads=2"),
        ({"points": 1}, "points must be a whole number >= 2"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperparameterError, match=message):
        LatencyTable.measure(Net(), structure(), **options)


def test_models_and_structures_that_cannot_be_timed() -> None:
    with pytest.raises(HyperparameterError, match="on the CPU in float32, its weights are torch.float64"):
        LatencyTable.measure(Net().double(), structure())
    bare = Structure((), {"w": (2, 3)}, {}, {"w": 1})
    with pytest.raises(HyperparameterError, match="find it with an example"):
        LatencyTable.measure(nn.Linear(3, 2), bare)


def test_threads_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(latency_table, "latency", fake(product))
    assert LatencyTable.measure(Net(), structure(), threads=before + 1, points=2).machine["threads"] == before + 1
    assert torch.get_num_threads() == before
