"""Compile the C sources of the kernels into one shared library beside this file.

``python src/supermask/kernels/build.py`` does it in a checkout, ``python -m supermask.kernels.build`` in an installed
package; the package's own build runs :func:`compile_library`. It needs nothing but Python and a C compiler (``CC``, or cc,
gcc, clang), and imports nothing of this package, which may not be installed yet.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

SOURCES: Final = Path(__file__).parent / "csrc"
HEADER: Final = SOURCES / "kernels.h"
LIBRARY: Final = Path(__file__).with_name("_kernels.dylib" if sys.platform == "darwin" else "_kernels.so")

# products and sums are rounded one by one, as torch and numpy do: results must not depend on the variant
FLAGS: Final = "-std=c11 -O3 -fPIC -pthread -fvisibility=hidden -ffp-contract=off -fno-math-errno -fno-trapping-math"
WARNINGS: Final = "-Wall -Wextra -Wmissing-prototypes"
_X86: Final = {
    "generic": "",
    "avx2": "-mavx2 -mfma -mbmi2",
    "avx512": "-mavx2 -mfma -mbmi2 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512",
}
_ARM: Final = {"generic": "", "neon": ""}


def declarations(header: Path = HEADER) -> int:
    """The number by which a library and the header it was built from know each other."""
    return int.from_bytes(hashlib.sha256(header.read_bytes()).digest()[:8], "little")


def variants(machine: str) -> dict[str, str]:
    """Variant -> compiler flags, for an architecture."""
    if machine in ("x86_64", "amd64", "AMD64"):
        return _X86
    return _ARM if machine in ("arm64", "aarch64") else {"generic": ""}


def compile_library(output: Path = LIBRARY, *, flags: str = FLAGS) -> str | None:
    """Compile and link every source.

    Args:
        output: The library to write; it is replaced at once, never seen in part.
        flags: Flags for the compiler and the linker.

    Returns:
        None, or why there is no library: no compiler, or what the compiler said. An existing library stays then.
    """
    if sys.platform == "win32":
        return "the kernels are not built on Windows"
    compiler = _compiler()
    if compiler is None:
        return f"no C compiler was found (CC={os.environ['CC']!r})" if "CC" in os.environ else "no C compiler was found"
    # a wheel for another architecture of macOS is asked for by ARCHFLAGS
    architecture = shlex.split(os.environ.get("ARCHFLAGS", "")) if sys.platform == "darwin" else []
    wanted = [word for word in architecture if word != "-arch"]
    kinds = variants(platform.machine() if not wanted else wanted[0] if len(wanted) == 1 else "several")
    common = [*compiler, *shlex.split(flags), *architecture]
    defined = [f"-DSMK_DECLARATIONS={declarations()}ull", *(f"-DSMK_WITH_{name}" for name in kinds)]
    with tempfile.TemporaryDirectory(prefix="supermask-kernels-") as folder:
        commands, objects = [], []
        for source in sorted(SOURCES.glob("*.c")):
            simd = source.stem.endswith("_simd")
            for name, special in kinds.items() if simd else [("", "")]:
                objects.append(str(Path(folder) / f"{source.stem}-{name}.o"))
                variant = [f"-DVARIANT={name}", f"-DVARIANT_{name}", *shlex.split(special)] if simd else []
                command = [*common, *shlex.split(WARNINGS), *defined, *variant, "-c", str(source), "-o", objects[-1]]
                commands.append(command)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            failures = [failure for failure in pool.map(_run, commands) if failure]
        if failures:
            return failures[0]
        partial = output.with_name(f"{output.name}.{os.getpid()}")
        failure = _run([*common, "-shared", *objects, "-o", str(partial), "-lm"])
        if failure is None:
            partial.replace(output)
        return failure


def _compiler() -> list[str] | None:
    chosen = shlex.split(os.environ.get("CC", ""))
    if chosen:
        return chosen if shutil.which(chosen[0]) else None
    return next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


def _run(command: Sequence[str]) -> str | None:
    """Run a command; None, or how it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{command[0]} cannot be run: {error}"
    return None if done.returncode == 0 else f"{shlex.join(command)}\nended with {done.returncode}:\n{done.stderr}"


def main() -> int:
    """Build the library in place; exit code 1 if that fails."""
    failure = compile_library()
    sys.stdout.write(f"{LIBRARY}\n" if failure is None else "")
    sys.stderr.write("" if failure is None else f"the kernels were not built: {failure}\n")
    return int(failure is not None)


if __name__ == "__main__":
    sys.exit(main())
