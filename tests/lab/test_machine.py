"""What is said and set about the machine: memory, arithmetic on CUDA, the number of workers."""

import sys

import pytest
import torch

from supermask.lab import machine, memory, train
from supermask.lab.cost import Cost
from supermask.lab.executors.local import run_jobs
from supermask.lab.machine import default_workers, environment, peak_memory, repeatable, reset_peak_memory
from supermask.lab.plan import expand
from supermask.lab.run import run_experiment

from .helpers import experiment

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BLOCKS = 300  # of 1 MiB


def after_a_large_run(large, send, stopping):
    """Send the peak of a run that does nothing, after one that may have needed much in small blocks."""
    if large:
        blocks = [torch.ones(1 << 18) for _ in range(BLOCKS)]
        blocks.append(blocks)  # a cycle: only the garbage collector ends it
        del blocks
    reset_peak_memory(CPU)
    send(peak_memory(CPU)["peak_rss"])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
@pytest.mark.skipif(memory._malloc_trim() is None or not memory._CLEAR_REFS.exists(), reason="glibc's, with /proc")
def test_the_peak_does_not_depend_on_what_ran_before():
    peaks = []
    run_jobs(
        after_a_large_run, [False, True, False], workers=1, threads=1, on_message=peaks.append, on_death=lambda *_: None
    )
    assert max(peaks) - min(peaks) < BLOCKS // 5 * 2**20


def flags():
    cudnn = torch.backends.cudnn
    return (
        cudnn.deterministic,
        cudnn.benchmark,
        torch.backends.cuda.matmul.fp32_precision,
        cudnn.conv.fp32_precision,
        cudnn.rnn.fp32_precision,
    )


@pytest.mark.parametrize("benchmark", [True, False])
def test_arithmetic_on_cuda_is_set_and_put_back(benchmark, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", benchmark)
    before = flags()
    with repeatable(CUDA, exact=True):
        assert flags() == (True, False, "ieee", "ieee", "ieee")
    assert flags() == before
    with repeatable(CUDA, exact=False):
        assert flags() == (True, False, *before[2:])
    assert flags() == before
    with repeatable(CPU, exact=True):
        assert flags() == before


def test_the_arithmetic_of_a_run_on_cuda_is_recorded(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    with repeatable(CUDA, exact=True):
        told = environment(CUDA, 1, None)["cuda_arithmetic"]
    assert told == {
        "matmul": "ieee",
        "convolution": "ieee",
        "recurrent": "ieee",
        "deterministic": True,
        "benchmark": False,
    }
    assert environment(CPU, 1, None)["cuda_arithmetic"] is None


def test_the_clock_waits_for_the_gpu(monkeypatch):
    waits = []
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    clock = train.Clock({"train": 0.0}, "train", CUDA)
    clock.stop()
    assert waits == [CUDA, CUDA]
    train.Clock({"train": 0.0}, "train", CPU).stop()
    assert len(waits) == 2


def test_a_gpu_is_not_shared_by_default(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "usable_cores", lambda: 7)
    assert [default_workers(device) for device in ("cpu", "cuda", "cuda:1")] == [7, 1, 1]
    runs = experiment(vary={"seed": 9})
    assert Cost.of(expand(runs), tmp_path, device="cpu").workers == 7
    assert Cost.of(expand(runs), tmp_path, device="cuda").workers == 1
    started = []
    monkeypatch.setattr("supermask.lab.executors.processes.run_jobs", lambda *_, workers, **__: started.append(workers))
    for device in ("cpu", "cuda"):
        run_experiment(runs, out=tmp_path, device=device)
    assert started == [7, 1]
