"""Every distinct setting of every experiment that ships trains: two optimizer steps on a little generated data."""

import dataclasses
import math

import pytest
import torch

from supermask.data import DATASETS, DataSet, Split
from supermask.lab.load import index, load_experiment
from supermask.lab.metrics import MetricsFile
from supermask.lab.plan import expand
from supermask.lab.train import Trainer

SHAPES = {
    "mnist": (1, 28, 28),
    "fashion-mnist": (1, 28, 28),
    "digits": (1, 8, 8),
    "cifar10": (3, 32, 32),
    "cifar100": (3, 32, 32),
}
STEPS = 2
BATCH = 4


def distinct():
    """One run of each setting, seed 0, under the first name that it has."""
    found = {}
    for shipped in index():
        if shipped.kind != "literature":
            for spec in expand(load_experiment(shipped.id, settings=["vary.seed=1"])):
                found.setdefault(spec.id, pytest.param(spec, id=f"{shipped.id}: {spec.label}"))
    return list(found.values())


def generated(name, size):
    """A data set of random images with the shapes of the real one, standardised image by image."""
    classes = 100 if name == "cifar100" else 10
    images = torch.randn(2 * size, *SHAPES[name], generator=torch.Generator().manual_seed(0))
    labels = torch.arange(2 * size) % classes
    train, test = Split(images[:size], labels[:size]), Split(images[size:], labels[size:])
    return DataSet(name, train, test, tuple(map(str, range(classes))), "generated", {})


class EnoughError(Exception):
    """Two steps are done."""


def test_every_data_set_can_be_generated():
    own = {"npz", "folder"}
    assert set(SHAPES) == set(DATASETS) - own


@pytest.mark.parametrize("spec", distinct())
def test_two_steps(spec, tmp_path):
    train = spec.sections["train"] | {"batch_size": BATCH}
    if train["schedule"]["name"] == "warm-up":  # as long as the whole of this training
        train["schedule"] = train["schedule"] | {"steps": STEPS - 1}
    sections = spec.sections | {"train": train}
    config = dataclasses.replace(spec, sections=sections).config()
    data = generated(spec.sections["data"]["name"], STEPS * BATCH)
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    trainer = Trainer(config, spec.seed, data, spec.folder, torch.device("cpu"), metrics)
    trained = [tensor for group in trainer.sparsifier.param_groups() for tensor in group["params"]]
    before = [tensor.detach().clone() for tensor in trained]
    steps = 0

    def count():
        nonlocal steps
        steps += 1
        if steps == STEPS:
            raise EnoughError

    trainer.look_every, trainer.on_look = 0.0, count
    with torch.random.fork_rng(), pytest.raises(EnoughError):
        trainer.run()
    assert math.isfinite(trainer.mean_loss())
    for tensor, old in zip(trained, before, strict=True):
        assert tensor.isfinite().all()
        assert not torch.equal(tensor, old)
    masks = trainer.sparsifier.finalize()
    assert 0 < masks.remaining() <= masks.total()
