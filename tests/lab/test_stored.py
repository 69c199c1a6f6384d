"""Runs on images that stay bytes: what they see, and that they repeat."""

import pytest
import torch
from tests.data import trees

from supermask.data import load
from supermask.lab.plan import expand
from supermask.lab.runner import Runner
from supermask.lab.seeds import augment_seed, batch_order
from supermask.lab.store import read_json
from supermask.lab.train import Trainer

from .helpers import assert_same_run, experiment, only_run, run_here

PATCH = {
    "model": {"name": "fcn", "inputs": 3 * 12 * 12, "hidden": [8], "classes": 3},
    "data": {"name": "imagenet", "classes": 3, "size": 16, "crop": 12, "normalize": "imagenet", "validation": 3},
    "data.augment": {"name": "random-resized-crop", "size": 12},
    "train.batch_size": 4,
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data folder with an ImageNet of three classes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    trees.imagenet(tmp_path / "data" / "imagenet", train=4)
    return tmp_path / "data"


def trainer(root, patch):
    spec = expand(experiment({**PATCH, **patch}))[0]
    config = spec.config()
    return Trainer(config, 0, Runner(data_dir=root).load(config.data, spec), spec.folder, torch.device("cpu"), None)


def test_training_sees_parts_of_whole_images_and_testing_their_middle(root):
    made = trainer(root, {})
    data = load("imagenet", root=root, classes=3, size=16, crop=12, normalize="imagenet", validation=3)
    order = batch_order(0, 2, 9)
    x, y = made._load(made._order(2), 1, 2)
    whole, labels = data.train.batch(order[4:8], whole=True)
    assert whole.shape == (4, 3, 16, 16)
    augment = made.config.data.augment
    assert torch.equal(x, augment(whole, torch.Generator().manual_seed(augment_seed(0, 2, 1))))
    assert torch.equal(y, labels)
    plain = trainer(root, {"data.augment": None})
    assert torch.equal(plain._load(plain._order(2), 1, 2)[0], data.train.batch(order[4:8])[0])
    cropped = trainer(root, {"data.augment": {"name": "subset-crop-flip", "padding": 2}})
    assert cropped._load(None, 0, 1)[0].shape == (4, 3, 12, 12)
    before = data.train.x.clone()
    made.evaluate(made.data.test)
    assert torch.equal(data.train.x, before)


def test_a_run_is_the_same_again(root, tmp_path):
    assert not run_here(PATCH, tmp_path / "a", data_dir=root).failed
    assert not run_here(PATCH, tmp_path / "b", data_dir=root).failed
    first, second = only_run(tmp_path / "a"), only_run(tmp_path / "b")
    assert_same_run(first, second)
    start = read_json(first.env)["starts"][0]["data"]
    assert start["name"] == "imagenet"
    assert len(start["checksum"]) == 64
    result = read_json(first.result)
    assert (result["n_train"], result["n_test"], result["n_validation"]) == (9, 6, 3)


def test_what_takes_part_in_the_run_id():
    def run_id(augment=None, **options):
        section = PATCH["data.augment"] | (augment or {})
        return expand(experiment({**PATCH, "data": PATCH["data"] | options, "data.augment": section}))[0].id

    assert len({run_id(), run_id(classes=3), run_id({"flip": True, "scale": [0.08, 1]})}) == 1
    others = {run_id(classes=4), run_id(crop=10), run_id(size=20), run_id({"scale": [0.5, 1]})}
    assert len({run_id(), *others}) == 5
