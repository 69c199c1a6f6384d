"""Runs on a real local Ray cluster of a head and two machines, one of which is killed."""

import json
import sys
import time
from pathlib import Path

import pytest

from supermask.errors import MissingExtraError, RunError, StoreError
from supermask.lab.events import Event
from supermask.lab.executors.mailbox import Mailbox
from supermask.lab.executors.ray_cluster import Ray, _Tasks, _train
from supermask.lab.plan import expand
from supermask.lab.run import run_experiment
from supermask.lab.runner import Job, Runner, failure
from supermask.lab.store import read_failure, read_failures, read_results, run_folder

from ..helpers import assert_same_run, experiment, only_run, run_here

OWN = {"model": {"name": "userparts:build"}, "train.epochs": 3, "train.batch_size": 400}
SLOW = {"model": {"name": "userparts:build"}, "train.epochs": 12}
STORE = 80 * 1024 * 1024  # bytes: the least that Ray takes


@pytest.fixture(scope="module")
def cluster():
    """A head without processors, and two machines with one each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    patch = pytest.MonkeyPatch()
    patch.setenv("TEST_SLEEP", "0.05")  # which its workers inherit
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE})
    made.machines = [made.add_node(num_cpus=1, object_store_memory=STORE) for _ in range(2)]
    patch.undo()
    yield made
    made.shutdown()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds workers in /proc")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray's own pipes
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_machine_of_the_cluster_is_killed(cluster, tmp_path):
    """In the middle of its run, which another machine resumes from its last checkpoint; progress comes all the time."""
    out, events = tmp_path / "runs", []
    killed = []

    def on_event(event):
        events.append(event)
        if event.kind == "epoch" and event.epoch == 5 and not killed:
            killed.append(event.run)
            host = next(m for m in cluster.machines if has_worker(m, out / "test" / event.run))
            cluster.remove_node(host, allow_graceful=False)

    made = Ray(address=cluster.address, lease_seconds=2)
    outcome = run_experiment(
        experiment(SLOW, vary={"seed": 3}), out=out, executor=made, checkpoint_seconds=0.2, on_event=on_event
    )
    assert sorted(event.seed for event in outcome.done) == [0, 1, 2]
    assert outcome.failed == outcome.skipped == []
    of_killed = [event.kind for event in events if event.run == killed[0]]
    assert of_killed.count("done") == 1
    assert "resumed" in of_killed
    assert len(read_results(out)) == 3
    assert read_failures(out) == []
    assert not list((out / "test").glob(".driver-*"))
    run_here(SLOW, tmp_path / "straight", vary={"seed": 3})
    for path in (tmp_path / "straight" / "test").iterdir():
        right = only_run(out / "test" / path.name)
        assert_same_run(only_run(path), right)
        start = json.loads(right.env.read_text())["starts"][0]
        assert start["OMP_WAIT_POLICY"] == "passive"


def has_worker(machine, folder):
    """Whether a worker below a machine's raylet has the lock of a run open."""
    (raylet,) = [entry.process.pid for entry in machine.all_processes["raylet"]]
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and any(fd.readlink() == folder / "lock" for fd in (entry / "fd").iterdir()):
                return raylet in ancestors(int(entry.name))
        except OSError:  # ended just now
            continue
    return False


def ancestors(pid):
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        yield pid


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_the_cluster_cannot_do(cluster, tmp_path):
    wrong = Ray(address=cluster.address, cpus=64)
    with pytest.raises(
        RunError, match=r"no machine of the Ray cluster has 64 CPUs and 0 GPUs for a run \(its machines have"
    ):
        run_experiment(experiment(OWN), out=tmp_path, executor=wrong)
    deadly = experiment({"model": {"name": "userparts:build_deadly"}, "train.epochs": 1})
    made = Ray(address=cluster.address, retries=0, lease_seconds=2)
    (event,) = run_experiment(deadly, out=tmp_path / "runs", executor=made).failed
    assert event.message.startswith("lost on the cluster (")
    assert event.message.endswith("; run the same command to resume")


