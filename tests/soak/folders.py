"""Run folders of finished runs by the thousand, written by the code that writes real ones; nothing is trained."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from tests.lab.helpers import experiment
from torch import nn

from supermask.core.masks import Masks
from supermask.lab.files import make_folder, write_json
from supermask.lab.metrics import MetricsFile
from supermask.lab.plan import expand
from supermask.lab.result import make_result
from supermask.lab.runner import ENV_SCHEMA
from supermask.lab.store import run_folder

SEEDS = 20
EPOCHS = 30
LAYERS = 20


def write_runs(out: Path, number: int) -> None:
    """Write that many finished runs below ``out``: settings with 20 seeds each, 30 epochs, networks of 20 layers."""
    random.seed(0)
    rates = [round(0.001 * (1 + index), 4) for index in range(-(-number // SEEDS) - 1)]
    hidden = [8] * (LAYERS - 1)
    patch = {"model": {"name": "fcn", "inputs": 64, "hidden": hidden, "classes": 10}, "train.epochs": EPOCHS}
    variants = {"dense": {}} | {
        f"magnitude-{rate}": {"method": {"name": "magnitude", "density": 0.5}, "train.optimizer.lr": rate}
        for rate in rates
    }
    specs = expand(experiment(patch, vary={"seed": SEEDS, "variant": variants}, name="many"))[:number]
    sizes = [64, *hidden, 10]
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])))
    half = {name: torch.arange(value.numel()).view_as(value) % 2 == 0 for name, value in _weights(model)}
    configs = {spec.label: spec.config() for spec in specs[: len(variants)]}
    for spec in specs:
        folder, config = run_folder(out, spec.experiment, spec.id), configs[spec.label]
        make_folder(folder.path)
        write_json(folder.spec, spec.to_dict())
        start = {"host": "here", "cpu": "a processor", "cores": 2, "device": "cpu", "threads": 1}
        write_json(folder.env, {"schema": ENV_SCHEMA, "starts": [start]})
        metrics = MetricsFile(folder.metrics)
        for epoch in range(1, EPOCHS + 1):
            metrics.append(_line(epoch))
        facts = {
            "n_train": 1437,
            "n_test": 360,
            "n_validation": 0,
            "input_shape": (64,),
            "seconds": {"total": 10.0 + random.random(), "train": 9.0, "evaluate": 0.5},
            "memory": {"peak_rss": 300 * 2**20},
            "threads": 1,
            "processes": 1,
            "device": "cpu",
            "starts": [start],
            "rounds": 1,
            "notes": [],
            "channels": None,
        }
        masks = Masks({} if spec.label == "dense" else half)
        write_json(folder.result, make_result(spec, config, masks, model, metrics.lines, facts))


def _weights(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [(name, value) for name, value in model.named_parameters() if name.endswith("weight")]


def _line(epoch: int) -> dict[str, object]:
    accuracy = random.uniform(0.9, 0.98)
    tested = {"test_loss": random.random(), "test_accuracy": accuracy, "test_metric": accuracy}
    return {"epoch": epoch, "round": 0, "step": 6 * epoch, "train_loss": random.random(), **tested, "seconds": epoch}


_REPORT = """
import resource, sys
from supermask.cli import app
from supermask.lab.memory import peak_rss
try:
    app(["report", sys.argv[1], "--json"])
except SystemExit as end:
    assert not end.code
used = resource.getrusage(resource.RUSAGE_SELF)
sys.stderr.write(f"{used.ru_utime + used.ru_stime} {peak_rss()}")
"""


def report(folder: Path) -> tuple[dict[str, Any], float, int]:
    """What `supermask report FOLDER --json` prints, its processor time in seconds, imports included, and its peak memory."""
    done = subprocess.run([sys.executable, "-c", _REPORT, str(folder)], capture_output=True, text=True, check=True)
    seconds, size = done.stderr.split()
    return json.loads(done.stdout), float(seconds), int(size)
