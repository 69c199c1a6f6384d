"""All kernels under AddressSanitizer with UndefinedBehaviorSanitizer, ThreadSanitizer, and valgrind where it is installed.

    python tests/kernels/sanitize.py

The library is compiled with each of them, and program.c calls it: every variant that this processor runs, arrays of
exactly the promised sizes, failing allocations, concurrent callers. Needs gcc or clang; not a part of `make check`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from supermask.kernels import build, library, rice
from supermask.kernels.sparse import (
    Activation,
    AdaptiveAvgPool,
    Add,
    AvgPool,
    Flatten,
    MaxPool,
    Program,
    ScaleShift,
    SparseConv,
    SparseLinear,
    Step,
)
from supermask.kernels.sparse_lowering import lower

PROGRAM = Path(__file__).with_name("program.c")
BASE = "-std=c11 -fPIC -pthread -ffp-contract=off -fno-math-errno"
RENAMED = "-Dmalloc=failing_malloc"  # in the library: program.c has it
TOOLS = {
    "AddressSanitizer": f"{BASE} -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all",
    "ThreadSanitizer": f"{BASE} -g -O1 -fsanitize=thread",
    "valgrind": f"{BASE} -g -O2",
}
VALGRIND = ["valgrind", "--quiet", "--error-exitcode=1", "--leak-check=full", "--show-leak-kinds=all"]


def networks(rng: np.random.Generator) -> Iterator[tuple[list[Step], tuple[int, ...]]]:
    """Steps and input shapes that take every operation of the sparse kernel."""

    def codes(*shape: int) -> np.ndarray:
        return rng.choice([-1, 0, 1], shape, p=[0.2, 0.6, 0.2]).astype(np.int8)

    def values(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * (rng.random(shape) < 0.3)).astype(np.float32)

    def vector(size: int) -> np.ndarray:
        return rng.standard_normal(size).astype(np.float32)

    yield (
        [
            SparseConv(weight=codes(6, 3, 3, 3), scale=vector(6), bias=vector(6), padding=1),
            Activation(kind="elu"),
            MaxPool(kernel=2),
            SparseConv(weight=values(8, 6, 3, 3), stride=2, padding=1),
            ScaleShift(scale=vector(8), shift=vector(8)),
            Activation(kind="relu"),
            Flatten(),
            SparseLinear(weight=values(5, 8 * 4 * 4), bias=vector(5)),
        ],
        (3, 16, 16),
    )
    yield (
        [
            SparseConv(weight=codes(6, 1, 3, 3), scale=vector(6), groups=6, dilation=2, padding=2),
            Activation(kind="gelu"),
            Add(other=0),
            AvgPool(kernel=3, stride=2, padding=1),
            AdaptiveAvgPool(size=1),
            Flatten(),
            SparseLinear(weight=codes(4, 6), scale=vector(4)),
        ],
        (6, 9, 11),
    )
    yield [SparseConv(weight=values(3, 2, 5), padding=2), Activation(kind="tanh")], (2, 300)
    yield [SparseLinear(weight=codes(7, 13), scale=vector(7)), Activation(kind="sigmoid")], (13,)


def cases(folder: Path, variant: str, lanes: int) -> list[Path]:
    """Write down calls of the sparse kernel and of the Rice decoder."""
    rng, paths = np.random.default_rng(0), []
    for number, (steps, shape) in enumerate(networks(rng)):
        program = Program(steps, shape)
        for images in (1, 19):
            lowered = lower(program.steps, program.shapes, lanes, single=images == 1)
            x = rng.standard_normal((images, *shape)).astype(np.float32)
            y = program.run(x)
            words = np.frombuffer(lowered.operations.tobytes(), np.int64)
            sizes = [len(words), len(lowered.operations), len(lowered.ints), len(lowered.floats)]
            sizes += [x[0].size, y[0].size, images, lowered.tile, lowered.arena]
            arrays = [np.array([0, *sizes], np.int64), words, lowered.ints, lowered.floats, x, y]
            paths.append(folder / f"sparse-{variant}-{number}-{images}")
            paths[-1].write_bytes(b"".join(array.tobytes() for array in arrays))
    for number, universe in enumerate((1, 40, 5_000, 3_000_000)):
        positions = np.sort(rng.choice(universe, 1 + universe // 90, replace=False)).astype(np.int64)
        code = rice.encode(positions)
        head = np.array([1, len(code), len(positions), universe], np.int64)
        paths.append(folder / f"rice-{number}")
        paths[-1].write_bytes(head.tobytes() + code + positions.tobytes())
    return paths


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout}{done.stderr}")


def main() -> None:
    found, compiler = library.library(), build._compiler()
    if found is None or compiler is None:
        sys.exit("the kernels must be compiled first: make kernels")
    mask = found.smk_variants()
    variants = [name for bit, name in enumerate(library.VARIANTS) if mask >> bit & 1]
    lanes = {name: getattr(found, f"smk_sparse_lanes_{name}")() for name in variants}
    os.environ[library.SETTING] = "off"  # what is expected comes from numpy
    library.loaded.cache_clear()
    with tempfile.TemporaryDirectory(prefix="supermask-sanitize-") as temporary:
        folder = Path(temporary)
        written = {name: cases(folder, name, lanes[name]) for name in variants}
        for tool, flags in TOOLS.items():
            prefix = VALGRIND if tool == "valgrind" else []
            if prefix and shutil.which("valgrind") is None:
                print(f"{tool}: not installed")
                continue
            checked, program = folder / f"{tool}{build.LIBRARY.suffix}", folder / tool
            failure = build.compile_library(checked, flags=f"{flags} {RENAMED}")
            if failure is not None:
                sys.exit(failure)
            run(
                [
                    *compiler,
                    *flags.split(),
                    f"-I{build.SOURCES}",
                    "-rdynamic",
                    str(PROGRAM),
                    "-o",
                    str(program),
                    "-ldl",
                    "-lm",
                ]
            )
            for name in variants:
                if prefix and name == "avx512":  # valgrind has no AVX-512
                    continue
                run([*prefix, str(program), str(checked), name, *map(str, written[name])])
                print(f"{tool}: {name} is clean", flush=True)


if __name__ == "__main__":
    main()
