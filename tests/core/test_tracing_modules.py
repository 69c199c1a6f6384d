"""Removal from networks as users write them, checked with numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.removal import check_removal, random_keeps, shaken
from tests.core.user_modules import CASES

from supermask import find_structure


@pytest.mark.parametrize("name", CASES)
def test_removal_is_exact(name: str) -> None:
    make, make_example, removable, fit = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, example = shaken(make()), make_example()
    if example.is_floating_point():
        example = example.double()
    structure = find_structure(model, example)
    assert {group.name for group in structure.removable()} == removable
    assert all(group.quiet for group in structure.removable())
    assert not structure.uncounted

    @settings(max_examples=8, deadline=None, derandomize=True)
    @given(st.integers(0, 2**31))
    def check(seed: int) -> None:
        check_removal(model, structure, example, random_keeps(structure, seed), fit)

    check()
    for group in structure.removable():  # each alone
        check_removal(model, structure, example, {group.name: random_keeps(structure, 1)[group.name]}, fit)


def test_whole_units_and_streams() -> None:
    expected = {
        "depthwise": {"stem": (4, True), "expand": (8, False), "squeeze": (3, False)},
        "projection": {"conv1": (6, False), "conv2": (6, True), "inner": (5, False)},
        "shared": {"stem": (5, False), "head": (4, False)},
        "unet": {"down": (3, False), "deep": (8, False), "up": (4, False), "join": (5, False)},
        "attention": {"qkv": (4, False), "up": (10, False)},
        "grouped": {"stem": (2, False)},
        "halves": {"conv": (6, False), "up": (4, False)},
        "lstm": {"conv": (4, False), "lstm": (5, False), "gru": (6, False)},
    }
    for name, groups in expected.items():
        make, make_example, _, _ = CASES[name]
        structure = find_structure(make(), make_example())
        assert {g.name: (g.channels, g.residual) for g in structure.removable()} == groups, name
