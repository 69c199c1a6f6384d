"""What it is worth that the lab's workers keep freed memory: the same dense Conv2 step with and without it.

python benchmarks/memory.py [--rounds N]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

from interleaved import LAB, PLAIN, header, measure, ratio
from step import REFERENCE, candidate

ENVIRONMENTS = {"glibc's defaults": PLAIN, "memory kept": LAB}


def conv2(_: str) -> Callable[[], None]:
    """A dense Conv2 step; only the process's environment differs."""
    return candidate(f"conv2: {REFERENCE}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    print(header("benchmarks/memory.py"))
    times = measure(conv2, ENVIRONMENTS, rounds=arguments.rounds, calls=1, warmup=2)
    for name, values in times.items():
        median, low, high = ratio(values, times["glibc's defaults"])
        spread = f"{median:.3f} [{low:.3f}, {high:.3f}]"
        print(f"{name:<18} {1e3 * statistics.median(values):>8.1f} ms a step, ratio {spread} (n = {len(values)})")


if __name__ == "__main__":
    main()
