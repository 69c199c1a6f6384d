"""SynFlow: prune by the flow through the network, before training and without data."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from supermask.core.ablation import Ablation, check_promise, check_pruning, choose_masks, install
from supermask.core.method import Method, check_choice, check_count
from supermask.core.registry import register
from supermask.core.scoring import scoring
from supermask.core.select import Scope
from supermask.core.sparsifier import Sparsifier
from supermask.errors import AttachError, DivergedError, HyperparameterError, UnsupportedModuleError
from supermask.tensors.schedules import exponential, linear
from supermask.tensors.scores import sensitivity

Schedule = Literal["exponential", "linear"]

# module types that are not linear along a ray of positive inputs, and why
_REFUSED: Final[tuple[tuple[tuple[type[nn.Module], ...], str], ...]] = (
    ((nn.Embedding, nn.EmbeddingBag), "looks up tokens, so that an input of ones means nothing"),
    ((nn.RNNBase, nn.RNNCellBase), "is recurrent: its gates saturate"),
    ((nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer), "holds the softmax of attention"),
    (
        (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm, nn.modules.instancenorm._InstanceNorm),
        "normalises each example, which cancels the size of its input",
    ),
    (
        (nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.ReLU6, nn.Hardsigmoid, nn.Softsign, nn.Softmax, nn.Softmax2d, nn.LogSoftmax),
        "saturates",
    ),
    ((nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Softplus, nn.Tanhshrink, nn.GLU), "is not linear for positive inputs"),
)  # fmt: skip


@register
@dataclass(frozen=True, kw_only=True)
class SynFlow(Method):
    """SynFlow: before training and without data, prune step by step what carries the least flow through the network.

    Update, for t = 1 … T = ``iterations``, with every parameter and buffer of real numbers replaced by its absolute value, c
    the mask of the step before (c = 1 at first), one input of ones and batch norms in inference mode, in float64::

        R         = sum of the outputs
        score     = |w * dR/dw| at the weights c * |w|
        density_t = density**(t / T)                (exponential)  or  density + (1 - t / T) * (1 - density)   (linear)
        c         = the density_t * size largest scores

    A hidden weight never returns, so masks are nested. Without biases, the scores of each layer of a chain have the same sum
    R, so that a layer of few weights has large scores, and none is emptied long before the others. Then
    ``weight = dense * mask`` is trained as usual.

    **Source:** Hidenori Tanaka, Daniel Kunin, Daniel Yamins, Surya Ganguli, "Pruning neural networks without any data by
    iteratively conserving synaptic flow", NeurIPS 2020, arXiv 2006.05467; code ganguli-lab/Synaptic-Flow.

    **Differs:** (1) float64 instead of float32, in which scores overflow on deep networks. (2) Exact counts, where the authors'
    threshold drops ties. (3) Models that are not linear along a positive input, for which the argument fails, are refused: some
    modules by name, all others by a test (without offsets, twice the input must give twice the output). (4) ``reinit``
    permutes the initial weights of a layer. As in the authors' code, biases take part in R and are not pruned.

    **Cost:** once, ``iterations`` times forward and backward over one example and a selection over all weights; meanwhile
    memory for a float64 copy of the model, its weights and its scores. A step of training is as expensive as the dense one,
    plus the product with the mask; 1 byte a weight.

    Args:
        density: Fraction of the targeted weights that remains, in (0, 1]. Default 0.1: ours.
        scope: ``global`` (default, the paper's), ``uniform``, ``erk`` or ``er``: rank within shares of each layer.
        iterations: T, >= 1. Default 100: the paper's.
        schedule: ``exponential`` (default, the paper's) or ``linear``.
        input_shape: Shape of one example, without the batch. Default null: that of the data's first batch.
        ablation: ``none`` (default), ``shuffle`` (each layer's mask is permuted), ``random`` (it is drawn anew with the same
            count) or ``reinit`` (the layer's initial weights are permuted after scoring).
        min_per_layer: Fewest weights that each layer keeps at every step (a smaller one keeps all), against layer collapse,
            >= 0. Default 0: off.

    Raises:
        HyperparameterError: A field is out of range.
        UnsupportedModuleError: A module, or the model's own forward, is not linear along a positive input.
        AttachError: The shape of an example is not known, or the model does not take it.
        DivergedError: The flow overflows float64.
    """

    name: ClassVar[str] = "synflow"

    density: float = 0.1
    scope: Scope = "global"
    iterations: int = 100
    schedule: Schedule = "exponential"
    input_shape: tuple[int, ...] | None = None
    ablation: Ablation = "none"
    min_per_layer: int = 0

    def __post_init__(self) -> None:
        check_pruning(self)
        check_count(self.name, "iterations", self.iterations, "pruning steps")
        check_choice(self.name, "schedule", self.schedule, get_args(Schedule))
        shape = self.input_shape
        if shape is not None and not (isinstance(shape, tuple) and all(type(n) is int and n > 0 for n in shape)):
            raise HyperparameterError(
                f"{self.name}: input_shape must hold positive whole numbers or be null, got {shape!r}"
            )

    @classmethod
    def examples(cls, model: nn.Module) -> tuple[Self, ...]:
        """Both schedules and the guard, for inputs that the model's first layer takes."""
        first = next(module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d))
        shape = (first.in_features,) if isinstance(first, nn.Linear) else (first.in_channels, 6, 6)
        return (
            cls(input_shape=shape, iterations=20),
            cls(input_shape=shape, iterations=5, schedule="linear", scope="erk", min_per_layer=2, ablation="random"),
        )

    def supports(self, model: nn.Module) -> str | None:
        """Names the first module for which the flow is not conserved."""
        for name, module in model.named_modules():
            for types, why in _REFUSED:
                if isinstance(module, types):
                    return f"{name or 'it'} ({type(module).__name__}) {why}; linear parts, pooling and ReLU conserve the flow"
        return None

    def setup(self, s: Sparsifier) -> None:
        """Prune a copy step by step, then install the last mask."""
        check_promise(self, s.targets)
        law = exponential if self.schedule == "exponential" else linear
        with scoring(s, "inference"):
            positive = _positive(s.model)
            ones = torch.ones(self._input_shape(s), dtype=torch.float64, device=s.targets[0].parameter.device)
            _require_linear(positive, ones)
            parameters = [positive.get_parameter(target.name).requires_grad_(True) for target in s.targets]
            weights = [parameter.detach().clone() for parameter in parameters]
            masks = [torch.ones_like(weight, dtype=torch.bool) for weight in weights]
            for step in range(1, self.iterations + 1):
                for parameter, weight, mask in zip(parameters, weights, masks, strict=True):
                    parameter.data.copy_(weight * mask)
                gradients = _gradients(positive, ones, parameters)
                scores = [
                    torch.where(mask, sensitivity(parameter, gradient), -1.0)
                    for parameter, gradient, mask in zip(parameters, gradients, masks, strict=True)
                ]
                limits = [int(mask.sum()) for mask in masks]
                masks = choose_masks(s, self, scores, law(step / self.iterations, final=self.density), limits)
        install(s, self, masks, scores)

    def _input_shape(self, s: Sparsifier) -> tuple[int, ...]:
        """The shape of a batch of one example."""
        if self.input_shape is not None:
            return (1, *self.input_shape)
        batch: Any = next(iter(() if s.data is None else s.data), None)
        inputs = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(inputs, Tensor) or inputs.dim() == 0:
            raise AttachError(
                f"{self.name} needs the shape of one example: set input_shape, or pass data=batches that begin with a tensor"
            )
        return (1, *inputs.shape[1:])


def _positive(model: nn.Module) -> nn.Module:
    """A float64 copy in inference mode with the absolute values of all parameters and buffers that hold real numbers."""
    positive = copy.deepcopy(model).double().eval().requires_grad_(False)
    for tensor in (*positive.parameters(), *positive.buffers()):
        if tensor.is_floating_point():  # flags and indices are no part of the flow
            tensor.copy_(tensor.abs())
    return positive


def _require_linear(positive: nn.Module, ones: Tensor) -> None:
    """Refuse a model that, without its offsets, is not linear along the input of ones."""
    homogeneous = copy.deepcopy(positive)
    for offset in _offsets(homogeneous):
        offset.zero_()
    once, twice = _flow(homogeneous, ones), _flow(homogeneous, 2.0 * ones)
    if not bool(torch.isclose(twice, 2.0 * once, rtol=1e-6, atol=0.0)):
        raise UnsupportedModuleError(
            "synflow does not support this model: without biases, an input of ones gives the output "
            f"{once.item():.3g}, one of twos {twice.item():.3g}, not twice as much, so the flow is not conserved; its forward "
            "has a part that is not linear for positive inputs, for example tanh, a softmax or a normalisation of each example"
        )


def _offsets(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if "bias" in name:
                yield parameter
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            yield module.running_mean


def _flow(positive: nn.Module, x: Tensor) -> Tensor:
    try:
        output = positive(x.clone())  # it may change its input
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise AttachError(
            f"the model does not take one example of shape {tuple(x.shape[1:])} in float64 ({error})"
        ) from error
    if not isinstance(output, Tensor):
        raise UnsupportedModuleError(
            f"synflow sums a model's output, which must be one tensor, got {type(output).__name__}"
        )
    flow = output.sum()
    if not bool(torch.isfinite(flow)):
        raise DivergedError(
            f"the flow through the network is {flow.item()}: it overflows float64; lower the scale of the weights"
        )
    return flow


def _gradients(positive: nn.Module, ones: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    gradients = torch.autograd.grad(_flow(positive, ones), parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
