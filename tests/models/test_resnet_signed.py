from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supermask.models import build
from supermask.models.resnet_signed import IdentityBlock, ProjectionBlock

from .helpers import norm as batch_norm
from .helpers import parameters, randomize_norms, weights


def counts(model: nn.Module) -> tuple[int, int]:
    """Weights of convolutions and linear layers, and parameters of batch norms."""
    return weights(model), parameters(model) - weights(model)


@pytest.mark.parametrize(
    ("name", "options", "prunable", "affine"),
    [
        ("resnet20-signed", {}, 248_624, 1_600),
        ("resnet20-signed", {"width": 1.5}, 558_600, 2_400),
        ("resnet20-signed", {"width": 2}, 992_352, 3_200),
        ("resnet20-signed", {"width": 2.5}, 1_549_880, 4_000),
        ("resnet20-signed", {"width": 3}, 2_231_184, 4_800),
        ("resnet56-signed", {"classes": 100}, 834_992, 4_288),
        ("resnet110-signed", {"classes": 100}, 1_705_904, 8_320),
    ],
)
def test_counts_of_the_specification(name: str, options: dict[str, float], prunable: int, affine: int) -> None:
    assert counts(build(name, **options)) == (prunable, affine)


def test_counts_of_the_masked_resnet110() -> None:
    assert counts(build("resnet110-signed-masked", classes=100))[0] == 1_668_272


def test_resnet56_with_batch_norm_is_the_published_number() -> None:
    assert sum(counts(build("resnet56-signed"))) == 839_280


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    model = build(name).eval()
    seen: dict[str, tuple[int, ...]] = {}
    for key, module in model.named_modules():
        module.register_forward_hook(lambda _, __, out, key=key: seen.__setitem__(key, tuple(out.shape[1:])))
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    return seen


def test_sizes_in_the_baseline_resnet110() -> None:
    seen = shapes("resnet110-signed")
    assert seen["stem"] == (16, 32, 32)
    assert seen["stem.conv"] == (16, 32, 32)
    for stage, shape in ((1, (16, 32, 32)), (2, (32, 16, 16)), (3, (64, 8, 8))):
        assert {seen[f"stage{stage}.block{block}"] for block in range(1, 19)} == {shape}
        assert f"stage{stage}.block19" not in seen
    assert seen["fc"] == (100,)


def test_sizes_in_the_masked_resnet110() -> None:
    seen = shapes("resnet110-signed-masked")
    assert seen["stem"] == (16, 32, 32)
    for stage, first, second in (
        (1, (16, 32, 32), (16, 32, 32)),
        (2, (32, 16, 16), (32, 8, 8)),
        (3, (64, 4, 4), (64, 2, 2)),
    ):
        assert {seen[f"stage{stage}.block{block}"] for block in range(1, 10)} == {first}
        assert {seen[f"stage{stage}.block{block}"] for block in range(10, 19)} == {second}


@pytest.mark.parametrize(
    ("name", "projections"),
    [
        ("resnet20-signed", {1}),
        ("resnet56-signed", {1}),
        ("resnet110-signed", {1}),
        ("resnet110-signed-masked", {1, 10}),
    ],
)
def test_which_blocks_project(name: str, projections: set[int]) -> None:
    model = build(name)
    for stage, stride in ((1, 1), (2, 2), (3, 2)):
        blocks = list(getattr(model, f"stage{stage}"))
        found = {number for number, block in enumerate(blocks, start=1) if isinstance(block, ProjectionBlock)}
        assert found == projections
        for number in projections:
            block = blocks[number - 1]
            assert block.conv1.kernel_size == block.shortcut.conv.kernel_size == (1, 1)
            assert block.conv1.stride == block.shortcut.conv.stride == (stride, stride)
            assert block.conv2.kernel_size == (3, 3)


def test_names_a_reader_expects() -> None:
    keys = build("resnet20-signed").state_dict().keys()
    for key in (
        "stem.conv.weight",
        "stem.bn.running_var",
        "stage1.block1.conv1.weight",
        "stage1.block1.shortcut.conv.weight",
        "stage1.block1.shortcut.bn.weight",
        "stage3.block3.bn2.bias",
        "fc.weight",
    ):
        assert key in keys


def norm(x: Tensor, module: nn.Module, training: bool) -> Tensor:
    return batch_norm(x, module, training, eps=1e-3)


def projection_by_hand(block: ProjectionBlock, x: Tensor, stride: int, training: bool) -> Tensor:
    main = F.conv2d(x, block.conv1.weight, stride=stride)
    main = F.elu(norm(main, block.bn1, training))
    main = F.conv2d(main, block.conv2.weight, padding=1)
    main = F.elu(norm(main, block.bn2, training))
    shortcut = norm(F.conv2d(x, block.shortcut.conv.weight, stride=stride), block.shortcut.bn, training)
    return F.elu(main + shortcut)


def identity_by_hand(block: IdentityBlock, x: Tensor, training: bool) -> Tensor:
    main = F.elu(norm(F.conv2d(x, block.conv1.weight, padding=1), block.bn1, training))
    return F.elu(norm(F.conv2d(main, block.conv2.weight, padding=1), block.bn2, training) + x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_projection_block_by_hand(stride: int, training: bool) -> None:
    torch.manual_seed(1)
    block = ProjectionBlock(4, 6, stride, "elu").double().train(training)
    randomize_norms(block)
    x = torch.randn(3, 4, 8, 8, dtype=torch.float64)
    expected = projection_by_hand(block, x, stride, training)
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_identity_block_by_hand(training: bool) -> None:
    torch.manual_seed(2)
    block = IdentityBlock(5, "elu").double().train(training)
    randomize_norms(block)
    x = torch.randn(3, 5, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(block(x), identity_by_hand(block, x, training), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["resnet20-signed", "resnet110-signed-masked"])
def test_whole_network_by_hand(name: str) -> None:
    torch.manual_seed(3)
    model = build(name, width=0.25, channels=1, classes=7).double().eval()
    randomize_norms(model)
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    h = F.elu(norm(F.conv2d(x, model.stem.conv.weight, padding=1), model.stem.bn, False))
    h = F.pad(h, (1, 1, 1, 1), value=-torch.inf).unfold(2, 3, 1).unfold(3, 3, 1).amax((-1, -2))
    for stage, stride in ((model.stage1, 1), (model.stage2, 2), (model.stage3, 2)):
        for number, block in enumerate(stage, start=1):
            if number == 1 or (number == 10 and name.endswith("masked")):
                h = projection_by_hand(block, h, stride, False)
            else:
                h = identity_by_hand(block, h, False)
    expected = h.mean((2, 3)) @ model.fc.weight.t()
    torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-10)
