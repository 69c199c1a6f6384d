"""How near a budget of measured latency comes to what the real smaller network takes.

    python benchmarks/latency_budget.py [vgg19-bn wrn-16-4] [--budget 0.5] [--turns 3] [--threads 1]

Each turn is what a run with `budget: {latency: 0.5}` does, without the training, and measures everything anew: the layers of
the network, the network itself and one with half the channels; then random channels go until the table says that the budget
is met, once in equal shares and once wherever it may be; then the smaller network is timed beside the dense one, batch 1.
The machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import os
import tempfile

import torch
from interleaved import machine

from supermask import models
from supermask.lab.channels import check_removal, trace
from supermask.methods import RandomChannels

SCOPES = ("uniform", "global")
WITHIN = 0.10  # of the budget


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["vgg19-bn", "wrn-16-4"], metavar="NETWORK")
    parser.add_argument("--budget", type=float, default=0.5, help="fraction of the dense network's latency")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"benchmarks/latency_budget.py: {machine()}, {options.threads} thread(s), batch 1, wall clock, p50")
    print(
        f"{'network':<10} {'turn':>4} {'scope':<8} {'dense ms':>8} {'small ms':>8} {'table':>6} {'measured':>8}  of the budget"
    )
    for name in options.networks:
        for turn in range(options.turns):
            with tempfile.TemporaryDirectory() as folder:
                os.environ["XDG_CACHE_HOME"] = folder  # one measurement for both scopes, none for two turns
                for scope in SCOPES:
                    one(name, turn, scope, options.budget)


def one(name: str, turn: int, scope: str, budget: float) -> None:
    """Meet the budget once, and print what it came to."""
    torch.manual_seed(turn)
    model = models.build(name).eval()
    method = RandomChannels(budget={"latency": budget}, scope=scope)  # type: ignore[arg-type]
    traced = trace(method, model, torch.randn(2, 3, 32, 32))
    assert traced is not None
    sparsifier = method.attach(model, structure=traced.structure, costs=traced.costs, seed=turn)
    keeps = sparsifier.channels()
    sparsifier.finalize()
    found = check_removal(model, traced, keeps)["latency"]
    share = found["fraction"] / budget
    print(
        f"{name:<10} {turn:>4} {scope:<8} {1e3 * found['dense']:>8.2f} {1e3 * found['remaining']:>8.2f} "
        f"{found['predicted'] / found['dense']:>6.3f} {found['fraction']:>8.3f}  "
        f"{share:.3f}: {'within' if abs(share - 1) <= WITHIN else 'NOT WITHIN'} {WITHIN:.0%}",
        flush=True,
    )


if __name__ == "__main__":
    main()
