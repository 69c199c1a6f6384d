"""Sparse programs: the compiled kernel, in every variant that runs here, and numpy, against torch in float64."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supermask.errors import ProgramError
from supermask.kernels import library, sparse
from supermask.kernels.sparse import (
    Activation,
    AdaptiveAvgPool,
    Add,
    AvgPool,
    Concat,
    Flatten,
    MaxPool,
    Multiply,
    Program,
    ScaleShift,
    SparseConv,
    SparseLinear,
    Step,
)
from supermask.kernels.sparse_steps import KINDS


def _variants() -> list[str]:
    found = library.library()
    mask = found.smk_variants() if found is not None else 0
    return ["off", *(name for bit, name in enumerate(library.VARIANTS) if mask >> bit & 1)]


@pytest.fixture(params=_variants())
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every test that asks for it runs in plain numpy and in each variant of the kernel."""
    monkeypatch.setenv(library.SETTING, request.param)
    monkeypatch.setattr(sparse, "WORTH_A_THREAD", 1)
    library.loaded.cache_clear()
    yield request.param
    monkeypatch.undo()
    library.loaded.cache_clear()


MANY = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ACTIVATIONS = {
    "relu": lambda step, x: F.relu(x),
    "elu": lambda step, x: F.elu(x, step.alpha),
    "leaky_relu": lambda step, x: F.leaky_relu(x, step.alpha),
    "hardtanh": lambda step, x: F.hardtanh(x, step.alpha, step.beta),
    "hardswish": lambda step, x: F.hardswish(x),
    "sigmoid": lambda step, x: torch.sigmoid(x),
    "silu": lambda step, x: F.silu(x),
    "tanh": lambda step, x: torch.tanh(x),
    "gelu": lambda step, x: F.gelu(x),
}


def reference(steps: list[Any], x: np.ndarray) -> np.ndarray:
    """The program in torch, in float64."""
    values = [torch.from_numpy(x).double()]
    for number, step in enumerate(steps):
        a, *rest = (values[source if source >= 0 else number] for source in step.sources)
        match step:
            case SparseConv() | SparseLinear():
                weight = torch.from_numpy(step.weight).double()
                scale = torch.ones(len(weight)) if step.scale is None else torch.from_numpy(step.scale)
                weight = weight * scale.double().view(-1, *[1] * (weight.ndim - 1))
                bias = None if step.bias is None else torch.from_numpy(step.bias).double()
                if isinstance(step, SparseLinear):
                    y = F.linear(a, weight, bias)
                else:
                    conv = F.conv2d if weight.ndim == 4 else F.conv1d
                    y = conv(a, weight, bias, step.stride, step.padding, step.dilation, step.groups)
            case MaxPool():
                pool = F.max_pool2d if a.ndim == 4 else F.max_pool1d
                y = pool(a, step.kernel, step.stride, step.padding, ceil_mode=step.ceil_mode)
            case AvgPool():
                average = F.avg_pool2d if a.ndim == 4 else F.avg_pool1d
                y = average(a, step.kernel, step.stride, step.padding, step.ceil_mode, step.count_include_pad)
            case AdaptiveAvgPool():
                y = F.adaptive_avg_pool2d(a, step.size) if a.ndim == 4 else F.adaptive_avg_pool1d(a, step.size)
            case Activation():
                y = ACTIVATIONS[step.kind](step, a)
            case ScaleShift():
                shape = (-1, *[1] * (a.ndim - 2))
                y = a * torch.from_numpy(step.scale).view(shape) + torch.from_numpy(step.shift).view(shape)
            case Add():
                y = a + rest[0]
            case Multiply():
                y = a * rest[0]
            case Concat():
                y = torch.cat([a, *rest], 1)
            case _:
                y = a.flatten(1)
        values.append(y)
    return values[-1].numpy()


