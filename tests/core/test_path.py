from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from supermask import Sparsifier
from supermask.core import path
from supermask.errors import DivergedError
from supermask.tensors.prox import Grouping

from .helpers import Tracked, mlp


def recorded(masks: list[list[Tensor]], model: nn.Module | None = None) -> Sparsifier:
    """A sparsifier with the path of these masks, one list a step."""
    s = Tracked().attach(mlp() if model is None else model)
    path.begin(s)
    for step in masks:
        for target, mask in zip(s.targets, step, strict=True):
            s.set_mask(target, mask)
        s.step += 1
        path.record(s)
    return s


def history(s: Sparsifier, steps: int) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [[torch.rand(target.shape, generator=generator) < 0.004 for target in s.targets] for _ in range(steps)]


def test_the_first_step_counts_also_beyond_what_a_byte_counts() -> None:
    masks = history(Tracked().attach(mlp()), 600)
    s = recorded(masks)
    for i, target in enumerate(s.targets):
        stacked = torch.stack([step[i] for step in masks]).int()
        expected = torch.where(stacked.any(0), stacked.argmax(0) + 1, -1)
        found = path.entered(s, target)
        assert found.dtype == torch.int32
        assert torch.equal(found, expected.int())
        assert int(found.max()) > 300
        assert bool((found == -1).any())


@pytest.mark.parametrize("present", [False, True])
def test_masks_keep_the_first_by_a_lexicographic_key(present: bool) -> None:
    s = recorded(history(Tracked().attach(mlp()), 200))
    rows = []  # (never or hidden, step, -magnitude), in the order of the weights
    for target in s.targets:
        for step, weight, here in zip(
            path.entered(s, target).flatten().tolist(),
            target.dense.detach().abs().flatten().tolist(),
            target.mask.flatten().tolist(),
            strict=True,
        ):
            last = not here if present else step < 0
            rows.append((last, 0 if last else step, -weight))
    order = sorted(range(len(rows)), key=lambda i: rows[i])
    before = torch.zeros(len(rows), dtype=torch.bool)
    for total in (1, 2, 30, 100, len(rows)):
        masks = path.masks_by_path(s, "elementwise", total, present=present)
        flat = torch.cat([mask.flatten() for mask in masks])
        assert sorted(order[:total]) == flat.nonzero().flatten().tolist()
        assert not bool((before & ~flat).any())  # nested
        before = flat


def test_of_filters_that_entered_together_whole_ones_remain() -> None:
    """By their root mean square, which a larger single weight does not outvote; only the last one is cut."""
    conv = nn.Conv2d(1, 3, (1, 4), bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[9.0, 0, 0, 0], [5, 5, 5, 5], [1, 2, 3, 4]]).view(3, 1, 1, 4))
    s = recorded([[torch.ones(3, 1, 1, 4, dtype=torch.bool)]], nn.Sequential(conv))
    (mask,) = path.masks_by_path(s, "filter", 5, present=False)
    assert mask.view(3, 4).tolist() == [[True, False, False, False], [True] * 4, [False] * 4]
    (mask,) = path.masks_by_path(s, "elementwise", 5, present=False)
    assert mask.view(3, 4).tolist() == [[True, False, False, False], [True] * 4, [False] * 4]
    (mask,) = path.masks_by_path(s, "filter", 4, present=False)
    assert mask.view(3, 4).tolist() == [[False] * 4, [True] * 4, [False] * 4]
    (mask,) = path.masks_by_path(s, "elementwise", 4, present=False)
    assert mask.view(3, 4).tolist() == [[True, False, False, False], [True, True, True, False], [False] * 4]


def test_a_note_says_when_the_path_was_too_short() -> None:
    s = recorded([[torch.zeros(t.shape, dtype=torch.bool) for t in Tracked().attach(mlp()).targets]])
    assert sum(int(mask.sum()) for mask in path.masks_by_path(s, "elementwise", 7, present=False)) == 7
    (note,) = s.notes
    assert note.startswith("only 0 of the promised 7 weights entered the path")


def test_weights_that_are_not_numbers_are_refused_by_name() -> None:
    s = recorded([[torch.ones(t.shape, dtype=torch.bool) for t in Tracked().attach(mlp()).targets]])
    s.targets[1].parameter.data[0, 0] = float("nan")
    with pytest.raises(DivergedError, match=r"2\.weight holds values that are not numbers"):
        path.masks_by_path(s, "elementwise", 3, present=False)


def test_groupings_follow_the_layer() -> None:
    model = nn.ModuleList(
        [nn.Linear(2, 2), nn.Conv1d(2, 2, 2), nn.ConvTranspose2d(4, 2, 2, groups=2), nn.Conv3d(2, 2, 1)]
    )
    s = Tracked().attach(model, targets=["0.weight", "1", "2.weight", "3.weight", "1.bias"])
    assert {target.name: path.grouping(target, "filter") for target in s.targets} == {
        "0.weight": Grouping(),
        "1.weight": Grouping("filter"),
        "1.bias": Grouping(),
        "2.weight": Grouping("filter", transposed=True, groups=2),
        "3.weight": Grouping("filter"),
    }
