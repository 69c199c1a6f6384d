"""Claims on runs: one holder, silence ends it, a late one notices, and no clock of anybody counts."""

import errno
import json
import os
import threading

import pytest

from supermask.core.locking import locked
from supermask.errors import RunError, RunHeldError
from supermask.lab.holding import holding
from supermask.lab.leases import Leasing, Observer, Sight, claim, look, release_of
from supermask.lab.store import RunFolder

LEASING = Leasing(seconds=60, owner="one")
OTHER = Leasing(seconds=60, owner="other")


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def content(folder, number):
    return json.loads((folder / f"{number:06}").read_bytes())


def test_one_of_many_gets_it(tmp_path):
    """All see the same and claim at once."""
    sight, start, made = look(tmp_path / "lease"), threading.Barrier(16), []

    def take():
        start.wait()
        made.append(claim(tmp_path / "lease", sight, LEASING))

    threads = [threading.Thread(target=take) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (lease,) = [lease for lease in made if lease is not None]
    assert lease.number == 1
    assert len(made) == 16


def test_a_lease_from_its_beginning_to_its_end(tmp_path):
    folder = tmp_path / "lease"
    assert look(folder) == Sight()
    assert look(folder).free
    with claim(folder, look(folder), LEASING) as lease:
        sight = look(folder)
        assert (sight.number, sight.free) == (1, False)
        assert sight.holder == f"process {os.getpid()} on {os.uname().nodename}"
        lease.require()
        assert claim(folder, Sight(), OTHER) is None, "number 1 is there"
    assert look(folder).free
    with claim(folder, look(folder), OTHER) as lease:
        assert lease.number == 2
        lease.confirm()
        assert lease.number == 3
        lease.require()
        lease.remove()
        with pytest.raises(RunHeldError, match="another process has taken this run over"):
            lease.require()
    assert look(folder) == Sight(), "nothing is written into a lease that is gone"


def test_only_silence_ends_a_lease(tmp_path):
    folder, clock = tmp_path / "lease", Clock()
    claim(folder, look(folder), LEASING)
    observer = Observer(60, now=clock)
    assert observer.look(folder)[1] is False
    clock.now = 59.9
    assert observer.look(folder)[1] is False
    path = folder / "000001"
    path.write_bytes(path.read_bytes().replace(b'"beat": 0', b'"beat": 1'))
    clock.now = 119.0
    assert observer.look(folder)[1] is False, "it was heard of in between"
    clock.now = 178.9
    assert observer.look(folder)[1] is False
    clock.now = 179.0
    sight, lapsed = observer.look(folder)
    assert lapsed
    assert not sight.free
    assert claim(folder, sight, OTHER).number == 2
    assert observer.look(folder)[1] is False, "the new one is watched from its beginning"


def test_the_clocks_of_files_and_machines_do_not_count(tmp_path, monkeypatch):
    folder, clock = tmp_path / "lease", Clock()
    claim(folder, look(folder), LEASING)
    observer = Observer(60, now=clock)
    observer.look(folder)
    for jump in (0.0, 4e9, -4e9):
        monkeypatch.setattr("time.time", lambda jump=jump: jump)
        os.utime(folder / "000001", (max(0.0, jump), max(0.0, jump)))
        clock.now += 1
        assert observer.look(folder)[1] is False
    monkeypatch.setattr("time.time", lambda: 4e9)
    clock.now = 60.0
    os.utime(folder / "000001", (4e9, 4e9))
    assert observer.look(folder)[1] is True, "a time stamp alone is no sign of life"


def test_a_holder_is_heard_of(tmp_path):
    folder = tmp_path / "lease"
    with claim(folder, look(folder), Leasing(seconds=1)):
        first = look(folder).content
        deadline = threading.Event()
        for _ in range(100):
            if look(folder).content != first:
                break
            deadline.wait(0.05)
        assert content(folder, 1)["beat"] > 0
    assert len(look(folder).content) == len(first) == 256


def test_a_late_holder_notices(tmp_path):
    folder = tmp_path / "lease"
    late = claim(folder, look(folder), LEASING)
    new = claim(folder, look(folder), OTHER)
    for ask in (late.require, late.confirm):
        with pytest.raises(
            RunHeldError, match=r"process \d+ on \S+ has taken this run over, as nothing was heard of this"
        ):
            ask()
    with late:
        pass
    assert content(folder, 1)["state"] == "released"
    assert content(folder, 2)["state"] == "held", "what a late one releases is its own"
    new.require()


def test_a_list_of_names_that_is_out_of_date_does_not_make_two_holders(tmp_path, monkeypatch):
    """As a network file system may show it: the next number is made by exclusive creation, which asks the server."""
    folder = tmp_path / "lease"
    late = claim(folder, look(folder), LEASING)
    old = look(folder)
    claim(folder, old, OTHER)
    monkeypatch.setattr("supermask.lab.leases.look", lambda _: old)
    late.require()
    with pytest.raises(RunHeldError):
        late.confirm()


def test_a_claim_that_is_being_written_is_held(tmp_path):
    folder = tmp_path / "lease"
    folder.mkdir()
    for text in (b"", b'{"owner": "on', b"[1]"):
        (folder / "000001").write_bytes(text)
        assert not look(folder).free
        assert look(folder).holder == "another process"


def test_a_full_disk_makes_no_claim(tmp_path, monkeypatch):
    def full(values):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as context:
        context.setattr("supermask.lab.leases._text", full)
        with pytest.raises(OSError, match="No space left"):
            claim(tmp_path / "lease", Sight(), LEASING)
    assert look(tmp_path / "lease") == Sight()
    with monkeypatch.context() as context, claim(tmp_path / "lease", Sight(), LEASING):
        context.setattr("supermask.lab.leases._text", full)
    assert not look(tmp_path / "lease").free, "it could not be released, and lapses"


def test_the_claim_of_a_dead_child(tmp_path):
    folder = tmp_path / "lease"
    release_of(folder, "one")
    claim(folder, look(folder), LEASING)
    release_of(folder, "other")
    assert not look(folder).free
    release_of(folder, "one")
    assert look(folder).free


@pytest.mark.parametrize("seconds", [0.5, 0, -1, float("nan")])
def test_seconds_out_of_range(seconds):
    with pytest.raises(RunError, match="lease_seconds must be at least 1, got"):
        Leasing(seconds=seconds)


def test_more_seconds_than_a_heart_can_wait():
    """Its thread would end by an error."""
    with pytest.raises(RunError, match=r"lease_seconds must be at most 86400 \(a day\), got inf"):
        Leasing(seconds=float("inf"))


def test_a_lease_that_another_host_has_removed(tmp_path, monkeypatch):
    """As NFS says it to who has the folder open."""

    def stale(self):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr("pathlib.Path.iterdir", stale)
    assert look(tmp_path) == Sight()


# ---------------------------------------------------------------------- with locks


def never():
    return False


def test_a_run_under_the_lock_alone(tmp_path):
    run = RunFolder(tmp_path)
    with holding(run, None, None, never) as hold:
        hold.require()
        hold.confirm()
        with (
            pytest.raises(RunHeldError, match=r"^another process is training this run$"),
            holding(run, None, None, never),
        ):
            pass
    assert not run.lease.exists()


def test_the_lock_alone_respects_a_lease(tmp_path):
    run = RunFolder(tmp_path)
    lease = claim(run.lease, look(run.lease), LEASING)
    with (
        pytest.raises(
            RunHeldError, match=r"training this run: process \d+ on \S+, by its lease; if that process is dead, the"
        ),
        holding(run, None, None, never),
    ):
        pass
    with lease:
        pass
    with holding(run, None, None, never):
        pass


def test_a_lease_respects_the_lock_alone(tmp_path):
    run = RunFolder(tmp_path)
    with locked(run.lock), pytest.raises(RunHeldError), holding(run, LEASING, None, never):
        pass
    assert look(run.lease) == Sight()


def test_a_lapsed_lease_is_taken_over_though_its_paused_holder_has_the_lock(tmp_path):
    run = RunFolder(tmp_path)
    with locked(run.lock), claim(run.lease, Sight(), LEASING):
        sight = look(run.lease)
        with pytest.raises(RunHeldError), holding(run, OTHER, None, never):
            pass
        with holding(run, OTHER, sight, never) as hold:
            hold.require()
            assert look(run.lease).number == 2


def test_waiting_for_a_lease(tmp_path):
    run, asked = RunFolder(tmp_path), []
    lease = claim(run.lease, Sight(), Leasing(seconds=1))  # whose heart does not beat
    with holding(run, Leasing(seconds=1, wait=True), None, lambda: bool(asked.append(1))):
        assert look(run.lease).number == lease.number + 1
    assert asked
    claim(run.lease, look(run.lease), LEASING)
    with pytest.raises(KeyboardInterrupt), holding(run, Leasing(wait=True), None, lambda: True):
        pass


def test_a_finished_run_keeps_no_lease(tmp_path):
    run = RunFolder(tmp_path)
    with holding(run, LEASING, None, never):
        run.result.write_text("{}")
    assert not run.lease.exists()


@pytest.mark.skipif(os.name != "posix", reason="flock")
def test_file_systems_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("supermask.core.locking.fcntl.flock", refuse)
    run = RunFolder(tmp_path)
    with pytest.raises(OSError, match="No locks available"), holding(run, None, None, never):
        pass
    with holding(run, LEASING, None, never):
        assert look(run.lease).number == 1
    monkeypatch.setattr(
        "supermask.core.locking.fcntl.flock", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "bad"))
    )
    with pytest.raises(OSError, match="bad"), holding(run, LEASING, None, never):
        pass
