"""One training: a function of its sections, its seed, the data and the device. The loop, and exact resume."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from supermask.core.masks import Masks
from supermask.core.parametrizations import Scored
from supermask.data import DataSet, Split
from supermask.errors import ConfigError, DivergedError
from supermask.lab.channels import check_removal, describe, trace
from supermask.lab.config import RunConfig
from supermask.lab.distill import Objective, alone, plain_state, taught
from supermask.lab.distributed import ALONE, Looks, World
from supermask.lab.metrics import MetricsFile
from supermask.lab.parallel import (
    Equality,
    division,
    follow_first,
    in_order,
    load_own_state,
    own_state,
    shared_norms,
    wrapped,
)
from supermask.lab.parts import Batch, attach, build_loss, build_metric, build_model, check_fit, lay_out
from supermask.lab.seeds import augment_seed, batch_order, training_seed
from supermask.lab.step import Step, autocast, grad_scaler, make_step
from supermask.lab.story import Predicted, Story, predict
from supermask.optim import PlateauRule, Scheduler

PROGRESS_SECONDS: Final = 0.5
_NOTHING: Final = (None, None, None)  # where there is no test
SMALLEST_SCALE: Final = 2.0**-24  # of float16 losses: where gradients overflow below it, no scale helps


class Tested(NamedTuple):
    """What a test gives.

    Attributes:
        loss: Mean over the examples.
        metric: What the run is judged by; the accuracy unless another is asked for.
        top5: Fraction of the examples whose class is among the five with the highest scores; None where the run is not judged
            by its accuracy, and for data sets of ten classes or less.
    """

    loss: float
    metric: float
    top5: float | None


class Trainer:
    """Builds everything a run needs and trains it, one call of :meth:`run`.

    Torch's global generator is seeded for the models that draw from it (dropout); callers that share the process put
    ``torch.random.fork_rng`` around it.

    Args:
        config: The run's sections.
        seed: The run's seed.
        data: The data set, on ``device``.
        folder: Where references are looked up.
        device: Where to train.
        metrics: Gets one line an epoch.
        world: The processes that train this run together, each with a part of every batch. All of them call the same methods.

    Raises:
        ConfigError: Model, data, loss and metric do not fit together.

    Attributes:
        epoch: Epoch at work, counted from 1 through all rounds.
        batch: Batches done in this epoch.
        batches: Batches of an epoch, all its passes together.
        first_epoch: First epoch of this round; of a round that begins at step k, the epoch that would have been.
        section: The settings of this round.
        seconds: Wall time spent on "train" and "evaluate", all starts together.
        on_look: Called at most every ``look_every`` seconds between two steps; a checkpoint may be taken there.
        on_epoch: Called after each epoch with its metrics.
        results: What the method keeps beside weights and masks; filled at the end.
        channels: What became of the channels, as ``result.json`` holds it; filled at the end, None for most methods.
        traced: What a method that removes channels was attached with.
        story: What is kept of how it went.
    """

    def __init__(
        self,
        config: RunConfig,
        seed: int,
        data: DataSet,
        folder: Path,
        device: torch.device,
        metrics: MetricsFile,
        world: World = ALONE,
    ) -> None:
        self.config = config
        self.section = config.train
        self.seed = seed
        self.data = data
        self.device = device
        self.folder = folder
        self.metrics = metrics
        self.world = world
        self._division = division(world, config.train.accumulate)
        self.look_every = PROGRESS_SECONDS
        self.on_look: Callable[[], None] | None = None
        self.on_epoch: Callable[[dict[str, Any]], None] | None = None
        self.results: dict[str, Tensor] = {}
        self.channels: dict[str, Any] | None = None

        self.batches_a_pass = -(-len(data.train) // config.train.batch_size)
        self.batches = self.batches_a_pass * config.train.passes
        self.loss = build_loss(config.train.loss, folder)
        self.metric = build_metric(config.train.metric, folder)
        self._top5 = self.metric is None and len(data.classes) > 10
        self.model = build_model(config, seed, folder, device)
        self._copy = check_fit(config, self.model, data, seed)  # test batches are parts of the data
        self.traced = trace(config.method, self.model, data.train.batch(slice(0, 2))[0].clone())
        self.sparsifier = attach(config, self.model, seed, _ScoringBatches(self), self.loss, self.traced)
        lay_out(config, self.model)
        self._equality = Equality(world, self.model, self.sparsifier)
        self.story = Story(self.sparsifier, len(data.train) * config.train.passes)
        self.optimizer: torch.optim.Optimizer
        self.schedule: Scheduler | PlateauRule
        self.scaler = grad_scaler(config.train, device)
        self.epoch = 1
        self.batch = 0
        self.first_epoch = 1
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.seconds = {"train": 0.0, "evaluate": 0.0}
        self._round: int | None = None  # the round that the optimizer was built for
        self._step: Step
        self._teachers: dict[str, dict[str, Tensor]] = {}  # round -> state dict of the network that it ended with
        torch.manual_seed(training_seed(seed, world.rank))

    def run(self) -> Masks:
        """Train to the end; the model is plain afterwards.

        Returns:
            The final masks.

        Raises:
            DivergedError: The loss, a trained tensor or the metric is no longer finite.
        """
        for _ in self.sparsifier.rounds():
            self._enter_round()
            while not self._round_is_over():
                with shared_norms(self.model, self._division):
                    self._train_epoch()
                self._end_epoch()
            if self.sparsifier.round in self.config.train.teachers:
                self._teachers[str(self.sparsifier.round)] = plain_state(self.sparsifier, self._plain_model())
        return self._finish()

    def _finish(self) -> Masks:
        """After the last round: what the run leaves."""
        self._note_what_never_came()
        with torch.no_grad():
            self.results = self.sparsifier.method.results(self.sparsifier)
        self.story.finish()
        self.channels, keeps = describe(self.sparsifier), self.sparsifier.channels()
        masks = self.sparsifier.finalize()
        if self.channels is not None and self.traced is not None:
            self.channels |= check_removal(self.model, self.traced, keeps)
        return masks

    def mean_loss(self) -> float:
        """Mean training loss of this epoch's batches so far.

        Raises:
            DivergedError: It is not finite.
        """
        loss = float(self.world.total(self.loss_sum)) / max(1, self.batch - self._skipped())
        self._require_finite(loss, "training loss")
        return loss

    def check_finite(self) -> float:
        """Make sure that this state is worth keeping.

        Returns:
            Mean training loss of this epoch's batches so far.

        Raises:
            DivergedError: The mean training loss or a trained tensor is not finite, or no gradient is in float16.
        """
        loss = self.mean_loss()
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        if not math.isfinite(float(get_total_norm(trained, math.inf))):
            bad = next(parameter for parameter in trained if not bool(parameter.isfinite().all()))
            raise DivergedError(
                f"{self._name(bad)} holds numbers that are not finite in epoch {self.epoch}: training diverged; lower "
                "train.optimizer.lr, or set train.clip"
            )
        if self.scaler is not None and self.scaler.get_scale() < SMALLEST_SCALE:
            raise DivergedError(
                f"the gradients of epoch {self.epoch} are not finite in float16, however small the loss is scaled; set "
                "train.precision to bfloat16 or float32, or lower train.optimizer.lr"
            )
        return loss

    def _name(self, parameter: Tensor) -> str:
        target = next((target for target in self.sparsifier.targets if target.parameter is parameter), None)
        if target is not None:
            scored = isinstance(installed := target.parametrization, Scored) and not installed.released
            return f"the score of {target.name}" if scored else target.name
        return next(name for name, other in self.model.named_parameters() if other is parameter)

    # ------------------------------------------------------------------ the loop

    def _enter_round(self) -> None:
        """Begin a round, unless a checkpoint was taken within it."""
        if self._round != self.sparsifier.round:
            self._start_round()
            self._rewind()

    def _round_is_over(self) -> bool:
        return self.epoch >= self.first_epoch + self.section.epochs or self.schedule.finished

    def _start_round(self) -> None:
        section = self.section = self.config.train.of_round(self.sparsifier.round)
        total_steps = section.epochs * self.batches
        follow_first(self.model, self.sparsifier, self.world)
        self.optimizer = section.optimizer.build(self.sparsifier.param_groups(decay_on=section.optimizer.decay_on))
        self.schedule = section.schedule.bind(self.optimizer, total_steps=total_steps)
        self.sparsifier.bind(self.optimizer, total_steps=total_steps)
        front = wrapped(self.model, self.world)
        divided = None if self._division is None else partial(self._division.backward, front)
        objective, scaler = self._objective(front), self.scaler
        self._step = make_step(
            section, objective, self.optimizer, self.schedule, self.sparsifier, scaler, self.device, divided
        )
        self.first_epoch = self.epoch
        self._round = self.sparsifier.round

    def _note_what_never_came(self) -> None:
        """Tell of settings for rounds that the method did not train."""
        last, train = self.sparsifier.round, self.config.train
        if train.rounds and max(train.rounds) > last:
            self.sparsifier.note(
                f"train.rounds has settings for round {max(train.rounds)}, but the last one was {last}"
            )
        if train.teachers and min(train.teachers) >= last:
            self.sparsifier.note(
                f"train.distill did nothing: round {last} was the last, and none came after its teacher"
            )

    def _objective(self, model: nn.Module) -> Objective:
        """What the steps of this round minimise, with the model as they call it."""
        distill = self.section.distill
        if distill is None or distill.teacher >= self.sparsifier.round:
            return alone(model, self.loss)
        teacher = self._plain_model()
        teacher.load_state_dict(self._teachers[str(distill.teacher)])
        return taught(model, self.loss, teacher.eval(), distill, copy=self._copy)

    def _plain_model(self) -> nn.Module:
        """The run's model as it was drawn, with nothing attached."""
        model = build_model(self.config, self.seed, self.folder, self.device)
        lay_out(self.config, model)
        return model

    def _rewind(self) -> None:
        """Begin a round where its method rewound to: the epochs and steps before are not trained again.

        Raises:
            ConfigError: The round has no step after them.
        """
        steps = self.sparsifier.step
        if steps >= self.section.epochs * self.batches:
            raise ConfigError(
                f"train.rounds: round {self.sparsifier.round} has {self.section.epochs * self.batches:,} steps, but its method "
                f"begins it at step {steps:,}; give it more epochs"
            )
        for _ in range(steps):
            self.schedule.step()
        self.first_epoch -= steps // self.batches
        self.batch = steps % self.batches

    def _skipped(self) -> int:
        """Batches at the beginning of this epoch that are not trained, because its round begins in its middle."""
        steps = self.sparsifier.method.first_step(self.sparsifier) if self.sparsifier.round else 0
        return steps % self.batches if self.epoch == self.first_epoch + steps // self.batches else 0

    def _train_epoch(self) -> None:
        self.model.train()
        step, loss_sum, story = self._step, self.loss_sum, self.story
        story.begin_epoch(self.batches)
        clock = Clock(self.seconds, "train", self.device)
        looks = Looks(self.world, self.look_every)
        while self.batch < self.batches:
            number = self._pass_number()
            order = self._order(number)
            for batch in range(self.batch % self.batches_a_pass, self.batches_a_pass):
                loss = step(*self._load(order, batch, number))
                loss_sum += loss.detach()
                self.batch += 1
                story.after_step()
                self._equality.after_step()
                if self.on_look is not None and looks.due():
                    clock.stop()
                    self.on_look()
                    clock.start()
                    looks.done()
        clock.stop()

    def _pass_number(self) -> int:
        """Passes over the training data that have begun, counted from 1 through all epochs."""
        return (self.epoch - 1) * self.config.train.passes + self.batch // self.batches_a_pass + 1

    def _end_epoch(self) -> None:
        self._equality.require()
        train_loss = self.check_finite()
        self.story.end_epoch(self.epoch)
        lr = self.optimizer.param_groups[0]["lr"]
        self.schedule.epoch_end(train_loss)
        if self.scaler is not None and self._is_last_epoch() and not self.schedule.finished:
            self.sparsifier.catch_up()
        if self._is_last_epoch() or self.schedule.finished:
            self.sparsifier.settle()
        accuracy = self.metric is None
        test_loss, test_metric, top5 = self._measure(self.data.test, "test")
        full_loss, full_metric, _ = (
            self._measure(self.data.test, "test", sparse=False) if self.sparsifier.tracked else _NOTHING
        )
        validation_loss, validation_metric, _ = self._measure(self.data.validation, "validation")
        line = {
            "epoch": self.epoch,
            "round": self.sparsifier.round,
            "step": self.epoch * self.batches,  # batches: also those whose step float16 left out
            "train_loss": train_loss,
            "test_loss": test_loss,
            "test_accuracy": test_metric if accuracy else None,
            "test_accuracy_top5": top5,
            "test_metric": test_metric,
            "full_loss": full_loss,
            "full_accuracy": full_metric if accuracy else None,
            "full_metric": full_metric,
            "validation_loss": validation_loss,
            "validation_accuracy": validation_metric if accuracy else None,
            "validation_metric": validation_metric,
            "remaining": self.sparsifier.remaining(),
            "lr": lr,
            "seconds": sum(self.seconds.values()),
        }
        with self.world.together():
            self.metrics.append(line)
        self.epoch += 1
        self.batch = 0
        self.loss_sum.zero_()
        if self.on_epoch is not None:
            self.on_epoch(line)

    def _is_last_epoch(self) -> bool:
        """Whether no further epoch of this round is planned."""
        return self.epoch == self.first_epoch + self.section.epochs - 1

    def _measure(self, split: Split | None, name: str, *, sparse: bool = True) -> Tested | tuple[None, None, None]:
        """Test; nothing where there is no such split, and after epochs that are not tested."""
        last = self._is_last_epoch() or self.schedule.finished
        if split is None or not (last or self.epoch % self.section.test_every == 0):
            return _NOTHING
        kept: list[Predicted] | None = [] if last and sparse and name == "test" and self.metric is None else None
        found = self.evaluate(split, sparse=sparse, kept=kept)
        if kept is not None:
            self.story.predictions(kept, split.y)
        self._require_finite(found.loss, f"{name} loss")
        if not math.isfinite(found.metric):
            raise DivergedError(
                f"the {name} {self.config.train.metric} is {found.metric} in epoch {self.epoch}, though the loss is finite; "
                "look at what the metric does with these outputs and targets"
            )
        return found

    def _require_finite(self, value: float, which: str) -> None:
        if not math.isfinite(value):
            raise DivergedError(
                f"the {which} is {value} in epoch {self.epoch}: training diverged; lower train.optimizer.lr, or look "
                "at the data for values that are not finite"
            )

    # ------------------------------------------------------------------ data

    def _order(self, number: int) -> Tensor | None:
        """Indices of the examples of a pass in order; None for the order of the data."""
        section = self.config.train
        if section.shuffle is False:
            return None
        seed = 0 if section.data_order == "shared" else self.seed
        return batch_order(seed, 0 if section.shuffle == "once" else number, len(self.data.train)).to(self.device)

    def _load(self, order: Tensor | None, batch: int, number: int, *, augmented: bool = True) -> Batch:
        """A batch of a pass, or this rank's part of one; not augmented: the whole batch."""
        size = self.config.train.batch_size
        augment = self.config.data.augment if augmented else None
        where: slice | Tensor = slice(batch * size, (batch + 1) * size)
        part = None
        if augmented and self._division is not None:
            part = self._division.begin(min(size, len(self.data.train) - batch * size), self.device)
            where = part.places + batch * size
        x, y = self.data.train.batch(
            where if order is None else order[where], whole=augment is not None and augment.whole
        )
        if augment is not None:
            generator = torch.Generator().manual_seed(augment_seed(self.seed, number, batch))
            x = augment(x, generator, part)
        elif order is None:
            x = x.clone()  # the model may change its input, but not the data that later runs get
        return x, y

    def evaluate(self, split: Split, *, sparse: bool = True, kept: list[Predicted] | None = None) -> Tested:
        """Loss and metric on a split, in the run's precision; means over the draws of methods with random masks.

        Args:
            split: Test or validation examples.
            sparse: As the finalized model would do it; False: the dense model that trains under masks only tracked.
            kept: Gets the predictions of the first draw, batch by batch.
        """
        clock = Clock(self.seconds, "evaluate", self.device)
        measured: list[Tested] = []
        for _ in self.sparsifier.draws():
            with self.sparsifier.sparse() if sparse else contextlib.nullcontext():
                measured.append(self._evaluate_once(split, None if measured else kept))
        clock.stop()
        draws = len(measured)
        return Tested(
            sum(found.loss for found in measured) / draws,
            sum(found.metric for found in measured) / draws,
            sum(found.top5 for found in measured if found.top5 is not None) / draws if self._top5 else None,
        )

    def _evaluate_once(self, split: Split, kept: list[Predicted] | None) -> Tested:
        self.model.eval()
        size = self.config.train.eval_batch_size
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        correct = torch.zeros(2, dtype=torch.int64, device=self.device)  # the first, and among the first five
        losses, outputs, predicted = [], [], []
        with torch.inference_mode(), autocast(self.config.train, self.device):
            for x, y in split.batches(size, first=self.world.rank, every=self.world.size):
                output = self.model(x.clone() if self._copy else x)
                losses.append(self.loss(output, y) * len(y))
                if kept is not None:
                    predicted.append(predict(output))
                if self.metric is None:
                    correct[0] += (output.argmax(dim=1) == y).sum()
                    if self._top5:
                        correct[1] += (output.topk(5, dim=1).indices == y[:, None]).sum()
                else:
                    outputs.append(output)
            losses, outputs, predicted = in_order(self.world, losses, outputs, predicted)
            correct = self.world.total(correct)
            for loss_of_batch in losses:
                loss_sum += loss_of_batch
        if kept is not None:
            kept += predicted
        loss = float(loss_sum) / len(split)
        if self.metric is None:
            first, among_five = (number / len(split) for number in correct.tolist())
            return Tested(loss, first, among_five if self._top5 else None)
        with torch.no_grad():
            return Tested(loss, self.metric(torch.cat(outputs).float().to(self.device), split.y), None)

    # ------------------------------------------------------------------ saving

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact continuation needs, taken between two steps."""
        self._equality.require()
        return {
            **own_state(self.world, self.loss_sum),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "sparsifier": self.sparsifier.state_dict(),
            "epoch": self.epoch,
            "batch": self.batch,
            "first_epoch": self.first_epoch,
            "seconds": dict(self.seconds),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "teachers": self._teachers,
            "story": self.story.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.model.load_state_dict(state["model"])
        self.sparsifier.load_state_dict(state["sparsifier"])
        self.epoch, self.batch = state["epoch"], state["batch"]
        self._teachers = state.get("teachers", {})  # newer than the format
        self._start_round()
        self.first_epoch = state["first_epoch"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        load_own_state(self.world, state, self.loss_sum)
        self.seconds.update(state["seconds"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.story.load_state_dict(state.get("story"), self.epoch - 1)  # newer than the format


class _ScoringBatches:
    """The batches of the first pass without augmentation, for methods that score weights on data; any number of times."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def __iter__(self) -> Iterator[Batch]:
        order = self._trainer._order(1)
        for batch in range(len(self)):
            yield self._trainer._load(order, batch, 1, augmented=False)

    def __len__(self) -> int:
        return self._trainer.batches_a_pass


class Clock:
    """Adds running time to an entry of a dict; on a GPU, until its work is done."""

    def __init__(self, totals: dict[str, float], key: str, device: torch.device) -> None:
        self._totals = totals
        self._key = key
        self._device = device
        self.start()

    def start(self) -> None:
        """From now on, time counts."""
        self._wait()
        self._since = time.monotonic()

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def stop(self) -> None:
        """Until now, time counted."""
        self._wait()
        self._totals[self._key] += time.monotonic() - self._since
