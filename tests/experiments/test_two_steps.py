"""Every distinct setting of every experiment that ships trains: two optimizer steps on a little generated data.

Settings that differ in nothing but numbers of the method or of the training are one here.
"""

import dataclasses
import json
import math
import warnings

import pytest
import torch

from supermask.core.parametrizations import Masked
from supermask.data import DATASETS, DataSet, Split
from supermask.lab.load import index, load_experiment
from supermask.lab.metrics import MetricsFile
from supermask.lab.plan import expand
from supermask.lab.train import Trainer
from supermask.models import MODELS

SHAPES = {
    "mnist": (1, 28, 28),
    "fashion-mnist": (1, 28, 28),
    "digits": (1, 8, 8),
    "cifar10": (3, 32, 32),
    "cifar100": (3, 32, 32),
    "tiny-imagenet": (3, 64, 64),
    "imagenet": (3, 224, 224),
}
CLASSES = {"cifar100": 100, "tiny-imagenet": 200, "imagenet": 1000}
STEPS = 2
BATCH = 4


def distinct():
    """One run of each setting, seed 0, under the first name that it has."""
    found = {}
    for shipped in index():
        if shipped.kind != "literature":
            for spec in expand(load_experiment(shipped.id, settings=["vary.seed=1"])):
                marks = [pytest.mark.slow] if is_large(spec.sections["model"]["name"]) else []
                run = pytest.param(spec, id=f"{shipped.id}: {spec.label}", marks=marks)
                found.setdefault(kind_of(spec.sections), run)
    return list(found.values())


def is_large(model):
    """Whether a network takes seconds to draw and to score."""
    return model in MODELS and MODELS[model].weights > 8_000_000


def kind_of(sections):
    """The sections as text, without numbers of the method and of the training."""
    return json.dumps(sections | {key: without_numbers(sections[key]) for key in ("method", "train")})


def without_numbers(value):
    if isinstance(value, dict):
        return {key: without_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_numbers(item) for item in value]
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else value


def small(method):
    """A method section that scores weights on no more examples than there are, and prunes in few steps before training."""
    if "per_class" in method:
        method = method | {"per_class": None, "batch_size": STEPS * BATCH}
    limits = {"batch_size": STEPS * BATCH, "iterations": 5}
    limits |= {"steps": 5} if method["name"] == "force" else {}
    return method | {key: min(method[key], limit) for key, limit in limits.items() if key in method}


def generated(name, size):
    """A data set of random images with the shapes of the real one, standardised image by image."""
    classes = CLASSES.get(name, 10)
    images = torch.randn(2 * size, *SHAPES[name], generator=torch.Generator().manual_seed(0))
    labels = torch.arange(2 * size) % classes
    train, test = Split(images[:size], labels[:size]), Split(images[size:], labels[size:])
    return DataSet(name, train, test, tuple(map(str, range(classes))), "generated", {})


class EnoughError(Exception):
    """Two steps are done."""


def test_every_data_set_can_be_generated():
    own = {"npz", "folder", "webdataset"}
    assert set(SHAPES) == set(DATASETS) - own


def is_hidden(target):
    """Whether nothing of a target is left to train, as of pruned biases."""
    return isinstance(target.parametrization, Masked) and target.parametrization.applied and not target.mask.any()


@pytest.mark.parametrize("spec", distinct())
def test_two_steps(spec, tmp_path):
    train = spec.sections["train"] | {"batch_size": BATCH}
    if train["schedule"]["name"] == "warm-up":  # as long as the whole of this training
        train["schedule"] = train["schedule"] | {"steps": STEPS - 1}
    sections = spec.sections | {"train": train, "method": small(spec.sections["method"])}
    config = dataclasses.replace(spec, sections=sections).config()
    data = generated(spec.sections["data"]["name"], STEPS * BATCH)
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    trainer = Trainer(config, spec.seed, data, spec.folder, torch.device("cpu"), metrics)
    hidden = {id(target.parameter) for target in trainer.sparsifier.targets if is_hidden(target)}
    groups = trainer.sparsifier.param_groups()
    trained = [tensor for group in groups for tensor in group["params"] if id(tensor) not in hidden]
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
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # the promised density comes at the end
        masks = trainer.sparsifier.finalize()
    path_begins = sections["method"]["name"] == "dessilbi"  # with nothing
    assert (0 if path_begins else 1) <= masks.remaining() <= masks.total()
