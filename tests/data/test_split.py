from __future__ import annotations

import numpy as np
import pytest

from supermask.data.split import hold_out, stratified, unstratified
from supermask.errors import ConfigError, DataError


def test_counts_follow_the_largest_remainder() -> None:
    labels = np.repeat([0, 1, 2], [10, 7, 3]).astype(np.int64)
    train, test = stratified(labels, 6)  # shares 3.0, 2.1, 0.9
    assert np.bincount(labels[test]).tolist() == [3, 2, 1]
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(20))
    assert np.all(np.diff(train) > 0)
    assert np.all(np.diff(test) > 0)


def test_ties_go_to_the_lower_class() -> None:
    labels = np.repeat([0, 1, 2, 3], 5).astype(np.int64)
    assert np.bincount(labels[stratified(labels, 6)[1]]).tolist() == [2, 2, 1, 1]


def test_seed_chooses_the_images_and_is_pinned() -> None:
    labels = (np.arange(40) % 4).astype(np.int64)
    first = stratified(labels, 8)[1].tolist()
    assert first == [0, 9, 15, 18, 20, 25, 34, 39]
    assert stratified(labels, 8, seed=0)[1].tolist() == first
    assert stratified(labels, 8, seed=1)[1].tolist() != first


@pytest.mark.parametrize("test_count", [1, 19])
def test_every_class_keeps_an_image_on_both_sides(test_count: int) -> None:
    labels = np.repeat([0, 1], [10, 10]).astype(np.int64)
    with pytest.raises(DataError, match=f"cannot split off {test_count} of 20 images: class . has 10, of which"):
        stratified(labels, test_count)


def test_held_out_images_are_pinned_and_nested() -> None:
    left, chosen = hold_out(40, 8)
    assert chosen.tolist() == [1, 4, 7, 11, 17, 24, 25, 38]
    assert sorted([*left.tolist(), *chosen.tolist()]) == list(range(40))
    assert np.all(np.diff(left) > 0)
    assert set(hold_out(40, 3)[1]) < set(chosen)


@pytest.mark.parametrize("count", [40, 41])
def test_no_image_left_to_train_on(count: int) -> None:
    message = rf"data\.validation must leave images to train on: got {count}, but there are 40 training images"
    with pytest.raises(ConfigError, match=message):
        hold_out(40, count)


def test_without_classes_a_split_follows_the_same_random_order() -> None:
    one_class = np.zeros(40, np.int64)
    for left, right in zip(unstratified(40, 8, seed=3), stratified(one_class, 8, seed=3), strict=True):
        assert left.tolist() == right.tolist()


@pytest.mark.parametrize("test_count", [0, 3])
def test_without_classes_both_sides_need_an_image(test_count: int) -> None:
    with pytest.raises(DataError, match=f"cannot split off {test_count} of 3 images: training and test both need one"):
        unstratified(3, test_count)
