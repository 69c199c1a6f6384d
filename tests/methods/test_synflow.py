from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from supermask import Magnitude, Sparsifier
from supermask.errors import AttachError, DivergedError, HyperparameterError, UnsupportedModuleError
from supermask.methods import SynFlow, synflow
from supermask.tensors.scores import sensitivity

from .helpers import bare
from .test_snip import spy


def hand() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
        model[2].weight.copy_(torch.tensor([[5.0, -6.0]]))
    return model


def attach(method: SynFlow, model: nn.Module, data: Any = None) -> Sparsifier:
    return method.attach(model, data=data)


def history(method: SynFlow, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The masks of all iterations, each one flat tensor."""
    choose, seen = synflow.choose_masks, []

    def noted(*arguments: Any) -> Any:
        masks = choose(*arguments)
        seen.append(torch.cat([mask.flatten() for mask in masks]))
        return masks

    monkeypatch.setattr(synflow, "choose_masks", noted)
    attach(method, model)
    monkeypatch.undo()
    return seen


def test_scores_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hidden 3 and 7, R = 15 + 42 = 57; then the two weights of 5 and 10 are hidden and R = 42 of the second unit."""
    seen = spy(monkeypatch, "synflow")
    model = hand()
    s = attach(SynFlow(density=0.25, iterations=2, input_shape=(2,), schedule="linear"), model)
    assert seen[0] == [[[5.0, 10.0], [18.0, 24.0]], [[15.0, 42.0]]]
    assert seen[1] == [[[-1.0, -1.0], [18.0, 24.0]], [[0.0, 42.0]]]  # round(.625 * 6) = 4 of them were kept
    assert [t.mask.tolist() for t in s.targets] == [[[False, False], [False, True]], [[False, True]]]
    assert s.targets[0].weight.tolist() == [[0.0, 0.0], [0.0, 4.0]]
    assert s.targets[1].weight.tolist() == [[0.0, -6.0]]  # the signs are back


def convolutional() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, bias=False), nn.LeakyReLU(0.1), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Dropout(0.5), nn.Linear(32, 9, bias=False), nn.ELU(), nn.Linear(9, 4, bias=False),
        )  # fmt: skip


@pytest.mark.parametrize("masked", [False, True])
def test_the_flow_of_every_layer_is_the_same(masked: bool) -> None:
    """The conservation law: the scores of each layer sum to R, also under masks."""
    positive = synflow._positive(convolutional())
    parameters: list[Tensor] = [p for p in positive.parameters() if p.dim() > 1]
    for i, parameter in enumerate(parameters):
        if masked:
            parameter.mul_(torch.rand(parameter.shape, generator=torch.Generator().manual_seed(i)) < 0.4)
        parameter.requires_grad_(True)
    ones = torch.ones(1, 2, 8, 8, dtype=torch.float64)
    gradients = synflow._gradients(positive, ones, parameters)
    sums = [float(sensitivity(p, g).sum()) for p, g in zip(parameters, gradients, strict=True)]
    assert len(sums) == 4
    assert sums == pytest.approx([float(synflow._flow(positive, ones).detach())] * 4, rel=1e-12)
    assert sums[0] > 0


@pytest.mark.parametrize("schedule", ["exponential", "linear"])
@pytest.mark.parametrize("scope", ["global", "uniform", "erk"])
@pytest.mark.parametrize("least", [0, 3])
def test_masks_are_nested_and_counts_exact(
    schedule: Any, scope: Any, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = SynFlow(density=0.1, iterations=9, scope=scope, schedule=schedule, min_per_layer=least, input_shape=(9,))
    masks = history(method, bare(9, 8, 5), monkeypatch)
    for before, after in zip(masks, masks[1:], strict=False):
        assert not bool((after & ~before).any())
    for t, mask in enumerate(masks, start=1):
        now = 0.1 ** (t / 9) if schedule == "exponential" else 0.1 + (1 - t / 9) * 0.9
        assert int(mask.sum()) == int(112 * now + 0.5)


def test_no_layer_collapses_where_magnitude_empties_one() -> None:
    def deep() -> nn.Sequential:
        return bare(784, 100, 100, 100, 10)

    s = attach(SynFlow(density=0.001, input_shape=(784,)), deep())
    assert s.remaining() == round(0.001 * 99_400)
    assert min(int(t.mask.sum()) for t in s.targets) > 0
    magnitude = Magnitude(density=0.001, schedule="one-shot", scope="global").attach(deep())
    assert min(int(t.mask.sum()) for t in magnitude.targets) == 0


def test_the_shape_of_the_input_comes_from_the_data() -> None:
    masks = []
    for data in (
        [(torch.full((4, 9), -3.0), torch.zeros(4))],
        [torch.ones(2, 9)],
        DataLoader(TensorDataset(torch.randn(8, 9), torch.zeros(8)), batch_size=4, shuffle=True),
        None,
    ):
        rng = torch.get_rng_state()
        s = attach(SynFlow(density=0.2, iterations=5, input_shape=(9,) if data is None else None), bare(9, 8, 5), data)
        assert torch.equal(torch.get_rng_state(), rng)
        masks.append(torch.cat([t.mask.flatten() for t in s.targets]))
    assert all(torch.equal(masks[0], mask) for mask in masks[1:])


@pytest.mark.parametrize("data", [None, [], [{"x": torch.ones(2, 9)}], [(torch.tensor(3.0), 1)]])
def test_an_unknown_shape(data: Any) -> None:
    with pytest.raises(
        AttachError, match="synflow needs the shape of one example: set input_shape, or pass data=batches"
    ):
        attach(SynFlow(), bare(9, 8, 5), data)


def test_a_shape_that_does_not_fit() -> None:
    with pytest.raises(AttachError, match=r"the model does not take one example of shape \(7,\) in float64"):
        attach(SynFlow(input_shape=(7,)), bare(9, 8, 5))


def test_the_model_is_left_alone_but_for_the_masks() -> None:
    model = convolutional()
    model[1].running_mean.fill_(-0.5)
    model[1].running_var.fill_(2.0)
    before, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    s = attach(SynFlow(density=0.3, iterations=4, input_shape=(2, 8, 8)), model)
    assert torch.equal(torch.get_rng_state(), rng)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    masks = s.finalize()
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name] * masks[name] if name in masks else before[name]), name


