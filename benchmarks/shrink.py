"""Latency of shrunk networks against the dense one, beside MaskConvNet's table 6.

    python benchmarks/shrink.py [vgg19-bn wrn-28-10] [--macs 0.5 0.4 0.3] [--batch 1 32] [--threads 1 2] [--rounds N] [--spin N]

Uniform widths: every group that can lose channels keeps the same share of them, the largest share at which the
multiply-accumulates stay within the asked fraction; widths are never chosen for speed. In WRN only the inner convolutions of
the blocks lose channels, as in the paper. Which channels go is random, as are the weights: neither changes the latency.

Beside the asked fractions it measures at the paper's own sparsities, where its ratio is the goal; elsewhere the goal is the
ratio of the multiply-accumulates + 0.10. One thread is measured in CPU time, more in wall-clock time, which needs a machine
with nothing else on it. Threads that wait sleep at once; --spin lets them look for work so many times before that.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from interleaved import PLAIN, machine, measure, ratio
from torch import Tensor, nn

from supermask import find_structure, models
from supermask.core.budget import costs_of
from supermask.core.groups import Structure
from supermask.deploy import shrink

SHAPE = (3, 32, 32)
OPTIONS: dict[str, dict[str, Any]] = {
    "vgg19-bn": {},
    "wrn-28-10": {"stride_conv": 2, "shortcut": "raw"},  # the paper's variant
    "vgg16-bn": {},
    "wrn-16-4": {},
}
# FLOP sparsity that was reached, and milliseconds shrunk / dense; MaskConvNet (2019), table 6
PAPER: dict[str, list[tuple[float, float]]] = {
    "vgg19-bn": [(0.5191, 12.94 / 22.45), (0.6235, 11.42 / 22.45), (0.6952, 10.81 / 22.45)],
    "wrn-28-10": [(0.5459, 25.43 / 64.15), (0.5854, 22.79 / 64.15), (0.7258, 19.92 / 64.15)],
}
DENSE = "dense"
MARGIN = 0.10


def uniform(structure: Structure, fraction: float, residual: bool) -> dict[str, Tensor]:
    """Random channels of the same share in every group, within a fraction of the multiply-accumulates."""
    groups = [group for group in structure.removable() if residual or not group.residual]
    cost = costs_of(structure)["macs"]
    order = {g.name: torch.randperm(g.channels, generator=torch.Generator().manual_seed(0)) for g in groups}

    def choose(share: float) -> dict[str, Tensor]:
        return {g.name: order[g.name] < max(1, round(share * g.channels)) for g in groups}

    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(choose(middle)) <= fraction * cost({}) else (low, middle)
    return choose(low)


def network(name: str) -> tuple[nn.Module, Structure]:
    """The dense network."""
    torch.manual_seed(0)
    model = models.build(name, **OPTIONS[name]).eval()
    return model, find_structure(model, torch.zeros(1, *SHAPE))


def candidate(name: str) -> Callable[[], object]:
    """Inference of ``"NETWORK | FRACTION or dense | BATCH | format | residual"``."""
    which, fraction, batch, layout, residual = name.split(" | ")
    model, structure = network(which)
    x = torch.randn(int(batch), *SHAPE)
    if fraction != DENSE:
        keeps = uniform(structure, float(fraction), residual == "shared")
        model = shrink(model, x[:1], keeps=keeps, structure=structure, zero=True, examples=1).model
    if layout == "channels_last":
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        x = x.to(memory_format=torch.channels_last)

    def infer() -> object:
        with torch.inference_mode():
            return model(x)

    return infer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["vgg19-bn", "wrn-28-10"], metavar="NETWORK")
    parser.add_argument(
        "--macs", type=float, nargs="*", default=[0.5, 0.4, 0.3], help="fractions of the dense network's"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=2, help="in a round")
    parser.add_argument("--no-paper", action="store_true", help="leave out the paper's own sparsities")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument(
        "--residual", choices=("inner", "shared"), default="inner", help="whether streams lose channels too"
    )
    parser.add_argument("--spin", type=int, default=0, help="GOMP_SPINCOUNT, of GNU's OpenMP")
    arguments = parser.parse_args()
    print(f"benchmarks/shrink.py: {machine()}; medians of interleaved rounds, ratios paired by round [5 %, 95 %]")
    print(
        f"{'network':<10} {'batch':>5} {'threads':>7} {'MACs':>6} {'kept':>6} {'ms':>8}  {'latency / dense':<22} goal"
    )
    for which in arguments.networks:
        structure = network(which)[1]
        for batch in arguments.batch:
            for threads in arguments.threads:
                table(which, structure, batch, threads, arguments)


def environment(threads: int, spin: int) -> dict[str, str]:
    """Of a process that infers."""
    waiting = {"GOMP_SPINCOUNT": str(spin)} if spin else {}
    return {**PLAIN, **waiting, "OMP_NUM_THREADS": str(threads)}


def table(which: str, structure: Structure, batch: int, threads: int, arguments: argparse.Namespace) -> None:
    """Measure and print the rows of one network at one batch size."""
    layout = "channels_last" if arguments.channels_last else "contiguous"
    paper = {} if arguments.no_paper else {1 - sparsity: value for sparsity, value in PAPER.get(which, [])}
    fractions = [*arguments.macs, *paper]
    names = {f: f"{which} | {f} | {batch} | {layout} | {arguments.residual}" for f in (DENSE, *fractions)}
    times = measure(
        candidate,
        dict.fromkeys(names.values(), environment(threads, arguments.spin)),
        rounds=arguments.rounds,
        calls=arguments.calls,
        warmup=2,
        clock="process_time" if threads == 1 else "perf_counter",
    )
    cost = costs_of(structure)["macs"]
    dense = times[names[DENSE]]
    start = f"{which:<10} {batch:>5} {threads:>7}"
    print(f"{start} {DENSE:>6} {'':>6} {1e3 * statistics.median(dense):>8.2f}", flush=True)
    for fraction in fractions:
        keeps = uniform(structure, fraction, arguments.residual == "shared")
        kept = sum(int(keep.sum()) for keep in keeps.values()) / sum(len(keep) for keep in keeps.values())
        reached = cost(keeps) / cost({})
        median, low, high = ratio(times[names[fraction]], dense)
        goal = paper.get(fraction, reached + MARGIN)
        verdict = (
            f"{goal:.3f} {'paper' if fraction in paper else 'MACs + 0.10'}: {'met' if median <= goal else 'MISSED'}"
        )
        spread = f"{median:.3f} [{low:.3f}, {high:.3f}]"
        milliseconds = 1e3 * statistics.median(times[names[fraction]])
        print(f"{start} {reached:>6.3f} {kept:>6.3f} {milliseconds:>8.2f}  {spread:<22} {verdict}", flush=True)


if __name__ == "__main__":
    main()
