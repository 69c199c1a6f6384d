"""Experiments trained by two real processes that torchrun starts."""

import json
import os
import signal
import subprocess
import sys

import numpy as np

from .helpers import HERE, experiment

DRIVER = """
import json, sys
from pathlib import Path

sys.path.insert(0, {tests!r})

if __name__ == "__main__":
    from lab.helpers import experiment
    from supermask.lab.executors.torchrun import Torchrun
    from supermask.lab.run import run_experiment

    def show(event):
        if event.kind in ("started", "resumed", "done", "skipped", "failed"):
            print(json.dumps([event.kind, event.label, event.message]), flush=True)

    patch, vary, out, options = json.loads(sys.argv[1])
    executor = Torchrun(timeout_seconds=options.pop("timeout", 120))
    run_experiment(experiment(patch, vary=vary), out=Path(out), executor=executor, on_event=show, **options)
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert not any("gloo" in name for name in threads), threads  # such a one may crash the process as it ends
"""


def write_digits(path, count=151, seed=0):
    """A small data set: six batches of 25 and one of a single example."""
    numbers = np.random.default_rng(seed)
    images = numbers.integers(0, 256, (count, 8, 8), dtype=np.uint8)
    labels = np.arange(count) % 10
    np.savez(path, train_images=images, train_labels=labels, test_images=images[:30], test_labels=labels[:30])
    return path


def launch(arguments, *, processes=2, restarts=0, seconds=900, **environment):
    """What torchrun does with a script or module: exit code, stdout and stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
         f"--max-restarts={restarts}", "--monitor-interval=0.1", *map(str, arguments)],
        env=os.environ | {"TORCH_CPP_LOG_LEVEL": "ERROR", "OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=HERE, start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out, err


def run_together(patch, vary, out, script, **options):
    """Run an experiment: exit code, the events of the first process, and stderr."""
    script.write_text(DRIVER.format(tests=str(HERE.parent)))
    code, told, err = launch([script, json.dumps([patch, vary, str(out), options])])
    return code, [json.loads(line) for line in told.splitlines() if line.startswith("[")], err


def ids(patch, vary):
    """Label -> run id."""
    from supermask.lab.plan import expand

    return {spec.label: spec.id for spec in expand(experiment(patch, vary=vary))}
