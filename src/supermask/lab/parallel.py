"""One training step on a batch in parts: one after the other (``train.accumulate``), and each over several ranks.

A part's loss is the mean over its examples, weighted by their share of the batch; the gradients of all parts and ranks add up
to that of the whole batch. Parts and what each rank has of them follow from the number of examples alone.
"""

from __future__ import annotations

import contextlib
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise, zip_longest
from typing import Any, Final, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from supermask.core.sparsifier import Sparsifier
from supermask.data.augment import Rows
from supermask.errors import ConfigError, RanksError
from supermask.lab.distributed import AGAIN, World
from supermask.lab.parts import Loss
from supermask.tensors.scores import wide

CHECK_STEPS: Final = 100  # between two comparisons of what the ranks hold
_NONE: Final = object()
_MIX: Final = -7046029254386353131  # odd, of 64 random bits


class Share(NamedTuple):
    """What a rank has of one part of a batch.

    Args:
        start: Place of its first example in the batch.
        stop: Behind its last one.
        of: Examples of the part, those of all ranks together.
        void: The part has fewer examples than there are ranks, and none for this one, which computes with one that does
            not count: every rank takes part in everything.
    """

    start: int
    stop: int
    of: int
    void: bool

    @property
    def counted(self) -> int:
        """Examples that count."""
        return 0 if self.void else self.stop - self.start


def shares(count: int, parts: int, world: World) -> list[Share]:
    """How a batch is divided: into parts as equal as possible, and each part over the ranks in the same way.

    Args:
        count: Examples of the batch.
        parts: How many are wanted; no part is empty, so a small batch has fewer.
        world: The ranks.
    """
    found = []
    for start, stop in _even(0, count, min(parts, count)):
        first, last = _even(start, stop, world.size)[world.rank]
        void = first == last
        found.append(Share(start if void else first, start + 1 if void else last, stop - start, void))
    return found


