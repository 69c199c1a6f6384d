"""Small experiments for the tests of the lab."""

import copy
import json
from pathlib import Path

import torch

from supermask.core.masks import Masks
from supermask.lab.load import make_experiment
from supermask.lab.patch import merge, nest
from supermask.lab.plan import expand
from supermask.lab.run import run_experiment
from supermask.lab.runner import Job, Runner
from supermask.lab.store import RunFolder, run_folder

HERE = Path(__file__).parent

BASE = {
    "model": {"name": "fcn", "inputs": 64, "hidden": [16], "classes": 10},
    "data": {"name": "digits"},
    "method": {"name": "dense"},
    "train": {"epochs": 2, "batch_size": 256, "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9}},
}


def experiment(patch=None, *, vary=None, name="test", folder=HERE, plugins=()):
    """The base experiment with dotted keys replaced."""
    raw = merge(copy.deepcopy(BASE), nest(patch or {}, "patch"))
    return make_experiment(
        {"name": name, **raw, "vary": vary or {}, "plugins": [str(plugin) for plugin in plugins]}, folder=folder
    )


def run_here(patch, out, **options):
    """Run in this process; the outcome."""
    vary = options.pop("vary", None)
    return run_experiment(experiment(patch, vary=vary), out=out, workers=0, **options)


def jobs_of(out, patch=None, **options):
    """The jobs of the base experiment with dotted keys replaced, none of them begun."""
    return [Job(spec, run_folder(out, "test", spec.id)) for spec in expand(experiment(patch, **options))]


def stop_after(looks, job):
    """Train a run until somebody wishes it to stop; checkpoints are taken between any two steps."""
    left = iter([False] * looks + [True])
    try:
        Runner(checkpoint_seconds=0)(job, lambda _: None, lambda: next(left))
    except KeyboardInterrupt:
        return
    raise AssertionError("the run ended before it was stopped")


def only_run(out):
    """The folder of the only run below ``out``."""
    (path,) = (path.parent for path in out.rglob("spec.json"))
    return RunFolder(path)


def timeless_metrics(run):
    """The metrics of a run without the times."""
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def timeless_result(run):
    """The result of a run without times and memory."""
    result = json.loads(run.result.read_text())
    return {key: value for key, value in result.items() if key not in ("seconds", "memory")}


def assert_same_run(left, right):
    """Both runs ended bitwise alike."""
    assert left.weights.read_bytes() == right.weights.read_bytes()
    masks, others = Masks.load(left.masks), Masks.load(right.masks)
    assert list(masks) == list(others)
    for name in masks:
        assert torch.equal(masks[name], others[name])
    assert masks.signed.keys() == others.signed.keys()
    for name, entry in masks.signed.items():
        assert torch.equal(entry.sign_mask, others.signed[name].sign_mask)
        assert (entry.scale, entry.seed, entry.generator) == (
            others.signed[name].scale, others.signed[name].seed, others.signed[name].generator
        )  # fmt: skip
    assert timeless_metrics(left) == timeless_metrics(right)
    assert timeless_result(left) == timeless_result(right)