def test_no_cluster_there(tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(
        RunError, match=r"no Ray cluster at 127\.0\.0\.1:1 \(.*start one by `ray start --head`, or leave the"
    ):
        run_experiment(experiment(OWN), out=tmp_path, executor=Ray(address="127.0.0.1:1"))


def test_an_address_from_the_environment(tmp_path, monkeypatch):
    """Ray itself would try for a minute, then end this process."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(RunError, match=r"no Ray cluster at 127\.0\.0\.1:1 \(.* or unset RAY_ADDRESS for one on this"):
        run_experiment(experiment(OWN), out=tmp_path, executor=Ray())


def test_gpus_that_are_not_asked_for(tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(RunError, match="only the GPUs that it asks for, and gpus is 0; say --with gpus=1"):
        run_experiment(experiment(OWN), out=tmp_path, executor=Ray(), device="cuda")


def test_without_ray(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"python -m pip install 'supermask\[ray\]'"):
        run_experiment(experiment(OWN), out=tmp_path, executor=Ray())


# ---------------------------------------------------------------------- the driver alone


class LostError(Exception):
    pass


class FakeRay:
    """Tasks that end at once: what they told is in the mailbox, and they may be lost."""

    class exceptions:  # noqa: N801
        RayError = LostError

    def __init__(self, lost=()):
        self.lost = list(lost)

    def wait(self, tasks, *, num_returns, timeout):
        return tasks[:num_returns], tasks[num_returns:]

    def get(self, task):
        if task in self.lost:
            raise LostError("the worker died\nand more")
        return task


def by_id(job):
    """A task is the id of its run."""
    return job.spec.id


class FakeMailbox:
    """Calls its methods at once, as if `remote` were nothing."""

    def __init__(self):
        self.box = Mailbox()

    def __getattr__(self, name):
        method = getattr(self.box, name)
        return type("Method", (), {"remote": staticmethod(method)})


@pytest.fixture
def jobs(tmp_path):
    return [Job(spec, run_folder(tmp_path, "test", spec.id)) for spec in expand(experiment(OWN, vary={"seed": 4}))]


def test_every_run_ends_once(jobs):
    """Also one whose task told its end, was lost and begun again, and told its end again."""
    mailbox, told = FakeMailbox(), []

    def begin(job):
        mailbox.box.put(job.event("started"))
        mailbox.box.put(job.event("done"))
        mailbox.box.put(job.event("skipped", message="finished already"))
        return by_id(job)

    ray = FakeRay(lost=[jobs[1].spec.id])
    _Tasks(ray, begin, mailbox, told.append).do(jobs, 2, None)
    ends = [(event.kind, event.seed) for event in told if event.kind != "started"]
    assert sorted(ends) == [("done", 0), ("done", 1), ("done", 2), ("done", 3)]


class FakeStore:
    """Has the runs, except those that it cannot give."""

    def __init__(self, broken=()):
        self.broken, self.fetched = set(broken), []

    def fetch(self, folder, experiment):
        assert experiment == "test"
        if folder in self.broken:
            raise StoreError("the store does not answer")
        self.fetched.append(folder)


def test_runs_are_brought_from_a_store(jobs):
    jobs[0].folder.path.mkdir(parents=True)
    jobs[0].folder.result.write_text("{}")
    mailbox = FakeMailbox()

    def begin(job):
        mailbox.box.put(job.event("done"))
        return by_id(job)

    store = FakeStore()
    _Tasks(FakeRay(), begin, mailbox, print, store).do(jobs, 2, None)
    assert store.fetched == [job.folder for job in jobs[1:]]
    store = FakeStore(broken=[jobs[1].folder])
    with pytest.raises(StoreError, match="the store does not answer"):
        _Tasks(FakeRay(), begin, mailbox, print, store).do(jobs, 2, None)
    assert store.fetched == [job.folder for job in jobs[2:]], "the others first"


def test_an_address_that_is_none(tmp_path):
    pytest.importorskip("ray")
    for address in ("ray://n1:10001", "n1", "n1:port"):
        with pytest.raises(
            RunError, match=r"no Ray cluster at \S+ \(an address is HOST:PORT, of a machine that belongs"
        ):
            run_experiment(experiment(OWN), out=tmp_path, executor=Ray(address=address))


def test_a_lost_run(jobs):
    told = []
    for job in jobs:
        job.folder.path.mkdir(parents=True)
    _Tasks(FakeRay(lost=[jobs[0].spec.id]), by_id, FakeMailbox(), told.append).do(jobs[:1], 1, None)
    assert [event.message for event in told] == [
        "lost on the cluster (the worker died); run the same command to resume"
    ]
    assert jobs[0].folder.failed.exists()


def test_a_worker_that_is_lost_after_its_run_failed(jobs):
    """The record of the failure stays as it is."""
    mailbox, told = FakeMailbox(), []

    def begin(job):
        job.folder.path.mkdir(parents=True)
        mailbox.box.put(failure(job, "the loss is not finite"))
        return by_id(job)

    _Tasks(FakeRay(lost=[jobs[0].spec.id]), begin, mailbox, told.append).do(jobs[:1], 1, None)
    assert [event.message for event in told] == ["the loss is not finite"]
    assert read_failure(jobs[0].folder)["error"] == "the loss is not finite"


def test_a_task_that_ends_without_a_word(jobs):
    """It lost sight of the driver for a moment and took a checkpoint: every run has an end, whatever happens."""
    told = []
    _Tasks(FakeRay(), by_id, FakeMailbox(), told.append).do(jobs[:1], 1, None)
    assert [(event.kind, event.message) for event in told] == [
        ("failed", "its task ended before the run; run the same command to resume")
    ]


def test_a_cluster_that_is_lost(jobs):
    class Gone(FakeRay):
        def get(self, task):
            raise LostError("the mailbox died\nand more")

    with pytest.raises(
        RunError, match=r"the Ray cluster is lost \(the mailbox died\); start it again, then run the same"
    ):
        _Tasks(Gone(), by_id, FakeMailbox(), print).do(jobs, 2, None)


def test_ctrl_c_lets_tasks_take_checkpoints(jobs):
    mailbox, stopped = FakeMailbox(), []

    class Interrupted(FakeRay):
        def wait(self, tasks, *, num_returns, timeout):
            if not mailbox.box.stopping():
                if stopped:
                    pytest.fail("asked after on_stop, before the wish to stop")
                raise KeyboardInterrupt
            assert (len(tasks), num_returns) == (2, 2)
            return tasks, []

    with pytest.raises(KeyboardInterrupt):
        _Tasks(Interrupted(), by_id, mailbox, print).do(jobs, 2, lambda: stopped.append(time.monotonic()))
    assert stopped
    assert mailbox.box.put(Event(kind="started", run="x", label="x", seed=0)) is True


def test_ctrl_c_while_nothing_is_at_work(jobs):
    class Refusing(FakeRay):
        def wait(self, tasks, *, num_returns, timeout):
            raise AssertionError("Ray refuses to wait for nothing")

    def begin(job):
        raise KeyboardInterrupt

    mailbox = FakeMailbox()
    with pytest.raises(KeyboardInterrupt):
        _Tasks(Refusing(), begin, mailbox, print).do(jobs, 2, None)
    assert mailbox.box.stopping()


class TaskRay:
    """What a task sees of Ray; after `end`, its driver is gone."""

    class exceptions:  # noqa: N801
        RayError = LostError

    def __init__(self):
        self.gone = False

    def get(self, answer):
        if self.gone:
            raise LostError
        return answer


@pytest.mark.parametrize("gone_at", ["started", "epoch", "done"])
def test_a_task_whose_driver_is_gone(gone_at, jobs, monkeypatch):
    """It takes a checkpoint and ends, or has its result; it has not failed."""
    ray, mailbox, job = TaskRay(), FakeMailbox(), jobs[0]
    put = mailbox.box.put

    def hear(event):
        ray.gone = ray.gone or event.kind == gone_at
        return put(event)

    mailbox.box.put = hear
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr("supermask.lab.executors.ray_cluster._ASK_SECONDS", 0.0)
    job.folder.path.mkdir(parents=True)
    sign = job.folder.path.parent / "sign"
    sign.touch()
    _train(Runner(checkpoint_seconds=0), job, mailbox, sign)
    assert not job.folder.failed.exists()
    assert job.folder.result.exists() == (gone_at == "done")
    assert job.folder.checkpoint.exists() == (gone_at != "done")


def test_a_machine_that_does_not_see_the_results_folder(jobs, monkeypatch):
    mailbox = FakeMailbox()
    monkeypatch.setitem(sys.modules, "ray", TaskRay())
    _train(Runner(), jobs[0], mailbox, jobs[0].folder.path.parent / "sign")
    (event,) = mailbox.box.take()
    assert "does not see the results folder" in event.message
    assert "choose an --out that all machines of the cluster share, or give a store" in event.message
    assert not jobs[0].folder.path.exists()