def _even(start: int, stop: int, parts: int) -> list[tuple[int, int]]:
    edges = [start + (stop - start) * index // parts for index in range(parts + 1)]
    return list(pairwise(edges))


class Division:
    """The batches of a run in parts.

    Args:
        world: The ranks.
        accumulate: Parts of a batch, one after the other.

    Attributes:
        share: At work now; None between two parts.
    """

    def __init__(self, world: World, accumulate: int) -> None:
        self.world = world
        self.share: Share | None = None
        self._accumulate = accumulate
        self._shares: list[Share] = []
        self._count = 0

    def begin(self, count: int, device: torch.device) -> Rows:
        """Choose what this rank has of the next batch.

        Args:
            count: Examples of the batch.
            device: Where the places are wanted.
        """
        self._count = count
        self._shares = shares(count, self._accumulate, self.world)
        places = [torch.arange(share.start, share.stop, device=device) for share in self._shares]
        return Rows(torch.cat(places), count)

    def backward(self, model: nn.Module, loss_of: Loss, scale: Callable[[Tensor], Tensor]) -> Loss:
        """What computes the gradients of a batch.

        Args:
            model: What :func:`wrapped` gave.
            loss_of: From a part to its mean loss.
            scale: What is done to a loss before its gradients are taken.

        Returns:
            From this rank's examples to their part of the batch's mean loss.
        """
        averaged = float(self.world.size)  # over the ranks, by DistributedDataParallel

        def compute(x: Tensor, y: Tensor) -> Tensor:
            total = torch.zeros((), dtype=torch.float64, device=x.device)
            start = 0
            for share in self._shares:
                self.share = share
                stop = start + share.stop - share.start
                weight = share.counted / self._count
                with _unsynchronised(model) if share is not self._shares[-1] else contextlib.nullcontext():
                    loss = loss_of(x[start:stop], y[start:stop])
                    scale(loss * (weight * averaged)).backward()
                total += loss.detach() * weight
                start = stop
            self.share = None
            return total

        return compute


def division(world: World, accumulate: int) -> Division | None:
    """How batches are divided; None: they are not."""
    return None if world.alone and accumulate == 1 else Division(world, accumulate)


def _unsynchronised(model: nn.Module) -> contextlib.AbstractContextManager[object]:
    """Inside, gradients are added up on each rank alone."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else contextlib.nullcontext()


def wrapped(model: nn.Module, world: World) -> nn.Module:
    """The model whose gradients are averaged over the ranks as they are computed; the model itself for one rank.

    Parameters without a gradient are looked for in every step, as methods choose what a step depends on. It also keeps the
    buckets as they are at the start: torch otherwise builds them anew after the first step, and a resumed run would add numbers
    up in another order than one that never stopped.
    """
    if world.alone:
        return model
    place = next(model.parameters()).device
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)  # its successor is not in torch 2.11
        return DistributedDataParallel(
            model,
            device_ids=[place] if place.type == "cuda" else None,
            broadcast_buffers=False,
            init_sync=False,
            find_unused_parameters=True,
        )


def follow_first(model: nn.Module, sparsifier: Sparsifier, world: World) -> None:
    """Give all ranks the values, masks and states of the first one.

    They have come to the same already; only on GPUs, or on different machines, last bits can differ.
    """
    if world.alone:
        return
    own = (model.state_dict(), sparsifier.state_dict()) if world.first else ({}, {})
    values, state = world.from_first(_on_cpu(own))
    if not world.first:
        model.load_state_dict(values)
        sparsifier.load_state_dict(state)


def _on_cpu(value: Any) -> Any:
    """The same with tensors on the CPU, so that they do not arrive on the first rank's GPU."""
    if isinstance(value, dict):
        return {key: _on_cpu(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        parts = [_on_cpu(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value.cpu() if isinstance(value, Tensor) else value


def own_state(world: World, loss_sum: Tensor) -> dict[str, Any]:
    """What differs between the ranks: of this one, and below ``ranks`` of each, where there are several.

    Args:
        world: The ranks; all of them call it.
        loss_sum: Of this rank's losses.
    """
    cuda = loss_sum.device.type == "cuda"
    own = {
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state(loss_sum.device) if cuda else None,
        "loss_sum": loss_sum,
    }
    return own | {"ranks": [] if world.alone else world.gather(_on_cpu(own))}


def load_own_state(world: World, state: Mapping[str, Any], loss_sum: Tensor) -> None:
    """Continue from :func:`own_state`.

    Of another number of ranks: the first has the sum of all, and generators without a state stay as they are.

    Args:
        world: The ranks that go on.
        state: Theirs, or of other ranks.
        loss_sum: Gets the sum of this rank's losses.
    """
    found: list[Mapping[str, Any]] = state.get("ranks") or [state]  # newer than the format
    own = found[world.rank] if world.rank < len(found) else None
    if len(found) == world.size and own is not None:
        loss_sum.copy_(own["loss_sum"])
    else:
        loss_sum.copy_(sum(other["loss_sum"] for other in found) * float(world.first))
    if own is not None:
        torch.set_rng_state(own["rng"].cpu())
    if own is not None and own["cuda_rng"] is not None:
        torch.cuda.set_rng_state(own["cuda_rng"].cpu(), loss_sum.device)


def in_order(world: World, *own: list[Any]) -> tuple[list[Any], ...]:
    """Lists with an entry a batch, where each rank has every ``size``-th batch: those of all batches, in order."""
    if world.alone:
        return own
    found = world.gather(_on_cpu(own))
    return tuple(
        [entry for row in zip_longest(*lists, fillvalue=_NONE) for entry in row if entry is not _NONE]
        for lists in zip(*found, strict=True)
    )


# ---------------------------------------------------------------------------------------------------------- equality


class Equality:
    """Makes sure that all ranks hold the same masks and weights, by checksums.

    Args:
        world: The ranks.
        model: With its sparsifier's parametrizations.
        sparsifier: Its masks are compared.
    """

    def __init__(self, world: World, model: nn.Module, sparsifier: Sparsifier) -> None:
        self._world = world
        self._model = model
        self._sparsifier = sparsifier
        self._steps = 0

    def after_step(self) -> None:
        """Compare, every :data:`CHECK_STEPS` steps."""
        if self._world.alone:
            return
        self._steps += 1
        if self._steps % CHECK_STEPS == 0:
            self.require()

    def require(self) -> None:
        """Compare now.

        Raises:
            RanksError: Names the first rank and layer that differ, and the step.
        """
        if self._world.alone:
            return
        with torch.no_grad():
            sums = {f"the mask of {target.name}": checksum(target.mask) for target in self._sparsifier.targets}
            for name, tensor in self._model.state_dict().items():
                if isinstance(tensor, Tensor) and tensor.numel():
                    sums[f"the values of {name}"] = checksum(tensor)
        own = torch.stack([value.cpu() for value in sums.values()])
        for rank, other in enumerate(found := self._world.gather(own)):
            if not torch.equal(other, found[0]):
                differs = int((other != found[0]).nonzero()[0])
                s = self._sparsifier
                raise RanksError(
                    f"rank {rank} and rank 0 differ in {list(sums)[differs]} after step {s.step} of round {s.round}, and "
                    "must do the same: look for code of your own that depends on the rank or the time, or keeps a buffer of "
                    f"what it saw; {AGAIN}"
                )


def checksum(tensor: Tensor) -> Tensor:
    """A number that depends on every bit of a tensor and on its place; int64, no dimension, on the tensor's device."""
    flat = tensor.detach().reshape(-1)
    if flat.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    if flat.is_floating_point():
        flat = flat.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()])
    places = torch.arange(1, flat.numel() + 1, device=flat.device) * _MIX  # wraps around
    mixed = (places ^ (places >> 29)) * _MIX
    return ((flat.long() + 1) * mixed).sum()


# -------------------------------------------------------------------------------------------------------- batch norm


def _total(tensor: Tensor) -> Tensor:
    """The sum over all ranks, differentiable."""
    summed: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
    return summed


class _Sum(torch.autograd.Function):
    """The sum over all ranks; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


@contextlib.contextmanager
def shared_norms(model: nn.Module, divided: Division | None) -> Iterator[None]:
    """Inside, batch norms in training mode use the mean and variance of the examples of all ranks.

    On every device; torch's own SyncBatchNorm needs GPUs.

    Raises:
        ConfigError: A batch norm computes by code of its own, which nobody can synchronise here.
    """
    if divided is None or divided.world.alone:
        yield
        return
    norms = {name: norm for name, norm in model.named_modules() if isinstance(norm, _BatchNorm)}
    own = {name: norm for name, norm in norms.items() if not isinstance(norm, SyncBatchNorm)}
    for name, norm in own.items():
        if type(norm).forward is not _BatchNorm.forward:
            raise ConfigError(
                f"model: the batch norm {name} ({type(norm).__name__}) has a forward() of its own, so its statistics cannot be "
                "taken over several processes; use torch's batch norm, or train in one process"
            )

    def forward(norm: _BatchNorm, x: Tensor) -> Tensor:
        frozen = not norm.training and norm.running_mean is not None
        return _BatchNorm.forward(norm, x) if frozen or divided.share is None else _normalise(norm, x, divided.share)

    try:
        for norm in own.values():
            norm.__dict__["forward"] = types.MethodType(forward, norm)
        yield
    finally:
        for norm in own.values():
            norm.__dict__.pop("forward", None)


def _normalise(norm: _BatchNorm, x: Tensor, share: Share) -> Tensor:
    """What :class:`torch.nn.BatchNorm2d` gives for the examples of all ranks as one batch: those of this rank."""
    norm._check_input_dim(x)
    shape, over = (1, -1, *[1] * (x.dim() - 2)), [0, *range(2, x.dim())]
    count = x.numel() // x.shape[1] // (share.stop - share.start) * share.of  # values of a channel
    if count == 1:
        raise ConfigError("batch norm has one value a channel in a part of a batch: raise train.batch_size")
    values: Tensor = x.to(wide(x.dtype))
    counts = 0.0 if share.void else 1.0
    mean = _total(values.sum(over) * counts) / count
    centred = values - mean.view(shape)
    variance = _total(centred.square().sum(over) * counts) / count
    result: Tensor = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        result = result * norm.weight.view(shape) + norm.bias.view(shape)
    if norm.training and norm.track_running_stats and norm.running_mean is not None:
        _collect(norm, mean.detach(), variance.detach() * (count / (count - 1)))
    return result.to(x.dtype)


def _collect(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics as torch does."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    share = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    for running, now in ((norm.running_mean, mean), (norm.running_var, variance)):
        running.mul_(1.0 - share).add_(now.to(running.dtype), alpha=share)
