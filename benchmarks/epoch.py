"""An epoch of the lab against the loop most people write, on FCN and MNIST-sized data.

    python benchmarks/epoch.py [--rounds N]

Lab: a signed supermask, tensors in memory, reshuffled every epoch, SGDW and its schedule. Reference: the same network trained
densely with DataLoader(TensorDataset, batch_size=128, shuffle=True, num_workers=0) and torch.optim.SGD in its default form. The
data are random numbers of MNIST's size (60,000 x 784): values do not change the time. Evaluation is in neither. One thread.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interleaved import header, measure, ratio  # sets OMP_WAIT_POLICY before torch is imported

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from supermask import models
from supermask.data import DataSet, Split
from supermask.lab.load import make_experiment
from supermask.lab.metrics import MetricsFile
from supermask.lab.plan import expand
from supermask.lab.train import Trainer

EXAMPLES, FEATURES = 60_000, (1, 28, 28)


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


def lab_epoch(method: str, data: DataSet, folder: Path) -> Callable[[], None]:
    """The lab's own epoch, without evaluation."""
    (spec,) = expand(make_experiment(experiment(method)))
    trainer = Trainer(spec.config(), 0, data, folder, torch.device("cpu"), MetricsFile(folder / f"{method}.jsonl"))
    trainer._start_round()

    def epoch() -> None:
        trainer._train_epoch()
        trainer.epoch += 1
        trainer.batch = 0

    return epoch


def loader_epoch(data: DataSet) -> Callable[[], None]:
    """The loop most people write."""
    model = models.build("fcn")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    loader = DataLoader(TensorDataset(data.train.x, data.train.y), batch_size=128, shuffle=True)

    def epoch() -> None:
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    split = Split(
        torch.randn(EXAMPLES, *FEATURES, generator=generator), torch.randint(10, (EXAMPLES,), generator=generator)
    )
    data = DataSet("random", split, split, tuple("0123456789"), "", {"kind": "none"})
    print(header("benchmarks/epoch.py"))
    with tempfile.TemporaryDirectory() as folder:
        candidates = {
            "DataLoader + dense SGD": loader_epoch(data),
            "lab, dense": lab_epoch("dense", data, Path(folder)),
            "lab, signed-supermask": lab_epoch("signed-supermask", data, Path(folder)),
        }
        times = measure(candidates, rounds=arguments.rounds, calls=1, warmup=1)
    for name, values in times.items():
        median, low, high = ratio(times["DataLoader + dense SGD"], values)
        seconds = sorted(values)[len(values) // 2]
        print(f"{name:<24} {seconds:.3f} s, {median:.2f}x faster [{low:.2f}, {high:.2f}] (n = {len(values)} epochs)")


if __name__ == "__main__":
    main()
