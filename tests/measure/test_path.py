from __future__ import annotations

import pytest
import torch

from supermask.errors import MaskError
from supermask.measure import path_curves


def test_curves_by_hand() -> None:
    results = {
        "path/a": torch.tensor([[1, -1, 3], [3, 3, -1]], dtype=torch.int32),
        "path/b": torch.tensor([2, 5], dtype=torch.int32),
        "other": torch.zeros(2),
    }
    curves = path_curves(results)
    assert list(curves) == ["a", "b"]
    assert curves["a"].tolist() == [0, 1, 1, 4, 4, 4]
    assert curves["b"].tolist() == [0, 0, 1, 1, 1, 2]


def test_a_given_length_pads_and_cuts() -> None:
    results = {"path/a": torch.tensor([1, 3], dtype=torch.int32)}
    assert path_curves(results, 5)["a"].tolist() == [0, 1, 1, 2, 2, 2]
    assert path_curves(results, 2)["a"].tolist() == [0, 1, 1]


def test_nothing_entered() -> None:
    assert path_curves({"path/a": torch.full((2, 2), -1, dtype=torch.int32)})["a"].tolist() == [0]


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(MaskError, match="no path.*names: other"):
        path_curves({"other": torch.zeros(2)})
    with pytest.raises(MaskError, match="path of a must hold integers"):
        path_curves({"path/a": torch.zeros(2)})
