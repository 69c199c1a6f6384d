"""Several processes that train one run together: who they are, and how they agree.

A world of one process (:data:`ALONE`) answers everything by itself, so that the code which asks is the same. In a larger one
every method here is called by all ranks, in the same order.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from supermask.errors import RanksError, RunError
from supermask.lab.failures import describe

T = TypeVar("T")

AGAIN: Final = "the same command, or torchrun with --max-restarts, goes on from the last checkpoint"
_MOST_STEPS: Final = 1_000  # between two questions to the first rank


def launched() -> bool:
    """Whether this process was started by torchrun."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_first() -> bool:
    """Whether this process is the one that writes and speaks: the first of those that torchrun started, or alone."""
    return not launched() or os.environ["RANK"] == "0"


@dataclass(eq=False)
class World:
    """The processes that train one run together.

    Args:
        rank: Number of this one, from 0.
        size: How many there are.
        store: What they can read of each other when nothing else works any more; None for one process.
        apart: Whether they can no longer work together; the processes end then.
    """

    rank: int = 0
    size: int = 1
    store: Store | None = None
    apart: bool = False

    @property
    def alone(self) -> bool:
        """Whether there is only this process."""
        return self.size == 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """What each rank gives, in their order."""
        if self.alone:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def from_first(self, value: T) -> T:
        """What the first rank gives; that of the others does not count."""
        if self.alone:
            return value
        held: list[Any] = [value if self.first else None]
        dist.broadcast_object_list(held, src=0)
        found: T = held[0]
        return found

    def first_says(self, flag: bool) -> bool:
        """What the first rank says."""
        return flag if self.alone else self.numbers(int(flag))[0] == 1

    def any_says(self, flag: bool) -> bool:
        """Whether at least one rank says so."""
        if self.alone:
            return flag
        said = torch.tensor(int(flag))
        dist.all_reduce(said, op=dist.ReduceOp.MAX)
        return bool(said)

    def numbers(self, *values: int) -> list[int]:
        """Whole numbers that the first rank gives."""
        if self.alone:
            return list(values)
        held = torch.tensor(values, dtype=torch.int64)
        dist.broadcast(held, src=0)
        return [int(value) for value in held]

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all ranks; a new tensor."""
        if self.alone:
            return tensor
        summed = tensor.clone()
        dist.all_reduce(summed)
        return summed

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What is done inside succeeds on all ranks or fails on all; nothing inside may wait for another rank.

        Raises:
            RanksError: It failed elsewhere; names the rank. Where it failed, its own error is raised.
        """
        if self.alone:
            yield
            return
        failed: BaseException | None = None
        try:
            yield
        except (Exception, SystemExit) as error:  # noqa: BLE001  (raised again below)
            failed = error
        messages = self.gather(None if failed is None else describe(failed, Path()))
        if failed is not None:
            raise failed
        for rank, message in enumerate(messages):
            if message is not None:
                raise RanksError(f"rank {rank}: {message}")

    def require_same(self, what: str, value: object) -> None:
        """Refuse ranks that hold something else than the first one.

        Args:
            what: Its name, for the message.
            value: What this rank holds.

        Raises:
            RanksError: Names the first rank that differs.
        """
        for rank, other in enumerate(found := self.gather(value)):
            if other != found[0]:
                raise RanksError(
                    f"rank {rank} has another {what} ({other}) than rank 0 ({found[0]}): all processes need the same "
                    "experiment, data and version"
                )

    @contextlib.contextmanager
    def in_step(self, folder: Path) -> Iterator[None]:
        """Inside, ranks wait for each other. One that fails by itself, or is lost, ends the work of all.

        Errors of a run (:class:`RunError`) are raised by all ranks at the same place, and pass.

        Args:
            folder: Of the run, for messages.

        Raises:
            RanksError: The ranks came apart: this one's error, or what another one has told of its own.
        """
        try:
            yield
        except RunError:
            raise
        except (Exception, SystemExit) as error:
            if self.alone:
                raise
            self.apart = True
            raise RanksError(f"{self._why(error, folder)}; {AGAIN}") from error

    def _why(self, error: BaseException, folder: Path) -> str:
        """Why the ranks came apart; tells the others if it was this one."""
        assert self.store is not None
        for rank in range(self.size):
            if rank != self.rank and self.store.check([f"rank {rank}"]):
                return f"rank {rank}: {self.store.get(f'rank {rank}').decode()}"
        if _is_of_the_line(error):
            heard = str(error).partition(". This is typically")[0]  # advice that is not for users
            return f"a process that trains this run was lost (rank {self.rank} heard: {heard})"
        own = describe(error, folder)
        self.store.set(f"rank {self.rank}", own)
        return f"rank {self.rank}: {own}"


