"""Cost of a training step against the same dense step with torch's fused SGD.

    python benchmarks/step.py [fcn conv2 conv4 conv6] [--rounds N]

Batch 128, random inputs of the data set's shape, one thread, processes set up as the lab's workers. SET and RigL are measured
with and without an event in the step; "every 100" is the mean of 99 steps without and one with it.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from interleaved import LAB, header, measure, ratio

from supermask import Magnitude, Method, RandomMask, SignedSupermask, models, optim
from supermask.methods import SET, DessiLBI, EdgePopup, RigL

SHAPES = {"fcn": (1, 28, 28), "conv2": (3, 32, 32), "conv4": (3, 32, 32), "conv6": (3, 32, 32)}
EVERY = 100
METHODS: dict[str, Method] = {
    "signed-supermask": SignedSupermask(),
    "random": RandomMask(),
    "magnitude": Magnitude(),
    "edge-popup": EdgePopup(),
    "dessilbi": DessiLBI(),
    "set without event": SET(every=10**7),
    "set with event": SET(every=1),
    "rigl without event": RigL(every=10**7),
    "rigl with event": RigL(every=1),
}
REFERENCE = "dense, fused SGD"


def candidate(name: str) -> Callable[[], None]:
    """One forward, backward and optimizer step of ``"NETWORK: METHOD, OPTIMIZER"``."""
    network, _, rest = name.partition(": ")
    method, _, kind = rest.partition(", ")
    torch.manual_seed(0)
    model = models.build(network)
    x, y = torch.randn(128, *SHAPES[network]), torch.randint(10, (128,))
    sparsifier = METHODS[method].attach(model) if method in METHODS else None
    parameters = list(model.parameters()) if sparsifier is None else sparsifier.param_groups()
    optimizer: torch.optim.Optimizer
    if kind == "SGDW":
        optimizer = optim.SGDW(parameters, lr=1e-3, momentum=0.9, nesterov=True, weight_decay=1e-5)
    else:
        optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, nesterov=True, fused=True)
    if sparsifier is not None:
        sparsifier.bind(optimizer, total_steps=10**6)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(SHAPES), metavar="NETWORK")
    parser.add_argument("--rounds", type=int, default=0, help="rounds (default: 100 for fcn, 15 for the others)")
    arguments = parser.parse_args()
    print(header("benchmarks/step.py"))
    print(f"{'network':<8} {'step':<30} {'ms':>9}  ratio to {REFERENCE}")
    for network in arguments.networks:
        small = network == "fcn"
        steps = [REFERENCE, "signed-supermask, fused SGD", "dense, SGDW", "signed-supermask, SGDW"]
        if network in ("fcn", "conv2"):
            steps += [f"{name}, fused SGD" for name in METHODS if name != "signed-supermask"]
        rounds = arguments.rounds or (100 if small else 15)
        environments = {f"{network}: {step}": LAB for step in steps}
        times = measure(candidate, environments, rounds=rounds, calls=10 if small else 1, warmup=20 if small else 2)
        for name in ("set", "rigl"):
            keys = [f"{network}: {name} {event} event, fused SGD" for event in ("without", "with")]
            if keys[0] in times:
                pairs = zip(*(times[key] for key in keys), strict=True)
                times[f"{network}: {name} every {EVERY}, fused SGD"] = [a + (b - a) / EVERY for a, b in pairs]
        for name, values in times.items():
            median, low, high = ratio(values, times[f"{network}: {REFERENCE}"])
            step = name.partition(": ")[2]
            spread = f"{median:.3f} [{low:.3f}, {high:.3f}]"
            print(
                f"{network:<8} {step:<30} {1e3 * statistics.median(values):>9.3f}  {spread} (n = {rounds})", flush=True
            )


if __name__ == "__main__":
    main()
