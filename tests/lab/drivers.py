"""An experiment run by a process of its own, to be killed; and ways to watch it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from supermask.lab.store import read_metrics

from .helpers import HERE

DRIVER = """
import json, sys
from pathlib import Path

sys.path.insert(0, {tests!r})

if __name__ == "__main__":
    from lab.helpers import experiment
    from supermask.lab.executors.shared import Shared
    from supermask.lab.run import run_experiment

    def show(event):
        print(event.kind, event.seed, event.message, flush=True)

    runs = experiment(json.loads(sys.argv[1]), vary={{"seed": 2}})
    options = json.loads(sys.argv[3])
    if (seconds := options.pop("shared")) is not None:
        options["executor"] = Shared(workers=options.pop("workers"), lease_seconds=seconds)
    run_experiment(runs, out=Path(sys.argv[2]), on_event=show, **options)
"""


def start_driver(patch, out, script, *, sleep, workers=2, checkpoint_seconds=60, shared=None):
    """A driver of two runs in a process group of its own, as a shell would start it; ``shared``: seconds of its leases."""
    options = {"workers": workers, "checkpoint_seconds": checkpoint_seconds, "shared": shared}
    script.write_text(DRIVER.format(tests=str(HERE.parent)))
    return subprocess.Popen(
        [sys.executable, str(script), json.dumps(patch), str(out), json.dumps(options)],
        env=os.environ | {"TEST_SLEEP": str(sleep)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def epochs_done(out):
    return [len(read_metrics(path.parent)) for path in out.rglob("metrics.jsonl")]


def group_is_alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def workers_of(pid):
    """Process ids of a driver's workers (Linux)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                command = (entry / "cmdline").read_bytes()
            except (OSError, ValueError):  # ended just now
                continue
            if parent == pid and b"spawn_main" in command:
                found.append(int(entry.name))
    return sorted(found)


def kill(pid):
    """kill -9."""
    os.kill(pid, signal.SIGKILL)