def check(steps: list[Step], shape: tuple[int, ...], batch: int, variant: str, seed: int = 0) -> None:
    x = np.random.default_rng(seed).standard_normal((batch, *shape)).astype(np.float32)
    program = Program(steps, shape)
    assert program.compiled == (variant != "off"), program.reason
    expected, found = reference(steps, x), program.run(x)
    assert found.dtype == np.float32
    assert found.shape == expected.shape == (batch, *program.output_shape)
    largest = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=4e-6 * largest)
    assert np.array_equal(program.run(x, threads=2), found)


def draw_weight(rng: np.random.Generator, shape: tuple[int, ...], density: float, ternary: bool) -> np.ndarray:
    weight = (rng.integers(0, 2, shape) * 2 - 1) * (rng.random(shape) < density)
    return weight.astype(np.int8) if ternary else (weight * rng.standard_normal(shape)).astype(np.float32)


def floats(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_normal(n).astype(np.float32)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[SparseConv, tuple[int, ...]]:
    integers = lambda low, high: draw(st.integers(low, high))  # noqa: E731
    rng = np.random.default_rng(integers(0, 2**32 - 1))
    groups, per_group, outputs = draw(st.sampled_from([(1, 3, 5), (1, 1, 2), (2, 2, 3), (4, 1, 1), (3, 1, 2)]))
    axes = draw(st.sampled_from([1, 2, 2]))
    kernel = [integers(1, 5) for _ in range(axes)]
    dilation = [integers(1, 3) for _ in range(axes)]
    padding = [integers(0, 3) for _ in range(axes)]
    stride = tuple(integers(1, 3) for _ in range(axes))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    size = [max(1, r - 2 * p) + integers(0, draw(st.sampled_from([3, 9, 40]))) for r, p in zip(reach, padding)]
    weight = draw_weight(
        rng, (groups * outputs, per_group, *kernel), draw(st.sampled_from([0, 0.05, 0.4, 1])), draw(st.booleans())
    )
    step = SparseConv(
        weight=weight,
        scale=floats(rng, len(weight)) if draw(st.booleans()) else None,
        bias=floats(rng, len(weight)) if draw(st.booleans()) else None,
        stride=stride,
        padding=tuple(padding),
        dilation=tuple(dilation),
        groups=groups,
    )
    return step, (groups * per_group, *size)


@given(convolutions(), st.sampled_from([1, 2, 5, 17]), st.sampled_from(KINDS))
@MANY
def test_convolution(variant: str, drawn: tuple[SparseConv, tuple[int, ...]], batch: int, kind: str) -> None:
    step, shape = drawn
    check([step], shape, batch, variant)
    check([step, Activation(kind=kind, alpha=0.3)], shape, batch, variant)  # type: ignore[arg-type]


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 16, 37, 129]))
@MANY
def test_linear(variant: str, seed: int, batch: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 60, 4)
    steps: list[Step] = []
    for number in range(3):
        weight = draw_weight(rng, (sizes[number + 1], sizes[number]), rng.choice([0.01, 0.3, 1]), bool(rng.integers(2)))
        steps += [SparseLinear(weight=weight, bias=floats(rng, len(weight))), Activation(kind="elu", alpha=0.7)]
    check(steps, (int(sizes[0]),), batch, variant)
    check(steps, (5, int(sizes[0])), batch, variant)


@pytest.mark.parametrize("size", [4, 7, 8, 14, 16, 17, 28, 32, 33])
def test_network_with_pools(variant: str, size: int) -> None:
    """A pool may come before or after the activation, with or without gaps at the edges."""
    rng = np.random.default_rng(size)
    half = size // 2
    steps: list[Step] = [
        SparseConv(weight=draw_weight(rng, (6, 3, 3, 3), 0.4, True), scale=floats(rng, 6), padding=1),
        Activation(kind="elu"),
        MaxPool(kernel=2),
        SparseConv(weight=draw_weight(rng, (7, 6, 3, 3), 0.4, True), bias=floats(rng, 7), padding=1),
        MaxPool(kernel=3, stride=2, padding=1, ceil_mode=size == 17),
        Activation(kind="hardswish"),
        Flatten(),
    ]
    features = math.prod(Program(steps, (3, size, size)).output_shape)
    assert features >= 7 * (half // 2) ** 2
    steps.append(SparseLinear(weight=draw_weight(rng, (10, features), 0.2, False)))
    check(steps, (3, size, size), 1, variant)
    check(steps, (3, size, size), 19, variant)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [1.0, -2.0])
