"""The compression columns of tables 3 and 13 of the signed supermask, with masks at the published densities.

    python benchmarks/compression.py [conv2 conv4 conv6 conv8 resnet20 ...] [--decode] [--speed] [--clock cpu]

The masks are random, half of the remaining weights inverted: what is published is a share for the whole network. For Conv2 to
Conv8 it is spread over the layers as `docs/performance.md` says (convolutions keep far more than the large linear layer), for
ResNets evenly, which is what costs most bytes at a given total. A network that was trained here has its own column in
`supermask report signed-supermask/table-3` once `supermask pack RUN` has packed it.

"blob" is the file without its description (architecture, graph), "limit" what it may have: 1.02 times the entropy of
independent masks and signs, 1 KiB, and 64 bytes a layer. `--decode` times C: the lists of positions alone (the package's
kernel), and the whole decoder of `decoders/c`, which also checks the file and writes every zero.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import resource
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from interleaved import machine
from torch import Tensor, nn

from supermask import models
from supermask.core.clock import time_calls
from supermask.deploy import pack, read, trace
from supermask.kernels import rice
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
    parser.add_argument("--decode", action="store_true", help="also how long C takes to decode each file")
    parser.add_argument("--speed", action="store_true", help="also the engine beside the fastest dense contender")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--batch", default="1,128")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--compile-seconds", type=float, default=0.0)
    arguments = parser.parse_args()
    print(f"benchmarks/compression.py: {machine()}")
    print(
        "| table | network | remaining % | float32 bytes | packed bytes | blob | limit | packed % | two-bit % | index % | "
        "entropy % |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.smk.safetensors" for name in arguments.networks}
        for name, path in paths.items():
            print(row(name, path), flush=True)
        for name, path in paths.items() if arguments.decode else ():
            print(decode(name, path, Path(folder), arguments.rounds), flush=True)
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
        f"{report.blob_bytes:,}",
        f"{int(1.02 * sum(layer.entropy_bytes for layer in report.layers) + 1024 + 64 * len(signs)):,}",
        *(f"{100 * rate:.2f}" for rate in rates),
    ]
    return f"| {' | '.join(cells)} |"


def decode(name: str, path: Path, folder: Path, rounds: int) -> str:
    """Time of C for each remaining weight: its position alone, and the whole file (median of CPU time, one thread)."""
    arrays = {key: array for key, array in read(path).arrays().items() if array.ndim > 1}
    places = [np.flatnonzero(array) for array in arrays.values()]
    codes = [
        (np.frombuffer(rice.encode(found), np.uint8), len(found), array.size)
        for found, array in zip(places, arrays.values(), strict=True)
    ]
    remaining = sum(map(len, places))

    def positions() -> None:
        for code, count, universe in codes:
            rice.decode(code, count, universe)

    unpack, free = _c_decoder(folder)
    content = path.read_bytes()
    file = (ctypes.c_void_p * 3)()  # supermask_file: two pointers and a count

    def whole() -> None:
        problem = unpack(content, len(content), 1 << 30, file)
        assert problem is None, problem
        free(file)

    libc = ctypes.CDLL(None)
    libc.calloc.restype, libc.calloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t, ctypes.c_size_t)
    libc.free.argtypes = (ctypes.c_void_p,)

    def memory() -> None:  # as the decoder takes it: zeros from the system, each page of which is written to once
        for array in arrays.values():
            place = libc.calloc(array.nbytes, 1)
            np.ctypeslib.as_array((ctypes.c_uint8 * array.nbytes).from_address(place))[:: resource.getpagesize()] = 1
            libc.free(place)

    cells = []
    for call in (positions, whole, memory):
        time_calls(call, 2, "cpu")
        seconds = [min(time_calls(call, 3, "cpu")) for _ in range(rounds)]
        cells.append(1e9 * statistics.median(seconds) / remaining)
    return (
        f"{name}: {cells[0]:.1f} ns a remaining weight for its position; the whole decoder {cells[1]:.1f} ns, of which taking "
        f"the tensors' zeros from the system {cells[2]:.1f} ns (n = {rounds}, {remaining:,} remaining)"
    )


def _c_decoder(folder: Path) -> tuple[Any, Any]:
    """``supermask_unpack`` and ``supermask_free`` of ``decoders/c``, compiled now."""
    compiler = shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        raise SystemExit("--decode needs a C compiler (cc or clang)")
    source = Path(__file__).parents[1] / "decoders" / "c" / "supermask_unpack.c"
    target = folder / "supermask_unpack.so"
    if not target.exists():
        subprocess.run([compiler, "-std=c11", "-O2", "-shared", "-fPIC", str(source), "-o", str(target)], check=True)
    library = ctypes.CDLL(str(target))
    library.supermask_unpack.restype = ctypes.c_char_p
    library.supermask_unpack.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_void_p)
    library.supermask_free.restype = None
    library.supermask_free.argtypes = (ctypes.c_void_p,)
    return library.supermask_unpack, library.supermask_free


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
