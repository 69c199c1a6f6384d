"""The ternary kernels against a loop over the entries."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from supermask.kernels import library
from supermask.kernels import ternary as module
from supermask.kernels.ternary import straight_through, ternary, ternary_between, ternary_codes

TAU = 0.25
# a score exactly on a threshold is hidden; the neighbouring floats are not
EDGE = torch.tensor([0.25, -0.25, 0.0, -0.0, 0.3, -0.3], dtype=torch.float64)
CODES = [0, 0, 0, 0, 1, -1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_inequalities_are_strict(dtype: torch.dtype) -> None:
    scores = EDGE.to(dtype)
    inf = torch.tensor(math.inf, dtype=dtype)
    above = torch.nextafter(torch.tensor(TAU, dtype=dtype), inf)
    below = torch.nextafter(torch.tensor(TAU, dtype=dtype), -inf)
    low, high = torch.tensor(-TAU, dtype=dtype), torch.tensor(TAU, dtype=dtype)
    scores = torch.cat([scores, torch.stack([above, -above, below, -below])])
    expected = torch.tensor([*CODES, 1, -1, 0, 0])
    assert torch.equal(ternary_codes(scores, low, high), expected.to(torch.int8))
    assert torch.equal(ternary(scores, TAU, 3.0), 3.0 * expected.to(dtype))
    weight = torch.linspace(-2, 2, 10, dtype=dtype)
    assert torch.equal(ternary_between(scores, low, high, weight), weight * expected)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=40), st.floats(0, 1, width=32))
def test_both_kernels_agree_for_symmetric_thresholds(values: list[float], tau: float) -> None:
    scores = torch.tensor(values)
    low, high = torch.tensor(-tau), torch.tensor(tau)
    codes = ternary_codes(scores, low, high)
    assert codes.tolist() == [(s > tau) - (s < -tau) for s in values]
    weight = torch.full_like(scores, 0.37)
    assert torch.equal(ternary(scores, tau, weight[0].item()), ternary_between(scores, low, high, weight))
    assert torch.equal(ternary(scores, tau, 1.0), codes.float())


def test_codes_are_exactly_minus_one_zero_and_one() -> None:
    """The trick ``hat + s - s.detach()`` would leave rounding noise (4e-3 in bfloat16)."""
    for dtype in (torch.float32, torch.bfloat16):
        scores = torch.linspace(-3, 3, 1001).to(dtype)
        assert set(ternary(scores, 0.7, 1.0).tolist()) == {-1.0, 0.0, 1.0}


def test_thresholds_need_not_be_symmetric() -> None:
    scores = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    never = torch.tensor(-math.inf)
    assert ternary_codes(scores, never, torch.tensor(0.5)).tolist() == [0, 0, 0, 1, 1]
    assert ternary_codes(scores, torch.tensor(-1.5), torch.tensor(0.0)).tolist() == [-1, 0, 0, 1, 1]


@pytest.mark.parametrize("n", [1, 7, 8, 33, 1000])
def test_nan_is_hidden(n: int) -> None:
    """Also where the vectorised part of a loop ends."""
    scores = torch.full((n,), math.nan)
    low, high = torch.tensor(-0.1), torch.tensor(0.1)
    assert not bool(ternary(scores, 0.1, 2.0).any())
    assert not bool(ternary_between(scores, low, high, torch.ones(n)).any())
    assert not bool(ternary_codes(scores, low, high).any())


def test_arguments_are_not_changed() -> None:
    scores, weight = torch.tensor([-1.0, 1.0]), torch.tensor([2.0, 3.0])
    ternary(scores, 0.5, 2.0)
    ternary_between(scores, torch.tensor(-0.5), torch.tensor(0.5), weight)
    assert scores.tolist() == [-1.0, 1.0]
    assert weight.tolist() == [2.0, 3.0]


def test_channels_last_stays_so() -> None:
    scores = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    out = ternary(scores, 0.5, 1.0)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(out, ternary(scores.contiguous(), 0.5, 1.0))


needs_library = pytest.mark.skipif(library.library() is None, reason="the kernels are not compiled here")
Result = list[Tensor]


def both(function: Callable[[], Result], monkeypatch: pytest.MonkeyPatch) -> tuple[Result, Result]:
    """What the compiled kernels give, and plain torch."""
    compiled = function()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_loaded", lambda name: None)
        return compiled, function()


def assert_same_bits(results: tuple[Result, Result]) -> None:
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.stride() == theirs.stride()
        assert torch.equal(ours.contiguous().view(torch.int32), theirs.contiguous().view(torch.int32))


def special(*shape: int) -> Tensor:
    """Scores with NaN, infinities, zeros of both signs, and some on the threshold."""
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    scores.view(-1)[:7] = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 0.5, -0.5])
    return scores


@needs_library
@pytest.mark.parametrize("shape", [(7,), (300, 784), (5, 3, 3, 3), (1, 13)])
def test_compiled_and_plain_give_the_same_bits(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    scores, gradient = special(*shape), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    low, high = torch.tensor(-0.3), torch.tensor(0.5)
    frozen = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    signs = frozen.sign().to(torch.int8)

    def symmetric() -> Result:
        leaf = scores.clone().requires_grad_()
        weight = ternary(leaf, 0.5, 0.37)
        weight.backward(gradient)
        assert leaf.grad is not None
        return [weight.detach(), leaf.grad]

    assert_same_bits(both(symmetric, monkeypatch))
    assert_same_bits(both(lambda: [ternary_between(scores, low, high, frozen)], monkeypatch))
    assert_same_bits(both(lambda: [ternary_between(scores, low, high, signs, 0.37)], monkeypatch))
    assert_same_bits(both(lambda: [straight_through(gradient, frozen)], monkeypatch))
    assert_same_bits(both(lambda: [straight_through(gradient, signs, 0.37)], monkeypatch))


@needs_library
def test_memory_that_is_laid_out_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels last, transposed, with gaps, and two tensors that are laid out differently."""
    low, high = torch.tensor(-0.3), torch.tensor(0.5)
    image = special(4, 3, 5, 5)
    for scores in (image.to(memory_format=torch.channels_last), image.transpose(0, 1), image[..., ::2], image[:1]):
        for frozen in (scores.clone(), scores.contiguous()):
            results = both(
                lambda s=scores, f=frozen: [
                    ternary(s, 0.5, 2.0).contiguous(),
                    ternary_between(s, low, high, f).contiguous(),
                    ternary_between(s, low, high, f.sign().to(torch.int8), 2.0).contiguous(),
                    straight_through(s, f.sign().to(torch.int8), 2.0).contiguous(),
                ],
                monkeypatch,
            )
            assert_same_bits(([torch.nan_to_num(t) for t in results[0]], [torch.nan_to_num(t) for t in results[1]]))


