"""Cost of a training step against the same dense step with torch's fused SGD.

    python benchmarks/step.py [fcn conv2 conv4 conv6]

Batch 128, random inputs of the data set's shape, one thread. ``--rounds N`` changes the number of rounds.
"""

from __future__ import annotations

import argparse

from interleaved import header, measure, ratio  # sets OMP_WAIT_POLICY before torch is imported

import torch
import torch.nn.functional as F
from torch import nn

from supermask import Magnitude, Method, RandomMask, SignedSupermask, models, optim

SHAPES = {"fcn": (1, 28, 28), "conv2": (3, 32, 32), "conv4": (3, 32, 32), "conv6": (3, 32, 32)}


class Step:
    """One forward, backward and optimizer step."""

    def __init__(self, network: str, method: Method | None, optimizer: str) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = models.build(network)
        self.x = torch.randn(128, *SHAPES[network])
        self.y = torch.randint(10, (128,))
        sparsifier = None if method is None else method.attach(self.model)
        parameters = list(self.model.parameters()) if sparsifier is None else sparsifier.param_groups()
        self.optimizer: torch.optim.Optimizer
        if optimizer == "sgd":
            self.optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, nesterov=True, fused=True)
        else:
            self.optimizer = optim.SGDW(parameters, lr=1e-3, momentum=0.9, nesterov=True, weight_decay=1e-5)
        if sparsifier is not None:
            sparsifier.bind(self.optimizer, total_steps=10**6)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(self.x), self.y).backward()
        self.optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(SHAPES), metavar="NETWORK")
    parser.add_argument("--rounds", type=int, default=0, help="rounds (default: 100 for fcn, 10 for the others)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(header("benchmarks/step.py"))
    print(f"{'network':<8} {'step':<34} {'ms':>9}  ratio to dense + fused SGD [5 %, 95 %]")
    for network in arguments.networks:
        small = network == "fcn"
        candidates = {
            "dense, fused SGD": Step(network, None, "sgd"),
            "signed-supermask, fused SGD": Step(network, SignedSupermask(), "sgd"),
            "signed-supermask, SGDW": Step(network, SignedSupermask(), "sgdw"),
            "dense, SGDW": Step(network, None, "sgdw"),
        }
        if small:
            candidates["random mask, fused SGD"] = Step(network, RandomMask(), "sgd")
            candidates["gradual magnitude, fused SGD"] = Step(network, Magnitude(), "sgd")
        rounds = arguments.rounds or (100 if small else 10)
        times = measure(candidates, rounds=rounds, calls=10 if small else 1, warmup=20 if small else 1)
        reference = times["dense, fused SGD"]
        for name, values in times.items():
            median, low, high = ratio(values, reference)
            milliseconds = 1e3 * sorted(values)[len(values) // 2]
            print(f"{network:<8} {name:<34} {milliseconds:>9.3f}  {median:.3f} [{low:.3f}, {high:.3f}] (n = {rounds} rounds)")


if __name__ == "__main__":
    main()
