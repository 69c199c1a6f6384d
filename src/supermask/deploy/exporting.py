"""A plain model in formats that other programs run: ONNX, a torch.export program, a dense checkpoint.

Zeros stay where they are: these formats make nothing smaller or faster by themselves, except ONNX with linear layers in two
bits. Each file is read back and run, and its outputs are compared with the model's before :func:`export` returns.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from supermask.core.arrays import atomic_write, load_arrays, save_arrays
from supermask.deploy.session import first_line, onnx_session
from supermask.deploy.two_bit import Layer, rewrite
from supermask.errors import ExportError, MissingExtraError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

#: Format -> the ending of its files.
FORMATS: Final = {"onnx": ".onnx", "torch": ".pt2", "dense": ".safetensors"}

_OPSET: Final = 20
_TOLERANCE: Final = 1e-4  # of an output, where nothing is rounded on purpose
_NOISY: Final = "torch.onnx._internal.exporter._registration"  # warns of torchvision, which nobody asked for
Run = Callable[[NDArray[Any]], NDArray[np.float32]]


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        path: The file.
        format: ``onnx``, ``torch`` or ``dense``.
        bytes: Its size.
        batch: The batch size that it takes; None: any.
        max_difference: Largest difference between one of its outputs and the model's, over the examples; of a dense
            checkpoint between one of its values and the model's.
        agreement: Share of the examples for which the largest output stands at the same place; 1 for a dense checkpoint.
        examples: How many examples were compared.
        layers: Names of the weights that are stored in two bits -> how much faster than float32 each of them ran.
        kept: Names of the weights that could be stored in two bits and are not -> why.
    """

    path: Path
    format: str
    bytes: int
    batch: int | None
    max_difference: float
    agreement: float
    examples: int
    layers: Mapping[str, Layer] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)


def export(
    model: nn.Module,
    path: str | Path,
    *,
    format: str | None = None,
    example: Tensor | None = None,
    any_batch: bool = True,
    two_bit: int | None = None,
) -> ExportReport:
    """Write a plain model to a file for other programs, and check the file against the model.

    Args:
        model: A finalized module with one tensor as input and one as output; it is left as it was. What is written is what
            it does in evaluation mode.
        path: Where to.
        format: ``onnx``, ``torch`` (a program of torch.export) or ``dense`` (a state dict with its zeros). None: by the
            ending of the path.
        example: Input of shape (N, ...), real data if the comparison is to mean something; not needed for ``dense``.
        any_batch: The file takes batches of any size. False: of the example's size only, for models that cannot do
            otherwise.
        two_bit: ONNX only: a batch size. Large linear layers with one magnitude a row are stored in two bits a weight, where
            onnxruntime is measured to be faster that way at this batch size. It is faster only by rounding the layer's inputs
            to 8 bits, so that outputs change by about a hundredth of their size; the report says by how much.

    Raises:
        ExportError: The model is not plain, cannot be traced, or the file does not do what the model does; a file that was
            there is left as it was.
        MissingExtraError: A package for the format is not installed.
    """
    path = Path(path)
    if not isinstance(model, nn.Module):
        raise ExportError(f"model must be a module, got a {type(model).__name__}")
    form = _format(path, format)
    if any(is_parametrized(module) for module in model.modules()):
        raise ExportError("only plain models are exported, this one has parametrizations; call finalize() first")
    if two_bit is not None and form != "onnx":
        raise ExportError(f"two_bit is for ONNX files only, got it with format {form!r}; leave it out")
    if two_bit is not None and two_bit < 1:
        raise ExportError(f"two_bit must be a batch size >= 1, got {two_bit}")
    if form == "dense":
        return _dense(model, path)
    if not isinstance(example, Tensor) or not example.dim() or not len(example):
        got = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise ExportError(f"example must be a tensor of inputs, its first dimension the batch, got {got}")
    if example.dtype == torch.bfloat16:
        raise ExportError("example is bfloat16, which numpy lacks, so that no file could be compared: model.float()")
    with _evaluated(model), torch.no_grad():
        try:
            expected = model(example.clone())
        except Exception as error:  # whatever the user's code raises
            shape = tuple(example.shape)
            raise ExportError(f"the model does not take the example of shape {shape}: {first_line(error)}") from error
        if not isinstance(expected, Tensor) or expected.dim() < 1 or len(expected) != len(example):
            got = f"shape {tuple(expected.shape)}" if isinstance(expected, Tensor) else type(expected).__name__
            raise ExportError(f"the model must give one tensor with one row an example, got {got}")
        program = _program(model, example, any_batch)
    layers: dict[str, Layer] = {}
    kept: dict[str, str] = {}
    if form == "torch":
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        data = buffer.getvalue()
    else:
        proto = _onnx(program)
        if two_bit is not None:
            layers, kept = rewrite(proto, two_bit)
        data = proto.SerializeToString()
    batch = None if any_batch else len(example)
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / path.name
        trial.write_bytes(data)
        difference, agreement = _compare(exported(trial), example, expected, any_batch)
    largest = float(expected.abs().double().nan_to_num(posinf=0.0).max()) if expected.numel() else 0.0
    if not layers and not difference <= _TOLERANCE * max(1.0, largest):
        raise ExportError(
            f"{path.name} was not written: it would give outputs that differ from the model's by up to {difference:.3g}, more "
            f"than {_TOLERANCE:g}. Does the model draw random numbers in evaluation mode?"
        )
    atomic_write(path, data)
    return ExportReport(path, form, len(data), batch, difference, agreement, len(example), layers, kept)