def test_deep_networks_do_not_overflow() -> None:
    """Fifty layers of width 100 scaled up: R is about 1e100, beyond float32."""
    model = bare(20, *([100] * 50), 4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(20.0)
    s = attach(SynFlow(density=0.1, iterations=3, input_shape=(20,)), model)
    assert s.remaining() == round(0.1 * sum(t.size for t in s.targets))
    assert not s.notes
    with torch.no_grad():
        for target in s.targets:
            target.parameter.mul_(1e10)
    s.finalize()
    with pytest.raises(DivergedError, match="the flow through the network is (inf|nan): it overflows float64"):
        attach(SynFlow(input_shape=(20,)), model)


REFUSED = {
    "embedding": nn.Embedding(5, 9),
    "lstm": nn.LSTM(9, 9),
    "cell": nn.GRUCell(9, 9),
    "attention": nn.MultiheadAttention(9, 3),
    "layernorm": nn.LayerNorm(9),
    "groupnorm": nn.GroupNorm(3, 9),
    "instancenorm": nn.InstanceNorm1d(9),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "relu6": nn.ReLU6(),
    "softmax": nn.Softmax(1),
    "gelu": nn.GELU(),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_modules_that_break_the_flow_are_refused_by_name(name: str) -> None:
    part = REFUSED[name]
    model = nn.Sequential(OrderedDict([("first", nn.Linear(9, 9)), ("odd", part), ("last", nn.Linear(9, 2))]))
    before = list(model.state_dict())
    with pytest.raises(
        UnsupportedModuleError, match=rf"synflow does not support this model: odd \({type(part).__name__}\) "
    ):
        attach(SynFlow(input_shape=(9,)), model)
    assert list(model.state_dict()) == before


@pytest.mark.parametrize(
    "function",
    [torch.tanh, torch.sigmoid, lambda x: x.softmax(1), lambda x: nn.functional.layer_norm(x, x.shape[1:]), torch.square],
    ids=["tanh", "sigmoid", "softmax", "layer_norm", "square"],
)  # fmt: skip
@pytest.mark.parametrize("bias", [False, True])
def test_functions_that_break_the_flow_are_found(function: Any, bias: bool) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(9, 8, bias=bias)
            self.last = nn.Linear(8, 2, bias=bias)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(function(self.first(x)))
            return out

    with pytest.raises(
        UnsupportedModuleError,
        match=r"an input of ones gives the output [0-9.e-]+, one of twos [0-9.e-]+, not twice as much, so the flow",
    ):
        attach(SynFlow(input_shape=(9,)), Odd())


def test_biases_norms_and_skips_are_no_reason_to_refuse() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head((x + nn.functional.elu(self.norm(self.conv(x)))).mean((2, 3)))
            return out

    model = Skip()
    model.norm.running_mean.copy_(torch.tensor([-1.0, 0.5, 2.0]))
    s = attach(SynFlow(density=0.3, iterations=6, input_shape=(3, 5, 5)), model)
    assert s.remaining() == 26  # of 87


def test_two_outputs() -> None:
    class Pair(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), x

    with pytest.raises(UnsupportedModuleError, match="must be one tensor, got tuple"):
        attach(SynFlow(input_shape=(9,)), Pair(9, 2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"iterations": 0}, "synflow: iterations must be a whole number of pruning steps >= 1, got 0"),
        ({"schedule": "cosine"}, "synflow: schedule must be one of exponential, linear"),
        ({"input_shape": (0, 3)}, r"synflow: input_shape must hold positive whole numbers or be null, got \(0, 3\)"),
        ({"input_shape": 9}, "synflow: input_shape"),
        ({"input_shape": [9]}, "synflow: input_shape"),
    ],
)
def test_bad_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperparameterError, match=message):
        SynFlow(**fields)


def test_a_flow_that_begins_behind_a_threshold_is_refused() -> None:
    """No output for ones, some for twos."""

    class Threshold(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(super().forward(x) - 2.5)

    model = Threshold(2, 1, bias=False)
    nn.init.ones_(model.weight)
    with pytest.raises(
        UnsupportedModuleError, match="an input of ones gives the output 0, one of twos 1.5, not twice as much"
    ):
        attach(SynFlow(density=0.5, input_shape=(2,)), model)


def test_flags_and_indices_among_the_buffers_are_left_alone() -> None:
    class Picking(nn.Linear):
        keep: Tensor
        last: Tensor

        def __init__(self) -> None:
            super().__init__(3, 4, bias=False)
            self.register_buffer("keep", torch.tensor([True, False, True]))
            self.register_buffer("last", torch.tensor([-1]))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = super().forward(x * self.keep)
            return out[:, self.last]

    s = attach(SynFlow(density=2 / 12, input_shape=(3,)), Picking())
    assert s.targets[0].mask.tolist() == [[False] * 3, [False] * 3, [False] * 3, [True, False, True]]