def test_activation_before_a_pool(variant: str, kind: str, factor: float) -> None:
    """Only one that rises everywhere may change places with the pool."""
    steps: list[Step] = [
        SparseConv(weight=np.full((1, 1, 1, 1), 3, np.float32)),
        Activation(kind=kind, alpha=0.5 * factor, beta=2.0),  # type: ignore[arg-type]
        MaxPool(kernel=2),
        MaxPool(kernel=2, stride=1),
    ]
    check(steps, (1, 16, 16), 3, variant)


def test_residual_network(variant: str) -> None:
    rng = np.random.default_rng(0)
    conv = lambda o, i, k, **options: SparseConv(weight=draw_weight(rng, (o, i, k, k), 0.4, True), **options)  # noqa: E731
    steps: list[Step] = [
        conv(8, 3, 3, padding=1),
        Activation(kind="relu"),
        conv(8, 8, 3, padding=1),
        Add(other=2),
        Activation(kind="relu"),
        conv(16, 8, 3, padding=1, stride=2),
        Activation(kind="relu"),
        conv(16, 16, 3, padding=1),
        conv(16, 8, 1, stride=2, source=5),
        Add(other=8),
        ScaleShift(scale=floats(rng, 16), shift=floats(rng, 16)),
        AvgPool(kernel=3, stride=2, padding=1, count_include_pad=False),
        AdaptiveAvgPool(size=(2, 1)),
        Flatten(),
        Activation(kind="tanh"),
        SparseLinear(weight=draw_weight(rng, (10, 32), 0.5, True)),
    ]
    for size in (9, 14, 32):
        check(steps, (3, size, size), 18, variant)


def test_values_joined_and_flattened(variant: str) -> None:
    rng = np.random.default_rng(0)
    steps: list[Step] = [
        SparseConv(weight=draw_weight(rng, (8, 3, 3, 3), 0.5, True), padding=1),
        SparseConv(weight=draw_weight(rng, (4, 3, 1, 1), 0.5, False), source=0),
        Concat(values=(1, 2, 0)),
        AvgPool(kernel=(3, 2), stride=2, padding=1, ceil_mode=True),
        Multiply(other=4),
        Flatten(),
        Flatten(source=4),
        Concat(values=(7, 6)),
        ScaleShift(scale=floats(rng, 2 * 15 * 25), shift=floats(rng, 2 * 15 * 25)),
    ]
    shape = Program(steps[:4], (3, 9, 8)).output_shape
    assert shape == (15, 5, 5)
    check(steps, (3, 9, 8), 5, variant)
    check([Flatten()], (2, 3, 4), 5, variant)
    check([Activation(kind="relu")], (2, 3, 4), 5, variant)
    check([ScaleShift(scale=floats(rng, 3), shift=floats(rng, 3)), *steps[:1]], (3, 20, 20), 5, variant)


@pytest.mark.parametrize("width", [257, 300, 1000])
def test_wide_rows_are_done_in_pieces(variant: str, width: int) -> None:
    rng = np.random.default_rng(0)
    steps: list[Step] = [
        SparseConv(weight=draw_weight(rng, (3, 2, 7), 0.5, True), padding=3, dilation=1),
        Activation(kind="sigmoid"),
        SparseConv(weight=draw_weight(rng, (2, 3, 3), 0.9, False), stride=2, dilation=5),
        MaxPool(kernel=2),
    ]
    check(steps, (2, width), 2, variant)


