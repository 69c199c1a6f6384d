"""What a run keeps of how it went: how often its masks changed, how its scores were spread, what it predicted at the end.

It is written once, at the end of a run, and read by reports (:func:`supermask.lab.store.read_story`). Nothing of it has a
part in the training: no random number is drawn, and no tensor of the run is written to.

**Cost.** Masks are compared at a few steps of an epoch, spread evenly: one for every :data:`EXAMPLES` examples it trains on. A
step on B examples multiplies and adds at least 3 B times for each weight of a layer (forward, and twice backward), so between
two comparisons lie 24,000 multiply-accumulates a weight, of which 1 % are 240. A comparison makes the mask twice, compares
and counts: about six passes over the weights, each worth less than 40 multiply-accumulates. Where weights are used more than
once for an example, in convolutions, it is far less. Scores are looked at in epochs that have a comparison only, and at no
more than :data:`SAMPLE` weights of a layer. Epochs too short for one have none, and later ones make up for it: what an epoch
does not use up is kept for the next.

**Size.** A histogram is kept for at most :data:`ROWS` epochs, evenly spread, and the last one: when there are more, every
second one goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from supermask.core.arrays import save_arrays
from supermask.core.parametrizations import Masked, Scored, Selected
from supermask.core.sparsifier import Sparsifier
from supermask.core.targets import Target
from supermask.lab.store import STORY_SCHEMA

EXAMPLES: Final = 8_000  # trained on for each comparison of masks
SAMPLE: Final = 16_384  # weights of a layer, evenly spread, whose scores are looked at
BINS: Final = 64
ROWS: Final = 64
_KINDS: Final = {256: torch.uint8, 65_536: torch.uint16}  # classes that a type can tell apart


class Predicted(NamedTuple):
    """What a model says of a batch.

    Attributes:
        chosen: The class with the highest score of each example, int64.
        confidence: Its softmax probability, float16.
        classes: How many there are.
    """

    chosen: Tensor
    confidence: Tensor
    classes: int


def predict(output: Tensor) -> Predicted:
    """The classes that a batch's scores (N, classes) speak for."""
    chosen = output.argmax(dim=1)
    confidence = output.float().softmax(dim=1).gather(1, chosen[:, None])[:, 0]
    return Predicted(chosen, confidence.half(), output.shape[1])