def exported(path: str | Path, *, threads: int = 1) -> Run:
    """A function that runs an exported file: inputs (N, ...) of the type that the model takes to float32 outputs (N, ...).

    It raises an ExportError for inputs that the file does not take.

    Args:
        path: An ``.onnx`` or ``.pt2`` file.
        threads: Of onnxruntime; a program of torch runs with torch's own.

    Raises:
        ExportError: The file is neither, or is damaged.
        MissingExtraError: onnxruntime is not installed.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        session = onnx_session(path, threads)
        inputs = [entry.name for entry in session.get_inputs()]
        if len(inputs) != 1:
            raise ExportError(
                f"{path} takes {len(inputs)} inputs ({', '.join(inputs)}); only files of one input are run"
            )
        return _checked(lambda x: session.run(None, {inputs[0]: x})[0], path)
    if path.suffix == ".pt2":
        if not path.is_file():
            raise ExportError(f"no such file: {path}")
        try:
            module = torch.export.load(path).module()
        except Exception as error:  # whatever damaged bytes make the reader raise
            raise ExportError(f"{path} is damaged or no program of torch.export: {first_line(error)}") from error

        def run(x: NDArray[Any]) -> Any:
            with torch.no_grad():
                return module(torch.from_numpy(x)).numpy()

        return _checked(run, path)
    raise ExportError(f"exported files that can be run end in .onnx or .pt2, got {path.name!r}")


def _checked(run: Callable[[NDArray[Any]], Any], path: Path) -> Run:
    """What other programs raise for inputs becomes one error."""

    def checked(x: NDArray[Any]) -> NDArray[np.float32]:
        try:
            return np.asarray(run(x), np.float32)
        except Exception as error:  # onnxruntime and torch.export raise kinds that are not public
            raise ExportError(f"{path.name} does not take {x.dtype} of shape {x.shape}: {first_line(error)}") from error

    return checked


def _format(path: Path, format: str | None) -> str:
    by_ending = {ending: name for name, ending in FORMATS.items()}
    if format is None:
        if path.suffix not in by_ending:
            raise ExportError(f"the ending of {path.name!r} is none of {', '.join(by_ending)}; say format=")
        return by_ending[path.suffix]
    if format not in FORMATS:
        raise ExportError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    if path.suffix != FORMATS[format]:
        raise ExportError(f"files of format {format!r} end in {FORMATS[format]}, got {path.name!r}")
    return format


def _dense(model: nn.Module, path: Path) -> ExportReport:
    state = {name: value.detach() for name, value in model.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / path.name
        save_arrays(trial, state, {"format": "pt"})
        back, data = load_arrays(trial), trial.read_bytes()
    if back.keys() != state.keys() or not all(_equal(back[name].to(v.dtype), v.cpu()) for name, v in state.items()):
        raise ExportError(f"{path.name} was not written: it would not read back as the model's state dict")
    atomic_write(path, data)
    return ExportReport(path, "dense", len(data), None, 0.0, 1.0, 0)


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same; NaN is itself."""
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


