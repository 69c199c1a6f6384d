"""What methods share that score weights on data before training: examples, derivatives of the loss, and nothing left behind.

Inside :func:`scoring` the model is in inference mode (no dropout), except for its batch norms where they are asked to use the
batch's statistics. Autocast is off, and a model with targets below float32 computes in float32. Values of the targets, buffers,
training flags, gradients and torch's generators are afterwards what they were.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from supermask.core.sparsifier import Sparsifier
from supermask.errors import AttachError, DataError, DivergedError
from supermask.tensors.philox import Stream
from supermask.tensors.scores import wide

BatchNormMode = Literal["inference", "training"]
Batch = tuple[Any, int]
"""A batch, as the loss takes it, and the number of its examples."""

_NO_TARGET: Final = (
    "the loss depends on no target, so there is nothing to score by; loss_fn must call the given model, without no_grad or "
    "detach"
)


# ---------------------------------------------------------------------------------------------------------- examples


class Examples:
    """Takes exact numbers of examples from batches, further ones each time, and from the beginning again at the end.

    Args:
        data: Batches that can be gone through again, for example a list or a ``DataLoader``. A batch is a tensor, or a tuple,
            list or mapping with tensors, whose first dimension counts examples.

    Raises:
        DataError: ``data`` is nothing to go through.
    """

    def __init__(self, data: Any) -> None:
        if not isinstance(data, Iterable):
            raise DataError(
                f"data must be batches to go through, for example a list or a DataLoader; got {_describe(data)}"
            )
        self._data = data
        self._batches: Iterator[Any] | None = None  # not yet: a shuffling loader draws when it is asked for one
        self._rest: tuple[Any, int, int] | None = None  # a batch, its size, and how many of its examples are taken

    def take(self, count: int) -> list[Batch]:
        """The next ``count`` examples, all different, in batches as they come.

        A batch is cut where it holds more than is wanted, and its rest comes first the next time. What would be a batch of one
        example, of which batch norm has no statistics, is joined with its neighbour.

        Raises:
            DataError: There are fewer examples, or a batch is nothing that examples can be counted in.
        """
        held = 0
        for _ in range(2):  # the second time from the beginning, so that no example is taken twice
            taken: list[Batch] = []
            missing = count
            while missing and (part := self._next(missing)) is not None:
                missing -= part[1]
                if taken and 1 in (part[1], taken[-1][1]) and (joined := _join(taken[-1], part)) is not None:
                    taken[-1] = joined
                elif part[1]:
                    taken.append(part)
            if missing == 0:
                return taken
            held = max(held, count - missing)
            self._batches = self._rest = None
        if isinstance(self._data, Iterator):
            raise DataError(
                f"batch_size asks for {count} more examples, but data is an iterator and has ended: give a list or a "
                "DataLoader, which can be gone through again, with enough of them"
            )
        raise DataError(
            f"batch_size asks for {count} examples, but data holds {held or 'none'}; lower batch_size or give more data"
        )

    def _next(self, most: int) -> Batch | None:
        """What is left of a batch, or the next one, at most so many examples of it; None at the end of the data."""
        if self._rest is None:
            self._batches = iter(self._data) if self._batches is None else self._batches
            for batch in self._batches:
                self._rest = (batch, _size(batch), 0)
                break
            else:
                return None
        batch, size, start = self._rest
        stop = min(size, start + most)
        self._rest = None if stop == size else (batch, size, stop)
        return (batch if stop - start == size else _cut(batch, size, start, stop)), stop - start


def balanced(data: Any, per_class: int, classes: int | None) -> list[Batch]:
    """The first ``per_class`` examples of each class, in the order of the data, in batches of one size or nearly so.

    As few of them as hold no more examples each than the first batch of the data, and none of one example.

    Args:
        data: Batches (inputs, integer labels).
        per_class: Examples of each class.
        classes: Number of classes; the search ends as soon as all are complete. None: goes through all of the data once.

    Raises:
        DataError: A batch is something else, a label is no class number, or a class has too few examples.
    """
    found: Counter[int] = Counter()
    inputs: list[Tensor] = []
    labels: list[Tensor] = []
    size = 0
    for batch in data:
        x, y = _inputs_and_labels(batch)
        size = size or len(y)
        chosen = []
        for index, label in enumerate(y.tolist()):
            if label < 0 or (classes is not None and label >= classes):
                known = "not negative" if classes is None else f"in [0, {classes}), as classes is {classes}"
                raise DataError(f"the labels that per_class picks examples by must be {known}; got {label}")
            if found[label] < per_class:
                found[label] += 1
                chosen.append(index)
        if chosen:
            inputs.append(x[chosen])
            labels.append(y[chosen])
        if len(found) == classes and min(found.values()) == per_class:
            break
    way = "lower per_class, or set it to null to use the first batch_size examples"
    if not found:
        raise DataError("data holds no examples to score on; give at least one batch")
    if classes is not None and len(found) != classes:
        raise DataError(f"classes is {classes}, but the labels of data name {len(found)} classes")
    short = min(found, key=lambda label: found[label])
    if found[short] < per_class:
        raise DataError(
            f"per_class asks for {per_class} examples of each class, class {short} has {found[short]}; {way}"
        )
    total = sum(map(len, labels))
    parts = max(1, min(-(-total // size), total // 2))
    xs, ys = torch.cat(inputs).tensor_split(parts), torch.cat(labels).tensor_split(parts)
    return [((x, y), len(y)) for x, y in zip(xs, ys, strict=True)]


def _inputs_and_labels(batch: Any) -> tuple[Tensor, Tensor]:
    if isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch):
        x, y = batch
        whole = not (y.is_floating_point() or y.is_complex())
        if whole and y.dim() == 1 and x.dim() > 0 and len(x) == len(y):
            return x, y
    raise DataError(
        "per_class picks examples by their class, so a batch must be (inputs, integer labels), two tensors of equal length; "
        f"got {_describe(batch)}. Set per_class to null to use the first batch_size examples"
    )


def _describe(batch: Any) -> str:
    if isinstance(batch, Tensor):
        return f"a tensor {tuple(batch.shape)} of {batch.dtype}"
    if isinstance(batch, tuple | list):
        return f"({', '.join(map(_describe, batch))})"
    return f"a {type(batch).__name__}"


def _size(batch: Any) -> int:
    """Number of examples: the length of the first tensor in a batch."""
    tensor = next(_tensors(batch), None)
    if tensor is None:
        raise DataError(
            "a batch must be a tensor, or a tuple, list or mapping with tensors whose first dimension counts examples; "
            f"got {_describe(batch)}"
        )
    return len(tensor)


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor) and batch.dim() > 0:
        yield batch
    elif isinstance(batch, tuple | list | Mapping):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _tensors(part)


def _cut(batch: Any, size: int, start: int, stop: int) -> Any:
    """Examples ``start`` to ``stop`` of ``size``; what is not as long as the batch is left whole."""
    return _each(batch, lambda tensor: tensor[start:stop] if len(tensor) == size else tensor)


def _join(first: Batch, second: Batch) -> Batch | None:
    """Two batches as one; None where their tensors do not fit together."""
    (one, size), (other, more) = first, second
    others = iter(list(_tensors(other)))

    def joined(tensor: Tensor) -> Tensor:
        own, next_one = len(tensor) == size, next(others)
        return torch.cat([tensor, next_one]) if own else tensor

    try:
        return _each(one, joined), size + more
    except (RuntimeError, StopIteration):
        return None


def _each(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The batch with every tensor that has a dimension changed."""
    if isinstance(batch, Tensor):
        return change(batch) if batch.dim() > 0 else batch
    if isinstance(batch, Mapping):
        return {key: _each(part, change) for key, part in batch.items()}
    if isinstance(batch, tuple | list):
        parts = [_each(part, change) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


# -------------------------------------------------------------------------------------------------- the model meanwhile


@contextlib.contextmanager
def scoring(s: Sparsifier, batchnorm: BatchNormMode, *, second_order: bool = False) -> Iterator[None]:
    """Make model and torch ready for derivatives of the loss, and put everything back at the end.

    Args:
        s: A sparsifier during ``setup``, before anything is installed.
        batchnorm: ``inference``: batch norms use their running statistics; ``training``: those of the batch, except where a
            norm is frozen: it alone is in inference mode, in a model that is not.
        second_order: Use kernels that can be differentiated twice (attention by its plain formula).
    """
    modules = list(s.model.modules())
    modes = [module.training for module in modules]
    buffers = [(m, name, b, b.detach().clone()) for m in modules for name, b in m._buffers.items() if b is not None]
    weights = [(t.parameter, t.parameter.requires_grad, t.parameter.detach().clone()) for t in s.targets]
    recurrent = any(isinstance(module, nn.RNNBase) for module in modules)
    gpus = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=gpus))
        torch.manual_seed(Stream(s.seed, "scoring").integer())  # for shuffled data and models that draw in any mode
        stack.enter_context(torch.autocast(s.targets[0].parameter.device.type, enabled=False))
        stack.enter_context(torch.enable_grad())
        if recurrent:  # cuDNN cannot go backward in inference mode, nor twice
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        if second_order:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        try:
            for module, mode in zip(modules, modes, strict=True):  # not train(): a frozen norm may have its own
                free = mode or not (modes[0] or "train" in module.__dict__)
                module.training = batchnorm == "training" and isinstance(module, _BatchNorm) and free
            for parameter, _, _ in weights:
                parameter.requires_grad_(True)
            if any(_is_narrow(parameter) for parameter, _, _ in weights):
                stack.enter_context(_widened(s.model))
            yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
            for module, name, buffer, values in buffers:
                module._buffers[name] = buffer
                buffer.data.copy_(values)
            for parameter, trainable, values in weights:
                parameter.requires_grad_(trainable)
                parameter.data.copy_(values)


