"""A plain model in formats that other programs run: ONNX, a torch.export program, a dense checkpoint.

Zeros stay where they are: these formats make nothing smaller or faster by themselves, except ONNX with linear layers in two
bits. Each file is read back and run, and its outputs are compared with the model's before :func:`export` returns.
"""

from __future__ import annotations

import contextlib
import io
import logging
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
Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


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
        ExportError: The model is not plain, cannot be traced, or the file does not do what the model does.
        MissingExtraError: A package for the format is not installed.
    """
    path = Path(path)
    form = _format(path, format)
    if any(is_parametrized(module) for module in model.modules()):
        raise ExportError("only plain models are exported, this one has parametrizations; call finalize() first")
    if two_bit is not None and form != "onnx":
        raise ExportError(f"two_bit is for ONNX files only, got it with format {form!r}; leave it out")
    if two_bit is not None and two_bit < 1:
        raise ExportError(f"two_bit must be a batch size >= 1, got {two_bit}")
    if form == "dense":
        return _dense(model, path)
    if example is None or not example.dim() or not len(example):
        shape = None if example is None else tuple(example.shape)
        raise ExportError(f"example must be a tensor of inputs, its first dimension the batch, got {shape}")
    with _evaluated(model), torch.no_grad():
        expected = model(example)
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
    atomic_write(path, data)
    batch = None if any_batch else len(example)
    difference, agreement = _compare(exported(path), example, expected, any_batch)
    if not layers and not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
        path.unlink()
        raise ExportError(
            f"{path.name} gives outputs that differ from the model's by up to {difference:.3g}, more than {_TOLERANCE:g}; it "
            "was removed. Does the model draw random numbers in evaluation mode?"
        )
    return ExportReport(path, form, len(data), batch, difference, agreement, len(example), layers, kept)


def exported(path: str | Path, *, threads: int = 1) -> Run:
    """A function that runs an exported file: float32 inputs (N, ...) to outputs (N, ...).

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
        (name,) = (entry.name for entry in session.get_inputs())
        return lambda x: np.asarray(session.run(None, {name: x})[0], np.float32)
    if path.suffix == ".pt2":
        try:
            module = torch.export.load(path).module()
        except Exception as error:  # whatever damaged bytes make the reader raise
            raise ExportError(f"{path} is damaged or no program of torch.export: {first_line(error)}") from error

        def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
            with torch.no_grad():
                return np.asarray(module(torch.from_numpy(x)).numpy(), np.float32)

        return run
    raise ExportError(f"exported files that can be run end in .onnx or .pt2, got {path.name!r}")


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
    save_arrays(path, state, {"format": "pt"})
    back = load_arrays(path)
    if back.keys() != state.keys() or not all(
        torch.equal(back[name].to(v.dtype), v.cpu()) for name, v in state.items()
    ):
        path.unlink()
        raise ExportError(
            f"{path.name} does not read back as it was written and was removed; are there NaNs in the model?"
        )
    return ExportReport(path, "dense", path.stat().st_size, None, 0.0, 1.0, 0)


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
    x, wanted = example.detach().cpu().float().numpy(), expected.detach().cpu().float().numpy()
    got = run(x)
    if got.shape != wanted.shape:
        raise ExportError(f"the exported model gives outputs of shape {got.shape} where the model gives {wanted.shape}")
    difference = float(np.abs(got - wanted).max(initial=0.0))
    if any_batch:
        difference = max(difference, float(np.abs(run(x[:1]) - wanted[:1]).max(initial=0.0)))
    same = got.reshape(len(got), -1).argmax(1) == wanted.reshape(len(wanted), -1).argmax(1)
    return difference, float(same.mean())
