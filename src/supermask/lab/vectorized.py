"""Many seeds as one batch: runs that differ in nothing but their seed are trained step by step together.

Each run is an ordinary :class:`~supermask.lab.train.Trainer` with its own model, optimizer, schedule, method and story. What is
done together is the forward and the backward pass (:mod:`supermask.lab.stacked`); the rest of a step each run does itself. So
a run ends as it does alone, but for the last bits of its sums, and a checkpoint of it is an ordinary one.

All runs see the same examples in the same order (``train.data_order: shared``); each augments them by its own seed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn

from supermask.core.masks import Masks
from supermask.errors import RunError
from supermask.lab.config import RunConfig
from supermask.lab.parts import Batch
from supermask.lab.stacked import Stacked
from supermask.lab.step import make_update
from supermask.lab.train import PROGRESS_SECONDS, Clock, Trainer
from supermask.lab.train_section import TrainSection
from supermask.optim import Plateau, WarmUp

T = TypeVar("T")
Place = tuple[int, int, int]

_ALONE: Final = "each seed has to be trained by itself"


def refusal(config: RunConfig) -> str | None:
    """Why runs of a config cannot be trained as one batch, as far as the config tells; None where nothing speaks against it.

    What a model does while it computes (dropout, a layer that torch.func does not know) is seen when it is tried.
    """
    train = config.train
    if train.precision != "float32":
        return f"train.precision is {train.precision}, and seeds are trained as one batch in float32 only"
    if train.accumulate > 1:
        return "train.accumulate divides batches, and seeds are trained as one batch to use whole ones"
    if train.channels_last:
        return "train.channels_last is set, and a stack of weights has no such layout"
    if train.teachers:
        return "train.distill needs an earlier network of each seed beside its own"
    if any(map(_ends_early, (train, *train.rounds.values()))):
        return f"the plateau rule cuts the rate of each seed, and may end it, at its own time, so {_ALONE}"
    if config.method.needs_structure:
        return f"{config.method.name} removes channels, of each seed its own, so {_ALONE}"
    return None


def _ends_early(section: TrainSection) -> bool:
    schedule = section.schedule
    while isinstance(schedule, WarmUp):
        schedule = schedule.then
    return isinstance(schedule, Plateau)


class SeedTrainer(Trainer):
    """One of several runs that are trained together; takes the steps of a run apart, for :class:`Together` to call."""

    update: Callable[[], None]
    rounds: Iterator[int] | None = None

    def _start_round(self) -> None:
        super()._start_round()
        self.update = make_update(self.section, self.optimizer, self.schedule)

    @property
    def place(self) -> Place:
        """Round, epoch and batch."""
        return self.sparsifier.round, self.epoch, self.batch

    def next_round(self) -> bool:
        """Go on to the next round, if there is one; in the first call, to the one at work."""
        if self.rounds is None:
            self.rounds = self.sparsifier.rounds()
        if next(self.rounds, None) is None:
            return False
        self._enter_round()
        return True

    def round_is_over(self) -> bool:
        """Whether no epoch of this round is left."""
        return self._round_is_over()

    def begin_epoch(self) -> None:
        """Before the first step of an epoch, and when one goes on."""
        self.model.train()
        self.story.begin_epoch(self.batches)

    def end_epoch(self) -> None:
        """After its last step."""
        self._end_epoch()

    def finish(self) -> Masks:
        """After the last round."""
        return self._finish()

    def plain_model(self) -> nn.Module:
        """A model of the same architecture with nothing attached."""
        return self._plain_model()

    def order(self) -> Tensor | None:
        """The order of the pass at work."""
        return self._order(self._pass_number())

    def load(self, order: Tensor | None) -> Batch:
        """The next batch."""
        return self._load(order, self.batch % self.batches_a_pass, self._pass_number())

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        """What a step minimises, of this run alone."""
        return self.loss(self.model(x), y)

    def step_alone(self, x: Tensor, y: Tensor) -> Tensor:
        """A whole step of this run alone."""
        return self._step(x, y)


class Together:
    """Trains several runs step by step together.

    Args:
        trainers: Runs that differ in nothing but their seed, all at the same place.
        on_failure: Gets a run that failed and its error; the others go on. None: errors are raised.
        on_look: Called at most every ``look_every`` seconds between two steps; checkpoints may be taken there.
        on_epoch: Called after each epoch of all runs; with True after the last one of a round.

    Raises:
        RunError: The runs do not share their order of the data, or are at different places.

    Attributes:
        trainers: Those that have not failed.
        look_every: Seconds.
    """

    def __init__(
        self,
        trainers: Sequence[SeedTrainer],
        *,
        on_failure: Callable[[SeedTrainer, Exception], None] | None = None,
        on_look: Callable[[], None] | None = None,
        on_epoch: Callable[[bool], None] | None = None,
    ) -> None:
        self.trainers = list(trainers)
        self.look_every = PROGRESS_SECONDS
        self._on_failure = on_failure
        self._on_look = on_look
        self._on_epoch = on_epoch
        self._stacked: Stacked | None = None
        self._sums = torch.empty(0)  # of losses; those of the trainers are parts of it
        train = self._first.config.train
        if train.data_order != "shared" and train.shuffle is not False:
            raise RunError(
                f"train.data_order is {train.data_order!r}: seeds that are trained as one batch see the same examples; set it "
                "to shared"
            )
        self._augments = self._first.config.data.augment is not None
        self._agree([trainer.place for trainer in self.trainers], "at work at different places")

    @property
    def _first(self) -> SeedTrainer:
        return self.trainers[0]

    def run(self) -> dict[SeedTrainer, Masks]:
        """Train all runs to their end; their models are plain afterwards.

        Returns:
            The final masks of each run that did not fail.

        Raises:
            RunError: The runs went apart.
        """
        while self.trainers and self._agree(self.each(SeedTrainer.next_round), "of different numbers of rounds"):
            self._stacked = None  # a round may train other tensors
            while self.trainers and not self._round_is_over():
                self._train_epoch()
                self.each(SeedTrainer.end_epoch)
                if self.trainers and self._on_epoch is not None:
                    self._on_epoch(self._round_is_over())
        finished: dict[SeedTrainer, Masks] = {}
        self.each(lambda trainer: finished.update({trainer: trainer.finish()}))
        return finished

    def _round_is_over(self) -> bool:
        return bool(self._agree(self.each(SeedTrainer.round_is_over), "of different lengths"))

    def step(self, order: Tensor | None) -> None:
        """One step of every run.

        Args:
            order: Of the pass at work.
        """
        stacked = self._ready()
        if self._augments:
            xs, ys = zip(*[trainer.load(order) for trainer in self.trainers], strict=True)
            x, y = torch.stack(xs), ys[0]
        else:
            x, y = self._first.load(order)
        losses = stacked.losses(x, y, shared=not self._augments)
        losses.sum().backward()
        self._sums += losses.detach()
        self.each(_end_step)

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        """The losses of all runs on one batch; shape (runs,)."""
        return self._ready().losses(x, y, shared=True)

    def _ready(self) -> Stacked:
        """The stacked forward pass of the runs that are left."""
        if self._stacked is None:
            self._stacked = Stacked([t.model for t in self.trainers], self._first.plain_model(), self._first.loss)
            self._sums = torch.stack([trainer.loss_sum for trainer in self.trainers])
            for trainer, part in zip(self.trainers, self._sums, strict=True):
                trainer.loss_sum = part
        return self._stacked

    def _train_epoch(self) -> None:
        self.each(SeedTrainer.begin_epoch)
        if not self.trainers:
            return
        self._ready().follow_modes()
        spent = {"train": 0.0}
        clock = Clock(spent, "train", self._first.device)
        look = time.monotonic() + self.look_every
        order, ends = None, 0  # of a pass: the batch that begins the next one
        while self.trainers and self._first.batch < self._first.batches:
            if self._first.batch >= ends:
                order = self._first.order()
                ends = (self._first.batch // self._first.batches_a_pass + 1) * self._first.batches_a_pass
            self.step(order)
            if self._on_look is not None and self.trainers and time.monotonic() >= look:
                clock.stop()
                self._share(spent)
                self._on_look()
                clock.start()
                look = time.monotonic() + self.look_every
        clock.stop()
        self._share(spent)

    def _share(self, spent: dict[str, float]) -> None:
        """Give every run its part of the time that was spent on all."""
        for trainer in self.trainers:
            trainer.seconds["train"] += spent["train"] / len(self.trainers)
        spent["train"] = 0.0

    def each(self, do: Callable[[SeedTrainer], T]) -> list[T]:
        """Do something for every run; one that fails leaves the others."""
        found = []
        for trainer in list(self.trainers):
            try:
                found.append(do(trainer))
            except Exception as error:
                if self._on_failure is None:
                    raise
                self.trainers.remove(trainer)
                self._stacked = None
                self._on_failure(trainer, error)
        return found

    def _agree(self, values: Sequence[Any], how: str) -> Any:
        """The value that all runs have; False where none is left."""
        if len(set(values)) > 1:
            seeds = ", ".join(f"{t.seed}: {value}" for t, value in zip(self.trainers, values, strict=True))
            raise RunError(
                f"the runs of these seeds are {how} ({seeds}) and cannot be trained as one batch; train them one by one "
                "(seeds: separate, train.data_order: shared)"
            )
        return values[0] if values else False


def _end_step(trainer: SeedTrainer) -> None:
    """What a run does for itself after the backward pass."""
    trainer.update()
    trainer.batch += 1
    trainer.story.after_step()
