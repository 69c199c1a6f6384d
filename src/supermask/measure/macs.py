"""Multiply-accumulates of a plain model, all of them and those of the weights that remain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized

from supermask.core.budget import CountedCost, counted
from supermask.core.by_hand import FREE, times_used
from supermask.core.groups import Structure
from supermask.errors import MaskError, StructureError

CONVENTION: Final = (
    "multiply-accumulates of the weights of convolutions and linear layers for a batch of one; zero padding counts, "
    "biases, normalisation, activations and pooling do not"
)
_FAILURES: Final = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError)


def macs(model: nn.Module, input_shape: Sequence[int], masks: Mapping[str, Tensor]) -> dict[str, Any]:
    """Count while the model sees one example of zeros, in evaluation mode; it is left as it was.

    In a layer every weight is used equally often: a linear layer's once for each vector, a convolution's once for each
    position of the output, a transposed convolution's once for each position of the input. So a layer counts
    weights * positions, and what remains of it counts alike. A layer that is called twice counts twice; a layer
    without a mask remains whole.

    Args:
        model: A plain (finalized) module.
        input_shape: Shape of one example, without the batch.
        masks: Name -> bool tensor, True = remaining. Masks of biases and of normalisation change nothing here.

    Returns:
        ``dense`` and ``remaining`` (ints); ``layers``, name of a weight -> its ``[dense, remaining]``, in the order in
        which the model calls them; and ``convention``, one sentence. The counts are None and ``layers`` is empty where
        they cannot be told, and the sentence says why: weights that no called convolution or linear layer uses
        (recurrent layers, attention, a module's own tensors), or a model that takes no batch of one.

    Raises:
        MaskError: The model is not plain, or a mask does not fit it.
    """
    if any(is_parametrized(module) for module in model.modules()):
        raise MaskError("multiply-accumulates are counted on a plain model; call finalize() first")
    remaining_of = _remaining_weights(model, masks)
    positions: dict[nn.Module, int] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Linear | _ConvNd)
        positions[module] = positions.get(module, 0) + times_used(module, inputs[0], output)

    handles = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Linear | _ConvNd)]
    try:
        failure = _show_one_example(model, input_shape)
    finally:
        for handle in handles:
            handle.remove()
    if failure is not None:
        return _unknown(f"the model takes no batch of one ({failure})")
    if other := _used_otherwise(model, positions):
        return _unknown(f"no convolution or linear layer that is called uses {other}")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    layers: dict[str, list[int]] = {}
    for module, times in positions.items():
        weight = module.weight
        assert isinstance(weight, Tensor)
        layer = layers.setdefault(names[id(weight)], [0, 0])  # two modules may share a weight
        layer[0] += weight.numel() * times
        layer[1] += remaining_of.get(id(weight), weight.numel()) * times
    dense, remaining = (sum(layer[index] for layer in layers.values()) for index in (0, 1))
    return {"dense": dense, "remaining": remaining, "layers": layers, "convention": CONVENTION}


def author_flops(
    structure: Structure, *, multiply_add: int = 2, elementwise: int = 2, pools: tuple[str, ...] = ("max_pool",)
) -> CountedCost:
    """FLOPs as the code of MaskConvNet's authors counts them: to compare with its tables, and with nothing else.

    ``multiply_add`` for each multiply-accumulate, 1 for each output of a layer with a bias, ``elementwise`` for each output of
    a batch norm, a pooling's window for each of its outputs. Additions are free. Their counter sees modules and no
    functions, so what counts differs from network to network. The defaults, 1 for a batch norm and 1 for the ReLU that goes
    with it, are those of VGG-19 and the ResNets of the paper; its VGG-16 is ``multiply_add=1, elementwise=4`` (shown two
    examples), its WRN-28-10 ``elementwise=1`` (its ReLUs are functions); the counter of "Rethinking the Value of Network
    Pruning" has 2 for a batch norm, ``elementwise=3``.

    Args:
        structure: Found with an example.
        multiply_add: FLOPs of one multiply-accumulate.
        elementwise: FLOPs of one output of a batch norm, its ReLU included.
        pools: Which poolings count, of ``max_pool`` and ``avg_pool``.

    Returns:
        A cost of the remaining channels: ``costs={"macs": author_flops(structure)}`` makes a budget of it.

    Raises:
        StructureError: The structure knows no activations.
    """
    if not structure.values:
        raise StructureError(
            "structure: it knows no activations; find it with an example: find_structure(model, example)"
        )
    activations = {}
    for index, value in enumerate(structure.values):
        if value.operation == "batch_norm":
            activations[index] = elementwise
        elif value.operation in pools:
            activations[index] = value.window
        elif value.operation in ("convolution", "linear") and f"{value.module}.bias" in structure.shapes:
            activations[index] = 1
    weights = {name: multiply_add * times for name, times in structure.positions.items()}
    return counted(structure, weights, activations=activations)


def _unknown(why: str) -> dict[str, Any]:
    return {"dense": None, "remaining": None, "layers": {}, "convention": f"{CONVENTION}; not counted here: {why}"}


def _remaining_weights(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[int, int]:
    """Identity of a parameter -> how many of its weights remain."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    remaining = {}
    for name, mask in masks.items():
        if name not in parameters:
            raise MaskError(f"there is a mask of {name}, but the model has no such parameter; is it the same model?")
        if mask.dtype != torch.bool or mask.shape != parameters[name].shape:
            raise MaskError(
                f"the mask of {name} must be bool of shape {tuple(parameters[name].shape)}, got {mask.dtype} of shape "
                f"{tuple(mask.shape)}"
            )
        remaining[id(parameters[name])] = int(mask.count_nonzero())
    return remaining


def _show_one_example(model: nn.Module, input_shape: Sequence[int]) -> str | None:
    """Run the model on zeros, without a trace in its modes or in torch's generators; why it failed, if it did."""
    first = next(model.parameters(), torch.empty(0))
    x = torch.zeros(1, *input_shape, dtype=first.dtype, device=first.device)
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), torch.no_grad():
            model(x)
    except _FAILURES as error:
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    finally:
        for module, mode in training.items():
            module.training = mode
    return None


def _used_otherwise(model: nn.Module, positions: Mapping[nn.Module, int]) -> str:
    """Names of the weights (parameters of two or more dimensions) that the hooks did not see at work."""
    seen = {id(module.weight) for module in positions}
    seen |= {id(p) for m in model.modules() if isinstance(m, FREE) for p in m.parameters(recurse=False)}
    return ", ".join(name for name, p in model.named_parameters() if p.dim() > 1 and id(p) not in seen)