@contextlib.contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, its modes restored afterwards."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def _program(model: nn.Module, example: Tensor, any_batch: bool) -> ExportedProgram:
    """The model as a program of torch.export, without the paths of the files it came from."""
    shapes = None
    if any_batch:
        shapes = ({0: torch.export.Dim("batch")},)
        example = torch.cat([example, example]) if len(example) == 1 else example  # one is taken for a constant
    try:
        program = torch.export.export(model, (example,), dynamic_shapes=shapes)
    except Exception as error:  # torch raises many kinds, most of them private
        way = "; for models that need a fixed batch size: any_batch=False" if any_batch else ""
        raise ExportError(f"torch.export cannot trace the model: {first_line(error)}{way}") from error
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program


def _onnx(program: ExportedProgram) -> Any:
    """The program as an ONNX model with input ``input``, output ``output`` and a batch called ``batch``."""
    for package in ("onnx", "onnxscript"):
        try:
            __import__(package)
        except ImportError as error:
            raise MissingExtraError(package, "onnx", "writing ONNX files") from error
    logger = logging.getLogger(_NOISY)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside torch and onnxscript
            made = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                opset_version=_OPSET,
                input_names=["input"],
                output_names=["output"],
            )
    except Exception as error:  # torch and onnxscript raise many kinds
        raise ExportError(f"torch.onnx cannot write this model as ONNX: {first_line(error)}") from error
    finally:
        logger.setLevel(level)
    assert made is not None, "an export that did not raise gives a program"
    proto = made.model_proto
    _tidy(proto)
    return proto


def _tidy(proto: Any) -> None:
    """Drop what torch notes down for debugging, and call the batch by its name."""
    graph = proto.graph
    (x,) = graph.input
    symbol = x.type.tensor_type.shape.dim[0].dim_param
    for entry in (*graph.input, *graph.output, *graph.value_info):
        for dim in entry.type.tensor_type.shape.dim:
            if symbol and dim.dim_param == symbol:
                dim.dim_param = "batch"
    for entry in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del entry.metadata_props[:]
        entry.doc_string = ""
    del proto.metadata_props[:]


def _compare(run: Run, example: Tensor, expected: Tensor, any_batch: bool) -> tuple[float, float]:
    """Largest difference and share of equal predictions; also for an example alone, where any batch is taken."""
    x, wanted = example.detach().cpu().contiguous().numpy(), expected.detach().cpu().float().numpy()
    got = run(x)
    if got.shape != wanted.shape:
        raise ExportError(f"the exported model gives outputs of shape {got.shape} where the model gives {wanted.shape}")
    difference = largest_difference(got, wanted)
    if any_batch:
        difference = max(difference, largest_difference(run(x[:1]), wanted[:1]))
    same = got.reshape(len(got), -1).argmax(1) == wanted.reshape(len(wanted), -1).argmax(1)
    return difference, float(same.mean())


def largest_difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Largest absolute difference; infinite where one is NaN and the other is not, or the shapes differ."""
    if a.shape != b.shape:
        return math.inf
    if not a.size:
        return 0.0
    with np.errstate(invalid="ignore"):
        gap = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a.astype(np.float64) - b))
    largest = float(gap.max())
    return math.inf if math.isnan(largest) else largest