@contextlib.contextmanager
def _widened(model: nn.Module) -> Iterator[None]:
    """Inside, parameters and buffers below float32 are float32, and so is what modules are given.

    Buffers are put back by :func:`scoring`.
    """
    narrow = [(parameter, parameter.data) for parameter in model.parameters() if _is_narrow(parameter)]

    def widen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ARG001
        return _each(args, _wide), _each(kwargs, _wide)

    with contextlib.ExitStack() as stack:
        for parameter, values in narrow:
            stack.callback(setattr, parameter, "data", values)
            parameter.data = values.float()
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(widen, with_kwargs=True).remove)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = _wide(buffer)
        yield


def _is_narrow(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and wide(tensor.dtype) != tensor.dtype


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if _is_narrow(tensor) else tensor


def put(s: Sparsifier, weights: Sequence[Tensor]) -> None:
    """Inside :func:`scoring`: let the targets have these values until its end."""
    for target, weight in zip(s.targets, weights, strict=True):
        target.parameter.data.copy_(weight)


@contextlib.contextmanager
def tempered(s: Sparsifier, temperature: float) -> Iterator[None]:
    """Inside, the model's output is divided by a temperature.

    Raises:
        AttachError: The output is not one tensor, or the loss does not come from a call of the model.
    """
    called = False

    def divide(module: nn.Module, args: Any, output: Any) -> Any:  # noqa: ARG001
        nonlocal called
        called = True
        if not isinstance(output, Tensor):
            raise AttachError(
                f"temperature divides the model's output, which must be one tensor, got {_describe(output)}; "
                "set temperature to 1"
            )
        return output / temperature

    if temperature == 1.0:
        yield
        return
    handle = s.model.register_forward_hook(divide)
    try:
        yield
    finally:
        handle.remove()
    if not called:
        raise AttachError(
            "temperature divides the model's output, but loss_fn(model, batch) never calls model(...); set temperature to 1"
        )


# ------------------------------------------------------------------------------------------------------------ derivatives


def loss_gradients(s: Sparsifier, batches: Sequence[Batch]) -> list[Tensor]:
    """Gradient of the mean loss over all examples by the effective weight of each target, inside :func:`scoring`.

    The loss of a batch must be a mean over its examples. Gradients are summed, each batch by its share, before anything else
    is done with them; with running statistics that is the gradient of one large batch, however it was cut.

    Returns:
        One tensor per target in float32 at least; zeros for a target that the loss does not depend on, which is noted.

    Raises:
        AttachError: ``loss_fn`` does not return one number that depends on a target.
        DataError: A batch norm has only one value of each channel to take statistics of.
        DivergedError: The loss or a gradient is not finite.
    """
    parameters = [target.parameter for target in s.targets]
    sums = [torch.zeros_like(p, dtype=wide(p.dtype), requires_grad=False) for p in parameters]
    total = sum(size for _, size in batches)
    idle = {target.name for target in s.targets}
    for number, (batch, size) in enumerate(batches, start=1):
        gradients = torch.autograd.grad(_loss(s, batch, number), parameters, allow_unused=True)
        idle -= {target.name for target, gradient in zip(s.targets, gradients, strict=True) if gradient is not None}
        _add(sums, gradients, size / total)
    if len(idle) == len(s.targets):
        raise AttachError(_NO_TARGET)
    for target in s.targets:
        if target.name in idle:
            s.note(f"the loss does not depend on {target.name}: the scores of its weights are 0")
    _require_finite(s, sums, "the gradient of the loss")
    return sums


def hessian_gradient_products(s: Sparsifier, batches: Sequence[Batch]) -> list[Tensor]:
    """Product of the Hessian and the gradient of the mean loss, over all targets together, inside :func:`scoring`.

    Returns, Raises: As :func:`loss_gradients`.
    """
    parameters = [target.parameter for target in s.targets]
    directions = loss_gradients(s, batches)
    sums = [torch.zeros_like(direction) for direction in directions]
    total = sum(size for _, size in batches)
    for number, (batch, size) in enumerate(batches, start=1):
        loss = _loss(s, batch, number)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
        flows = [(g * d).sum() for g, d in zip(gradients, directions, strict=True) if g is not None and g.requires_grad]
        if flows:  # none where the loss is linear in every weight
            flow = torch.stack(flows).sum()
            _add(sums, torch.autograd.grad(flow, parameters, allow_unused=True), size / total)
    _require_finite(s, sums, "the Hessian-gradient product")
    return sums


def _loss(s: Sparsifier, batch: Any, number: int) -> Tensor:
    assert s.loss_fn is not None
    try:
        loss: object = s.loss_fn(s.model, batch)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise DataError(
            "batchnorm is training, but a batch norm sees a single value of each channel, of which there are no statistics: "
            f"raise batch_size, or set batchnorm to inference ({error})"
        ) from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise AttachError(f"loss_fn(model, batch) must return one number, got {_describe(loss)}; return the mean")
    if not bool(torch.isfinite(loss)):
        raise DivergedError(
            f"the loss is {loss.item()} on batch {number} of those that weights are scored on: look at the data for values "
            "that are not finite, and at the scale of the initial weights"
        )
    if not loss.requires_grad:
        raise AttachError(_NO_TARGET)
    return loss.reshape(())


def _add(sums: Sequence[Tensor], gradients: Sequence[Tensor | None], share: float) -> None:
    for total, gradient in zip(sums, gradients, strict=True):
        if gradient is not None:
            total.add_(gradient.detach(), alpha=share)


def _require_finite(s: Sparsifier, values: Sequence[Tensor], what: str) -> None:
    for target, value in zip(s.targets, values, strict=True):
        if not bool(torch.isfinite(value).all()):
            raise DivergedError(
                f"{what} for {target.name} is not finite, though the loss is: look at the scale of the initial weights, or use "
                "float64 weights"
            )
