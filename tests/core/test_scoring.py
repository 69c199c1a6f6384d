"""Scoring on data: the examples, the derivatives, and that nothing is left behind."""

from __future__ import annotations

import copy
from collections import namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from supermask.core.batchnorm import freeze_batchnorm
from supermask.core.scoring import (
    Examples,
    balanced,
    hessian_gradient_products,
    loss_gradients,
    put,
    scoring,
    tempered,
)
from supermask.core.sparsifier import Sparsifier
from supermask.core.targets import find_targets
from supermask.errors import AttachError, DataError, DivergedError

from .helpers import Sound, mlp, noise

Pair = namedtuple("Pair", ["x", "y"])


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def bare(model: nn.Module, loss: Callable[[nn.Module, Any], Any] = cross_entropy, seed: int = 0) -> Sparsifier:
    """A sparsifier as it is during setup: nothing is installed."""
    s = Sparsifier(Sound(), model, find_targets(model), seed)
    s.loss_fn = loss
    return s


def batches(*sizes: int, width: int = 12, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    """Batches of numbered inputs with labels 0..3."""
    x, y = noise(sum(sizes), width, dtype=dtype), torch.arange(sum(sizes)) % 4
    return list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))


# ------------------------------------------------------------------------------------------------------------- examples


def numbered(*sizes: int) -> list[Tensor]:
    return list(torch.arange(sum(sizes)).split(list(sizes)))


def taken(examples: Examples, count: int) -> list[list[int]]:
    found = examples.take(count)
    assert [size for _, size in found] == [len(batch) for batch, _ in found]
    return [batch.tolist() for batch, _ in found]


def test_exact_numbers_of_examples() -> None:
    assert taken(Examples(numbered(4, 4)), 1) == [[0]]
    assert taken(Examples(numbered(4, 4)), 4) == [[0, 1, 2, 3]]
    assert taken(Examples(numbered(4, 4)), 6) == [[0, 1, 2, 3], [4, 5]]
    assert taken(Examples(numbered(4, 4, 3)), 11) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


def test_further_examples_are_new_until_the_data_ends() -> None:
    examples = Examples(numbered(4, 4, 3))
    assert taken(examples, 2) == [[0, 1]]
    assert taken(examples, 4) == [[2, 3], [4, 5]]
    assert taken(examples, 6) == [[0, 1, 2, 3], [4, 5]]  # five are left, which are too few: from the beginning
    assert taken(examples, 5) == [[6, 7], [8, 9, 10]]
    one_batch = Examples(numbered(8))
    assert [taken(one_batch, 3) for _ in range(3)] == [[[0, 1, 2]], [[3, 4, 5]], [[0, 1, 2]]]


def test_no_batch_holds_a_single_example() -> None:
    assert taken(Examples(numbered(4, 4)), 5) == [[0, 1, 2, 3, 4]]
    examples = Examples(numbered(4, 4, 1, 0, 1, 1, 4))
    assert taken(examples, 3) == [[0, 1, 2]]
    assert taken(examples, 4) == [[3, 4, 5, 6]]
    assert taken(examples, 7) == [[7, 8, 9, 10], [11, 12, 13]]
    assert taken(Examples(numbered(1, 1, 1)), 3) == [[0, 1, 2]]
    assert taken(Examples(numbered(1, 3)), 1) == [[0]]  # all that was asked for
    x = torch.arange(8.0).reshape(4, 2)
    data = [{"x": x[:3], "y": [torch.arange(3), "text"]}, {"x": x[3:], "y": [torch.tensor([3]), "text"]}]
    ((batch, size),) = Examples(data).take(4)
    assert (size, batch["y"]) == (4, [pytest.approx([0, 1, 2, 3]), "text"])
    assert torch.equal(batch["x"], x)
    # examples of another shape stay apart
    assert [size for _, size in Examples([torch.ones(3, 5), torch.ones(1, 4)]).take(4)] == [3, 1]


