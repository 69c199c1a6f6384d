from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from supermask import Magnitude, models
from supermask.core.arrays import load_arrays
from supermask.deploy import two_bit
from supermask.deploy.exporting import export, exported
from supermask.errors import ExportError, MissingExtraError


class Mixed(nn.Module):
    """Depthwise convolution, residual sum, batch norm, attention: what a user's own module may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.conv(x))
        h = h + self.norm(self.depthwise(h))
        tokens = h.flatten(2).transpose(1, 2)
        return self.head(self.encoder(tokens).mean(1))


class FixedBatch(nn.Module):
    """Computes with the number of its examples."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.shape[0] == 3 else x * 2


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


def mixed() -> Mixed:
    torch.manual_seed(0)
    model = Mixed()
    for _ in range(3):
        model(torch.randn(8, 3, 8, 8))  # statistics of the batch norm
    with torch.no_grad():
        model.conv.weight[::2] = 0
    return model


def ternary_linear(outputs: int, inputs: int, *, bias: bool = False) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=bias)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-1, 2, (outputs, inputs), generator=generator).float()
    scale = 0.01 * torch.rand(outputs, 1, generator=generator)
    layer.weight.data = codes * scale
    return layer


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Mixed, Tensor, Path]:
    model, folder = mixed(), tmp_path_factory.mktemp("export")
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for name in ("m.onnx", "m.pt2", "m.safetensors"):
        report = export(model, folder / name, example=x)
        assert report.bytes == (folder / name).stat().st_size
        assert report.agreement == 1
        assert report.max_difference < 1e-5
    assert model.training
    return model.eval(), x, folder


@pytest.mark.parametrize("name", ["m.onnx", "m.pt2"])
@pytest.mark.parametrize("batch", [1, 4, 7])
def test_programs_do_what_the_model_does_at_any_batch(
    written: tuple[Mixed, Tensor, Path], name: str, batch: int
) -> None:
    model, _, folder = written
    x = torch.randn(batch, 3, 8, 8)
    with torch.no_grad():
        expected = model(x).numpy()
    assert np.abs(exported(folder / name)(x.numpy()) - expected).max() < 1e-5


