from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from supermask import FixedMask, Magnitude, Masks, SignedSupermask, save_arrays
from supermask.core.masks import SignedEntry
from supermask.errors import MaskError

from .helpers import bare, batch, train

ENDINGS = pytest.mark.parametrize("ending", [".npz", ".safetensors"])


def checkered(model: nn.Module) -> Masks:
    return FixedMask.examples(model)[0].masks  # type: ignore[return-value]


@ENDINGS
def test_a_mask_from_a_file(tmp_path: Path, ending: str) -> None:
    found = Magnitude(density=0.3, schedule="one-shot").attach(bare(9, 8, 5)).finalize()
    found.save(tmp_path / f"m{ending}")
    model = bare(9, 8, 5)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    s = FixedMask(file=str(tmp_path / f"m{ending}")).attach(model)
    for target in s.targets:
        assert torch.equal(target.weight, start[target.name] * found[target.name])
    train(s, 3)
    masks = s.finalize()
    assert all(torch.equal(masks[name], found[name]) for name in found)
    assert all(torch.equal(model.get_parameter(name) != 0, found[name]) for name in found)


def test_a_file_and_an_object_are_the_same(tmp_path: Path) -> None:
    masks = checkered(bare(9, 8, 5))
    masks.save(tmp_path / "m.npz")
    results = []
    for method in (FixedMask(masks=masks), FixedMask(masks=dict(masks)), FixedMask(file=str(tmp_path / "m.npz"))):
        s = method.attach(bare(9, 8, 5))
        train(s, 3)
        results.append([p.detach().clone() for p in s.model.parameters()])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@ENDINGS
def test_a_signed_mask_inverts_the_initial_weights(tmp_path: Path, ending: str) -> None:
    """A sign mask and the weights that it is relative to make the network that found it; then it trains on."""
    found = bare(9, 8, 5)
    s = SignedSupermask(threshold_rule="relative", threshold=0.4).attach(found)
    frozen = {t.name: t.dense.clone() for t in s.targets}
    train(s, 3)
    masks = s.finalize()
    assert all(set(e.sign_mask.unique().tolist()) == {-1, 0, 1} for e in masks.signed.values())
    masks.save(tmp_path / f"m{ending}")
    model = bare(9, 8, 5)
    other = FixedMask(file=str(tmp_path / f"m{ending}")).attach(model, weights=frozen)
    x = batch(model)[0]
    assert torch.equal(model(x), found(x))
    train(other, 2)
    assert not torch.equal(model(x), found(x))
    assert other.masks().signed == {}


def test_a_signed_mask_on_tied_weights_inverts_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    start = model[0].weight.detach().clone()
    codes = torch.tensor([[1, -1, 0]] * 3, dtype=torch.int8)
    s = FixedMask(masks=Masks({"0.weight": codes != 0}, {"0.weight": SignedEntry(codes)})).attach(model)
    assert torch.equal(s.targets[0].weight, start * codes)
    s.finalize()
    assert torch.equal(model[1].weight, start * codes)
    assert model[1].weight is model[0].weight


def test_a_mask_from_torch_prune() -> None:
    model = bare(9, 8, 5)
    for module in (model[0], model[2]):
        prune.random_unstructured(module, "weight", 0.5)
    x = batch(bare(9, 8, 5))[0]
    out = model(x)
    masks = Masks.from_prune(model)
    fresh = bare(9, 8, 5)
    s = FixedMask(masks=masks).attach(fresh)
    assert torch.equal(fresh(x), out)
    assert s.density() == 0.5


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (bare(9, 8, 5, 3), r"the masks do not fit the model's targets; unknown: 4.weight; known: 0.weight, 2.weight"),
        (bare(9, 8), "the masks do not fit the model's targets; missing: 2.weight; known: 0.weight, 2.weight"),
        (bare(9, 8, 6), r"the masks of 2.weight must have shape \(5, 8\), got \(6, 8\)"),
        (bare(8, 9, 5), r"the masks of 0.weight must have shape \(8, 9\), got \(9, 8\)"),
    ],
)
def test_masks_of_another_model_are_refused(other: nn.Module, message: str) -> None:
    with pytest.raises(MaskError, match=message):
        FixedMask(masks=checkered(other)).attach(bare(9, 8, 5))


def test_a_part_of_the_model_can_be_masked() -> None:
    model = bare(9, 8, 5)
    masks = {"0.weight": checkered(model)["0.weight"]}
    s = FixedMask(masks=masks).attach(model, ignore="2")
    assert s.masks().total() == 72


def test_a_mask_that_hides_everything_is_refused() -> None:
    with pytest.raises(MaskError, match="the mask hides every weight: nothing would remain to train"):
        FixedMask(masks={"weight": torch.zeros(2, 2, dtype=torch.bool)}).attach(nn.Linear(2, 2))


@pytest.mark.parametrize("value", [np.ones((2, 2), bool), torch.ones(2, 2), [[True]]])
def test_masks_must_be_bool_tensors(value: object) -> None:
    with pytest.raises(MaskError, match="the mask of weight must be a bool tensor"):
        FixedMask(masks={"weight": value}).attach(nn.Linear(2, 2))


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match="no such file: .*gone.npz"):
        FixedMask(file=str(tmp_path / "gone.npz")).attach(nn.Linear(2, 2))
    save_arrays(tmp_path / "w.npz", {"weight": torch.randn(2, 2, generator=torch.Generator().manual_seed(0))})
    model = nn.Linear(2, 2)
    with pytest.raises(MaskError, match="the mask of weight holds values other than -1, 0 and 1"):
        FixedMask(file=str(tmp_path / "w.npz")).attach(model)
    (tmp_path / "w.npz").write_bytes((tmp_path / "w.npz").read_bytes()[:-10])
    with pytest.raises(MaskError, match="is damaged or not an npz file"):
        FixedMask(file=str(tmp_path / "w.npz")).attach(model)
    assert type(model) is nn.Linear


def test_the_given_masks_are_not_changed() -> None:
    masks = checkered(bare(9, 8, 5))
    before = {name: mask.clone() for name, mask in masks.items()}
    s = FixedMask(masks=masks).attach(bare(9, 8, 5))
    s.set_mask(s.targets[0], torch.ones_like(s.targets[0].mask))
    assert all(torch.equal(masks[name], mask) for name, mask in before.items())