@pytest.mark.parametrize(
    ("data", "count", "message"),
    [
        ([], 1, "batch_size asks for 1 examples, but data holds none"),
        (numbered(4, 4), 9, "batch_size asks for 9 examples, but data holds 8; lower batch_size or give more data"),
        (["text"], 1, "got a str"),
        ([(torch.tensor(1.0),)], 1, r"whose first dimension counts examples; got \(a tensor \(\)"),
        (7, 1, "data must be batches to go through, for example a list or a DataLoader; got a int"),
    ],
)
def test_too_few_examples(data: Any, count: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Examples(data).take(count)


def test_an_iterator_works_until_it_ends() -> None:
    examples = Examples(iter(numbered(4, 4)))
    assert taken(examples, 6) == [[0, 1, 2, 3], [4, 5]]
    with pytest.raises(DataError, match="data is an iterator and has ended: give a list or a DataLoader"):
        examples.take(3)


def test_batches_of_any_structure_are_cut() -> None:
    x, y = torch.arange(8.0).reshape(4, 2), torch.arange(4)
    ((batch, size),) = Examples([{"x": x, "more": [y, "text", torch.tensor(3.0)], "other": torch.ones(3)}]).take(2)
    assert size == 2
    assert batch["x"].tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert batch["more"][0].tolist() == [0, 1]
    assert batch["more"][1:] == ["text", torch.tensor(3.0)]
    assert len(batch["other"]) == 3
    ((batch, _),) = Examples([Pair(x, y)]).take(3)
    assert isinstance(batch, Pair)
    assert batch.y.tolist() == [0, 1, 2]


def test_balanced_takes_the_first_of_each_class_in_order() -> None:
    labels = torch.tensor([2, 0, 0, 0, 1, 2, 2, 1, 0, 1])
    data = list(zip(torch.arange(10.0).split(4), labels.split(4), strict=True))
    found = balanced(data, 2, None)
    assert [(x.tolist(), y.tolist()) for (x, y), _ in found] == [([0, 1, 2], [2, 0, 0]), ([4, 5, 7], [1, 2, 1])]
    assert [size for _, size in found] == [3, 3]


def test_balanced_stops_when_all_classes_are_complete() -> None:
    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield torch.arange(4.0), torch.arange(4) % 2

    ((_, size),) = balanced(endless(), 2, 2)
    assert size == 4


@pytest.mark.parametrize(
    ("first", "total", "sizes"),
    [(8, 9, [5, 4]), (4, 9, [3, 3, 3]), (2, 7, [3, 2, 2]), (1, 4, [2, 2]), (1, 1, [1]), (9, 9, [9])],
)
def test_balanced_batches_are_of_one_size_or_nearly_so(first: int, total: int, sizes: list[int]) -> None:
    """None larger than the first of the data, but where that is 1 or would leave one example alone."""
    labels = torch.zeros(total, dtype=torch.int64)
    data = [(torch.arange(float(total))[:first], labels[:first]), (torch.arange(float(total))[first:], labels[first:])]
    found = balanced(data, total, 1)
    assert [size for _, size in found] == sizes
    assert torch.equal(torch.cat([x for (x, _), _ in found]), torch.arange(float(total)))


@pytest.mark.parametrize(
    ("data", "classes", "message"),
    [
        ([(torch.ones(3), torch.tensor([0, 3, 1]))], 3, r"must be in \[0, 3\), as classes is 3; got 3"),
        ([(torch.ones(3), torch.tensor([0, -1, 1]))], 3, r"must be in \[0, 3\), as classes is 3; got -1"),
        ([(torch.ones(3), torch.tensor([0, -100, 1]))], None, "per_class picks examples by must be not negative; got -100"),
        ([], None, "data holds no examples to score on"),
        ([(torch.ones(3), torch.tensor([0, 1, 0]))], None, "asks for 2 examples of each class, class 1 has 1; lower per_class"),
        ([(torch.ones(2), torch.tensor([0, 0]))], 3, "classes is 3, but the labels of data name 1 classes"),
        ([(torch.ones(2), torch.ones(2))], None, r"\(inputs, integer labels\).*got \(a tensor \(2,\) of torch.float32, a ten"),
        ([torch.ones(2)], None, "Set per_class to null to use the first batch_size examples"),
        ([(torch.ones(3), torch.tensor([0, 1]))], None, "two tensors of equal length"),
        ([(torch.ones(2), torch.ones(2, 2, dtype=torch.int64))], None, r"a tensor \(2, 2\) of torch.int64"),
        ([{"x": torch.ones(2)}], None, "got a dict"),
    ],
)  # fmt: skip
def test_what_cannot_be_balanced(data: Any, classes: int | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        balanced(data, 2, classes)


# -------------------------------------------------------------------------------------------------- the model meanwhile


class Everything(nn.Module):
    """Batch norm, dropout, an LSTM, attention, noise, and a buffer that the forward replaces."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(12, 8)
        self.norm = nn.BatchNorm1d(8, momentum=None)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.3, batch_first=True)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.seen: list[tuple[bool, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        self.seen.append((self.norm.training, self.dropout.training, self.training, torch.is_autocast_enabled("cpu")))
        x = self.norm(self.inner(x)) + 0.1 * torch.randn(())
        x = self.lstm(x.unsqueeze(1).expand(-1, 3, -1))[0]
        x = self.attention(x, x, x)[0]
        head: Tensor = self.head(self.dropout(x[:, -1]))
        return head


def everything() -> Everything:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Everything()


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(mode: Any, fails: bool) -> None:
    model = everything()
    model.lstm.eval()
    model.norm.weight.grad = torch.ones(8)
    model.head.weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    state, keys, rng = copy.deepcopy(model.state_dict()), list(model.state_dict()), torch.get_rng_state()
    s = Sparsifier(Sound(), model, find_targets(model, "*"), 0)
    s.loss_fn = cross_entropy
    data = Examples(DataLoader(TensorDataset(noise(20, 12), torch.arange(20) % 4), batch_size=8, shuffle=True))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        try:
            with scoring(s, mode, second_order=True):
                put(s, [torch.full(target.shape, 0.1) for target in s.targets])
                assert all(bool((target.parameter == 0.1).all()) for target in s.targets)
                hessian_gradient_products(s, data.take(10))
                assert not fails or 1 / 0
        except ZeroDivisionError:
            assert fails
        assert not torch.is_grad_enabled()
        assert torch.is_autocast_enabled("cpu")
    assert set(model.seen) == {(mode == "training", False, False, False)}
    assert [module.training for module in model.modules()] == modes
    assert list(model.state_dict()) == keys
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert [n for n, p in model.named_parameters() if p.grad is not None] == ["norm.weight"]
    assert not model.head.weight.requires_grad
    assert torch.equal(torch.get_rng_state(), rng)


def test_norms_that_the_user_froze_keep_their_statistics() -> None:
    class Norms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.free, self.head = nn.BatchNorm1d(12), nn.BatchNorm1d(12), nn.Linear(12, 4)
            self.seen: list[tuple[bool, bool]] = []

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append((self.frozen.training, self.free.training))
            out: Tensor = self.head(self.free(self.frozen(x)))
            return out

    model = Norms()
    model.frozen.eval()
    for training, seen in (
        (True, (False, True)),
        (False, (True, True)),
    ):  # of a model that is not trained, none is frozen
        if not training:
            model.eval()
        s = bare(model)
        with scoring(s, "training"):
            loss_gradients(s, [(batches(8)[0], 8)])
        assert model.seen[-1] == seen
        assert (model.frozen.training, model.free.training) == (False, training)
    model.train()
    s = bare(model)
    s.frozen_norms = freeze_batchnorm({"frozen": model.frozen})
    model.train()
    with scoring(s, "training"):
        loss_gradients(s, [(batches(8)[0], 8)])
    assert model.seen[-1] == (False, True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_below_float32_are_scored_in_float32_and_put_back(dtype: torch.dtype) -> None:
    """Derivatives are those of the same weights in float32, also where the loss casts its inputs itself."""
    model = everything().to(dtype)
    twin = copy.deepcopy(model).float()
    state, storage = copy.deepcopy(model.state_dict()), [p.data_ptr() for p in model.parameters()]
    ((x, y),) = batches(8)
    x = x.to(dtype).float()
    found = []
    for module, kind in ((model, dtype), (twin, torch.float32)):
        s = bare(module, lambda m, b, kind=kind: F.cross_entropy(m(b[0].to(kind)), b[1]))  # type: ignore[misc]
        with scoring(s, "training", second_order=True):
            found.append([*loss_gradients(s, [((x, y), 8)]), *hessian_gradient_products(s, [((x, y), 8)])])
    for tensor, other in zip(*found, strict=True):
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, other)
    assert [p.data_ptr() for p in model.parameters()] == storage
    for name, value in model.state_dict().items():
        assert value.dtype == state[name].dtype, name
        assert torch.equal(value, state[name]), name
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_models_that_draw_noise_are_scored_alike_at_one_seed() -> None:
    found = []
    for seed in (0, 0, 1):
        torch.rand(3)  # the global generator moves on
        s = bare(everything(), seed=seed)
        with scoring(s, "inference"):
            found.append(loss_gradients(s, [(batches(8)[0], 8)])[0])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


# ------------------------------------------------------------------------------------------------------------ derivatives


def test_gradients_of_parts_are_those_of_the_whole() -> None:
    model = nn.Sequential(nn.Linear(12, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 4)).double()
    s = bare(model)
    ((x, y),) = batches(14, dtype=torch.float64)
    parts = list(zip(x.split([8, 5, 1]), y.split([8, 5, 1]), strict=True))
    model.eval()
    expected = torch.autograd.grad(cross_entropy(model, (x, y)), [model[0].weight, model[3].weight])
    model.train()
    with scoring(s, "inference"):
        for gradient, other in zip(loss_gradients(s, Examples(parts).take(14)), expected, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-12, atol=1e-14)
        whole = hessian_gradient_products(s, [((x, y), 14)])
        for product, other in zip(hessian_gradient_products(s, Examples(parts).take(14)), whole, strict=True):
            torch.testing.assert_close(product, other, rtol=1e-10, atol=1e-14)


def test_batch_norm_takes_the_statistics_it_is_told_to() -> None:
    model = nn.Sequential(nn.Linear(12, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 4)).double()
    s = bare(model)
    (batch,) = batches(14, dtype=torch.float64)
    for mode in ("inference", "training"):
        model.train(mode == "training")
        twin = copy.deepcopy(model)
        expected = torch.autograd.grad(cross_entropy(twin, batch), [twin[0].weight, twin[3].weight])
        with scoring(s, mode):  # type: ignore[arg-type]
            for gradient, other in zip(loss_gradients(s, [(batch, 14)]), expected, strict=True):
                torch.testing.assert_close(gradient, other, rtol=1e-12, atol=1e-14)


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(12, 3, 16, batch_first=True, activation="gelu")
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.head(self.layer(torch.stack([x, x.roll(1, 1), x.sin()], 1)).mean(1))
        return mixed


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 5, num_layers=2, batch_first=True)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rnn(x.reshape(-1, 3, 4))[0][:, -1])
        return out


class Fused(nn.Module):
    """Calls the attention kernel directly: the fused one for the CPU has no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 12)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.mix(x.reshape(-1, 1, 3, 4)).chunk(3, dim=-1)
        out: Tensor = self.head(F.scaled_dot_product_attention(q, k, v).flatten(1, 2).mean(1))
        return out


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 6), nn.BatchNorm1d(6), nn.ELU(), nn.Linear(6, 4))


