"""What the lab itself costs: how much of the time of an experiment's workers goes into training steps.

    python benchmarks/lab.py [--runs 20] [--seconds 30] [--workers N] [--model fcn|conv2] [--method NAME]
        [--test-every N]

Trains runs of about that many seconds each on worker processes, on random images of MNIST's (fcn) or CIFAR-10's (conv2) size
in an npz file, with all that a run does: initial weights, evaluation after every epoch, checkpoints each minute, result
files. The epochs of a run are chosen by `supermask plan --measure`'s own function. Times are wall times.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from interleaved import machine

from supermask.lab.cost import measure
from supermask.lab.events import Event
from supermask.lab.load import Experiment, make_experiment
from supermask.lab.plan import expand
from supermask.lab.run import run_experiment
from supermask.lab.runner import Runner
from supermask.lab.store import read_metrics, read_results, run_folder

SHAPES = {"fcn": ((60_000, 28, 28), 10_000), "conv2": ((50_000, 32, 32, 3), 10_000)}


def write_images(path: Path, model: str) -> None:
    """Random images and labels as an npz file."""
    generator = np.random.default_rng(0)
    shape, n_test = SHAPES[model]
    arrays: dict[str, Any] = {}
    for split, n in (("train", shape[0]), ("test", n_test)):
        arrays[f"{split}_images"] = generator.integers(0, 256, (n, *shape[1:]), dtype=np.uint8)
        arrays[f"{split}_labels"] = generator.integers(0, 10, n)
    np.savez(path, **arrays)


def experiment(images: Path, model: str, method: str, epochs: int, runs: int, test_every: int) -> Experiment:
    """As many runs as there are seeds."""
    raw: dict[str, Any] = {
        "name": "lab",
        "model": {"name": model},
        "data": {"name": "npz", "file": str(images)},
        "method": {"name": method},
        "train": {
            "epochs": epochs,
            "test_every": test_every,
            "optimizer": {"name": "sgdw", "lr": 1e-3, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-5},
            "schedule": {"name": "cosine"},
        },
        "vary": {"seed": runs},
    }
    return make_experiment(raw)


def train(chosen: Experiment, out: Path, workers: int) -> tuple[float, list[tuple[float, Event]]]:
    """Wall time of the experiment, and its events with the time at which they came."""
    events: list[tuple[float, Event]] = []
    start = time.monotonic()

    def note(event: Event) -> None:
        events.append((time.monotonic() - start, event))

    outcome = run_experiment(chosen, out=out, workers=workers, on_event=note)
    wall = time.monotonic() - start
    if outcome.failed:
        raise SystemExit(f"a run failed: {outcome.failed[0].message}")
    return wall, events


def warm_starts(chosen: Experiment, events: Sequence[tuple[float, Event]], out: Path, workers: int) -> list[float]:
    """Seconds from the end of a run to the first step of the next one in the same worker.

    The driver gives runs away in the order of the plan, so the k-th one to end is followed by the k-th of those that
    waited. What lies between the start of a run and its first step is its first epoch less its steps and its test.
    """
    ended = [when for when, event in events if event.kind == "done"]
    started = {event.run: when for when, event in events if event.kind == "started"}
    first_epoch = {event.run: event.seconds or 0.0 for _, event in events if event.kind == "epoch" and event.epoch == 1}
    found = []
    for end, spec in zip(ended, expand(chosen)[workers:]):
        steps_and_test = read_metrics(run_folder(out, chosen.name, spec.id))[0]["seconds"]
        found.append(started[spec.id] - end + first_epoch[spec.id] - steps_and_test)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=30.0, help="wished length of a run")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--model", choices=list(SHAPES), default="fcn")
    parser.add_argument("--method", default="signed-supermask")
    parser.add_argument("--test-every", type=int, default=1, help="epochs from one test to the next")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images, out = Path(folder) / "images.npz", Path(folder) / "runs"
        write_images(images, asked.model)
        one_epoch = experiment(images, asked.model, asked.method, 1, 1, 1)
        (epoch,) = measure(expand(one_epoch), Runner(), workers=1).values()
        epochs = max(1, round(asked.seconds / epoch))
        chosen = experiment(images, asked.model, asked.method, epochs, asked.runs, asked.test_every)
        wall, events = train(chosen, out, asked.workers)
        seconds = [result["seconds"] for result in read_results(out)]
        gaps = warm_starts(chosen, events, out, asked.workers)
    print(f"benchmarks/lab.py: {machine()}, {asked.workers} workers of 1 thread, wall time")
    print(
        f"{asked.runs} runs of {asked.model}, {asked.method}, {epochs} epochs, tested every {asked.test_every}: {wall:.1f} s"
    )
    total = {key: sum(run[key] for run in seconds) for key in ("train", "evaluate", "total")}
    starting = sum(sorted(when for when, event in events if event.kind == "started")[: asked.workers])
    ends = sorted(when for when, event in events if event.kind == "done")[-asked.workers :]
    parts = {
        "training steps": total["train"],
        "tests after epochs": total["evaluate"],
        "rest of the runs": total["total"] - total["train"] - total["evaluate"],
        "start of the workers": starting,
        "workers that wait for the last run": sum(wall - end for end in ends),
    }
    parts["between the runs"] = wall * asked.workers - sum(parts.values())
    for name, value in parts.items():
        print(f"  {name:<36} {value:>8.2f} s  {100 * value / (wall * asked.workers):>6.2f} %")
    if gaps:
        print(
            f"  warm start: median {statistics.median(gaps):.3f} s, worst {max(gaps):.3f} s (n = {len(gaps)}), from the end "
            "of a run to the next one's first step"
        )


if __name__ == "__main__":
    main()
