"""Proof on real data that nothing changed: masked, finalized, packed, engine and exported give the same outputs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from supermask._version import __version__
from supermask.deploy.dense import Dense, to_array
from supermask.deploy.engine import Engine, compile
from supermask.deploy.exporting import exported as run_exported
from supermask.deploy.exporting import largest_difference
from supermask.deploy.packing import annotate
from supermask.deploy.programs import Array
from supermask.deploy.runtime import load
from supermask.deploy.session import first_line
from supermask.deploy.unpacking import read
from supermask.errors import EngineError
from supermask.kernels.library import variant

TOLERANCE: Final = 1e-4  # of an output
MARGIN: Final = 2e-4  # between the two largest outputs: below it, rounding may decide which one is the prediction
_VERSION: Final = 1


@dataclass(frozen=True)
class Form:
    """One form of the network, compared with the finalized module.

    Attributes:
        name: ``masked``, ``packed``, ``run time``, ``engine``, or the name of an exported file.
        max_difference: Largest absolute difference of an output.
        agreement: Share of the examples with the same prediction.
        wrong: Examples with another prediction although the two largest outputs differ by more than :data:`MARGIN`.
        layers: Layer or part -> largest absolute difference of what it gives, and weight -> of its values where these are
            compared; names of outputs of modules end in ``()``.
    """

    name: str
    max_difference: float
    agreement: float
    wrong: int
    layers: Mapping[str, float]

    @property
    def holds(self) -> bool:
        """Whether it is the same network, up to rounding."""
        return self.max_difference <= TOLERANCE and self.wrong == 0

    @property
    def worst(self) -> str:
        """The weight that differs most; if all are equal, the layer whose output does. Empty where no layer was looked at.

        Outputs follow from weights, and grow on their way through the network: the largest of theirs is seldom the cause.
        """
        weights = {name: value for name, value in self.layers.items() if value > 0 and not name.endswith("()")}
        layers = weights or self.layers
        return max(layers, key=lambda name: layers[name], default="")


@dataclass(frozen=True)
class Certificate:
    """What was compared, and what came out.

    Attributes:
        examples: How many examples.
        data: What they are, in words.
        largest: Largest absolute output of the finalized module.
        forms: Each form that was there.
    """

    examples: int
    data: str
    largest: float
    forms: tuple[Form, ...]

    @property
    def holds(self) -> bool:
        """Whether every form is the same network."""
        return all(form.holds for form in self.forms)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in the packed file."""
        return {
            "version": _VERSION,
            "holds": self.holds,
            "examples": self.examples,
            "data": self.data,
            "reference": "finalized",
            "largest_output": _plain(self.largest),
            "tolerance": TOLERANCE,
            "margin": MARGIN,
            "software": {"supermask": __version__, "torch": torch.__version__, "kernels": variant()},
            "forms": [
                {
                    "name": form.name,
                    "holds": form.holds,
                    "max_difference": _plain(form.max_difference),
                    "agreement": form.agreement,
                    "wrong": form.wrong,
                    "layers": {name: _plain(value) for name, value in form.layers.items()},
                }
                for form in self.forms
            ],
        }

    def __str__(self) -> str:
        rows = [("form", "largest difference", "equal predictions", "differs most in", "")]
        for form in self.forms:
            about = f"{form.worst} {form.layers[form.worst]:.2g}" if form.worst else "-"
            share = f"{100 * form.agreement:.4g} %"
            rows.append((form.name, f"{form.max_difference:.3g}", share, about, "" if form.holds else "DIFFERS"))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        verdict = "every form is the same network" if self.holds else "NOT every form is the same network"
        about = f"{self.examples} examples ({self.data}), largest output {self.largest:.3g}"
        rule = f"allowed: {TOLERANCE:g}, and other predictions only where the two largest outputs are within {MARGIN:g}"
        return "\n".join([*lines, "", f"{verdict}: {about}; compared with the finalized module; {rule}"])


