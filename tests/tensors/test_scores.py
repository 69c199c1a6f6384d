from __future__ import annotations

import pytest
import torch

from supermask.tensors.scores import gradient_flow, sensitivity, wide

WEIGHT = torch.tensor([[1.0, -2.0], [0.0, 4.0]], dtype=torch.float64)
DERIVATIVE = torch.tensor([[-3.0, 0.5], [7.0, 0.25]], dtype=torch.float64)


def test_vectors_by_hand() -> None:
    assert sensitivity(WEIGHT, DERIVATIVE).tolist() == [[3.0, 1.0], [0.0, 1.0]]
    assert gradient_flow(WEIGHT, DERIVATIVE).tolist() == [[-3.0, -1.0], [0.0, 1.0]]
    assert gradient_flow(WEIGHT, DERIVATIVE, absolute=True).tolist() == [[3.0, 1.0], [0.0, 1.0]]
    assert WEIGHT.tolist() == [[1.0, -2.0], [0.0, 4.0]]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_scores_are_float32_at_least(dtype: torch.dtype, expected: torch.dtype) -> None:
    assert wide(dtype) is expected
    small = torch.full((1,), 1e-4, dtype=dtype)  # its square underflows in float16
    assert sensitivity(small, small).dtype is expected
    assert sensitivity(small, small).item() > 0
    assert gradient_flow(small, small).dtype is expected