def test_what_the_kernel_cannot_run_is_said() -> None:
    program = Program([SparseConv(weight=np.ones((1, 1, 2), np.int8), dilation=5000)], (1, 10000))
    if library.library() is not None:
        assert not program.compiled
        assert "5000 columns" in program.reason
    x = np.ones((1, 1, 10000), np.float32)
    assert np.array_equal(program.run(x), np.full((1, 1, 5000), 2, np.float32))


def _small_net() -> tuple[Program, np.ndarray]:
    rng = np.random.default_rng(0)
    steps: list[Step] = [
        SparseConv(weight=draw_weight(rng, (16, 3, 3, 3), 0.3, True), padding=1),
        Activation(kind="elu"),
        MaxPool(kernel=2),
        SparseConv(weight=draw_weight(rng, (16, 16, 3, 3), 0.2, False), padding=1),
        Activation(kind="gelu"),
        MaxPool(kernel=2),
        Flatten(),
        SparseLinear(weight=draw_weight(rng, (10, 16 * 16), 0.2, True)),
    ]
    return Program(steps, (3, 16, 16)), rng.standard_normal((50, 3, 16, 16)).astype(np.float32)


def test_an_image_does_not_depend_on_the_others(variant: str) -> None:
    program, x = _small_net()
    whole = program.run(x)
    if variant != "off":  # a matrix product of another size may add in another order
        assert np.array_equal(np.concatenate([program.run(x[i : i + 1]) for i in range(50)]), whole)
        assert np.array_equal(np.concatenate([program.run(x[i : i + 7]) for i in range(0, 50, 7)]), whole)
    for threads in (2, 3, 5, 64):
        assert np.array_equal(program.run(x, threads=threads), whole)
    assert np.array_equal(program.run(np.asfortranarray(x)), whole)
    shifted = np.frombuffer(bytearray(x.nbytes + 1), np.float32, count=x.size, offset=1).reshape(x.shape)
    shifted[...] = x  # at an address that is no multiple of four
    assert np.array_equal(program.run(shifted), whole)


def test_not_a_number_stays_in_its_image(variant: str) -> None:
    program, x = _small_net()
    clean = program.run(x)
    x[7] = math.nan
    with np.errstate(invalid="ignore"):
        dirty = program.run(x)
    assert np.array_equal(np.delete(dirty, 7, 0), np.delete(clean, 7, 0))
    x[7] = 0
    program.run(x)
    assert np.array_equal(np.delete(program.run(x), 7, 0), np.delete(clean, 7, 0))


def test_many_callers_at_once(variant: str) -> None:
    program, x = _small_net()
    pieces = [x[i : i + n] for i, n in [(0, 1), (3, 17), (20, 30), (7, 2), (11, 33)] * 8]
    expected = [program.run(piece) for piece in pieces]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda item: program.run(item[1], threads=1 + item[0] % 3), enumerate(pieces)))
    assert all(map(np.array_equal, found, expected))


def test_copies_and_empty_batches(variant: str) -> None:
    program, x = _small_net()
    for other in (copy.deepcopy(program), pickle.loads(pickle.dumps(program))):  # noqa: S301
        assert np.array_equal(other.run(x), program.run(x))
    assert program.run(x[:0]).shape == (0, 10)


def test_counts() -> None:
    weight = np.zeros((2, 3, 3, 3), np.int8)
    weight[0, 0, 0, 0] = weight[1, 2, 1, 1] = -1
    program = Program(
        [SparseConv(weight=weight, padding=1), Flatten(), SparseLinear(weight=np.ones((4, 72), np.int8))], (3, 6, 6)
    )
    assert program.macs == 2 * 27 * 36 + 4 * 72
    assert program.additions == 2 * 36 + 4 * 72
    assert program.shapes == [(3, 6, 6), (2, 6, 6), (72,), (4,)]