@pytest.mark.parametrize("make", [normed, Attentive, Recurrent, Fused], ids=["bn", "attention", "lstm", "kernel"])
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_the_hessian_gradient_product_is_that_of_finite_differences(make: Callable[[], nn.Module], mode: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = make().double()
    s = bare(model)
    parts = [(batch, len(batch[1])) for batch in batches(6, 4, dtype=torch.float64)]
    start = [target.parameter.detach().clone() for target in s.targets]
    with scoring(s, mode, second_order=True):
        products = hessian_gradient_products(s, parts)
        directions = loss_gradients(s, parts)
        step, moved = 1e-5, []
        for sign in (1.0, -1.0):
            put(s, [w + sign * step * d for w, d in zip(start, directions, strict=True)])
            moved.append(loss_gradients(s, parts))
    for product, forth, back in zip(products, *moved, strict=True):
        torch.testing.assert_close(product, (forth - back) / (2 * step), rtol=1e-5, atol=1e-8)
        assert bool(product.any())


def test_a_loss_linear_in_each_weight_has_no_second_derivative() -> None:
    model = nn.Linear(12, 4, bias=False)
    s = bare(model, lambda module, batch: module(batch).mean())
    with scoring(s, "inference"):
        (product,) = hessian_gradient_products(s, [(noise(3, 12), 3)])
    assert not bool(product.any())


def test_a_target_that_the_loss_does_not_use_has_a_gradient_of_zero() -> None:
    model = nn.ModuleDict({"used": nn.Linear(12, 4), "idle": nn.Linear(3, 2)})
    s = bare(model, lambda module, batch: F.cross_entropy(module["used"](batch[0]), batch[1]))  # type: ignore[index]
    with scoring(s, "inference"):
        used, idle = loss_gradients(s, [(batches(8)[0], 8)])
        assert not bool(hessian_gradient_products(s, [(batches(8)[0], 8)])[1].any())
    assert s.notes == ["the loss does not depend on idle.weight: the scores of its weights are 0"]
    assert bool(used.any())
    assert idle.shape == (2, 3)
    assert not bool(idle.any())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_small_dtypes_are_summed_in_float32(dtype: torch.dtype) -> None:
    s = bare(mlp().to(dtype))
    with scoring(s, "inference"):
        parts = [((x.to(dtype), y), len(y)) for x, y in batches(4, 4)]
        assert {gradient.dtype for gradient in loss_gradients(s, parts)} == {torch.float32}
        assert {product.dtype for product in hessian_gradient_products(s, parts)} == {torch.float32}


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (lambda m, b: m(b[0]), AttachError, r"must return one number, got a tensor \(8, 4\) of torch.float32; return the mean"),
        (lambda m, b: 0.5, AttachError, "must return one number, got a float"),
        (lambda m, b: m(b[0]).mean() * torch.inf, DivergedError, "the loss is (-)?inf on batch 1 of those that weights are"),
        (lambda m, b: m(b[0]).mean() + torch.nan, DivergedError, "the loss is nan on batch 1"),
        (lambda m, b: m(b[0]).detach().mean(), AttachError, "the loss depends on no target, so there is nothing to score by"),
        (lambda m, b: (m(b[0]).mean() * 0.0).sqrt(), DivergedError, "the gradient of the loss for 0.weight is not finite"),
    ],
)  # fmt: skip
def test_losses_that_cannot_be_scored_by(loss: Any, error: type[Exception], message: str) -> None:
    s = bare(mlp(), loss)
    with pytest.raises(error, match=message), scoring(s, "inference"):
        loss_gradients(s, [(batches(8)[0], 8)])


