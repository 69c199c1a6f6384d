"""Masks in memory and in files of both formats, our own and foreign ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

from supermask import FixedMask, Masks, RandomMask, SignedSupermask, save_arrays
from supermask.core.masks import SignedEntry
from supermask.core.zoo import ZOO
from supermask.errors import MaskError
from supermask.tensors.philox import Stream

from .helpers import mlp, noise

ENDINGS = (".npz", ".safetensors")
BOTH = pytest.mark.parametrize("ending", ENDINGS)


def signed(seed: int = 3, **fields: object) -> tuple[nn.Module, Masks]:
    model = mlp()
    s = SignedSupermask(threshold_rule="relative", threshold=0.4, **fields).attach(model, seed=seed)  # type: ignore[arg-type]
    return model, s.finalize()


def test_counting() -> None:
    masks = Masks({"a": torch.tensor([True, False, True]), "b": torch.ones(2, 2, dtype=torch.bool)})
    assert (masks.total(), masks.remaining(), len(masks), list(masks)) == (7, 6, 2, ["a", "b"])
    assert masks.density() == 6 / 7
    assert repr(masks) == "Masks(2 tensors, 6 of 7 remain)"


@pytest.mark.parametrize("value", [torch.ones(2), np.ones(2, bool), [True, False], None])
def test_a_mask_is_a_bool_tensor(value: object) -> None:
    with pytest.raises(MaskError, match=r"the mask of w must be a bool tensor \(True = remaining\), got"):
        Masks({"w": value})  # type: ignore[dict-item]


def test_a_sign_mask_must_fit_its_mask() -> None:
    mask = torch.tensor([True, False])
    for codes in ([1, 1], [0, 0], [1, 0, 0]):
        with pytest.raises(MaskError, match="the sign mask of w does not fit its mask"):
            Masks({"w": mask}, {"w": SignedEntry(torch.tensor(codes, dtype=torch.int8))})
    with pytest.raises(MaskError, match="the sign mask of v does not fit"):
        Masks({"w": mask}, {"v": SignedEntry(torch.tensor([1, 0], dtype=torch.int8))})


@BOTH
def test_a_plain_mask_comes_back(tmp_path: Path, ending: str) -> None:
    masks = RandomMask(density=0.3).attach(ZOO["conv+bn"].build()).masks()
    masks.save(tmp_path / f"m{ending}")
    loaded = Masks.load(tmp_path / f"m{ending}")
    assert sorted(loaded) == sorted(masks)
    assert all(torch.equal(loaded[name], mask) and loaded[name].dtype == torch.bool for name, mask in masks.items())
    assert loaded.signed == {}


@BOTH
def test_a_signed_mask_comes_back_with_scale_and_seed(tmp_path: Path, ending: str) -> None:
    _, masks = signed(seed=2**62 + 1)
    masks.save(tmp_path / f"m{ending}")
    loaded = Masks.load(str(tmp_path / f"m{ending}"))
    for name, entry in masks.signed.items():
        other = loaded.signed[name]
        assert torch.equal(loaded[name], masks[name])
        assert torch.equal(other.sign_mask, entry.sign_mask)
        assert other.sign_mask.dtype == torch.int8
        assert (other.scale, other.seed, other.generator) == (entry.scale, 2**62 + 1, f"philox4x32/weights/{name}")


@BOTH
def test_seed_and_mask_are_the_network(tmp_path: Path, ending: str) -> None:
    """What gets shipped: from the file alone, the weights come back exactly."""
    model, masks = signed()
    masks.save(tmp_path / f"m{ending}")
    for name, entry in Masks.load(tmp_path / f"m{ending}").signed.items():
        assert entry.seed is not None
        assert entry.scale is not None
        kind, *path = (entry.generator or "").split("/")
        assert kind == "philox4x32"
        signs = torch.from_numpy(Stream(entry.seed, *path).signs(entry.sign_mask.numel())).reshape(
            entry.sign_mask.shape
        )
        assert torch.equal(model.get_parameter(name), (entry.sign_mask * signs).float() * entry.scale)


def test_a_sign_mask_is_relative_to_the_frozen_weight() -> None:
    model = mlp()
    s = SignedSupermask(threshold_rule="relative", threshold=0.4).attach(model)
    frozen = {t.name: t.dense.clone() for t in s.targets}
    masks = s.finalize()
    for name, entry in masks.signed.items():
        assert set(entry.sign_mask.unique().tolist()) == {-1, 0, 1}
        assert torch.equal(model.get_parameter(name), frozen[name] * entry.sign_mask)
        assert torch.equal(entry.sign_mask != 0, masks[name])


@BOTH
def test_files_of_equal_masks_are_equal(tmp_path: Path, ending: str) -> None:
    """No date of writing is in them, and nothing in random order."""
    for name in ("a", "b"):
        signed()[1].save(tmp_path / f"{name}{ending}")
    assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


# ---------------------------------------------------------------------- files of others


def test_foreign_files_of_plain_arrays_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", a=np.array([1.0, 0.0]), b=np.array([[1, -1, 0]]), c=np.array([True, False]))
    masks = Masks.load(tmp_path / "f.npz")
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "a": [True, False], "b": [[True, True, False]], "c": [True, False],
    }  # fmt: skip
    assert list(masks.signed) == ["b"]
    assert masks.signed["b"].sign_mask.tolist() == [[1, -1, 0]]
    assert (masks.signed["b"].seed, masks.signed["b"].scale) == (None, None)


def test_a_safetensors_file_with_the_usual_metadata_is_read(tmp_path: Path) -> None:
    """Files that torch users write say ``format: pt``."""
    arrays = {"a": torch.tensor([1, 0], dtype=torch.bfloat16), "b": torch.tensor([1, 0, 1], dtype=torch.uint8)}
    save_file(arrays, tmp_path / "f.safetensors", metadata={"format": "pt"})
    masks = Masks.load(tmp_path / "f.safetensors")
    assert (masks["a"].tolist(), masks["b"].tolist()) == ([True, False], [True, False, True])


@pytest.mark.parametrize(
    "values",
    [
        np.array([0.5, 1.0]),
        np.array([2, 0]),
        np.array([np.nan, 1.0]),
        np.array([0, 255], np.uint8),  # torch takes an unsigned 255 for -1
    ],
)
def test_other_values_are_refused(tmp_path: Path, values: object) -> None:
    np.savez(tmp_path / "f.npz", w=values)  # type: ignore[arg-type]
    with pytest.raises(MaskError, match=r"f.npz: the mask of w holds values other than -1, 0 and 1"):
        Masks.load(tmp_path / "f.npz")


def _save_with_notes(path: Path, notes: str) -> None:
    save_arrays(path, {"w": torch.ones(2)}, {"supermask-masks": notes})


@BOTH
def test_a_newer_format_is_refused(tmp_path: Path, ending: str) -> None:
    _save_with_notes(tmp_path / f"m{ending}", json.dumps({"format": 2, "signed": {}}))
    with pytest.raises(MaskError, match="has format 2; this version reads 1"):
        Masks.load(tmp_path / f"m{ending}")


@BOTH
@pytest.mark.parametrize(
    "notes",
    [
        "{",
        "[]",
        "3",
        json.dumps({"format": 1}),
        json.dumps({"format": 1, "signed": {"w": {"colour": 1}}}),
        json.dumps({"format": 1, "signed": {"w": 3}}),
        json.dumps({"format": 1, "signed": 3}),
    ],
)
def test_damaged_notes_are_refused(tmp_path: Path, ending: str, notes: str) -> None:
    _save_with_notes(tmp_path / f"m{ending}", notes)
    with pytest.raises(MaskError, match="is damaged: its notes on signed masks cannot be read"):
        Masks.load(tmp_path / f"m{ending}")


# ---------------------------------------------------------------------- torch.nn.utils.prune


def test_masks_of_torch_prune() -> None:
    model = ZOO["conv+bn"].build()
    prune.l1_unstructured(model.conv1, "weight", 0.5)
    prune.random_structured(model.head, "weight", 0.5, dim=1)
    prune.l1_unstructured(model.head, "bias", 0.5)
    x = ZOO["conv+bn"].batch()[0]
    model.eval()
    out = model(x)
    masks = Masks.from_prune(model)
    assert set(masks) == {"conv1.weight", "head.weight", "head.bias"}
    assert masks["conv1.weight"].dtype == torch.bool
    assert masks["conv1.weight"].float().mean() == 0.5
    for module, name in ((model.conv1, "weight"), (model.head, "weight"), (model.head, "bias")):
        prune.remove(module, name)
    s = FixedMask(masks=masks).attach(model, targets=list(masks))
    assert torch.equal(model(x), out)
    s.finalize()
    assert torch.equal(model(x), out)


def test_a_pruned_root_module_has_no_path() -> None:
    layer = nn.Linear(4, 4)
    prune.l1_unstructured(layer, "weight", 3)
    assert list(Masks.from_prune(layer)) == ["weight"]


def test_a_model_that_was_not_pruned_is_refused() -> None:
    model = mlp()
    model.register_buffer("weight_mask", torch.ones(3))  # somebody else's
    with pytest.raises(MaskError, match="this model carries no masks of torch.nn.utils.prune"):
        Masks.from_prune(model)


def test_masks_are_copies() -> None:
    s = RandomMask(density=0.5).attach(mlp())
    masks = s.masks()
    masks["0.weight"].zero_()
    assert s.density() == 0.5
    assert bool(s.model(noise(2, 12)).any())
