"""An epoch of the lab against the loop most people write, on FCN and MNIST-sized data.

    python benchmarks/epoch.py [--rounds N]

Lab: tensors in memory, reshuffled every epoch, SGDW with its schedule, in a process set up as the lab's workers. Reference: the
same network trained densely with DataLoader(TensorDataset, batch_size=128, shuffle=True, num_workers=0) and torch.optim.SGD in
its default form, in a plain process. The data are random numbers of MNIST's size (60,000 x 784): values do not change the time.
Evaluation is in neither. One thread.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from interleaved import LAB, PLAIN, header, measure, ratio
from torch.utils.data import DataLoader, TensorDataset

from supermask import models
from supermask.data import DataSet, Split
from supermask.lab.load import make_experiment
from supermask.lab.metrics import MetricsFile
from supermask.lab.plan import expand
from supermask.lab.train import Trainer

EXAMPLES, FEATURES = 60_000, (1, 28, 28)
REFERENCE = "DataLoader, dense SGD"


def experiment(method: str) -> dict[str, Any]:
    """An experiment of one run."""
    return {
        "name": "benchmark",
        "model": {"name": "fcn"},
        "data": {"name": "mnist"},
        "method": {"name": method},
        "train": {
            "epochs": 1_000_000,
            "batch_size": 128,
            "shuffle": True,
            "optimizer": {"name": "sgdw", "lr": 1e-3, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-5},
            "schedule": {"name": "exponential", "rate": 0.96, "every": 3900, "staircase": True},
        },
        "vary": {"seed": [0]},
    }


def random_data() -> DataSet:
    """Random numbers of MNIST's size."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(EXAMPLES, *FEATURES, generator=generator)
    split = Split(x, torch.randint(10, (EXAMPLES,), generator=generator))
    return DataSet("random", split, split, tuple("0123456789"), "", {"kind": "none"})


def lab_epoch(method: str) -> Callable[[], None]:
    """The lab's own epoch, without evaluation."""
    (spec,) = expand(make_experiment(experiment(method)))
    folder = Path(tempfile.gettempdir())  # where references are looked up, and metrics would go: there are none
    metrics = MetricsFile(folder / "unused.jsonl")
    trainer = Trainer(spec.config(), 0, random_data(), folder, torch.device("cpu"), metrics)
    trainer._start_round()

    def epoch() -> None:
        trainer._train_epoch()
        trainer.epoch += 1
        trainer.batch = 0

    return epoch


def loader_epoch() -> Callable[[], None]:
    """The loop most people write."""
    data = random_data()
    model = models.build("fcn")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    loader = DataLoader(TensorDataset(data.train.x, data.train.y), batch_size=128, shuffle=True)

    def epoch() -> None:
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    return epoch


def candidate(name: str) -> Callable[[], None]:
    """What to time, by name."""
    return loader_epoch() if name == REFERENCE else lab_epoch(name.removeprefix("lab, "))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    print(header("benchmarks/epoch.py"))
    environments = {REFERENCE: PLAIN, "lab, dense": LAB, "lab, signed-supermask": LAB}
    times = measure(candidate, environments, rounds=arguments.rounds, calls=1, warmup=1)
    for name, values in times.items():
        median, low, high = ratio(times[REFERENCE], values)
        print(
            f"{name:<24} {statistics.median(values):.3f} s an epoch, {median:.2f}x faster [{low:.2f}, {high:.2f}] "
            f"(n = {len(values)})"
        )


if __name__ == "__main__":
    main()