def _plain(value: float) -> float | None:
    """A number that JSON has; None for others: a difference without bound."""
    return value if math.isfinite(value) else None


def verify(
    model: nn.Module,
    x: Tensor,
    *,
    masked: nn.Module | None = None,
    packed: str | Path | None = None,
    engine: Engine | None = None,
    exported: Iterable[str | Path] = (),
    data: str = "given by the caller",
    batch_size: int = 128,
    write: bool = True,
) -> Certificate:
    """Compare every form of a network with its finalized module.

    Args:
        model: The finalized module, on the CPU.
        x: Examples (N, ...), best the whole test set.
        masked: The module with its masks still on it (a copy from before ``finalize``).
        packed: A packed file; if it holds its graph, the run time without torch is compared too.
        engine: What :func:`supermask.deploy.compile` gave; None: one is made, from the packed file if that holds its graph.
        exported: Files that :func:`supermask.deploy.export` wrote, ``.onnx`` or ``.pt2``.
        data: What the examples are, in words.
        batch_size: Examples at a time.
        write: Whether the certificate is written into the packed file.

    Raises:
        EngineError: There are no examples, or a form does not take them.
        PackedFileError: The packed file is damaged.
    """
    if not isinstance(x, Tensor) or not x.dim() or not len(x):
        got = tuple(x.shape) if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise EngineError(f"x: must be a tensor of at least one example, got {got}")
    if batch_size < 1:
        raise EngineError(f"batch_size: must be at least 1, got {batch_size}")
    first = x[:batch_size]
    _check_plain(model, first)
    reference = _Module(copy.deepcopy(model).eval())
    logits = _outputs(reference.run, x, batch_size)
    reference_layers = reference.layers(first)
    forms: dict[str, tuple[Callable[[Array], Array], dict[str, float]]] = {}
    if masked is not None:
        forms["masked"] = _compare_module(_Module(copy.deepcopy(masked).eval()), reference, reference_layers, first)
    source: Any = model
    if packed is not None:
        content = read(packed)
        unpacked = copy.deepcopy(reference.module)
        try:
            unpacked.load_state_dict(content.state_dict())
        except RuntimeError as error:
            raise EngineError(f"packed: {packed} does not fit the model: {' '.join(str(error).split())}") from error
        forms["packed"] = _compare_module(_Module(unpacked), reference, reference_layers, first)
        if content.graph is not None:
            source = content
            forms["run time"] = (load(content, threads=1), {})
    if engine is None:
        engine = compile(source, first, batch_sizes=sorted({1, len(first)}), seconds=0.05)
    forms["engine"] = (engine, _engine_layers(engine, first))
    for path in exported:
        forms[Path(path).name] = (run_exported(path), {})
    found = tuple(_form(name, run, layers, x, logits, batch_size) for name, (run, layers) in forms.items())
    certificate = Certificate(len(x), data, float(np.abs(logits).max()), found)
    if packed is not None and write:
        annotate(packed, certificate=certificate.to_dict())
    return certificate


def _check_plain(model: nn.Module, first: Tensor) -> None:
    """Refuse a model that does not take the examples, or gives something else than one tensor with a row for each."""
    plain = copy.deepcopy(model).eval()
    try:
        with torch.no_grad():
            out = plain(first.detach().clone())
    except Exception as error:  # whatever the user's code raises
        about = f"{first.dtype} of shape {tuple(first.shape)}"
        raise EngineError(f"x: the model does not take {about}: {first_line(error)}") from error
    if not isinstance(out, Tensor) or not out.dim() or len(out) != len(first):
        got = tuple(out.shape) if isinstance(out, Tensor) else f"a {type(out).__name__}"
        raise EngineError(f"model: must give one tensor with one row an example, got {got} for {len(first)} examples")