@needs_library
@pytest.mark.parametrize(
    ("tau", "scale"), [(0.01, 0.0875), (0.25, 3.0), (0.0, 0.3), (1e-40, 0.1), (3e38, 2.0), (0.3, 0.9)]
)
def test_scores_next_to_the_threshold(tau: float, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    tau = torch.tensor(tau).item()
    near = torch.tensor([tau], dtype=torch.float32).view(torch.int32) + torch.arange(-3, 4, dtype=torch.int32)
    scores = near.view(torch.float32)
    scores = torch.cat([scores, -scores, torch.zeros(1)])
    assert_same_bits(both(lambda: [ternary(scores, tau, scale)], monkeypatch))
    expected = (scores > tau).int() - (scores < -tau).int()
    assert torch.equal(ternary(scores, tau, scale).sign().int(), expected)


def test_second_derivatives(monkeypatch: pytest.MonkeyPatch) -> None:
    """They pass through the gradient of the score, which must then be torch's own."""
    signs = special(40).sign().nan_to_num().to(torch.int8)
    inputs = torch.linspace(-1, 1, 40)

    def second() -> Result:
        weight = torch.linspace(1, 2, 40, requires_grad=True)
        outer = torch.linspace(-1, 1, 40, requires_grad=True)
        gradient = straight_through(weight * outer, signs, 0.5)  # as the backward of a backward does it
        (gradient * inputs).sum().backward()
        assert outer.grad is not None
        return [gradient.detach(), outer.grad]

    ours, theirs = both(second, monkeypatch)
    assert_same_bits((ours, theirs))
    assert torch.equal(ours[1], inputs * torch.linspace(1, 2, 40) * signs * 0.5)


@needs_library
def test_no_kernel_reads_what_it_cannot() -> None:
    plain = torch.ones(3)
    assert module._kernel("smk_ternary", plain) is not None
    assert module._kernel("smk_ternary_signs", plain, plain.to(torch.int8)) is not None
    refused = [plain.double(), plain.to("meta"), plain.as_subclass(type("Special", (Tensor,), {}))]
    refused += [torch.complex(plain, plain).conj().imag]  # its memory holds the negative
    for other in refused:
        assert module._kernel("smk_ternary", other) is None
    for beside in (plain, torch.ones(2, dtype=torch.int8), torch.ones(3, 1, dtype=torch.int8)):
        assert module._kernel("smk_ternary_signs", plain, beside) is None


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated:DeprecationWarning")
def test_a_traced_program_computes_from_its_score() -> None:
    """A trace would record what the compiled form starts from, not what it makes of it."""
    traced = torch.jit.trace(lambda s: ternary(s, 0.5, 2.0), torch.zeros(3))
    assert traced(torch.tensor([0.6, 0.4, -0.6])).tolist() == [2.0, 0.0, -2.0]
