"""Whether two modules give the same: a model with zeros, and the smaller one without them."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import torch
from torch import Tensor, nn

from supermask.errors import PackedFileError, StructureError

Inputs = tuple[Tensor, ...]
_SEED: Final = 0
_KINDS: Final = {  # of a certificate's entries that are no text
    "examples": int,
    "random": int,
    "max_difference": float,
    "largest_output": float,
    "tolerance": float | int,
    "agreement": float | None,
}
_LOW: Final = (torch.float16, torch.bfloat16)
_FAILURES: Final = (
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    AttributeError,
    AssertionError,
    NotImplementedError,
)


@dataclass(frozen=True, kw_only=True)
class ShrinkCertificate:
    """What was compared when channels were removed, and what came out.

    Attributes:
        reference: What the smaller model was compared with, in words.
        examples: Inputs: those that were given, and random ones.
        random: How many of them were random: standard normal, or integers between the smallest and the largest given.
        max_difference: Largest absolute difference of an output, in evaluation mode and float32 (float64 of such a model).
        largest_output: Largest absolute output.
        tolerance: What was allowed.
        agreement: Share of rows with the same largest output; None where an output is not (N, classes).
        torch: Version.
        device: Where it was computed.
        dense: :func:`checksum` of the parameters and saved buffers of the model that was compared with, tied ones once.
        shrunk: The same of the smaller model.
    """

    reference: str
    examples: int
    random: int
    max_difference: float
    largest_output: float
    tolerance: float
    agreement: float | None
    torch: str
    device: str
    dense: str
    shrunk: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    @classmethod
    def from_dict(cls, data: Any) -> ShrinkCertificate:
        """The inverse of :meth:`to_dict`.

        Raises:
            PackedFileError: It is none.
        """
        wanted = {entry.name for entry in fields(cls)}
        if not isinstance(data, dict) or data.keys() != wanted:
            got = ", ".join(map(str, data)) if isinstance(data, dict) else type(data).__name__
            raise PackedFileError(
                f"its certificate is damaged: it should have {', '.join(sorted(wanted))}; it has {got}"
            )
        for name, value in data.items():
            if isinstance(value, bool) or not isinstance(value, _KINDS.get(name, str)):
                raise PackedFileError(f"its certificate is damaged: {name} is {str(value)[:50]!r}")
        return cls(**data)

    def __str__(self) -> str:
        return (
            f"largest difference of an output {self.max_difference:.3g} (allowed {self.tolerance:g}, largest output "
            f"{self.largest_output:.3g}), {self.examples} examples, {self.random} of them random; compared with "
            f"{self.reference}"
        )


@dataclass(frozen=True)
class Comparison:
    """Outputs of two modules on the same inputs.

    Attributes:
        examples: How many inputs.
        random: How many of them were random.
        max_difference: Largest absolute difference of an output; infinite where shapes differ, or one is not finite.
        largest: Largest absolute output.
        agreement: Share of rows with the same largest output; None where an output is not (N, classes).
        failure: Why the second module could not be run; empty if it could.
    """

    examples: int
    random: int
    max_difference: float
    largest: float
    agreement: float | None
    failure: str = ""


def compare(reference: nn.Module, other: nn.Module, example: Inputs, examples: int) -> Comparison:
    """Run copies of two modules in evaluation mode on an example and on random inputs.

    Args:
        reference: The first.
        other: The second.
        example: The inputs that both take, each a batch.
        examples: At least so many random examples are drawn, in batches as large as ``example``; conditions (bool) are
            taken from there.

    Raises:
        StructureError: The first cannot be run, or gives no tensor.
    """
    batches = [example, *_random_like(example, examples)]
    with _exact_float32():
        try:
            wanted = [_outputs(reference, batch) for batch in batches]
        except _FAILURES as error:
            shapes = ", ".join(str(tuple(x.shape)) for x in example)
            raise StructureError(f"the model does not take the example {shapes}: {_first(error)}") from error
        if not wanted[0]:
            raise StructureError("the model gives no tensor, so outputs cannot be compared")
        number, drawn = sum(len(batch[0]) for batch in batches), sum(len(batch[0]) for batch in batches[1:])
        largest = max(_largest(out) for outs in wanted for out in outs)
        try:
            got = [_outputs(other, batch) for batch in batches]
        except _FAILURES as error:
            return Comparison(number, drawn, math.inf, largest, None, _first(error))
    pairs = [(a, b) for first, second in zip(wanted, got, strict=True) for a, b in zip(first, second, strict=True)]
    return Comparison(number, drawn, max(_difference(a, b) for a, b in pairs), largest, _agreement(pairs))


def failure_in_training(reference: nn.Module, other: nn.Module, example: Inputs) -> str:
    """Why the second of two modules cannot be run on an example in training mode; empty if it can, or if neither can."""
    try:
        wanted = _outputs(reference, example, training=True)
    except _FAILURES:
        return ""
    try:
        got = _outputs(other, example, training=True)
    except _FAILURES as error:
        return _first(error)
    first, second = ([tuple(out.shape) for out in outs] for outs in (wanted, got))
    return "" if first == second else f"its outputs have the shapes {second}, not {first}"


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors: for each, in the order of their names, ``name type shape`` and a line feed, then its bytes."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        kind = str(tensor.dtype).removeprefix("torch.")
        total.update(f"{name} {kind} {list(tensor.shape)}\n".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        total.update(plain.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _random_like(example: Inputs, examples: int) -> list[Inputs]:
    generator = torch.Generator().manual_seed(_SEED)
    number = -(-examples // max(1, len(example[0])))
    return [tuple(_drawn(x, generator) for x in example) for _ in range(number)]


def _drawn(like: Tensor, generator: torch.Generator) -> Tensor:
    if like.dtype == torch.bool:
        return like
    if like.is_floating_point() or like.is_complex():
        kind = torch.complex64 if like.is_complex() else torch.float32
        return torch.randn(like.shape, generator=generator, dtype=kind).to(like)
    low, high = int(like.min()), int(like.max())
    return torch.randint(low, high + 1, like.shape, generator=generator).to(like)


def _outputs(model: nn.Module, inputs: Inputs, *, training: bool = False) -> list[Tensor]:
    """Every tensor that a copy of the model gives; the model and the generators are as before."""
    model = copy.deepcopy(model).train(training)
    if any(parameter.dtype in _LOW for parameter in model.parameters()):
        model = model.float()
    given = [x.float() if x.dtype in _LOW else x.clone() for x in inputs]
    with torch.no_grad(), torch.random.fork_rng(devices=[x.device for x in inputs if x.is_cuda]):
        return list(_tensors(model(*given)))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


@contextlib.contextmanager
def _exact_float32() -> Iterator[None]:
    """On a GPU, float32 that is not rounded to TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0


def _difference(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return math.inf
    if not a.numel():
        return 0.0
    wide = torch.complex128 if a.is_complex() else torch.float64
    gap = float((a.to(wide) - b.to(wide)).abs().max())
    return gap if math.isfinite(gap) else math.inf


def _agreement(pairs: list[tuple[Tensor, Tensor]]) -> float | None:
    if any(a.shape != b.shape or a.dim() != 2 or a.is_complex() for a, b in pairs):
        return None
    return float(torch.cat([a.argmax(1) == b.argmax(1) for a, b in pairs]).double().mean())


def _first(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
