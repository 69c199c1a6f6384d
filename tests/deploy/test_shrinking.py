"""Shrinking with channel groups written by hand: what is sliced, what follows, what is checked and what is refused."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from supermask import RandomMask
from supermask.core.groups import ChannelGroup, Structure
from supermask.deploy import Patch, ShrinkCertificate, shrink
from supermask.deploy.identity import checksum
from supermask.deploy.patching import named
from supermask.errors import PackedFileError, PackError, StructureError

from .smaller import (
    Heads,
    Rows,
    Tied,
    behind_norm,
    example,
    heads_structure,
    outputs,
    own,
    random_keeps,
    rows_structure,
    small_net,
    small_structure,
    structure_of,
    tied_structure,
    without,
)


def test_channels_of_zeros_go_and_nothing_else_changes() -> None:
    net = small_net()
    structure = small_structure(net)
    shrunk_by_hand = shrink(
        net, example(), keeps={"conv1": without(8, 1, 6), "fc1": without(5, 0)}, structure=structure, zero=True
    )
    with torch.no_grad():
        for tensor in (net.conv1.weight, net.conv1.bias, net.bn1.weight, net.bn1.bias):
            tensor[[1, 6]] = 0
        net.fc1.weight[0] = net.fc1.bias[0] = 0
    before = copy.deepcopy(net.state_dict())
    shrunk = shrink(net, example(), structure=structure)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    small = shrunk.model
    assert type(small) is type(net)
    assert {name: keep.tolist() for name, keep in shrunk.keeps.items()} == {
        "conv1": [True, False, True, True, True, True, False, True],
        "fc1": [False, True, True, True, True],
    }
    assert (small.conv1.out_channels, small.bn1.num_features, small.conv2.in_channels) == (6, 6, 6)
    assert (small.fc1.in_features, small.fc1.out_features, small.fc2.in_features) == (24, 4, 4)
    assert torch.equal(small.conv1.weight, net.conv1.weight[[0, 2, 3, 4, 5, 7]])
    assert torch.equal(small.conv2.weight, net.conv2.weight[:, [0, 2, 3, 4, 5, 7]])
    assert torch.equal(small.bn1.running_var, net.bn1.running_var[[0, 2, 3, 4, 5, 7]])
    assert list(small.state_dict()) == list(net.state_dict())
    assert shrunk.groups == {"conv1": (8, 6), "conv2": (6, 6), "fc1": (5, 4)}
    assert shrunk.params == (sum(p.numel() for p in net.parameters()), sum(p.numel() for p in small.parameters()))
    assert shrunk.macs == (64 * 216 + 16 * 432 + 120 + 20, 64 * 162 + 16 * 324 + 96 + 16)
    torch.testing.assert_close(outputs(small, example(7)), outputs(net, example(7)), rtol=0, atol=1e-5)
    assert torch.equal(outputs(small, example(7)), outputs(shrunk_by_hand.model, example(7)))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), share=st.floats(0.0, 1.0))
def test_random_channels(seed: int, share: float) -> None:
    net = small_net(seed % 3)
    structure = small_structure(net)
    keeps = random_keeps(structure, seed, share)
    shrunk = shrink(net, example(), keeps=keeps, structure=structure, zero=True)
    for group in structure.removable():
        assert shrunk.groups[group.name] == (group.channels, int(keeps[group.name].sum()))
    for name, tensor in named(shrunk.model).items():
        assert tuple(tensor.shape) == structure.lengths(name, keeps)
    assert shrunk.params.after == sum(p.numel() for p in shrunk.model.parameters())
    assert Patch.from_dict(json.loads(json.dumps(shrunk.patch.to_dict()))) == shrunk.patch
    again = small_net(seed % 3)
    shrunk.patch.apply(again)
    assert checksum(named(again)) == shrunk.certificate.shrunk


def test_what_the_model_was_it_stays() -> None:
    net = small_net().to(memory_format=torch.channels_last)
    net.conv1.weight.requires_grad_(False)
    net.bn2.eval()
    calls: list[int] = []
    net.conv2.register_forward_hook(lambda *_: calls.append(1))
    shrunk = shrink(
        net,
        example(),
        keeps={"conv1": without(8, 0), "conv2": without(6, 5)},
        structure=small_structure(net),
        zero=True,
    )
    small = shrunk.model
    assert [p.requires_grad for p in small.parameters()] == [p.requires_grad for p in net.parameters()]
    assert [m.training for m in small.modules()] == [m.training for m in net.modules()]
    assert small.training
    assert not small.bn2.training
    assert [name for name, _ in small.named_parameters()] == [name for name, _ in net.named_parameters()]
    assert small.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    assert not small.conv2.weight.is_contiguous()
    assert small.fc1.weight.is_contiguous()
    calls.clear()
    F.cross_entropy(small(example()), torch.tensor([0, 1])).backward()
    assert calls == [1]
    assert small.conv2.weight.grad is not None


def test_tied_weights_stay_tied() -> None:
    net = Tied()
    shrunk = shrink(net, example(2, (3,)), keeps={"first": without(6, 2, 3)}, structure=tied_structure(net), zero=True)
    assert shrunk.model.again.weight is shrunk.model.middle.weight
    assert shrunk.model.again.in_features == shrunk.model.again.out_features == 4
    assert shrunk.patch.aliases == {"again.weight": "middle.weight"}
    assert shrunk.patch.modules["again"] == {"in_features": (6, 4), "out_features": (6, 4)}


def test_a_channel_that_is_not_zero_is_refused_with_the_way_out() -> None:
    net = small_net()
    structure = small_structure(net)
    keeps = {"conv1": without(8, 1, 6)}
    with pytest.raises(
        StructureError, match=r"conv1: 2 of the channels to remove are not zero \(1, 6\).*zero=True sets"
    ):
        shrink(net, example(), keeps=keeps, structure=structure)
    with torch.no_grad():
        net.conv1.weight[[1, 6]] = 0
        net.conv1.bias[[1, 6]] = 0
    with pytest.raises(StructureError, match="conv1: 2 of"):  # the shift of the batch norm still speaks
        shrink(net, example(), keeps=keeps, structure=structure)
    assert shrink(net, example(), keeps=keeps, structure=structure, zero=True).groups["conv1"] == (8, 6)
    with torch.no_grad():
        net.conv1.weight[1] = 1  # what is behind a zero scale and shift may be anything
        net.bn1.weight[[1, 6]] = 0
        net.bn1.bias[[1, 6]] = 0
    assert shrink(net, example(), structure=structure).groups["conv1"] == (8, 6)


def test_a_channel_that_nobody_reads_may_be_anything() -> None:
    net = small_net()
    with torch.no_grad():
        net.conv2.weight[:, 3] = 0
    structure = small_structure(net)
    assert shrink(net, example(), structure=structure).params.ratio == 1.0
    assert shrink(net, example(), keeps={"conv1": without(8, 3)}, structure=structure).groups["conv1"] == (8, 7)


def test_masks_choose_channels() -> None:
    net = small_net()
    mask = torch.ones_like(net.conv2.weight, dtype=torch.bool)
    mask[4] = False
    mask[2, 1] = False
    structure = small_structure(net)
    shrunk = shrink(net, example(), masks={"conv2.weight": mask}, structure=structure, zero=True)
    assert list(shrunk.keeps) == ["conv2"]
    assert shrunk.keeps["conv2"].tolist() == without(6, 4).tolist()
    with pytest.raises(StructureError, match="give one of them"):
        shrink(net, example(), masks={}, keeps={}, structure=structure)


def test_a_group_of_zeros_keeps_one_channel() -> None:
    net = small_net()
    with torch.no_grad():
        for name in ("conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias"):
            net.get_parameter(name).zero_()
    shrunk = shrink(net, example(), structure=small_structure(net))
    assert shrunk.groups["conv1"] == (8, 1)
    assert shrunk.model.conv1.weight.shape == (1, 3, 3, 3)


def loud(net: nn.Module, **changes: Any) -> Structure:
    """The structure of the small net with another first group."""
    structure = small_structure(net)
    first = structure["conv1"]
    group = ChannelGroup("conv1", 8, changes.pop("members", first.members), **changes)
    return structure_of(net, (group, *structure.groups[1:]), {})


def test_what_does_not_keep_zeros_is_refused() -> None:
    net = small_net()
    net.act1 = nn.Sigmoid()
    structure = loud(net, quiet=False)
    for zero in (False, True):
        with pytest.raises(
            StructureError, match="conv1: 1 channels cannot be removed.*a sigmoid for example; keep them"
        ):
            shrink(net, example(), keeps={"conv1": without(8, 2)}, structure=structure, zero=zero)
    with torch.no_grad():
        for name in ("conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias"):
            net.get_parameter(name)[0] = 0
    assert shrink(net, example(), structure=structure).params.ratio == 1.0


def test_a_wrong_structure_is_found_by_the_comparison_and_its_group_named() -> None:
    net = small_net()
    net.act1 = nn.Sigmoid()
    keeps = {"conv1": without(8, 2), "conv2": without(6, 1)}
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(
        StructureError, match=r"gives other outputs: .* only these groups lose their channels: conv1 \(diff"
    ):
        shrink(net, example(), keeps=keeps, structure=loud(net), zero=True)  # it says quiet
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    forgotten = loud(small_net(), members=behind_norm("conv1", "bn1", 8))
    with pytest.raises(
        StructureError, match=r"cannot be run: RuntimeError: .*lose their channels: conv1 \(RuntimeError"
    ):
        shrink(small_net(), example(), keeps=keeps, structure=forgotten, zero=True)
    with torch.no_grad():
        net.fc2.bias[0] = math.nan
    with pytest.raises(StructureError, match="outputs of other shapes, or the outputs are not finite"):
        shrink(net, example(), keeps={"fc1": without(5, 1)}, structure=small_structure(net), zero=True)


def test_rounding_is_told_from_a_mistake() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 4))
    members = (own("0.weight", 300, 0, "out"), own("0.bias", 300, 0, "out"), own("2.weight", 300, 1, "in"))
    structure = structure_of(net, (ChannelGroup("0", 300, members),), {})
    x, keeps = example(2, (64,)), {"0": without(300, *range(0, 199, 3))}
    with torch.no_grad():
        net[2].weight *= 1e6
    with pytest.raises(StructureError, match=r"allowed is 1e-05 \(tolerance\), the largest output is [0-9.e+]+"):
        shrink(net, x, keeps=keeps, structure=structure, zero=True)
    found = shrink(net, x, keeps=keeps, structure=structure, zero=True, tolerance=10.0).certificate
    assert 0 < found.max_difference < 1e-5 * found.largest_output
    double = shrink(net.double(), x.double(), keeps=keeps, structure=structure, zero=True).certificate
    assert 0 < double.max_difference < 1e-7


def test_the_certificate() -> None:
    net = small_net()
    x = example()
    shrunk = shrink(net, x, keeps={"conv1": without(8, 2)}, structure=small_structure(net), zero=True, examples=9)
    certificate = shrunk.certificate
    assert (certificate.examples, certificate.random, certificate.agreement) == (12, 10, 1.0)
    assert certificate.max_difference <= certificate.tolerance == 1e-5
    assert certificate.torch == torch.__version__
    assert certificate.reference == "the plain model, set to zero where channels were removed"
    assert certificate.shrunk == checksum(named(shrunk.model))
    assert certificate.dense != checksum(named(net))
    assert ShrinkCertificate.from_dict(json.loads(json.dumps(certificate.to_dict()))) == certificate
    with pytest.raises(PackedFileError, match="examples is 'many'"):
        ShrinkCertificate.from_dict({**certificate.to_dict(), "examples": "many"})
    with pytest.raises(PackedFileError, match="it has examples"):
        ShrinkCertificate.from_dict({"examples": 1})


class Sigmoids(nn.Module):
    """Outputs of any size and type; a channel of zeros does not reach the second layer as zero."""

    def __init__(self, scale: complex) -> None:
        super().__init__()
        self.a, self.b, self.scale = nn.Linear(4, 8), nn.Linear(8, 3), scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.sigmoid(self.a(x))) * self.scale


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (1e-6, r"allowed is .* \(a thousandth of the largest output\), .* lose their channels: a \(difference"),
        (1e-6j, r"allowed is .* \(a thousandth of the largest output\)"),
        (1j, r"allowed is 1e-05 \(tolerance\)"),
        (0.0, "every output of the model is zero"),
    ],
)
def test_small_and_complex_outputs_hide_no_mistake(scale: complex, message: str) -> None:
    net = Sigmoids(scale)
    wrong = Structure.by_hand(net, {"a": {"out": ["a"], "in": ["b"]}})  # it says quiet
    with pytest.raises(StructureError, match=message):
        shrink(net, torch.randn(3, 4), structure=wrong, keeps={"a": without(8, 1)}, zero=True)


def test_complex_models(tmp_path: Path) -> None:
    kind = torch.complex128
    net = nn.Sequential(nn.Linear(4, 8, dtype=kind), nn.Linear(8, 3, dtype=kind))
    x = torch.randn(3, 4, dtype=torch.complex128)
    shrunk = shrink(net, x, keeps={"0": without(8, 1, 2)}, zero=True)
    with pytest.raises(PackError, match="hold no tensors of the type torch.complex128"):
        shrunk.save(tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())
    assert shrunk.certificate.agreement is None
    assert shrunk.certificate.largest_output > 0
    assert shrunk.model[1].weight.shape == (3, 6)


class Auxiliary(nn.Module):
    """A second head in training mode, which reads the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.second = (nn.Linear(i, o) for i, o in ((4, 8), (8, 6), (6, 3), (8, 3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.a(x))
        z = self.c(F.relu(self.b(y)))
        return z + self.second(y) if self.training else z


def test_what_is_read_in_training_mode_only_is_not_forgotten() -> None:
    net, x = Auxiliary(), torch.randn(3, 4)
    with pytest.raises(
        StructureError, match=r"cannot be run in training mode.* their channels: a \(RuntimeError.*; what"
    ):
        shrink(net, x, keeps={"a": without(8, 1), "b": without(6, 1)}, zero=True)
    assert shrink(net, x, keeps={"b": without(6, 1)}, zero=True).model.b.out_features == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": math.inf}, "tolerance must be a finite number >= 0, got inf"),
        ({"tolerance": -1.0}, "tolerance must be a finite number >= 0, got -1.0"),
        ({"tolerance": "1e-5"}, "tolerance must be a finite number >= 0, got '1e-5'"),
        ({"examples": 0}, "examples must be a whole number >= 1, got 0"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StructureError, match=message):
        shrink(small_net(), example(), **options)


def test_a_model_that_cannot_be_copied() -> None:
    net = small_net()
    with pytest.warns(FutureWarning):
        torch.nn.utils.weight_norm(net.fc2)
    with pytest.raises(StructureError, match=r"cannot be copied with copy.deepcopy: .*remove_weight_norm"):
        shrink(net, example(), keeps={"conv1": without(8, 1)}, zero=True)


def test_gradients_of_the_dense_model_do_not_stay() -> None:
    net = small_net()
    patch = shrink(net, example(), keeps={"conv1": without(8, 1)}, structure=small_structure(net), zero=True).patch
    net(example()).sum().backward()
    patch.apply(net)
    assert all(parameter.grad is None for parameter in net.parameters())
    net(example()).sum().backward()
    assert net.conv1.weight.grad.shape == net.conv1.weight.shape


def test_low_precision_is_compared_in_float32() -> None:
    net = small_net().bfloat16()
    shrunk = shrink(
        net, example().bfloat16(), keeps={"conv1": without(8, 2)}, structure=small_structure(net), zero=True
    )
    assert shrunk.model.conv1.weight.dtype == torch.bfloat16
    assert shrunk.certificate.max_difference <= 1e-5


def test_generators_are_left_alone() -> None:
    net = small_net()
    before = torch.random.get_rng_state()
    shrink(net, example(), keeps={"conv1": without(8, 2)}, structure=small_structure(net), zero=True)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_is_not_plain_or_another_model_is_refused() -> None:
    net = small_net()
    structure = small_structure(net)
    sparsifier = RandomMask(density=0.5).attach(net)
    with pytest.raises(
        StructureError, match=r"conv1 carries a mask or another parametrization still; call finalize\(\)"
    ):
        shrink(net, example(), structure=structure)
    sparsifier.finalize()
    net.fc2 = nn.Linear(5, 3)
    with pytest.raises(
        StructureError, match=r"fc2.weight has shape \(3, 5\), in the structure \(4, 5\); is it the structure"
    ):
        shrink(net, example(), structure=structure)
    with pytest.raises(StructureError, match="there is no channel group 'conv9'"):
        shrink(small_net(), example(), keeps={"conv9": without(8)}, structure=structure)
    with pytest.raises(StructureError, match=r"the model does not take the example \(2, 4\)"):
        shrink(small_net(), torch.zeros(2, 4), keeps={"conv1": without(8, 1)}, structure=structure, zero=True)


def test_a_number_of_an_own_module_follows_where_it_is_said() -> None:
    net = Heads()
    x = example(2, (5, 6))
    keeps = {"query": without(3, 1)}
    with pytest.raises(StructureError, match=r"say it: follows=\{'heads': 'query'\}"):
        shrink(net, x, keeps=keeps, structure=heads_structure(net), zero=True)
    shrunk = shrink(net, x, keeps=keeps, structure=heads_structure(net), zero=True, follows={"heads": "query"})
    assert (shrunk.model.heads, shrunk.model.query.out_features, shrunk.model.out.in_features) == (2, 4, 4)
    assert shrunk.patch.modules[""] == {"heads": (3, 2)}
    for wrong, message in (
        ({"layers": "query"}, "follows: layers must be a whole number of a module, got None"),
        ({"none.heads": "query"}, "follows: none.heads must be a whole number"),
        ({"heads": "nobody"}, "there is no channel group 'nobody'"),
    ):
        with pytest.raises(StructureError, match=message):
            shrink(net, x, keeps=keeps, structure=heads_structure(net), zero=True, follows=wrong)
    net.heads = 1
    with pytest.raises(
        StructureError, match="heads is 1 for the 3 channels of 'query'; there is no whole number for 2"
    ):
        shrink(net, x, keeps=keeps, structure=heads_structure(net), zero=True, follows={"heads": "query"})


def test_a_recurrent_layer_reads_fewer_inputs() -> None:
    net = Rows()
    shrunk = shrink(
        net, example(2, (6, 3)), keeps={"embed": without(5, 0, 4)}, structure=rows_structure(net), zero=True
    )
    assert shrunk.macs is None  # this structure does not say how often weights are used
    assert shrunk.model.lstm.input_size == 3
    assert shrunk.model.lstm.weight_ih_l0_reverse.shape == (16, 3)
    assert shrunk.patch.modules["lstm"] == {"input_size": (5, 3)}
    shrunk.model(example(2, (6, 3))).sum().backward()
    assert shrunk.model.lstm.weight_ih_l0.grad is not None