def test_dense_checkpoint_is_the_state_dict(written: tuple[Mixed, Tensor, Path]) -> None:
    model, _, folder = written
    other = Mixed()
    other.load_state_dict(load_arrays(folder / "m.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))
    assert not other.conv.weight[::2].any()


def test_files_hold_no_paths_of_this_machine(written: tuple[Mixed, Tensor, Path]) -> None:
    folder = written[2]
    program = zipfile.ZipFile(folder / "m.pt2")
    for data in ((folder / "m.onnx").read_bytes(), *(program.read(name) for name in program.namelist())):
        assert str(Path(torch.__file__).parent).encode() not in data
        assert str(Path(__file__).parent).encode() not in data
        assert b"stack_trace" not in data or b'"stack_trace": null' in data


def test_onnx_names(written: tuple[Mixed, Tensor, Path]) -> None:
    graph = onnx.load(written[2] / "m.onnx").graph
    assert [entry.name for entry in (*graph.input, *graph.output)] == ["input", "output"]
    batches = {entry.type.tensor_type.shape.dim[0].dim_param for entry in (*graph.input, *graph.output)}
    assert batches == {"batch"}
    assert "head.weight" in {tensor.name for tensor in graph.initializer}


def test_a_model_that_needs_its_batch(tmp_path: Path) -> None:
    model, x = FixedBatch(), torch.randn(3, 4)
    with pytest.raises(ExportError, match="torch.export cannot trace the model: .*any_batch=False"):
        export(model, tmp_path / "a.pt2", example=x)
    report = export(model, tmp_path / "a.pt2", example=x, any_batch=False)
    assert report.batch == 3
    assert np.array_equal(exported(tmp_path / "a.pt2")(x.numpy()), x.numpy())


def test_an_example_of_one_makes_a_file_for_any_batch(tmp_path: Path) -> None:
    report = export(nn.Linear(4, 2), tmp_path / "a.onnx", example=torch.randn(1, 4))
    assert (report.batch, report.examples) == (None, 1)
    assert exported(tmp_path / "a.onnx")(np.zeros((9, 4), np.float32)).shape == (9, 2)


def test_a_file_that_differs_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"a.pt2 was not written: .* differ .* Does the model draw random"):
        export(Noisy(), tmp_path / "a.pt2", example=torch.zeros(2, 3))
    assert list(tmp_path.iterdir()) == []
    export(nn.Linear(3, 3), tmp_path / "a.pt2", example=torch.zeros(2, 3))
    before = (tmp_path / "a.pt2").read_bytes()
    with pytest.raises(ExportError, match="was not written"):
        export(Noisy(), tmp_path / "a.pt2", example=torch.zeros(2, 3))
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt2"]
    assert (tmp_path / "a.pt2").read_bytes() == before


@pytest.mark.parametrize("ending", [".onnx", ".pt2"])
def test_other_types_than_float32(ending: str, tmp_path: Path) -> None:
    words = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
    assert export(words, tmp_path / f"words{ending}", example=torch.randint(9, (3, 3))).max_difference < 1e-6
    assert exported(tmp_path / f"words{ending}")(np.ones((2, 3), np.int64)).shape == (2, 2)
    double = nn.Linear(4, 2).double()
    assert export(double, tmp_path / f"double{ending}", example=torch.randn(3, 4).double()).max_difference < 1e-6
    with pytest.raises(ExportError, match="example is bfloat16"):
        export(nn.Linear(4, 2).bfloat16(), tmp_path / f"b{ending}", example=torch.randn(3, 4).bfloat16())
    with pytest.raises(ExportError, match=rf"words{ending} does not take float32 of shape \(2, 3\): "):
        exported(tmp_path / f"words{ending}")(np.ones((2, 3), np.float32))


def test_nan_is_exported_as_it_is(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    with torch.no_grad():
        model.weight[1, 2] = float("nan")
    export(model, tmp_path / "a.safetensors")
    assert load_arrays(tmp_path / "a.safetensors")["weight"][1, 2].isnan()
    assert export(model, tmp_path / "a.onnx", example=torch.randn(3, 4)).max_difference < 1e-6


def test_refusals(tmp_path: Path) -> None:
    model, x = nn.Linear(4, 2), torch.randn(2, 4)
    for name, options, message in (
        ("a.pb", {}, "the ending of 'a.pb' is none of .onnx, .pt2, .safetensors; say format="),
        ("a.onnx", {"format": "tflite"}, "format must be one of onnx, torch, dense, got 'tflite'"),
        ("a.onnx", {"format": "torch"}, "files of format 'torch' end in .pt2, got 'a.onnx'"),
        ("a.pt2", {"two_bit": 1, "example": x}, "two_bit is for ONNX files only"),
        ("a.onnx", {"two_bit": 0, "example": x}, "two_bit must be a batch size >= 1, got 0"),
        ("a.onnx", {}, "example must be a tensor of inputs, its first dimension the batch, got NoneType"),
        ("a.onnx", {"example": x[:0]}, r"example must be .*, got \(0, 4\)"),
        ("a.onnx", {"example": x.numpy()}, r"example must be a tensor of inputs, .*, got ndarray"),
        ("a.onnx", {"example": x[:, :3]}, r"the model does not take the example of shape \(2, 3\): mat1 and mat2"),
    ):
        with pytest.raises(ExportError, match=message):
            export(model, tmp_path / name, **options)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="one tensor with one row an example, got tuple"):
        export(nn.LSTM(4, 2), tmp_path / "a.onnx", example=x)
    Magnitude(density=0.5).attach(model)
    with pytest.raises(ExportError, match=re.escape("this one has parametrizations; call finalize() first")):
        export(model, tmp_path / "a.onnx", example=x)
    for name in ("bad.onnx", "bad.pt2"):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(ExportError, match="cannot read the ONNX model|is damaged or no program"):
            exported(tmp_path / name)
    with pytest.raises(ExportError, match="no such file: .*none.pt2"):
        exported(tmp_path / "none.pt2")
    with pytest.raises(ExportError, match="model must be a module, got a dict"):
        export({}, tmp_path / "a.onnx", example=x)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="files that can be run end in .onnx or .pt2"):
        exported(tmp_path / "a.safetensors")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_packages(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(
        MissingExtraError, match=re.escape(f"needs the package '{package}': python -m pip install 'supermask[onnx]'")
    ):
        export(nn.Linear(4, 2), tmp_path / "a.onnx", example=torch.randn(2, 4))


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(ternary_linear(256, 2048, bias=True), nn.ReLU(), nn.Linear(256, 10))


def test_two_bits_where_it_is_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_bit, "_FASTER", 0.0)  # whatever this machine is good at
    model, x = two_layers().eval(), torch.randn(16, 2048)
    plain = export(model, tmp_path / "plain.onnx", example=x)
    report = export(model, tmp_path / "small.onnx", example=x, two_bit=16)
    assert list(report.layers) == ["0.weight"]
    layer = report.layers["0.weight"]
    assert (layer.shape, layer.batch) == ((256, 2048), 16)
    assert layer.speedup > 0
    assert report.kept == {}
    assert report.bytes < plain.bytes / 8
    graph = onnx.load(tmp_path / "small.onnx").graph
    (node,) = [node for node in graph.node if node.op_type == "MatMulNBits"]
    attributes = {a.name: a.i for a in node.attribute}
    assert attributes == {"K": 2048, "N": 256, "bits": 2, "block_size": 128, "accuracy_level": 4}
    with torch.no_grad():
        expected = model(x).numpy()
    difference = np.abs(exported(tmp_path / "small.onnx")(x.numpy()) - expected).max()
    assert 0 < difference < 0.03 * np.abs(expected).max()
    assert report.max_difference == pytest.approx(difference, rel=0.5)


def test_not_in_two_bits_where_it_is_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_bit, "_FASTER", 1e9)
    report = export(two_layers(), tmp_path / "a.onnx", example=torch.randn(2, 2048), two_bit=2)
    assert report.layers == {}
    assert re.fullmatch(r"it would run at \d+\.\d\d times the speed of float32 at batch 2", report.kept["0.weight"])
    assert report.max_difference < 1e-4


def test_layers_of_many_magnitudes_and_small_ones_stay(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2048, 64), nn.ReLU(), ternary_linear(8, 64))
    report = export(model, tmp_path / "a.onnx", example=torch.randn(2, 2048), two_bit=2)
    assert report.layers == {}
    assert report.kept == {"0.weight": "its remaining weights differ in magnitude within a row"}


def test_codes_are_exact() -> None:
    weight = np.array([[0.5, 0, -0.5], [0, 0, 0], [-2, -2, 2]], np.float32)
    coded = two_bit._codes(weight)
    assert coded is not None
    codes, scale = coded
    assert np.array_equal((codes.astype(np.float32) - 2) * scale[:, None], weight)
    assert two_bit._codes(np.array([[0.5, 0.25]], np.float32)) is None


@pytest.mark.parametrize("name", ["fcn", "resnet20-signed"])
def test_our_networks(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.build(name)
    x = torch.randn(3, *models.MODELS[name].input_shape)
    assert export(model, tmp_path / "a.onnx", example=x).max_difference < 1e-5
