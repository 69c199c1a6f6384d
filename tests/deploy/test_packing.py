"""Packing: what comes out is what went in, as small as promised, and what cannot be packed is refused by name."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open
from torch import Tensor, nn

from supermask import Masks, SignedSupermask
from supermask.core.masks import SignedEntry
from supermask.deploy import Graph, Node, annotate, container, pack, read, trace, unpack
from supermask.deploy.packing import PackReport
from supermask.errors import MaskError, PackedFileError, PackError
from supermask.tensors.philox import Stream

Array = np.ndarray[Any, Any]

# (rows, columns, kernel), density of each layer: docs/performance.md's networks at the published totals
NETWORKS: dict[str, list[tuple[tuple[int, ...], float]]] = {
    "fcn": [((300, 784), 0.03), ((100, 300), 0.08), ((10, 100), 0.4)],
    "conv2": [
        ((64, 3, 3, 3), 0.30),
        ((64, 64, 3, 3), 0.10),
        ((256, 16384), 0.0045),
        ((256, 256), 0.03),
        ((10, 256), 0.2),
    ],
    "conv4": [
        ((64, 3, 3, 3), 0.30),
        ((64, 64, 3, 3), 0.10),
        ((128, 64, 3, 3), 0.10),
        ((128, 128, 3, 3), 0.09),
        ((256, 8192), 0.021),
        ((256, 256), 0.03),
        ((10, 256), 0.2),
    ],
    "conv6": [
        ((64, 3, 3, 3), 0.30),
        ((64, 64, 3, 3), 0.10),
        ((128, 64, 3, 3), 0.08),
        ((128, 128, 3, 3), 0.06),
        ((256, 128, 3, 3), 0.04),
        ((256, 256, 3, 3), 0.03),
        ((256, 4096), 0.0032),
        ((256, 256), 0.03),
        ((10, 256), 0.2),
    ],
    "conv8": [
        ((64, 3, 3, 3), 0.30),
        ((64, 64, 3, 3), 0.10),
        ((128, 64, 3, 3), 0.04),
        ((128, 128, 3, 3), 0.03),
        ((256, 128, 3, 3), 0.02),
        ((256, 256, 3, 3), 0.015),
        ((512, 256, 3, 3), 0.01),
        ((512, 512, 3, 3), 0.008),
        ((256, 2048), 0.0086),
        ((256, 256), 0.02),
        ((10, 256), 0.2),
    ],
}
GOALS = {"conv2": 32_000, "conv8": 70_000}


def ternary(shape: tuple[int, ...], density: float, scale: float = 0.5, seed: int = 0) -> Array:
    draw = np.random.default_rng(seed)
    return (draw.choice([-1.0, 1.0], shape) * (draw.random(shape) < density) * scale).astype(np.float32)


def equal_bits(first: Array, second: Array) -> bool:
    """Equal in type, shape and every bit, but that -0 is 0."""
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and (first.tobytes() == second.tobytes() or (first + 0).tobytes() == (second + 0).tobytes())
    )


def packed(tmp_path: Path, state: Any, **options: Any) -> tuple[PackReport, Path]:
    path = tmp_path / "model.smk.safetensors"
    return pack(state, path, **options), path


@pytest.mark.parametrize("name", NETWORKS)
def test_size_of_random_masks(name: str, tmp_path: Path) -> None:
    layers = NETWORKS[name]
    state = {f"layers.{i}.weight": ternary(shape, p, 0.1 + i, i) for i, (shape, p) in enumerate(layers)}
    report, path = packed(tmp_path, state)
    bound = sum(layer.entropy_bytes for layer in report.layers)
    assert report.size <= 1.02 * bound + 1024 + 64 * len(layers)
    assert report.size <= GOALS.get(name, report.size)
    assert path.stat().st_size == report.size == report.blob_bytes + report.description_bytes
    assert report.dense_bytes == 4 * sum(int(np.prod(shape)) for shape, _ in layers)
    assert all(equal_bits(array, state[key]) for key, array in read(path).arrays().items())


@pytest.mark.parametrize("density", [0.01, 0.2, 0.3, 0.38, 0.45, 0.5, 0.62, 0.9, 0.99])
def test_a_mask_alone_is_near_its_entropy(density: float, tmp_path: Path) -> None:
    report, _ = packed(tmp_path, {"weight": np.abs(ternary((500, 400), density))})
    layer = report.layers[0]
    assert layer.coding == "sparse signs"
    assert (
        layer.packed_bytes
        <= (1.045 if 0.3 < density < 0.5 or 0.5 < density < 0.7 else 1.025) * layer.entropy_bytes + 64
    )


dtypes = st.sampled_from(
    [
        np.float32,
        np.float64,
        np.float16,
        np.int64,
        np.int32,
        np.int16,
        np.int8,
        np.uint64,
        np.uint32,
        np.uint16,
        np.uint8,
        np.bool_,
    ]
)


@st.composite
def sparse_arrays(draw: st.DrawFn) -> Array:
    """Arrays of any type and shape, in which rows, columns or single entries may be zero, or magnitudes equal."""
    dtype = np.dtype(draw(dtypes))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, max_side=9) | st.just((0, 3)) | st.just((40, 31)))
    array = draw(hnp.arrays(dtype, shape, elements=hnp.from_dtype(dtype), fill=st.just(dtype.type(0))))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    kind = draw(st.sampled_from(["as it is", "thinned", "signs", "signs by row", "constant"]))
    if kind == "constant":
        return np.full(shape, array.reshape(-1)[0] if array.size else 0, dtype)
    if kind.startswith("signs") and dtype.kind == "f":
        array = random.choice([-1.0, 0.0, 1.0], shape).astype(dtype) * dtype.type(0.3)
        if kind == "signs by row" and array.ndim:
            array = array * random.random((shape[0],) + (1,) * (array.ndim - 1)).astype(dtype)
    if kind != "as it is" and array.ndim:
        array = np.where(random.random(shape) < draw(st.sampled_from([0.05, 0.5, 0.95])), array, dtype.type(0))
        array[random.random(shape[0]) < draw(st.sampled_from([0.0, 0.5]))] = 0
        if array.ndim > 1:
            array[:, random.random(shape[1]) < draw(st.sampled_from([0.0, 0.5]))] = 0
    return np.asarray(array, dtype)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=8), sparse_arrays(), max_size=4), st.none() | st.integers(0, 2**64 - 1))
def test_what_comes_out_is_what_went_in(
    tmp_path_factory: pytest.TempPathFactory, state: dict[str, Array], seed: int | None
) -> None:
    path = tmp_path_factory.getbasetemp() / "round.safetensors"
    report = pack(state, path, seed=seed)
    found = read(path).arrays()
    assert list(found) == list(state)
    with np.errstate(all="ignore"):
        assert all(equal_bits(found[name], array) for name, array in state.items())
    assert [layer.largest_error for layer in report.layers] == [0.0] * len(state)
    assert all(layer.packed_bytes <= layer.dense_bytes + len(layer.name.encode()) + 60 for layer in report.layers)


def test_other_readers_see_a_safetensors_file(tmp_path: Path) -> None:
    report, path = packed(tmp_path, {"w": ternary((20, 30), 0.1)}, classes=["a", "b"])
    with safe_open(path, framework="numpy") as file:
        assert list(file.keys()) == ["packed"]
        assert json.loads(file.metadata()["supermask"]) == {"classes": ["a", "b"]}
        assert file.get_tensor("packed").nbytes == report.blob_bytes


def test_a_module_and_its_state_dict(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4)).to(torch.float64)
    with torch.no_grad():
        model[0].weight.mul_(torch.rand_like(model[0].weight) < 0.2)
    _, path = packed(tmp_path, model)
    state = unpack(path)
    fresh = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4)).to(torch.float64)
    fresh.load_state_dict(state)
    assert list(state) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor)
        assert state[name].dtype == tensor.dtype


def test_bfloat16(tmp_path: Path) -> None:
    weight = torch.randn(30, 20, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    weight[torch.rand(30, 20, generator=torch.Generator().manual_seed(1)) < 0.9] = 0
    report, path = packed(tmp_path, {"w": weight, "signs": weight.sign(), "dense": torch.full((2,), 3.14).bfloat16()})
    assert [layer.coding for layer in report.layers] == ["sparse values", "sparse signs", "constant"]
    state = unpack(path)
    assert state["w"].dtype == torch.bfloat16
    assert torch.equal(state["w"], weight)
    assert torch.equal(state["signs"], weight.sign())
    assert read(path).array("w").dtype == np.float32
    assert np.array_equal(read(path).array("w"), weight.float().numpy())


def test_tied_and_strided_tensors(tmp_path: Path) -> None:
    weight = torch.from_numpy(ternary((40, 30), 0.1))
    report, path = packed(
        tmp_path, {"a": weight, "b": weight, "t": weight.t(), "last": weight.to_sparse().to_dense()[::2]}
    )
    assert [layer.coding for layer in report.layers] == ["sparse signs", "alias", "sparse signs", "sparse signs"]
    state = unpack(path)
    assert torch.equal(state["b"], weight)
    assert torch.equal(state["t"], weight.t())
    assert torch.equal(state["last"], weight[::2])


def test_dead_rows_and_columns_cost_next_to_nothing(tmp_path: Path) -> None:
    small = ternary((30, 20, 3, 3), 0.1)
    large = np.zeros((300, 200, 3, 3), np.float32)
    rows, columns = np.arange(30) * 10, np.arange(20) * 7
    large[np.ix_(rows, columns)] = small
    report, path = packed(tmp_path, {"small": small, "large": large})
    assert report.layers[1].packed_bytes - report.layers[0].packed_bytes < 60
    assert equal_bits(read(path).array("large"), large)


def test_signs_that_follow_from_a_seed_are_not_stored(tmp_path: Path) -> None:
    shape = (300, 100)
    kept = np.random.default_rng(0).random(shape) < 0.3
    sizes = {}
    for seed in (None, 7, 8):
        state = {
            name: signs(Stream(7, "weights", name), 30000).reshape(shape) * kept * np.float32(0.1)
            for name, signs in (("bits", Stream.signs), ("sides", Stream.sides))
        }
        report, path = packed(tmp_path, state, seed=seed)
        sizes[seed] = report.size
        assert all(equal_bits(read(path).array(name), array) for name, array in state.items())
    assert sizes[7] < sizes[None] - 2 * kept.sum() / 8 + 100  # a bit less for each weight
    assert sizes[8] == sizes[None]


def test_the_seed_of_a_signed_supermask_comes_with_its_masks(tmp_path: Path) -> None:
    code = torch.from_numpy((np.random.default_rng(0).random((200, 100)) < 0.2).astype(np.int8))
    signs = torch.from_numpy(Stream(5, "weights", "fc.weight").signs(20000).reshape(200, 100))
    entry = SignedEntry(code, scale=0.25, seed=5, generator="philox4x32/weights/fc.weight")
    masks = Masks({"fc.weight": code != 0}, {"fc.weight": entry})
    with_masks, path = packed(tmp_path, {"fc.weight": code * signs * 0.25}, masks=masks)
    assert torch.equal(unpack(path)["fc.weight"], code * signs * 0.25)
    without, _ = packed(tmp_path, {"fc.weight": code * signs * 0.25})
    assert with_masks.size < without.size - 400


def test_a_finalized_run_end_to_end(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    sparsifier = SignedSupermask(threshold=0.1).attach(model, seed=3)
    with pytest.raises(
        PackError, match=re.escape("0.parametrizations.weight.original is still parametrized: call finalize()")
    ):
        packed(tmp_path, model)
    masks = sparsifier.finalize()
    report, path = packed(tmp_path, model, masks=masks)
    twin = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    twin.load_state_dict(unpack(path))
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(x), twin(x))
    assert report.layers[0].coding == "sparse signs"
    assert report.largest_error == 0.0


@pytest.mark.parametrize(("values", "most"), [("float16", 2e-3), ("int8", 2e-2)])
def test_rounded_values(values: Any, most: float, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    weight = (draw.standard_normal((60, 50, 3, 3)) * (draw.random((60, 50, 3, 3)) < 0.1)).astype(np.float32)
    bias = draw.standard_normal(600).astype(np.float32)
    exact, _ = packed(tmp_path, {"w": weight, "b": bias})
    report, path = packed(tmp_path, {"w": weight, "b": bias}, values=values)
    found = read(path)
    assert equal_bits(found.array("b"), bias)
    difference = np.abs(found.array("w") - weight)
    assert report.layers[0].coding == f"sparse {values}"
    assert report.largest_error == difference.max()
    assert 0 < difference.max() < most
    assert not difference[weight == 0].any()
    assert report.size < exact.size - weight.astype(bool).sum() * (1.9 if values == "float16" else 2.5)


def test_values_that_cannot_be_rounded_are_refused(tmp_path: Path) -> None:
    weight = ternary((20, 20), 0.3)
    weight[0, :3] = 1e6, 2e6, 1
    with pytest.raises(
        PackError, match="w holds 2000000.0, which is too large for float16; pack it with values='exact'"
    ):
        packed(tmp_path, {"w": weight}, values="float16")
    weight[0, 1] = np.inf
    with pytest.raises(PackError, match="w holds values that are not finite"):
        packed(tmp_path, {"w": weight}, values="int8")
    tiny = np.zeros((20, 20), np.float32)
    tiny[0, :2] = 1e-45, 3e-45
    assert read(packed(tmp_path, {"w": tiny}, values="int8")[1]).array("w")[0, 1] == np.float32(3e-45)


GRAPH = Graph((3,), (Node("linear", "fc", ("input",), {"weight": "fc.weight", "bias": None}),), "fc")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"path": "model.smk"},
            PackError,
            "a packed file ends in .safetensors, for example model.smk.safetensors; got 'model.smk'",
        ),
        ({"values": "int4"}, PackError, "values must be one of exact, float16, int8, got 'int4'"),
        (
            {"masks": {"v": torch.ones(2, 2).bool()}},
            MaskError,
            "there is a mask of v, but the model has no such tensor; it has w",
        ),
        ({"masks": {"w": torch.ones(2, 3).bool()}}, MaskError, "the mask of w must have shape (2, 2), got (2, 3)"),
        ({"masks": {"w": torch.eye(2).bool()}}, MaskError, "the mask of w hides 2 weights that are not zero"),
        (
            {"model": {"w": torch.ones(2, dtype=torch.complex64)}},
            PackError,
            "w cannot be packed: it is torch.complex64",
        ),
        ({"model": {"w": np.array(["a"])}}, PackError, "w cannot be packed: its type is <U1"),
        ({"model": {"w": [1.0]}}, PackError, "w cannot be packed: it is a list, not a tensor"),
        (
            {"model": {"w": torch.eye(3).to_sparse()}},
            PackError,
            "w cannot be packed: it is torch.float32, torch.sparse_coo",
        ),
        ({"metadata": {"a": float("nan")}}, PackError, "metadata cannot be written as JSON"),
        ({"provenance": {"a": object()}}, PackError, "provenance cannot be written as JSON"),
        (
            {"architecture": {"name": "fcn"}},
            PackError,
            "architecture cannot be written as JSON: it should have a name (text)",
        ),
        ({"provenance": [1]}, PackError, "provenance cannot be written as JSON: it should be an object"),
        ({"architecture": "fcn"}, PackError, "architecture must be a mapping of plain values, got a str"),
        ({"classes": "cat"}, PackError, "classes must be a list of names, got the text 'cat'"),
        ({"seed": -1}, PackError, "seed must be an integer from 0 to 2**64 - 1, got -1"),
        ({"seed": 1.5}, PackError, "seed must be an integer from 0 to 2**64 - 1, got 1.5"),
        ({"model": [torch.ones(2)]}, PackError, "model must be a module or a state dict, got a list"),
        ({"model": {1: torch.ones(2)}}, PackError, "the names of a state dict must be text that UTF-8 has, got 1"),
        ({"model": {"\ud800": torch.ones(2)}}, PackError, "must be text that UTF-8 has, got '\\ud800'"),
        ({"model": {"w": torch.ones(2, device="meta")}}, PackError, "w cannot be packed: it is on the meta device"),
        ({"model": {"w": torch.ones([1] * 33)}}, PackError, "w cannot be packed: it has 33 axes, more than 32"),
        ({"masks": [1]}, MaskError, "masks must be a mapping of names to masks, got a list"),
        (
            {"graph": GRAPH},
            PackError,
            "graph must be a mapping of plain values, got a Graph; graph.to_dict() gives one",
        ),
        (
            {"graph": {"version": 1}},
            PackError,
            "the graph does not fit the model's tensors, so that the file could not",
        ),
        ({"graph": GRAPH.to_dict()}, PackError, "fc (linear): there is no tensor 'fc.weight'"),
        ({"classes": [1, 2]}, PackError, "classes cannot be written as JSON: it should be a list of names"),
    ],
)
def test_what_cannot_be_packed(options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    model = options.pop("model", {"w": torch.ones(2, 2)})
    path = tmp_path / options.pop("path", "m.safetensors")
    with pytest.raises(error, match=re.escape(message)):
        pack(model, path, **options)
    assert not list(tmp_path.iterdir())


def test_a_mask_may_keep_a_weight_that_is_zero(tmp_path: Path) -> None:
    report, _ = packed(tmp_path, {"w": np.eye(4, dtype=np.float32)}, masks={"w": np.ones((4, 4), bool)})
    assert report.layers[0].remaining == 4


def test_sections_and_annotations(tmp_path: Path) -> None:
    sections: dict[str, Any] = {
        "architecture": {"name": "fcn", "options": {"hidden": [3]}},
        "graph": Graph((30,), (Node("linear", "fc", ("input",), {"weight": "w", "bias": None}),), "fc").to_dict(),
        "normalization": {"kind": "none", "scale": 255},
        "classes": ["cat", "größer"],
        "provenance": {"run": 'a"b\\c\u2028'},
        "metadata": {"x": [1, None, 2.5]},
    }
    weight = ternary((20, 30), 0.1)
    _, path = packed(tmp_path, {"w": weight}, **sections)
    before = read(path)
    assert dict(before.sections) == sections
    assert (before.architecture, before.graph, before.classes) == (
        sections["architecture"],
        sections["graph"],
        ["cat", "größer"],
    )
    assert (before.normalization, before.provenance, before.certificate) == (
        sections["normalization"],
        sections["provenance"],
        None,
    )
    annotate(path, certificate={"n": 10}, plan={"a": 1})
    annotate(path, plan=None, metadata=None)
    after = read(path)
    assert dict(after.sections) == {**{k: v for k, v in sections.items() if k != "metadata"}, "certificate": {"n": 10}}
    assert equal_bits(after.array("w"), weight)
    with pytest.raises(PackError, match="certificate cannot be written as JSON"):
        annotate(path, certificate={"n": float("inf")})
    assert read(path).certificate == {"n": 10}


def test_the_graph_is_checked_by_who_knows_it(tmp_path: Path) -> None:
    _, path = packed(tmp_path, {})
    annotate(path, graph={"version": 3})
    seen: list[dict[str, Any]] = []
    read(path, check_graph=seen.append)
    assert seen == [{"version": 3}]

    def refuse(graph: dict[str, Any]) -> None:
        raise PackedFileError(f"version {graph['version']}")

    with pytest.raises(PackedFileError, match="version 3"):
        read(path, check_graph=refuse)


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    _, path = packed(tmp_path, {"w": ternary((20, 30), 0.1)})
    code = (
        f"from supermask.deploy import read; import sys; read({str(path)!r}).arrays(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_equal_contents_make_equal_files(tmp_path: Path) -> None:
    state = {"a": ternary((20, 30), 0.1), "b": ternary((20,), 0.1)}
    first = packed(tmp_path, state, provenance={"b": 1, "a": 2})[1].read_bytes()
    assert packed(tmp_path, state, provenance={"a": 2, "b": 1})[1].read_bytes() == first
    assert container.from_bytes(first)[1] == {"provenance": {"a": 2, "b": 1}}


def test_a_buffer_that_is_not_saved_is_missed_when_packing(tmp_path: Path) -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)
            self.register_buffer("shift", torch.ones(2), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) + self.shift

    graph, _ = trace(Shifted(), torch.randn(2, 4))
    with pytest.raises(PackError, match=re.escape("shift (constant): there is no tensor 'shift'")):
        pack(Shifted(), tmp_path / "m.safetensors", graph=graph.to_dict())
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, path = packed(tmp_path, {"w": torch.ones(2, 2)})
    before = path.read_bytes()

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        pack({"w": torch.zeros(9, 9)}, path)
    with pytest.raises(OSError, match="No space left"):
        annotate(path, certificate={"n": 1})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before
