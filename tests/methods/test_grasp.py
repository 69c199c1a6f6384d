from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supermask import Sparsifier
from supermask.errors import AttachError, DataError, HyperparameterError
from supermask.methods import Grasp

from .helpers import bare, batch
from .test_snip import case, line, spy, squared


def cross_entropy(model: nn.Module, given: Any) -> Tensor:
    return F.cross_entropy(model(given[0]), given[1])


def attach(method: Grasp, model: nn.Module, data: Any, loss: Any = cross_entropy) -> Sparsifier:
    return method.attach(model, data=data, loss_fn=loss)


def plain(**fields: Any) -> Grasp:
    return Grasp(per_class=None, **{"batch_size": 1, "density": 0.5, "temperature": 1.0, **fields})


def test_scores_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Residual -1, g = -2 x, H = 2 x x', Hg = -4 (x·x) x = -40 (3, 1), w * Hg = (-120, 80): the second remains."""
    seen = spy(monkeypatch, "grasp")
    s = attach(plain(), line(), [case((3.0, 1.0))], squared)
    assert seen == [[[[-120.0, 80.0]]]]
    assert s.targets[0].mask.tolist() == [[False, True]]
    s = attach(plain(absolute=True), line(), [case((3.0, 1.0))], squared)
    assert seen[1] == [[[120.0, 80.0]]]
    assert s.targets[0].mask.tolist() == [[True, False]]


def test_temperature_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output 1 / 2, residual -1.5, g = 2 * -1.5 * x / 2 = -1.5 x, H = x x' / 2, Hg = -.75 * 10 * x = -7.5 (3, 1)."""
    seen = spy(monkeypatch, "grasp")
    attach(plain(temperature=2.0), line(), [case((3.0, 1.0))], squared)
    assert seen == [[[[-22.5, 15.0]]]]


