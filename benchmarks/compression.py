"""The compression columns of tables 3 and 13 of the signed supermask, with masks at the published densities.

    python benchmarks/compression.py [conv2 conv4 conv6 conv8 resnet20 ...] [--speed] [--clock cpu]

The masks are random, half of the remaining weights inverted: what is published is a share for the whole network. For Conv2 to
Conv8 it is spread over the layers as `docs/performance.md` says (convolutions keep far more than the large linear layer), for
ResNets evenly, which is what costs most bytes at a given total. A network that was trained here has its own column in
`supermask report signed-supermask/table-3` once `supermask pack RUN` has packed it.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from interleaved import machine
from torch import Tensor, nn

from supermask import models
from supermask.deploy import pack, trace
from supermask.measure import sizes


@dataclass(frozen=True)
class Network:
    """One row of a table.

    Args:
        table: Its number.
        model: Name in the catalogue.
        options: Of the model.
        density: One for all layers (published), or one a layer in their order.
    """

    table: int
    model: str
    options: dict[str, Any]
    density: float | Sequence[float]


NETWORKS = {
    "conv2": Network(3, "conv2", {}, (0.30, 0.10, 0.0045, 0.03, 0.20)),
    "conv4": Network(3, "conv4", {}, (0.30, 0.10, 0.10, 0.09, 0.021, 0.03, 0.20)),
    "conv6": Network(3, "conv6", {}, (0.30, 0.10, 0.08, 0.06, 0.04, 0.03, 0.0032, 0.03, 0.20)),
    "conv8": Network(3, "conv8", {}, (0.30, 0.10, 0.04, 0.03, 0.02, 0.015, 0.01, 0.008, 0.0086, 0.02, 0.20)),
    "resnet20": Network(13, "resnet20-signed", {}, 0.2113),
    "resnet20x2": Network(13, "resnet20-signed", {"width": 2.0}, 0.0769),
    "resnet20x3": Network(13, "resnet20-signed", {"width": 3.0}, 0.0406),
    "resnet56": Network(13, "resnet56-signed", {"classes": 100}, 0.2939),
    "resnet110": Network(13, "resnet110-signed", {"classes": 100}, 0.2064),
}


def masked(network: Network) -> tuple[nn.Module, dict[str, Tensor]]:
    """The model with random signed constants where its mask remains, and its sign masks."""
    torch.manual_seed(0)
    model = models.build(network.model, **network.options)
    weights = {name: p for name, p in model.named_parameters() if p.dim() > 1}
    density = network.density
    shares = [density] * len(weights) if isinstance(density, float) else list(density)
    signs = {}
    for (name, weight), share in zip(weights.items(), shares, strict=True):
        remaining = round(share * weight.numel())
        sign = torch.zeros(weight.numel(), dtype=torch.int8)
        sign[:remaining] = 1
        sign[: remaining // 2] = -1
        signs[name] = sign[torch.randperm(sign.numel())].reshape(weight.shape)
        magnitude = math.sqrt(3 / weight[0].numel())
        weight.data = signs[name] * torch.tensor(magnitude)
    for module in model.modules():  # statistics of a trained network are not those of one that saw nothing
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model.eval(), signs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--speed", action="store_true", help="also the engine beside the fastest dense contender")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--batch", default="1,128")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--compile-seconds", type=float, default=0.0)
    arguments = parser.parse_args()
    print(f"benchmarks/compression.py: {machine()}")
    print(
        "| table | network | remaining % | float32 bytes | packed bytes | packed % | two-bit % | index % | entropy % |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.smk.safetensors" for name in arguments.networks}
        for name, path in paths.items():
            print(row(name, path), flush=True)
        for name, path in paths.items() if arguments.speed else ():
            print(speed(name, path, arguments), flush=True)


def row(name: str, path: Path) -> str:
    """One line of the table; writes the packed file."""
    network = NETWORKS[name]
    model, signs = masked(network)
    shape = models.MODELS[network.model].input_shape
    graph, _ = trace(model, torch.zeros(1, *shape))
    report = pack(model, path, architecture={"name": network.model, "options": network.options}, graph=graph.to_dict())
    total = sum(p.numel() for p in model.parameters())
    counted = sizes(total, {key: sign != 0 for key, sign in signs.items()}, signs)
    dense = counted["dense_float32"]
    rates = [
        1 - size / dense for size in (report.size, counted["two_bit"], counted["sparse_index"], counted["entropy"])
    ]
    remaining = sum(int(sign.count_nonzero()) for sign in signs.values()) / sum(sign.numel() for sign in signs.values())
    cells = [
        str(network.table),
        name,
        f"{100 * remaining:.2f}",
        f"{dense:,}",
        f"{report.size:,}",
        *(f"{100 * rate:.2f}" for rate in rates),
    ]
    return f"| {' | '.join(cells)} |"


def speed(name: str, path: Path, arguments: argparse.Namespace) -> str:
    """What ``supermask bench`` says of a packed file."""
    from supermask.lab.bench import Options, bench

    clock: Literal["wall", "cpu"] = "cpu" if arguments.clock == "cpu" else "wall"
    options = Options(
        batches=tuple(map(int, arguments.batch.split(","))),
        clock=clock,
        rounds=arguments.rounds,
        compile_seconds=arguments.compile_seconds,
    )
    return f"{name}: {bench({'place': str(path)}, options=options)['verdict']}"


if __name__ == "__main__":
    main()