@pytest.mark.parametrize(("kind", "bound"), [("elu", 2.0), ("tanh", 4.0), ("sigmoid", 3.0)])
def test_error_of_the_exponential(variant: str, kind: str, bound: float) -> None:
    """In units of the last place of the result; below 1e-30 the result counts as 0. Plain numpy has its own."""
    x = -np.exp(np.linspace(math.log(1e-30), math.log(80), 50_001)).astype(np.float32)
    program = Program([Activation(kind=kind)], x.shape)  # type: ignore[arg-type]
    exact = reference(list(program.steps), x[None])[0]
    found = program.run(x[None])[0]
    unit = np.spacing(np.maximum(np.abs(exact), 1e-30).astype(np.float32))
    if variant == "off":
        np.testing.assert_allclose(found, exact, rtol=0, atol=1.2e-7)
    else:
        assert (np.abs(found - exact) / unit).max() <= bound


def bad(text: str, steps: list[Any] | None = None, shape: tuple[int, ...] = (3, 8, 8), **fields: Any) -> None:
    with pytest.raises(ProgramError, match=text):
        Program([SparseConv(**fields)] if steps is None else steps, shape)


def test_errors_name_the_field() -> None:
    ones = np.ones((2, 3, 3, 3), np.int8)
    bad("weight must be int8", weight=ones.astype(np.float64))
    bad("-1, 0 and 1 alone", weight=2 * ones)
    bad("weight must be finite", weight=np.full((2, 3, 3, 3), math.nan, np.float32))
    bad("weight must have 3 or 4 axes", weight=ones[0, 0])
    bad("weight does not fit an input of 3 channels", weight=ones[:, :2])
    bad(r"scale must be float32 of shape \(2,\)", weight=ones, scale=np.ones(3, np.float32))
    bad("bias must be finite", weight=ones, bias=np.full(2, math.inf, np.float32))
    bad("groups must divide", weight=ones, groups=3)
    bad("stride must be an int or 2 ints, at least 1, got 0", weight=ones, stride=0)
    bad("padding must be", weight=ones, padding=(1, 2, 3))
    bad("does not fit its input of shape", weight=ones, dilation=9)
    bad("at least one step", [])


def test_errors_of_other_steps() -> None:
    with pytest.raises(ProgramError, match="kind must be one of relu, .*, got 'swish'"):
        Activation(kind="swish")  # type: ignore[arg-type]
    with pytest.raises(ProgramError, match="alpha must be finite"):
        Activation(kind="elu", alpha=math.nan)
    with pytest.raises(ProgramError, match="hardtanh needs alpha <= beta"):
        Activation(kind="hardtanh", alpha=2, beta=1)
    bad(r"steps\[0\] \(Add\) may read the values -1 to 0, got 1", [Add(other=1)])
    bad("both inputs must have one shape", [MaxPool(kernel=2), Add(other=0)])
    bad("must agree in all axes but the first", [MaxPool(kernel=2), Concat(values=(0, 1))])
    bad("padding must be at most half the kernel", [MaxPool(kernel=2, padding=2)])
    bad("does not fit an input of shape", [Flatten(), SparseLinear(weight=np.ones((2, 3), np.int8))])
    bad("must have shape", [Flatten(), MaxPool(kernel=2)])
    bad("scale must be finite float32", [ScaleShift(scale=np.ones(2, np.float32), shift=np.ones(3, np.float32))])
    bad("input_shape must have 1 to 3", [Flatten()], (1, 2, 3, 4))
    program = Program([Flatten()], (3, 8, 8))
    with pytest.raises(ProgramError, match=r"x must be float32 of shape \(N, 3, 8, 8\), got float64"):
        program.run(np.ones((1, 3, 8, 8)))
    with pytest.raises(ProgramError, match="threads must be at least 1"):
        program.run(np.ones((1, 3, 8, 8), np.float32), threads=0)
