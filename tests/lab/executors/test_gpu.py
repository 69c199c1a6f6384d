"""Several runs on one GPU where they fit; the memory of the GPU and what runs took of it are made up."""

import json
import time

import pytest

from supermask.errors import RunError
from supermask.lab.executors.gpu import CONTEXT_BYTES, SLACK, Packing, free_bytes
from supermask.lab.executors.local import run_jobs
from supermask.lab.executors.processes import Local
from supermask.lab.plan import expand
from supermask.lab.result import describe_setting
from supermask.lab.runner import Job
from supermask.lab.store import run_folder

from ..helpers import experiment, run_here

GIB = 1 << 30
VARY = {"seed": 4, "variant": {"small": {}, "large": {"model.hidden": [64]}}}


def jobs_in(out):
    """Small and large runs in turn."""
    return [Job(spec, run_folder(out, "test", spec.id)) for spec in expand(experiment(vary=VARY))]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Label -> a result of it."""
    out = tmp_path_factory.mktemp("trained")
    run_here({"train.epochs": 1}, out, vary=VARY | {"seed": 1})
    return {result["label"]: result for result in (json.loads(p.read_text()) for p in out.rglob("result.json"))}


@pytest.fixture
def finish(trained):
    """Puts a result into a job's folder: what it would have taken of a GPU, in bytes."""

    def put(job, peak):
        result = trained[job.spec.label]
        content = result | {"setting": describe(job), "memory": result["memory"] | {"peak_device": peak}}
        job.folder.path.mkdir(parents=True, exist_ok=True)
        job.folder.result.write_text(json.dumps(content))

    return put


def describe(job):
    return describe_setting(job.spec, job.spec.config())["setting"]


def test_what_is_not_known_trains_alone(tmp_path, finish):
    small, large, *rest = jobs_in(tmp_path)
    packing = Packing("cuda", [small, large, *rest], lambda _: 80 * GIB)
    assert not packing.admits(large, [small])
    finish(small, GIB)
    assert not packing.admits(large, [rest[0]]), "of the large ones nothing is known"
    assert packing.admits(rest[2], [rest[0]]), "two small ones"
    assert not packing.admits(rest[0], [large]), "nor beside one of which nothing is known"
    finish(large, 4 * GIB)
    assert packing.admits(rest[1], [rest[0]])


def test_as_many_as_fit(tmp_path, finish):
    small, large, *rest = jobs_in(tmp_path)
    finish(small, GIB)
    finish(large, 4 * GIB)
    need = {"small": SLACK * GIB + CONTEXT_BYTES, "large": SLACK * 4 * GIB + CONTEXT_BYTES}
    others = {label: [job for job in rest if job.spec.label == label] for label in need}
    for free, at_work, fits in (
        (2 * need["small"], others["small"][:1], True),
        (2 * need["small"] - 1, others["small"][:1], False),
        (3 * need["small"], others["small"][:2], True),
        (need["large"] + need["small"], others["large"][:1], True),
        (need["large"] + need["small"] - 1, others["large"][:1], False),
    ):
        packing = Packing("cuda:1", rest, lambda _, free=free: int(free))
        assert packing.admits(others["small"][-1], at_work) is fits


def test_the_largest_run_of_a_setting_counts(tmp_path, finish):
    small, _, second, _, third, *_ = jobs_in(tmp_path)
    finish(small, 3 * GIB)
    finish(second, GIB)
    packing = Packing("cuda", jobs_in(tmp_path)[4:], lambda _: int(2 * (SLACK * GIB + CONTEXT_BYTES)))
    assert not packing.admits(third, [jobs_in(tmp_path)[6]])


def test_damaged_results_tell_nothing(tmp_path):
    small, *rest = jobs_in(tmp_path)
    small.folder.path.mkdir(parents=True)
    small.folder.result.write_text("{")
    packing = Packing("cuda", rest, lambda _: 80 * GIB)
    assert not packing.admits(rest[1], [rest[3]])
    rest[5].folder.path.mkdir(parents=True)
    rest[5].folder.result.write_text("{")
    assert not packing.admits(rest[1], [rest[3]]), "nor does one that is finished meanwhile end the others"


def test_a_gpu_is_needed(tmp_path):
    with pytest.raises(
        RunError, match="several runs on one GPU, the device is 'cpu'; say --device cuda, or leave it out"
    ):
        Packing("cpu", [], lambda _: 0)
    with pytest.raises(RunError, match="pack puts several worker processes on a GPU, and workers is 0"):
        Local(workers=0, pack=True)


@pytest.mark.slow
def test_a_gpu_that_is_not_there():
    with pytest.raises(
        RunError, match=r"the memory of 'cuda:77' cannot be asked \(.+\); leave pack out, and say --workers"
    ):
        free_bytes("cuda:77")


def begin_and_end(job, send, stopping):
    send(("begin", job))
    time.sleep(0.2)
    send(("end", job))


def test_the_pool_asks_before_it_begins_a_job():
    """At most two of the heavy ones at once, though there are four workers."""
    seen, asked = [], []

    def admit(job, at_work):
        asked.append((job, tuple(at_work)))
        return len(at_work) < 2

    run_jobs(
        begin_and_end,
        range(5),
        workers=4,
        threads=1,
        on_message=seen.append,
        on_death=lambda *_: pytest.fail("died"),
        admit=admit,
    )
    at_once = 0
    for what, _ in seen:
        at_once += 1 if what == "begin" else -1
        assert at_once <= 2
    assert sorted(job for what, job in seen if what == "end") == list(range(5))
    assert {len(at_work) for _, at_work in asked} == {1, 2}, "with one at work it was let in, with two it was not"
    assert all(job not in at_work for job, at_work in asked)
