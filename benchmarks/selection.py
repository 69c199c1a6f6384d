"""Exact selection of the k largest scores against ``torch.kthvalue`` and a full sort.

    python benchmarks/selection.py [--rounds N]

4.19 million scores of float32 (a normal distribution), one thread. All candidates begin with the scores and end with the mask
of the largest magnitudes: ``kthvalue`` is ``|scores|``, torch.kthvalue and a comparison, ``sort`` the same with a sort;
``ours`` is topk_mask by magnitude, which also refuses NaN and counts ties, ``numpy`` the same without the compiled kernels.
"equal scores" has a single value, so that half of all is a tie. Once as a user's program runs (glibc gives memory back after
every call), once as the lab's workers do.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from interleaved import LAB, PLAIN, header, measure, ratio
from torch import Tensor

from supermask.tensors.topk import topk_mask

SIZE = 4_194_304
KEPT = {"0.5 %": 0.005, "50 %": 0.5, "50 % of equal scores": 0.5}


def candidate(name: str) -> Callable[[], Tensor]:
    """``"KEPT: kthvalue"``, ``sort``, ``ours`` or ``numpy``."""
    kept, _, which = name.partition(": ")
    torch.manual_seed(0)
    scores = torch.ones(SIZE) if "equal" in kept else torch.randn(SIZE)
    k = int(KEPT[kept] * SIZE)

    def kthvalue() -> Tensor:
        magnitude = scores.abs()
        return magnitude >= torch.kthvalue(magnitude, SIZE - k + 1).values

    def sort() -> Tensor:
        magnitude = scores.abs()
        return magnitude >= magnitude.sort(descending=True).values[k - 1]

    def ours() -> Tensor:
        return topk_mask(scores, k, magnitude=True)

    return {"kthvalue": kthvalue, "sort": sort, "ours": ours, "numpy": ours}[which]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="rounds (default: 20)")
    rounds = parser.parse_args().rounds
    print(header("benchmarks/selection.py"))
    print(f"{'kept':<22} {'memory':<10} {'candidate':<10} {'ms':>8}  times faster is ours")
    for kept in KEPT:
        for memory, environment in (("given back", PLAIN), ("kept", LAB)):
            environments = {f"{kept}: {which}": environment for which in ("kthvalue", "sort", "ours")}
            environments[f"{kept}: numpy"] = environment | {"SUPERMASK_KERNELS": "off"}
            times = measure(candidate, environments, rounds=rounds, calls=3, warmup=2)
            for name, values in times.items():
                median, low, high = ratio(values, times[f"{kept}: ours"])
                spread = f"{median:.2f} [{low:.2f}, {high:.2f}] (n = {rounds})"
                which, milliseconds = name.partition(": ")[2], 1e3 * statistics.median(values)
                print(f"{kept:<22} {memory:<10} {which:<10} {milliseconds:>8.2f}  {spread}", flush=True)


if __name__ == "__main__":
    main()
