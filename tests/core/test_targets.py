"""Which weights are found, what they are called, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from supermask import Dense, Masks, Method, RandomMask, SignedSupermask
from supermask.core.targets import find_targets
from supermask.core.zoo import ZOO
from supermask.errors import AttachError, NoTargetsError, UnsupportedModuleError

from .helpers import mlp


def names(model: nn.Module, *args: Any) -> list[str]:
    return [target.name for target in find_targets(model, *args)]


class Everything(nn.Module):
    """One of each kind; only its parameters matter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.embedding = nn.Embedding(5, 4)
        self.conv1 = nn.Conv1d(2, 4, 3)
        self.conv3 = nn.Conv3d(1, 2, 2)
        self.up = nn.ConvTranspose2d(4, 6, 3, groups=2)
        self.norm = nn.BatchNorm2d(4)
        self.layer_norm = nn.LayerNorm(4)
        self.lstm = nn.LSTM(3, 4, proj_size=2)
        self.cell = nn.GRUCell(3, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.bilinear = nn.Bilinear(2, 2, 2)
        self.head = nn.Linear(4, 2)


def test_default_targets() -> None:
    found = {t.name: (t.kind, tuple(t.shape)) for t in find_targets(Everything())}
    assert found == {
        "conv1.weight": ("conv", (4, 2, 3)),
        "conv3.weight": ("conv", (2, 1, 2, 2, 2)),
        "up.weight": ("conv", (4, 3, 3, 3)),
        "lstm.weight_ih_l0": ("recurrent", (16, 3)),
        "lstm.weight_hh_l0": ("recurrent", (16, 2)),
        "cell.weight_ih": ("recurrent", (12, 3)),
        "cell.weight_hh": ("recurrent", (12, 4)),
        "attention.in_proj_weight": ("attention", (12, 4)),
        "attention.out_proj.weight": ("linear", (4, 4)),
        "head.weight": ("linear", (2, 4)),
    }


def test_fans_know_transposed_convolutions() -> None:
    fans = {t.name: t.fans for t in find_targets(Everything())}
    assert fans["conv1.weight"] == (2 * 3, 4 * 3)
    assert fans["up.weight"] == (4 * 9, 3 * 9)
    assert fans["head.weight"] == (4, 2)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("conv*", ["conv1.weight", "conv3.weight"]),
        ("*.weight", ["conv1.weight", "conv3.weight", "up.weight", "attention.out_proj.weight", "head.weight"]),
        ("attention", ["attention.in_proj_weight", "attention.out_proj.weight"]),
        (["head", "lstm.weight_ih*"], ["lstm.weight_ih_l0", "head.weight"]),
        ("bilinear.weight", ["bilinear.weight"]),  # a full name picks anything
        ("scale", ["scale"]),
        ("embedding.weight", ["embedding.weight"]),
    ],
)
def test_globs(patterns: Any, expected: list[str]) -> None:
    assert names(Everything(), patterns) == expected


def test_modules_pick_what_lies_in_them() -> None:
    model = Everything()
    assert names(model, model.attention) == ["attention.in_proj_weight", "attention.out_proj.weight"]
    assert names(model, [model.head, model.cell], model.head) == ["cell.weight_ih", "cell.weight_hh"]
    assert names(model, model) == names(model)


def test_ignore() -> None:
    model = mlp()
    assert names(model, None, "2") == ["0.weight"]
    assert names(model, None, model[0]) == ["2.weight"]
    assert names(model, "*", ["0.weight"]) == ["2.weight"]


def test_a_tie_is_ignored_as_a_whole() -> None:
    model = ZOO["tied"].build()
    assert names(model, None, "second") == ["decoder.weight", "head.weight"]
    assert names(model, None, "embedding.weight") == ["first.weight", "head.weight"]


