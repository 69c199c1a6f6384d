from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from supermask import SignedSupermask
from supermask.core.batchnorm import freeze_batchnorm, norms_beside, unfreeze_batchnorm
from supermask.core.zoo import ZOO
from supermask.errors import UnsupportedModuleError

from .helpers import noise

ZOO_MODEL = ZOO["conv+bn"]
METHOD = SignedSupermask()


def test_a_fresh_frozen_batch_norm_divides_by_the_root_of_one_plus_eps() -> None:
    norm = nn.BatchNorm2d(3, eps=1e-3).double()  # Keras's eps: the paper's factor .9995
    freeze_batchnorm({"norm": norm})
    x = noise(4, 3, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(norm(x), x / 1.001**0.5, rtol=1e-14, atol=0)
    assert norm.num_batches_tracked is not None
    assert int(norm.num_batches_tracked) == 0


@pytest.mark.parametrize("cls", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm])
def test_every_batch_norm_is_meant(cls: type[nn.Module]) -> None:
    norm = cls(2)
    assert list(norms_beside(nn.Sequential(norm), [norm])) == ["0"]
    freeze_batchnorm({"0": norm})
    assert not norm.training


def test_it_survives_train_eval_deepcopy_and_training() -> None:
    model = ZOO_MODEL.build()
    s = METHOD.attach(model)
    before = {k: v.clone() for k, v in model.state_dict().items() if k.startswith("bn")}
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.1)
    s.bind(optimizer, total_steps=3)
    copied = copy.deepcopy(model)
    for net in (model, copied):
        for mode in (True, False, True):
            net.train(mode)
            assert not net.bn1.training
            assert net.conv1.training is mode
    for step in range(3):
        optimizer.zero_grad()
        x, y = ZOO_MODEL.batch(step)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        copied(x)
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value), name
        assert torch.equal(copied.state_dict()[name], value), name
    assert all(model.bn1.weight is not p for group in s.param_groups() for p in group["params"])
    assert "bn1.weight" in s.summary()
    # the copy is frozen by itself, not through the original
    unfreeze_batchnorm(s.frozen_norms)
    assert model.train().bn1.training
    assert not copied.train().bn1.training


def test_finalize_gives_it_back() -> None:
    model = ZOO_MODEL.build()
    s = METHOD.attach(model)
    model.train()
    x = ZOO_MODEL.batch()[0]
    out = model(x)
    s.finalize()
    assert torch.equal(model(x), out)  # still in inference mode
    model.train()
    assert model.bn1.training
    assert model.bn1.weight.requires_grad
    assert not torch.equal(model(x), out)


def test_what_the_user_froze_stays_frozen() -> None:
    model = ZOO_MODEL.build()
    model.bn1.weight.requires_grad_(False)
    METHOD.attach(model).finalize()
    assert not model.bn1.weight.requires_grad
    assert model.bn1.bias.requires_grad


def test_trained_batch_norm_trains() -> None:
    model = ZOO_MODEL.build()
    s = SignedSupermask(batchnorm="trained").attach(model)
    model.train()
    assert model.bn1.training
    model(ZOO_MODEL.batch()[0])
    assert int(model.bn1.num_batches_tracked) == 1
    assert "bn1.weight" in s._parameters()


def test_a_batch_norm_without_statistics_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False))
    with pytest.raises(UnsupportedModuleError, match="1 has track_running_stats=False and computes from each batch"):
        METHOD.attach(model)
    assert type(model[0]) is nn.Conv2d
    assert model.train()[1].training
    SignedSupermask(batchnorm="trained").attach(model)


def test_weight_decay_does_not_reach_a_frozen_batch_norm() -> None:
    """Also when the optimizer was built on all parameters."""
    model = ZOO_MODEL.build()
    s = METHOD.attach(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    s.bind(optimizer, total_steps=1)
    nn.functional.cross_entropy(model(ZOO_MODEL.batch()[0]), ZOO_MODEL.batch()[1]).backward()
    optimizer.step()
    assert bool((model.bn1.weight == 1.0).all())
    assert not bool(model.bn1.bias.any())


def test_scale_and_shift_alone() -> None:
    norm = nn.BatchNorm1d(3)
    frozen = freeze_batchnorm({"norm": norm}, statistics=False)
    norm(noise(8, 3))
    assert norm.training
    assert int(norm.num_batches_tracked or 0) == 1
    assert not any(p.requires_grad for p in norm.parameters())
    unfreeze_batchnorm(frozen)
    assert all(p.requires_grad for p in norm.parameters())
    assert norm.eval().train().training


def test_scale_and_shift_of_a_norm_without_statistics() -> None:
    norm = nn.BatchNorm1d(3, track_running_stats=False)
    freeze_batchnorm({"norm": norm}, statistics=False)
    assert not norm.weight.requires_grad


def test_norms_in_a_list_of_their_own_belong_beside_its_neighbours() -> None:
    """One level up, and only where the list holds nothing else."""

    class Lists(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList([nn.Conv1d(2, 2, 1), nn.Conv1d(2, 2, 1)])
            self.norms = nn.ModuleList([nn.BatchNorm1d(2), nn.BatchNorm1d(2)])
            self.other = nn.Sequential(nn.BatchNorm1d(2), nn.ELU())

    model = Lists()
    assert list(norms_beside(model, [model.convs[0]])) == ["norms.0", "norms.1"]
    assert list(norms_beside(nn.ModuleList([nn.ModuleList([Lists().norms]), model.convs]), [model.convs[0]])) == []
    s = SignedSupermask().attach(model)
    assert not any(".bias" not in name for name, p in model.norms.named_parameters() if p.requires_grad)
    assert not model.norms.train()[0].training
    assert len(s.frozen_norms) == 2