def test_the_gradient_is_that_of_all_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two examples in two batches: H and g are means over both, so cut batches change nothing."""
    seen = spy(monkeypatch, "grasp")
    one, two = case((3.0, 1.0)), case((-3.0, 1.0), y=6.0)
    attach(plain(batch_size=2), line(), [one, two], squared)
    attach(plain(batch_size=2), line(), [(torch.cat([one[0], two[0]]), torch.cat([one[1], two[1]]))], squared)
    # g = (30, -12), H = [[18, 0], [0, 2]]
    assert seen == [[[[540.0, 48.0]]]] * 2


def test_the_largest_remain_and_removing_the_others_leaves_most_of_the_flow() -> None:
    model = bare(9, 8, 5, dtype=torch.float64)
    s = attach(plain(batch_size=16, density=0.6, temperature=200.0), model, [batch(model)])
    assert s.remaining() == 67

    def flow(masks: list[Tensor]) -> float:
        twin = bare(9, 8, 5, dtype=torch.float64)
        parameters = list(twin.parameters())
        with torch.no_grad():
            for parameter, mask in zip(parameters, masks, strict=True):
                parameter.mul_(1.0 - 1e-3 * (~mask))  # to first order
        gradients = torch.autograd.grad(F.cross_entropy(twin(batch(twin)[0]) / 200.0, batch(twin)[1]), parameters)
        return sum(float(g.square().sum()) for g in gradients)

    chosen = flow([t.mask for t in s.targets])
    for shift in (1, 7, 20):
        assert chosen > flow([t.mask.flatten().roll(shift).reshape(t.shape) for t in s.targets])


def test_balanced_examples() -> None:
    seen: list[list[int]] = []

    def loss(module: nn.Module, given: Any) -> Tensor:
        seen.append(given[1].tolist())
        return cross_entropy(module, given)

    model = bare(9, 8, 3)
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 0, 2, 1, 2, 2, 0])
    data = list(zip(torch.randn(12, 9).split(5), labels.split(5), strict=True))
    attach(Grasp(per_class=2, density=0.5), model, data, loss)
    assert seen == [[0, 0, 1], [1, 2, 2]] * 2  # once for g, once for Hg
    with pytest.raises(
        DataError, match="per_class asks for 4 examples of each class, class 1 has 3; lower per_class, or set it"
    ):
        attach(Grasp(per_class=4), bare(9, 8, 3), data, loss)
    with pytest.raises(DataError, match=r"a batch must be \(inputs, integer labels\)"):
        attach(Grasp(), bare(9, 8, 3), [(x, y.float()) for x, y in data], loss)


def test_without_classes_a_hundred_examples_are_taken() -> None:
    seen: list[int] = []

    def loss(module: nn.Module, given: Any) -> Tensor:
        seen.append(len(given[1]))
        return cross_entropy(module, given)

    data = [(torch.randn(60, 9, generator=torch.Generator().manual_seed(i)), torch.arange(60) % 3) for i in range(2)]
    attach(Grasp(per_class=None, density=0.5), bare(9, 8, 3), data, loss)
    assert seen == [60, 40] * 2


def test_labels_that_are_no_classes_are_refused() -> None:
    x, labels = torch.randn(6, 9), torch.tensor([0, 1, 2, 0, 1, 2])
    with pytest.raises(DataError, match=r"must be in \[0, 2\), as classes is 2; got 2"):
        attach(Grasp(per_class=2, classes=2), bare(9, 8, 3), [(x, labels)])
    with pytest.raises(DataError, match="must be not negative; got -100"):
        attach(Grasp(per_class=2), bare(9, 8, 3), [(x, labels.where(labels > 0, -100))])


def test_linear_layers_drawn_anew_for_scoring() -> None:
    model = nn.Sequential(nn.Conv1d(2, 6, 3), nn.ELU(), nn.Flatten(), nn.Linear(24, 3))
    before = [model[0].weight.detach().clone(), model[3].weight.detach().clone()]
    x, y = torch.randn(6, 2, 6, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
    redrawn = attach(Grasp(density=0.4, per_class=2, redraw_linear=True), model, [(x, y)])
    for target, weight in zip(redrawn.targets, before, strict=True):
        assert torch.equal(target.weight, weight * target.mask)  # what is trained is the model's own
    other = nn.Sequential(nn.Conv1d(2, 6, 3), nn.ELU(), nn.Flatten(), nn.Linear(24, 3))
    other.load_state_dict(
        {"0.weight": before[0], "0.bias": model[0].bias, "3.weight": before[1], "3.bias": model[3].bias}
    )
    own = attach(Grasp(density=0.4, per_class=2), other, [(x, y)])
    assert not all(torch.equal(a.mask, b.mask) for a, b in zip(own.targets, redrawn.targets, strict=True))


def test_attention() -> None:
    class Attentive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(11, 8)
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.layer(self.embedding(x)).mean(1))
            return out

    x, y = torch.randint(11, (12, 5), generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
    first, second = (attach(Grasp(density=0.3, per_class=3), make, [(x, y)]) for make in seeded(Attentive))
    total = sum(t.size for t in first.targets)
    assert first.remaining() == round(0.3 * total)
    assert {t.kind for t in first.targets} == {"attention", "linear"}
    for a, b in zip(first.targets, second.targets, strict=True):
        assert torch.equal(a.mask, b.mask)  # dropout draws nothing


def seeded(make: type[nn.Module]) -> list[nn.Module]:
    """Two models alike."""
    models = []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            models.append(make())
    return models


def test_outputs_that_cannot_be_divided() -> None:
    class Pair(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), x

    def loss(module: nn.Module, given: Any) -> Tensor:
        return F.cross_entropy(module(given[0])[0], given[1])

    data = [(torch.randn(6, 4), torch.arange(6) % 3)]
    with pytest.raises(AttachError, match="temperature divides the model's output, which must be one tensor"):
        attach(Grasp(per_class=2), Pair(4, 3), data, loss)
    assert attach(Grasp(per_class=2, temperature=1.0, density=0.5), Pair(4, 3), data, loss).remaining() == 6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"per_class": 0}, "grasp: per_class must be a whole number of examples >= 1, got 0"),
        ({"classes": 0}, "grasp: classes must be a whole number of classes >= 1, got 0"),
        ({"batch_size": 0, "per_class": None}, "grasp: batch_size must be a whole number of examples >= 1, got 0"),
        (
            {"batch_size": 64},
            "grasp: batch_size is 64, but nothing uses it; set per_class to null, or remove it",
        ),
        (
            {"per_class": None, "classes": 10},
            "grasp: classes is 10, but nothing uses it; set per_class, or remove it",
        ),
        ({"temperature": 0.0}, r"grasp: temperature must be a number in \(0, 1e\+09\], got 0.0"),
        ({"absolute": 1}, "grasp: absolute must be true or false"),
        ({"redraw_linear": None}, "grasp: redraw_linear must be true or false"),
        ({"batchnorm": "eval"}, "grasp: batchnorm must be one of inference, training"),
    ],
)
def test_bad_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperparameterError, match=message):
        Grasp(**fields)