def test_a_module_used_in_two_places_is_one_target() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    s = SignedSupermask().attach(model)
    assert [t.name for t in s.targets] == ["0.weight"]
    out = model(torch.ones(1, 4))
    s.finalize()
    assert torch.equal(model(torch.ones(1, 4)), out)
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize("method", [Dense(), RandomMask(), SignedSupermask()])
def test_a_model_without_a_targeted_weight_is_refused(method: Method) -> None:
    with pytest.raises(NoTargetsError, match=r"Sequential has no weight to act on: .* was found; name parameters with"):
        method.attach(nn.Sequential(nn.Embedding(3, 4), nn.LayerNorm(4)))
    with pytest.raises(NoTargetsError, match="Its parameters: 0.weight, 0.bias"):
        method.attach(nn.Sequential(nn.LayerNorm(4)))
    with pytest.raises(NoTargetsError, match="Its parameters: none"):
        method.attach(nn.ReLU())
    with pytest.raises(NoTargetsError, match="that requires a gradient is left after ignore"):
        method.attach(mlp(), ignore="*")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "3"}, "'3' matches no weight.* (?i:known): 0.weight, 2.weight"),
        ({"targets": "0.wieght"}, "'0.wieght' matches no weight; did you mean '0.weight'?"),
        ({"targets": ["0", "fc*"]}, r"'fc\*' matches no weight"),
        ({"ignore": "0.weigth"}, "'0.weigth' matches no weight; did you mean '0.weight'?"),
        ({"targets": nn.Linear(1, 1)}, "the given Linear is not a part of this model"),
    ],
)
def test_a_pattern_without_a_match_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NoTargetsError, match=message):
        RandomMask().attach(mlp(), **options)


def test_a_module_without_default_targets_is_refused() -> None:
    model = mlp()
    with pytest.raises(NoTargetsError, match="module '1' matches no weight"):
        find_targets(model, model[1])


# ---------------------------------------------------------------------- unsupported modules, by name


def spectral() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), parametrizations.spectral_norm(nn.Linear(4, 4)))


def pruned() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    prune.l1_unstructured(model[1], "weight", 0.5)
    return model


def lazy() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(4))


def integers() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = nn.Parameter(torch.ones(4, 4, dtype=torch.int64), requires_grad=False)
    return model


def empty() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = nn.Parameter(torch.ones(0, 4))
    return model


def same_memory() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = nn.Parameter(model[0].weight.data)
    return model


def memory_of_an_embedding() -> nn.Module:
    model = nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 4))
    model[1].weight = nn.Parameter(model[0].weight.data)
    return model


UNSUPPORTED = {
    spectral: r"1.weight is computed by the parametrization _SpectralNorm; .*remove_parametrizations\(module, 'weight'\)",
    pruned: r"1.weight is pruned by torch.nn.utils.prune; take its masks with Masks.from_prune\(model\), then .*remove",
    lazy: r"1.weight has no shape yet \(LazyLinear\): run one batch through the model first",
    integers: "1.weight has dtype torch.int64; only floating-point weights are supported",
    empty: r"1.weight has no entries \(shape \(0, 4\)\)",
    same_memory: "0.weight and 1.weight are different parameters over the same memory; tie them by assigning one",
    memory_of_an_embedding: "0.weight and 1.weight are different parameters over the same memory",
}


@pytest.mark.parametrize("build", UNSUPPORTED, ids=lambda build: build.__name__)
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_unsupported_weights_are_refused_by_name(build: Any) -> None:
    for method in (RandomMask(density=0.5), SignedSupermask(), Dense()):
        with pytest.raises(UnsupportedModuleError, match=UNSUPPORTED[build]):
            method.attach(build())


@pytest.mark.parametrize("build", [spectral, pruned, lazy, integers, empty], ids=lambda build: build.__name__)
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_they_can_be_left_out(build: Any) -> None:
    s = RandomMask(density=0.5).attach(build(), ignore="1.weight")
    assert [t.name for t in s.targets] == ["0.weight"]
    if build is not lazy:
        assert sum(len(group["params"]) for group in s.param_groups()) >= 3


