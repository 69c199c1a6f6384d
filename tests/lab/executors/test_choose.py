"""Executors by name, with their options."""

import dataclasses
import re
from pathlib import Path

import pytest

from supermask.errors import ConfigError, RunError
from supermask.lab.executors.choose import EXECUTORS, make_executor
from supermask.lab.executors.processes import Local
from supermask.lab.executors.ray_cluster import Ray
from supermask.lab.executors.slurm import Slurm

PAGE = Path(__file__).parents[3] / "docs" / "scale.md"


def test_options_are_fields():
    assert make_executor("local", workers=3) == Local(workers=3)
    assert make_executor("ray", ["gpus=0.5", "address=n1:6379"]) == Ray(gpus=0.5, address="n1:6379")
    assert make_executor("slurm", ["setup=['module load cuda', 'ulimit -n 4096']", "memory_gb=8"], workers=9) == Slurm(
        setup=("module load cuda", "ulimit -n 4096"), memory_gb=8.0, workers=9
    )
    assert [make_executor(name).here for name in EXECUTORS] == [True, True, False, False]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rey", [], r"--executor rey: expected local or shared or ray or slurm; did you mean 'ray'\?"),
        ("ray", ["cpu=2"], r"--with\.cpu: unknown key; did you mean 'cpus'\?"),
        ("ray", ["cpus=two"], r"--with\.cpus: expected a number or null, got 'two' \(text\)"),
        (
            "slurm",
            ["partition"],
            r"--with partition: expected KEY=VALUE; the slurm executor has runs, minutes, timeouts, ",
        ),
        ("shared", ["workers=2"], r"--with workers=2: the number of runs at once has an option of its own: --workers"),
        ("ray", ["gpus=1", "gpus=2"], r"--with gpus=2: gpus is given twice; keep one of them"),
        ("slurm", ["cluster=pbs"], r"--with\.cluster: expected 'slurm' or 'local', got 'pbs'"),
    ],
)
def test_errors_tell_the_way_out(name, options, message):
    with pytest.raises(ConfigError, match=message):
        make_executor(name, options)


@pytest.mark.parametrize(
    ("name", "options", "workers", "message"),
    [
        ("ray", ["retries=-1"], None, "retries must be at least 0, got -1"),
        ("ray", [], 0, "a Ray cluster does runs in workers of its own, and workers is 0"),
        ("slurm", ["runs=0"], None, "runs must be at least 1, got 0"),
        ("slurm", ["cpus=0"], None, "cpus must be at least 1, got 0"),
        ("slurm", [], 0, "Slurm does runs in jobs of its own, and workers is 0"),
        ("shared", ["lease_seconds=0.1"], None, "lease_seconds must be at least 1, got 0.1"),
    ],
)
def test_numbers_out_of_range(name, options, workers, message):
    with pytest.raises(RunError, match=message):
        make_executor(name, options, workers=workers)


@pytest.mark.parametrize("name", EXECUTORS)
def test_the_page_has_every_option(name):
    section = re.search(rf"^## [^\n]*`{name}`.*?(?=^## |\Z)", PAGE.read_text(), flags=re.M | re.S)
    assert section is not None
    listed = re.findall(r"^\| `(\w+)` \|", section[0], flags=re.M)
    assert listed == [field.name for field in dataclasses.fields(EXECUTORS[name]) if field.name != "workers"]
