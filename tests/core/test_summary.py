"""The text of ``summary()``, to the letter."""

from __future__ import annotations

import textwrap

import torch
from torch import nn

from supermask import Dense, FixedMask, RandomMask, SignedSupermask
from supermask.core.summary import note_empty_layers
from supermask.core.zoo import ZOO

from .helpers import Tracked, mlp


def text(s: str) -> str:
    return textwrap.dedent(s).strip("\n")


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)


def test_signed() -> None:
    s = SignedSupermask(threshold_rule="relative", threshold=0.5).attach(Small(), ignore="head", seed=3)
    assert s.summary() == text(
        """
        parameter    shape    weights  remaining  role
        conv.weight  4x1x3x3       36    52.78 %  targeted: weight redrawn and frozen, score trained
        conv.bias    4              4             not targeted, trained as usual
        norm.weight  4              4             not targeted, frozen by signed-supermask (batch norm)
        norm.bias    4              4             not targeted, frozen by signed-supermask (batch norm)
        head.weight  3x4           12             not targeted, trained as usual
        head.bias    3              3             not targeted, trained as usual
        signed-supermask, seed 3: 36 of 63 parameters targeted, 19 remain (52.78 %); 55 trained values
        """
    )


def test_ties_masks_and_weights_that_are_left_alone() -> None:
    model = ZOO["tied"].build()
    model.head.bias.requires_grad_(False)
    assert RandomMask(density=0.25, scope="uniform").attach(model).summary() == text(
        """
        parameter         shape  weights  remaining  role
        decoder.weight    10x12      120    25.00 %  targeted: weight kept and trained, mask applied
        embedding.weight  10x12                      tied to decoder.weight
        first.weight      12x12      144    25.00 %  targeted: weight kept and trained, mask applied
        second.weight     12x12                      tied to first.weight
        head.weight       4x10        40    25.00 %  targeted: weight kept and trained, mask applied
        first.bias        12          12             not targeted, trained as usual
        second.bias       12          12             not targeted, trained as usual
        head.bias         4            4             not targeted, frozen
        random, seed 0: 304 of 332 parameters targeted, 76 remain (25.00 %); 328 trained values
        """
    )


def test_no_mask_and_a_tracked_mask() -> None:
    lines = Dense().attach(mlp()).summary().splitlines()
    assert lines[1] == "0.weight   16x12      192   100.00 %  targeted: weight kept and trained, no mask"
    lines = Tracked().attach(mlp()).summary().splitlines()
    assert lines[1] == "0.weight   16x12      192    50.00 %  targeted: weight kept and trained, mask tracked"


def test_the_last_line_counts_as_the_sparsifier_does() -> None:
    s = RandomMask(density=0.1).attach(mlp())
    assert s.summary().splitlines()[-1] == (
        "random, seed 0: 256 of 276 parameters targeted, 26 remain (10.16 %); 276 trained values"
    )
    with torch.no_grad():
        s.set_mask(s.targets[0], torch.zeros_like(s.targets[0].mask))
    assert f"{s.remaining()} remain" in s.summary()


def test_empty_layers_are_noted_but_not_vectors_or_masks_that_are_only_tracked() -> None:
    model = mlp()
    masks = {name: torch.ones(p.shape, dtype=torch.bool) for name, p in model.named_parameters()}
    masks["2.weight"].zero_()
    masks["0.bias"].zero_()
    s = FixedMask(masks=masks).attach(model, targets=list(masks))
    assert s.notes == ["no weight of 2.weight remains before the first step"]
    assert s.summary().endswith("note: no weight of 2.weight remains before the first step")
    s.set_mask(s.targets[0], torch.zeros_like(s.targets[0].mask))
    s.finalize()
    assert s.notes[1:] == [f"no weight of {name} remains at the end" for name in ("0.weight", "2.weight")]
    tracked = Tracked().attach(mlp())
    for target in tracked.targets:
        tracked.set_mask(target, torch.zeros_like(target.mask))
    note_empty_layers(tracked, "now")
    assert not tracked.notes