def test_memory_may_be_shared_only_outside_the_targets() -> None:
    """Masking one parameter would write zeros into the other, also when that is no target."""
    with pytest.raises(UnsupportedModuleError, match=r"leave both out with ignore=\['0.weight', '1.weight'\]"):
        RandomMask().attach(same_memory(), ignore="1.weight")
    model = same_memory().append(nn.Linear(4, 4))
    assert names(model, None, ["0.weight", "1.weight"]) == ["2.weight"]
    model[1].weight = model[0].weight
    assert names(model) == ["0.weight", "2.weight"]


def test_the_way_out_of_pruned_modules_works() -> None:
    model = pruned()
    masks = Masks.from_prune(model)
    prune.remove(model[1], "weight")
    assert list(masks) == ["1.weight"]
    assert [t.name for t in find_targets(model)] == ["0.weight", "1.weight"]


def test_a_score_is_only_where_one_is_learnt() -> None:
    s = RandomMask().attach(mlp())
    with pytest.raises(AttachError, match="0.weight has no score: the attached method does not learn scores"):
        _ = s.targets[0].score


def test_what_can_be_asked_of_a_target() -> None:
    model = mlp()
    (target, _) = find_targets(model)
    assert target.parametrization is None
    assert target.dense is target.weight is target.parameter is model[0].weight
    assert bool(target.mask.all())
    assert (target.module, target.attribute, target.size) == (model[0], "weight", 192)
    s = SignedSupermask(threshold_rule="relative", threshold=0.5).attach(model)
    target = s.targets[0]
    tau = target.parametrization.high  # type: ignore[union-attr]
    assert torch.equal(target.mask, target.score.abs() > tau)
    assert torch.equal(target.weight, target.dense * ((target.score > tau).float() - (target.score < -tau).float()))


def test_what_the_user_froze_is_left_alone_unless_named() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    s = SignedSupermask().attach(model)
    assert [target.name for target in s.targets] == ["1.weight"]
    assert ["0.weight", "3x4", "12", "not", "targeted,", "frozen"] in [
        line.split() for line in s.summary().splitlines()
    ]
    s.finalize()
    assert torch.equal(model[0].weight, before)
    assert [target.name for target in find_targets(model, "0")] == ["0.weight"]
    model.requires_grad_(False)
    with pytest.raises(NoTargetsError, match="that requires a gradient was found"):
        find_targets(model)


def test_module_types_pick_their_weights() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2), nn.Linear(2, 2))
    assert [target.name for target in find_targets(model, nn.Linear)] == ["2.weight", "3.weight"]
    assert [target.name for target in find_targets(model, ignore=[nn.Conv2d, "3"])] == ["2.weight"]
    with pytest.raises(NoTargetsError, match="LSTM matches no weight; known: 0.weight"):
        find_targets(model, nn.LSTM)
    with pytest.raises(NoTargetsError, match="take globs, modules or module types, got Parameter"):
        find_targets(model, [model[0].weight])  # type: ignore[list-item]


def test_a_model_on_the_meta_device_is_refused() -> None:
    with pytest.raises(UnsupportedModuleError, match="0.weight is on the meta device"):
        find_targets(nn.Sequential(nn.Linear(2, 2, device="meta")))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_the_way_out_of_weight_norm_is_named() -> None:
    with pytest.raises(UnsupportedModuleError, match=r"torch\.nn\.utils\.remove_weight_norm\(module, 'weight'\) first"):
        find_targets(nn.Sequential(nn.utils.weight_norm(nn.Linear(2, 2))))


def test_a_target_shows_itself_in_a_line() -> None:
    assert repr(find_targets(nn.Sequential(nn.Conv2d(1, 4, 3)))[0]) == "Target('0.weight', 4x1x3x3, conv)"