class Story:
    """Records a training; everything it knows is part of the checkpoint.

    Args:
        sparsifier: Of the run.
        examples: Examples that an epoch trains on, all its passes together.
    """

    def __init__(self, sparsifier: Sparsifier, examples: int) -> None:
        self._layers = [_Layer(target) for target in sparsifier.targets if target.parametrization is not None]
        self._scores = [_Scores(t) for t in sparsifier.targets if isinstance(t.parametrization, Scored)]
        self._examples = examples
        self._credit = EXAMPLES  # examples that were trained on without a comparison: the first epoch has one
        self._allowed = 0  # comparisons of this epoch
        self._steps: int | None = None  # done in this epoch; None between two
        self._churn: list[list[float]] = []  # an epoch each, in the order of the layers
        self._counted: list[list[int]] = []
        self._kept: list[int] = []  # epochs with a histogram
        self._seen = 0  # epochs that could have had one
        self._every = 1
        self._predicted: dict[str, Tensor] = {}

    def begin_epoch(self, steps: int) -> None:
        """Before the first step of an epoch; nothing happens in its middle.

        Args:
            steps: How many it has, if it is trained from its beginning.
        """
        if self._steps is not None:
            return
        self._credit += self._examples
        self._allowed = min(steps, self._credit // EXAMPLES)
        self._credit -= self._credit // EXAMPLES * EXAMPLES
        self._steps = 0
        for layer in self._layers:
            layer.begin(self._allowed, steps)

    def after_step(self) -> None:
        """After each step."""
        assert self._steps is not None
        self._steps += 1
        for layer in self._layers:
            layer.look()

    def end_epoch(self, epoch: int) -> None:
        """After the last step of an epoch, before anything changes masks again.

        Args:
            epoch: Counted from 1.
        """
        assert self._steps is not None
        self._churn.append([layer.churn(self._steps) for layer in self._layers])
        self._counted.append([layer.counted for layer in self._layers])
        self._steps = None
        if self._allowed and self._scores:
            self._look_at_scores(epoch)

    def finish(self) -> None:
        """At the end of the run, before its model is finalized: the last epoch has a histogram in any case."""
        epoch = len(self._churn)
        if self._scores and epoch and (not self._kept or self._kept[-1] != epoch):
            self._add_scores(epoch)

    def predictions(self, predicted: Sequence[Predicted], targets: Tensor) -> None:
        """Keep what a test of classes gave, in place of what an earlier one gave.

        Args:
            predicted: What :func:`predict` gave of each batch, in the order of the examples.
            targets: The examples' own classes.
        """
        kind = next((kind for most, kind in _KINDS.items() if predicted[0].classes <= most), torch.int32)
        self._predicted = {
            "predictions": torch.cat([batch.chosen for batch in predicted]).to(kind).cpu(),
            "confidence": torch.cat([batch.confidence for batch in predicted]).cpu(),
            "targets": targets.to(kind).cpu(),
        }

    def arrays(self) -> dict[str, Tensor]:
        """Everything by name, see :func:`supermask.lab.store.read_story`."""
        found = dict(self._predicted)
        for index, layer in enumerate(self._layers):
            found[f"churn/{layer.name}"] = torch.tensor([row[index] for row in self._churn], dtype=torch.float32)
            found[f"counted/{layer.name}"] = torch.tensor([row[index] for row in self._counted], dtype=torch.int32)
        if self._kept:
            found["score_epochs"] = torch.tensor(self._kept, dtype=torch.int32)
        for scores in self._scores if self._kept else ():
            found[f"scores/{scores.name}"] = scores.rows
            found[f"edges/{scores.name}"] = scores.edges()
        return found

    def save(self, path: Path) -> None:
        """Write the file, unless there is nothing to tell."""
        if found := self.arrays():
            save_arrays(path, found, {"schema": STORY_SCHEMA})

    def state_dict(self) -> dict[str, Any]:
        """What an exact continuation needs."""
        return {
            "credit": self._credit,
            "allowed": self._allowed,
            "steps": self._steps,
            "churn": self._churn,
            "counted": self._counted,
            "kept": self._kept,
            "seen": self._seen,
            "every": self._every,
            "predicted": self._predicted,
            "layers": [layer.state_dict() for layer in self._layers],
            "scores": [scores.state_dict() for scores in self._scores],
        }

    def load_state_dict(self, state: Mapping[str, Any] | None, epochs: int) -> None:
        """Continue from :meth:`state_dict`; the model and its masks were loaded before.

        Args:
            state: None for a checkpoint that is older than stories: what was before it is not known.
            epochs: Epochs that are done.
        """
        if state is None:
            self._churn = [[float("nan")] * len(self._layers) for _ in range(epochs)]
            self._counted = [[0] * len(self._layers) for _ in range(epochs)]
            return
        self._credit, self._allowed, self._steps = state["credit"], state["allowed"], state["steps"]
        self._churn, self._counted = [list(row) for row in state["churn"]], [list(row) for row in state["counted"]]
        self._kept, self._seen, self._every = list(state["kept"]), state["seen"], state["every"]
        self._predicted = {name: value.cpu() for name, value in state["predicted"].items()}
        for layer, saved in zip(self._layers, state["layers"], strict=True):
            layer.load_state_dict(saved)
        for scores, saved in zip(self._scores, state["scores"], strict=True):
            scores.load_state_dict(saved)

    def _look_at_scores(self, epoch: int) -> None:
        due = self._seen % self._every == 0
        if due and len(self._kept) == ROWS:
            self._kept = self._kept[::2]
            for scores in self._scores:
                scores.rows = scores.rows[::2].clone()
            self._every *= 2
            due = self._seen % self._every == 0
        self._seen += 1
        if due:
            self._add_scores(epoch)

    def _add_scores(self, epoch: int) -> None:
        self._kept.append(epoch)
        for scores in self._scores:
            scores.add()


class _Layer:
    """Counts how often the mask of one target changes.

    Where the mask is kept as such, only steps that wrote to it matter (torch counts the writes to a tensor); a mask that
    follows from scores may change at every step. Of these steps every ``stride``-th is compared with what was there before it.
    """

    def __init__(self, target: Target) -> None:
        self.name = target.name
        self.counted = 0
        self._target = target
        self._flips = torch.zeros((), dtype=torch.int64, device=target.parameter.device)
        self._written = 0  # steps of this epoch that wrote to the mask
        self._expected: int | None = None  # the same of the epoch before
        self._buffer: Tensor | None = None
        self._version = 0
        self._allowed = 0
        self._stride = 1
        self._before: Tensor | None = None  # the mask, where the next writing is to be compared
        self._find()

    def begin(self, allowed: int, steps: int) -> None:
        """An epoch of so many steps begins, with so many comparisons."""
        self._find()
        expected = steps if self._buffer is None else self._expected or 1
        self.counted = self._written = 0
        self._flips.zero_()
        self._allowed = allowed
        self._stride = max(1, -(-expected // max(1, allowed)))
        self._before = self._mask() if allowed else None

    def look(self) -> None:
        """A step was done."""
        if self._buffer is not None:
            version = self._buffer._version
            if version == self._version:
                return
            self._version = version
        self._written += 1
        if self._before is not None:
            self._flips += (self._target.mask != self._before).count_nonzero()  # several times as fast as sum()
            self.counted += 1
            if self.counted % self._allowed == 0:  # there is more than was expected
                self._stride *= 2
        self._before = self._mask() if self._allowed and self._written % self._stride == 0 else None

    def churn(self, steps: int) -> float:
        """Mean share of the weights whose mask changed in a step of this epoch; NaN where it was not counted."""
        self._expected = self._written
        self._before = None
        if not self._written:
            return 0.0
        if not self.counted:
            return float("nan")
        return int(self._flips) / self.counted * self._written / steps / self._target.size

    def state_dict(self) -> dict[str, Any]:
        """Everything but the mask before the next step, which is the one that the model has now."""
        return {
            "counted": self.counted,
            "flips": int(self._flips),
            "written": self._written,
            "expected": self._expected,
            "allowed": self._allowed,
            "stride": self._stride,
            "waiting": self._before is not None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue."""
        self._find()
        self.counted, self._written, self._expected = state["counted"], state["written"], state["expected"]
        self._flips.fill_(state["flips"])
        self._allowed, self._stride = state["allowed"], state["stride"]
        self._before = self._mask() if state["waiting"] else None

    def _find(self) -> None:
        """Look up where the mask is kept, and forget what was written to it so far."""
        installed = self._target.parametrization
        self._buffer = installed.mask if isinstance(installed, Masked) else None
        if isinstance(installed, Selected):
            self._buffer = installed.codes
        self._version = 0 if self._buffer is None else self._buffer._version

    def _mask(self) -> Tensor:
        mask = self._target.mask
        return mask.clone() if mask is self._buffer else mask


class _Scores:
    """Histograms of one target's scores, over a range [-r, r] that doubles as scores grow."""

    def __init__(self, target: Target) -> None:
        self.name = target.name
        self.rows = torch.zeros((0, BINS), dtype=torch.int32)
        self._target = target
        self._range = 0.0
        installed = target.parametrization
        assert isinstance(installed, Scored)
        # what is stored may be the score times the sign of its weight
        self._signs = self._some(installed.relative_score(torch.ones_like(target.parameter)))

    def add(self) -> None:
        """Look at the scores; a row of zeros where the method learns none any more."""
        installed = self._target.parametrization
        if not isinstance(installed, Scored) or installed.released:
            row = torch.zeros(BINS)
        else:
            values = self._some(self._target.parameter) * self._signs
            self._make_room(float(values.abs().max()))
            row = torch.histc(values, BINS, -self._range, self._range)
        self.rows = torch.cat([self.rows, row.to(torch.int32)[None]])

    def edges(self) -> Tensor:
        """Of the bins, float32 (bins + 1,)."""
        return torch.linspace(-self._range, self._range, BINS + 1, dtype=torch.float32)

    def state_dict(self) -> dict[str, Any]:
        """Rows and range."""
        return {"rows": self.rows, "range": self._range}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue."""
        self.rows, self._range = state["rows"].cpu(), state["range"]

    def _some(self, values: Tensor) -> Tensor:
        """Evenly spread entries of a tensor of the target's shape, float32, on the CPU."""
        flat = values.detach().reshape(-1)
        return flat[:: max(1, -(-flat.numel() // SAMPLE))].float().cpu()

    def _make_room(self, largest: float) -> None:
        """Double the range until the largest score is in it: two bins become one."""
        if not self._range:
            self._range = 2.0**-20
            while self._range < largest:
                self._range *= 2.0
            return
        while self._range < largest:
            self._range *= 2.0
            middle = self.rows.reshape(len(self.rows), BINS // 2, 2).sum(dim=2, dtype=torch.int32)
            self.rows = torch.nn.functional.pad(middle, (BINS // 4, BINS // 4))
