"""Executors over many runs and many deaths: every run ends complete, and counts once.

The numbers are read from the environment: SOAK_RUNS (200), SOAK_CRASHES (0.05: the probability that a start of a run ends by
kill -9 in its middle) and SOAK_DRIVERS (2).
"""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter

import pytest
from lab.drivers import kill, wait_until, workers_of
from lab.helpers import HERE, assert_same_run, experiment, only_run, run_here

from supermask.lab.executors.ray_cluster import Ray
from supermask.lab.executors.shared import Shared
from supermask.lab.run import run_experiment
from supermask.lab.store import read_failures, read_metrics, read_results

pytestmark = [pytest.mark.soak, pytest.mark.skipif(sys.platform != "linux", reason="finds workers in /proc")]
RUNS = int(os.environ.get("SOAK_RUNS", "200"))
CRASHES = os.environ.get("SOAK_CRASHES", "0.05")
DRIVERS = int(os.environ.get("SOAK_DRIVERS", "2"))
SHORT = {"model": {"name": "userparts:build_crashing"}, "train.epochs": 3, "train.batch_size": 400}
SECONDS = 4.0 * RUNS + 600  # longest of a test

DRIVER = """
import json, sys
from pathlib import Path

sys.path.insert(0, {tests!r})

if __name__ == "__main__":
    from lab.helpers import experiment
    from supermask.lab.executors.shared import Shared
    from supermask.lab.run import run_experiment

    def show(event):
        if event.kind in ("started", "resumed", "done", "skipped", "failed"):
            print(json.dumps([event.kind, event.run, event.message]), flush=True)

    patch, out, runs, seconds = json.loads(sys.argv[1])
    made = Shared(workers=2, lease_seconds=seconds)
    run_experiment(experiment(patch, vary={{"seed": runs}}), out=Path(out), executor=made, on_event=show, checkpoint_seconds=0)
"""


def start(tmp_path, patch, out, *, runs, seconds=10.0, **environment):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER.format(tests=str(HERE.parent)))
    return subprocess.Popen(
        [sys.executable, str(script), json.dumps([patch, str(out), runs, seconds])],
        env=os.environ | {key: str(value) for key, value in environment.items()},
        stdout=subprocess.PIPE,
        text=True,
    )


def assert_complete(out, patch, runs):
    """Every run has one folder and one result, with all its epochs, and those looked at closer are what one process makes."""
    results = read_results(out)
    assert len({result["run"] for result in results}) == len(results) == runs
    assert read_failures(out) == []
    for pattern in ("*.part", "last.pt", "lease"):
        assert list(out.rglob(pattern)) == []
    for path in (out / "test").iterdir():
        assert [line["epoch"] for line in read_metrics(path)] == [1, 2, 3]


def test_short_runs_with_crashes(tmp_path):
    """Drivers on one folder whose workers are killed within runs, each given the same command until all is done."""
    out, told, rounds = tmp_path / "runs", Counter(), 0
    deadline = time.monotonic() + SECONDS
    while len(list(out.rglob("result.json"))) < RUNS or list(out.rglob("failed.json")):
        assert time.monotonic() < deadline
        rounds += 1
        drivers = [start(tmp_path, SHORT, out, runs=RUNS, TEST_CRASHES=CRASHES) for _ in range(DRIVERS)]
        for driver in drivers:
            output, _ = driver.communicate(timeout=SECONDS)
            assert driver.returncode == 0
            told.update((kind, run) for kind, run, _ in map(json.loads, output.splitlines()))
    done = {run: count for (kind, run), count in told.items() if kind == "done"}
    crashes = sum(count for (kind, _), count in told.items() if kind == "failed")
    print(f"\n{RUNS} runs, {DRIVERS} drivers: {crashes} failures told, {rounds} rounds")
    assert len(done) == RUNS
    assert set(done.values()) == {1}, "no run was finished twice"
    assert_complete(out, SHORT, RUNS)
    chosen = random.Random(0).sample(range(RUNS), min(5, RUNS))
    run_here(SHORT, tmp_path / "straight", vary={"seed": chosen})
    for path in (tmp_path / "straight" / "test").iterdir():
        assert_same_run(only_run(path), only_run(out / "test" / path.name))


def test_drivers_that_die_with_their_workers(tmp_path):
    """One after the other is killed by kill -9, all its workers too, and others come; the last one brings it to its end."""
    runs, out = max(8, RUNS // 10), tmp_path / "runs"
    for already in range(1, 4):
        driver = start(tmp_path, SHORT, out, runs=runs, seconds=2.0, TEST_SLEEP=0.05)
        wait_until(lambda already=already: len(list(out.rglob("result.json"))) >= already, seconds=SECONDS)
        for pid in (driver.pid, *workers_of(driver.pid)):
            kill(pid)
        driver.communicate(timeout=60)
    outcome = run_experiment(
        experiment(SHORT, vary={"seed": runs}), out=out, executor=Shared(workers=2, lease_seconds=2.0)
    )
    assert outcome.failed == []
    assert len(outcome.done) + len(outcome.skipped) == runs
    assert_complete(out, SHORT, runs)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_crashes_on_a_ray_cluster(tmp_path, monkeypatch):
    """A cluster of this machine alone begins lost runs again by itself: one command is enough."""
    pytest.importorskip("ray")
    runs, out = max(8, RUNS // 10), tmp_path / "runs"
    monkeypatch.setenv("TEST_CRASHES", CRASHES)
    outcome = run_experiment(
        experiment(SHORT, vary={"seed": runs}),
        out=out,
        executor=Ray(workers=2, retries=20, lease_seconds=5.0),
        checkpoint_seconds=0,
    )
    assert outcome.failed == []
    assert len(outcome.done) + len(outcome.skipped) == runs
    assert_complete(out, SHORT, runs)