def test_a_loss_of_another_model_is_refused() -> None:
    other = mlp()
    s = bare(mlp(), lambda model, batch: cross_entropy(other, batch))
    message = "the loss depends on no target, so there is nothing to score by; loss_fn must call the given model"
    with pytest.raises(AttachError, match=message), scoring(s, "inference"):
        loss_gradients(s, [(batches(8)[0], 8)])
    with pytest.raises(AttachError, match=message), scoring(s, "inference"):
        hessian_gradient_products(s, [(batches(8)[0], 8)])


def test_a_target_that_only_some_batches_use_is_not_idle() -> None:
    model = nn.ModuleList([nn.Linear(12, 4), nn.Linear(12, 4)])
    s = bare(model, lambda m, batch: F.cross_entropy(m[int(len(batch[1]) > 4)](batch[0]), batch[1]))  # type: ignore[index]
    with scoring(s, "inference"):
        loss_gradients(s, [(batch, len(batch[1])) for batch in batches(4, 6)])
    assert not s.notes


def test_one_example_has_no_statistics() -> None:
    s = bare(normed())
    message = (
        "batchnorm is training, but a batch norm sees a single value .*raise batch_size, or set batchnorm to inference"
    )
    with pytest.raises(DataError, match=message), scoring(s, "training"):
        loss_gradients(s, Examples(batches(4)).take(1))
    with scoring(s, "training"):
        loss_gradients(s, Examples(batches(4, 4)).take(5))
    s = bare(mlp(), lambda model, batch: torch.tensor(float("not a number")))
    with pytest.raises(ValueError, match="could not convert string"), scoring(s, "training"):
        loss_gradients(s, Examples(batches(4)).take(2))


# ------------------------------------------------------------------------------------------------------------ temperature


def test_temperature_divides_the_output_and_goes_away() -> None:
    model = mlp()
    s = bare(model)
    (batch,) = batches(8)
    with torch.no_grad():
        cold = F.cross_entropy(model(batch[0]) / 200.0, batch[1])
        with tempered(s, 200.0):
            assert torch.equal(cross_entropy(model, batch), cold)
        with tempered(s, 1.0):
            assert torch.equal(cross_entropy(model, batch), F.cross_entropy(model(batch[0]), batch[1]))
    assert not model._forward_hooks


def test_temperature_needs_one_tensor_from_a_call_of_the_model() -> None:
    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(12, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.inner(x), x

    model = Pairs()
    message = r"must be one tensor, got \(a tensor .*set temperature to 1"
    with pytest.raises(AttachError, match=message), tempered(bare(model), 2.0):
        model(noise(2, 12))
    assert not model._forward_hooks
    with pytest.raises(AttachError, match="never calls model"), tempered(bare(model), 2.0):
        model.inner(noise(2, 12))
