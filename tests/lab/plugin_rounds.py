"""Methods that use what only some need: rounds that begin late, test draws, tracked masks, notes and results."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from supermask import Method, register
from supermask.core.method import check_range


def checkered(shape, first):
    return ((torch.arange(shape.numel()) + first) % 2 == 0).reshape(shape)


@register
@dataclass(frozen=True, kw_only=True)
class TestRounds(Method):
    """Trains three times: keeps the values of a step and goes back to it with half of the weights."""

    __test__: ClassVar[bool] = False
    name: ClassVar[str] = "test-rounds"

    rewind_step: int = 0

    def __post_init__(self):
        check_range(self.name, "rewind_step", self.rewind_step, 0, 1e9)

    def setup(self, s):
        for target in s.targets:
            s.install_mask(target)
        if self.rewind_step == 0:
            s.keep_values("rewind")

    def after_step(self, s):
        if s.round == 0 and s.step == self.rewind_step:
            s.keep_values("rewind")

    def next_round(self, s):
        if s.round == 2:
            return False
        for target in s.targets:
            s.set_mask(target, target.mask & checkered(target.shape, s.round))
        s.restore_values("rewind")
        s.note(f"round {s.round} ended")
        return True

    def first_step(self, s):
        return self.rewind_step

    def results(self, s):
        return {f"last/{target.name}": target.dense.clone() for target in s.targets}


@register
@dataclass(frozen=True, kw_only=True)
class TestDraws(Method):
    """Tests over two masks, of which the one in force is neither; they are only tracked."""

    __test__: ClassVar[bool] = False
    name: ClassVar[str] = "test-draws"

    def setup(self, s):
        for target in s.targets:
            s.install_mask(target, applied=False)

    def test_draws(self, s):
        return 2

    def draw(self, s, index):
        for target in s.targets:
            s.set_mask(target, checkered(target.shape, index))
