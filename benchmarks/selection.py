"""Exact selection of the k largest scores against ``torch.kthvalue``.

    python benchmarks/selection.py [--rounds N]

4.19 million scores of float32 (a normal distribution), one thread. Both candidates begin with the scores and end with a mask:
``kthvalue`` is ``|scores|``, torch.kthvalue and a comparison; ``ours`` is ``|scores|`` and topk_mask, which also refuses NaN
and counts ties. "equal scores" has a single value, so that half of all is a tie. Once as a user's program runs (glibc gives
memory back after every call), once as the lab's workers do.
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
    """``"KEPT: kthvalue"`` or ``"KEPT: ours"``, and where it runs."""
    kept, _, which = name.partition(": ")
    torch.manual_seed(0)
    scores = torch.ones(SIZE) if "equal" in kept else torch.randn(SIZE)
    k = int(KEPT[kept] * SIZE)

    def kthvalue() -> Tensor:
        magnitude = scores.abs()
        return magnitude >= torch.kthvalue(magnitude, SIZE - k + 1).values

    return kthvalue if which.startswith("kthvalue") else lambda: topk_mask(scores.abs(), k)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="rounds (default: 20)")
    rounds = parser.parse_args().rounds
    print(header("benchmarks/selection.py"))
    print(f"{'kept':<22} {'memory':<10} {'kthvalue, ms':>12} {'ours, ms':>9}  times faster")
    for kept in KEPT:
        for memory, environment in (("given back", PLAIN), ("kept", LAB)):
            names = [f"{kept}: {which}" for which in ("kthvalue", "ours")]
            times = measure(candidate, dict.fromkeys(names, environment), rounds=rounds, calls=3, warmup=2)
            theirs, ours = (times[name] for name in names)
            median, low, high = ratio(theirs, ours)
            shown = [1e3 * statistics.median(values) for values in (theirs, ours)]
            spread = f"{median:.2f} [{low:.2f}, {high:.2f}] (n = {rounds})"
            print(f"{kept:<22} {memory:<10} {shown[0]:>12.1f} {shown[1]:>9.1f}  {spread}", flush=True)


if __name__ == "__main__":
    main()