class _Module:
    """A torch module as a function of arrays, with what its layers give."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def run(self, x: Array) -> Array:
        with torch.no_grad():
            out: Array = self.module(torch.from_numpy(x)).numpy()
        return out

    def layers(self, x: Tensor) -> dict[str, list[Tensor]]:
        """What each module with weights of its own gives, at each of its calls."""
        seen: dict[str, list[Tensor]] = {}
        handles = []
        for name, module in self.module.named_modules():
            if ".parametrizations" in name or not _has_weights(module):
                continue

            def note(module: nn.Module, inputs: Any, output: Any, name: str = name) -> None:  # noqa: ARG001
                if isinstance(output, Tensor):
                    seen.setdefault(name, []).append(output.detach().clone())

            handles.append(module.register_forward_hook(note))
        try:
            self.run(to_array(x))
        finally:
            for handle in handles:
                handle.remove()
        return seen

    def tensor(self, name: str) -> Tensor:
        """An entry of the state dict of the plain module, as it is effective here."""
        owner, _, attribute = name.rpartition(".")
        value = getattr(self.module.get_submodule(owner), attribute)
        assert isinstance(value, Tensor)
        return value.detach()


def _has_weights(module: nn.Module) -> bool:
    parametrized = getattr(module, "parametrizations", None)
    return bool(parametrized) or next(module.parameters(recurse=False), None) is not None


def _compare_module(
    other: _Module, reference: _Module, layers: Mapping[str, list[Tensor]], x: Tensor
) -> tuple[Callable[[Array], Array], dict[str, float]]:
    """Differences of all weights, and of what the layers give on one batch."""
    found = {}
    for name, value in reference.module.state_dict().items():
        found[name] = largest_difference(other.tensor(name).double().numpy(), value.double().numpy())
    for name, outputs in other.layers(x).items():
        pairs = zip(outputs, layers.get(name, ()), strict=False)  # torch's fused blocks call no module of theirs
        found[f"{name}()"] = max((largest_difference(a.numpy(), b.numpy()) for a, b in pairs), default=0.0)
    return other.run, found


def _engine_layers(engine: Engine, x: Tensor) -> dict[str, float]:
    """Each unit that is a sparse program against torch, on the values that it meets in the network."""
    network = engine.network
    dense = Dense(network.graph, network.arrays)
    units = engine.units(len(x))
    found: dict[str, float] = {}
    values: dict[str, Any] = {"input": x, **dense.given(network.graph)}
    with torch.no_grad():
        for unit, is_sparse in units:
            for node in unit.nodes:
                values[node.name] = dense.compute(node, len(x), [values[name] for name in node.inputs])
            if is_sparse and unit.program is not None:
                got = unit.program(to_array(values[unit.sources[0]]), engine.threads)
                name = ", ".join(layer.name for layer in unit.layers) or unit.result
                found[name] = largest_difference(got, to_array(values[unit.result]))
    return found


def _outputs(run: Callable[[Array], Array], x: Tensor, batch_size: int) -> Array:
    parts = [run(to_array(x[start : start + batch_size])) for start in range(0, len(x), batch_size)]
    return np.concatenate(parts)


def _form(
    name: str, run: Callable[[Array], Array], layers: dict[str, float], x: Tensor, logits: Array, batch_size: int
) -> Form:
    outputs = _outputs(run, x, batch_size)
    if outputs.shape != logits.shape:
        raise EngineError(f"{name}: gives {outputs.shape}, the finalized module {logits.shape}")
    rows, wanted = (
        a.reshape(len(x), -1, a.shape[-1]) if a.ndim > 1 else a.reshape(-1, 1, 1) for a in (outputs, logits)
    )
    same = rows.argmax(-1) == wanted.argmax(-1)
    margin = np.full(same.shape, np.inf)
    if wanted.shape[-1] > 1:
        two = np.partition(wanted, -2, axis=-1)
        margin = two[..., -1] - two[..., -2]
    wrong = int((~same & (margin > MARGIN)).any(-1).sum())
    return Form(name, largest_difference(outputs, logits), float(same.all(-1).mean()), wrong, layers)