ALONE: Final = World()


class Looks:
    """When to look up between two steps; all ranks at the same step, by the clock of the first.

    The others are asked every few steps only: so many that it is about twice in ``every`` seconds.

    Args:
        world: The ranks.
        every: Seconds between two looks.
    """

    def __init__(self, world: World, every: float) -> None:
        self._world = world
        self._every = every
        self._at = time.monotonic() + every
        self._asked = time.monotonic()
        self._steps = 1  # between two questions
        self._left = 1

    def due(self) -> bool:
        """Whether it is time; called after each step."""
        if self._world.alone:
            return time.monotonic() >= self._at
        self._left -= 1
        if self._left:
            return False
        now = time.monotonic()
        a_step = max(now - self._asked, 1e-9) / self._steps
        self._asked = now
        look, self._steps = self._world.numbers(int(now >= self._at), _steps_of(self._every / 2.0, a_step))
        self._left = self._steps
        return bool(look)

    def done(self) -> None:
        """A look is over."""
        self._at = time.monotonic() + self._every


def _steps_of(seconds: float, a_step: float) -> int:
    return max(1, min(_MOST_STEPS, int(seconds / a_step)))


@contextlib.contextmanager
def joined(device: str, timeout_seconds: float) -> Iterator[tuple[World, torch.device]]:
    """Meet the other processes that torchrun started.

    Args:
        device: ``cpu``; ``cuda``: each process of a machine has a GPU of its own; ``cuda:1``: all of them have this one.
        timeout_seconds: How long a rank waits for another one, at most.

    Yields:
        The ranks, and where this one trains.

    Raises:
        RunError: There are fewer GPUs than processes.
        RanksError: The others did not come.
    """
    place = _place(device, int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]))
    shared = place.type == "cpu" or device != "cuda"  # NCCL wants a GPU for each process
    if place.type == "cuda":
        torch.cuda.set_device(place)
    patience = timedelta(seconds=timeout_seconds)
    # imported later, as models are wrapped, the defaults of its functions would keep the group for ever
    importlib.import_module("torch.distributed.nn.functional")
    try:
        found, rank, size = next(iter(rendezvous("env://", timeout=patience)))
        # torchrun may keep its store when it starts processes again: addresses of those before are still there
        store = PrefixStore(f"supermask/{os.environ['TORCHELASTIC_RESTART_COUNT']}", found)
        dist.init_process_group(
            "gloo" if shared else "cpu:gloo,cuda:nccl",
            store=PrefixStore("group", store),
            rank=rank,
            world_size=size,
            timeout=patience,
        )
    except RuntimeError as error:
        raise RanksError(f"the processes of this run did not meet ({error}); {AGAIN}") from error
    try:
        yield World(rank, size, PrefixStore("words", store)), place
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):  # all ranks stop together
            _part()
        raise  # the process ends, and others hear of it
    _part()


def _part() -> None:
    """Leave the group, and end its threads: one at work while Python ends is a crash.

    What holds the group last must be its handle, as that one lets Python go on while it waits for the threads.
    """
    handle = dist.group.WORLD
    dist.destroy_process_group()
    gc.collect()  # models, which hold it too
    del handle


def _place(device: str, rank: int, processes: int) -> torch.device:
    if device != "cuda":
        return torch.device(device)
    found = torch.cuda.device_count()
    if found < processes:
        raise RunError(
            f"--device cuda gives each of the {processes} processes on this machine a GPU, and there are {found}: start "
            f"torchrun with --nproc-per-node {found or 1}, or train on the processor by --device cpu"
        )
    return torch.device("cuda", rank)


def _is_of_the_line(error: BaseException) -> bool:
    """Whether an error says that another process did not answer."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in text for word in ("gloo", "nccl", "peer", "store"))
    )
