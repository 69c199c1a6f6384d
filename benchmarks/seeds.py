"""How much faster several seeds train as one batch than one by one.

    python benchmarks/seeds.py [--model fcn|conv2|conv4|conv6|resnet20] [--method NAME] [--seeds 5] [--device cpu] [--threads 1]
        [--turns 5]

On random images of MNIST's (fcn) or CIFAR-10's size. Each turn is what `supermask plan --measure` does: a new worker process in
which both ways take turns on the same runs. A ratio above 1 is a gain of one batch. Times are wall times.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interleaved import machine
from lab import write_images

from supermask.lab.executors.processes import Local
from supermask.lab.load import Experiment, make_experiment
from supermask.lab.plan import expand
from supermask.lab.runner import Runner
from supermask.lab.seed_choice import choose

MODELS = ("fcn", "conv2", "conv4", "conv6", "resnet20")


def experiment(images: Path, model: str, method: str, seeds: int) -> Experiment:
    """Runs of some seeds, long enough to be measured."""
    raw: dict[str, Any] = {
        "name": "seeds",
        "seeds": "vectorized",
        "model": {"name": model},
        "data": {"name": "npz", "file": str(images)},
        "method": {"name": method},
        "train": {"epochs": 10, "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9}},
        "vary": {"seed": seeds},
    }
    return make_experiment(raw)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="fcn")
    parser.add_argument("--method", default="signed-supermask")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args(arguments)
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.npz"
        write_images(images, "fcn" if options.model == "fcn" else "conv2")
        specs = expand(experiment(images, options.model, options.method, options.seeds))
        runner = Runner(threads=options.threads, device=options.device)
        for turn in range(options.turns):
            choice = choose({options.method: specs}, runner, Local(workers=1), Path(folder) / str(turn))[options.method]
            if choice.ratio is None:
                print(f"{options.model}, {choice.sentence()}")
                return
            ratios.append(choice.ratio)
    print(f"python benchmarks/seeds.py: {machine()}, {options.threads} thread(s), device {options.device}")
    print(
        f"{options.model}, {options.method}: one batch of {options.seeds} seeds is {statistics.median(ratios):.2f} times as "
        f"fast as one by one [{min(ratios):.2f}, {max(ratios):.2f}], {len(ratios)} turns"
    )


if __name__ == "__main__":
    main()
