"""Stores of runs: uploads, resuming elsewhere, what is half there, and errors; on a local S3 server, in memory, in a folder."""

import io
import json
import logging
import shutil
import sys
import zipfile
from pathlib import Path

import fsspec
import pytest

from supermask.errors import MissingExtraError, RunHeldError, StoreError
from supermask.lab.leases import Leasing, claim, look
from supermask.lab.remote import Store, mirror
from supermask.lab.store import RunFolder, read_metrics, read_results, run_folder

from .helpers import assert_same_run, only_run, run_here

SLOW = {"train.epochs": 3, "train.batch_size": 800}  # two steps an epoch


@pytest.fixture(scope="module")
def s3():
    """The address of a bucket on an S3 server of our own."""
    pytest.importorskip("s3fs")
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():
        patch.setenv(name, value)
    fsspec.filesystem("s3").mkdir("bucket")
    yield "s3://bucket"
    patch.undo()
    server.stop()


@pytest.fixture(params=["s3", "memory", "file"])
def url(request, tmp_path):
    """An empty store."""
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/{tmp_path.name}"
    return f"memory://{tmp_path.name}" if request.param == "memory" else f"file://{tmp_path}/store"


def names(url):
    """What is in a store, without the folder of the only run."""
    fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return sorted(path.rpartition("/")[2] for path in fs.find(root))


class Stop:
    """Stops a run at its n-th event of a kind, as Ctrl-C does: with a checkpoint."""

    def __init__(self, kind, n):
        self.kind, self.left = kind, n

    def __call__(self, event):
        self.left -= event.kind == self.kind
        if self.left == 0:
            raise KeyboardInterrupt


def stopped(out, epochs=3, **options):
    """A run that is stopped as its third epoch (or another number from here on) ends; checkpoints are taken at every step."""
    with pytest.raises(KeyboardInterrupt):
        run_here(SLOW, out, checkpoint_seconds=0, on_event=Stop("epoch", epochs), **options)


def test_a_finished_run_is_uploaded_and_never_trained_again(url, tmp_path):
    made = run_here({}, tmp_path / "a", store=url)
    assert len(made.done) == 1
    files = ["env.json", "masks.safetensors", "metrics.jsonl", "result.json", "spec.json"]
    assert names(url) == [*files, "story.safetensors", "weights.safetensors"]
    again = run_here({}, tmp_path / "b", store=url)
    assert [event.message for event in again.skipped] == ["finished already"]
    assert_same_run(only_run(tmp_path / "a"), only_run(tmp_path / "b"))


def test_a_worker_elsewhere_resumes_bitwise(url, tmp_path):
    run_here(SLOW, tmp_path / "whole")
    stopped(tmp_path / "a", store=url)
    assert names(url) == ["checkpoint.zip", "spec.json"]
    seen = []
    assert len(run_here(SLOW, tmp_path / "b", store=url, on_event=seen.append).done) == 1
    assert seen[0].kind == "resumed"
    assert [event.epoch for event in seen if event.kind == "epoch"] == [3]
    assert_same_run(only_run(tmp_path / "whole"), only_run(tmp_path / "b"))
    assert "checkpoint.zip" not in names(url)
    assert "result.json" in names(url)


def test_its_own_checkpoint_is_taken_where_it_is_further(tmp_path):
    url = f"file://{tmp_path}/store"
    stopped(tmp_path / "a", epochs=2, store=url)
    stopped(tmp_path / "a", epochs=2)  # the second, which was not saved at its end, and the third
    seen = []
    run_here(SLOW, tmp_path / "a", store=url, on_event=seen.append)
    assert [event.epoch for event in seen if event.kind == "epoch"] == [3]


def test_a_run_that_was_finished_without_the_store_is_uploaded(tmp_path):
    url = f"file://{tmp_path}/store"
    run_here({}, tmp_path / "a")
    assert len(run_here({}, tmp_path / "a", store=url).skipped) == 1
    assert "result.json" in names(url)


def test_an_upload_that_breaks_off_is_not_a_finished_run(url, tmp_path, monkeypatch):
    """The store breaks before the result; the run is whole here, and the same command uploads what is missing."""
    put, cut = Store._put, []

    def breaking(fs, path, data):
        if path.endswith("result.json"):
            cut.append(path)
            raise ConnectionResetError("the line is cut")
        put(fs, path, data)

    monkeypatch.setattr(Store, "_put", staticmethod(breaking))
    outcome = run_here({}, tmp_path / "a", store=url)
    assert len(cut) == 1
    (failed,) = outcome.failed
    assert f"cannot write the store {url} (ConnectionResetError: the line is cut)" in failed.message
    assert "then give the same command again" in failed.message
    run = only_run(tmp_path / "a")
    assert run.result.exists()
    assert not run.failed.exists()
    assert "weights.safetensors" in names(url)
    assert Store(url).finished("test") == set()
    monkeypatch.setattr(Store, "_put", staticmethod(put))
    assert len(run_here({}, tmp_path / "b", store=url).done) == 1  # elsewhere it is not taken for finished
    assert len(run_here({}, tmp_path / "a", store=url).skipped) == 1
    assert Store(url).finished("test") == {run.path.name}


def test_a_checkpoint_that_cannot_be_uploaded_stops_no_run(tmp_path, monkeypatch):
    def refuse(self, folder, experiment, place):
        raise StoreError("no")

    monkeypatch.setattr(Store, "push_checkpoint", refuse)
    seen = []
    outcome = run_here(SLOW, tmp_path / "a", store=f"file://{tmp_path}/s", checkpoint_seconds=0, on_event=seen.append)
    assert len(outcome.done) == 1
    assert {event.message for event in seen if event.kind == "progress" and event.message} == {"no"}


@pytest.fixture(scope="module")
def store_of_a_stopped_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    stopped(folder / "a", store=f"file://{folder}/store")
    return folder / "store"


@pytest.mark.parametrize("how", ["cut", "changed", "schema"])
def test_a_damaged_checkpoint_is_never_unpacked(how, store_of_a_stopped_run, tmp_path):
    url = f"file://{tmp_path}/store"
    shutil.copytree(store_of_a_stopped_run, tmp_path / "store")
    (file,) = (tmp_path / "store").rglob("checkpoint.zip")
    good = file.read_bytes()
    if how == "cut":
        file.write_bytes(good[: len(good) // 2])
    else:
        with zipfile.ZipFile(io.BytesIO(good)) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        if how == "changed":
            content["metrics.jsonl"] = content["metrics.jsonl"][:-1]
        else:
            manifest = json.loads(content["manifest.json"])
            content["manifest.json"] = json.dumps(manifest | {"schema": 9}).encode()
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data)
    outcome = run_here(SLOW, tmp_path / "b", store=url)
    assert "checkpoint.zip: damaged (" in outcome.failed[0].message
    assert "delete it there" in outcome.failed[0].message
    assert not list((tmp_path / "b").rglob("last.pt"))
    file.unlink()
    assert len(run_here(SLOW, tmp_path / "b", store=url).done) == 1


def test_a_mirror_holds_what_reports_read(url, tmp_path):
    run_here({}, tmp_path / "a", store=url, vary={"seed": 2})
    stopped(tmp_path / "c", epochs=1, store=url)
    counts = []
    folder = mirror(url, tmp_path / "cache", on_start=counts.append)
    assert len(read_results(folder)) == 2
    assert not list(folder.rglob("weights.safetensors"))
    assert len(list(folder.rglob("spec.json"))) == 3
    first = only_run(tmp_path / "c").path.name
    (path,) = folder.rglob(f"*/{read_results(folder)[0]['run']}")
    assert len(read_metrics(RunFolder(path))) == 2
    mirror(url, tmp_path / "cache", on_start=counts.append)
    assert counts[1] == counts[0] - 4  # metrics and story of two runs are there already
    fs, root = fsspec.core.url_to_fs(url)
    fs.rm(f"{root}/test/{first}", recursive=True)
    mirror(url, tmp_path / "cache")
    assert len(list(folder.rglob("spec.json"))) == 2


def test_errors_say_the_way_out(tmp_path, monkeypatch):
    with pytest.raises(StoreError, match=r"there is nothing at memory://nowhere; `supermask run --store"):
        mirror("memory://nowhere", tmp_path)
    with pytest.raises(
        StoreError, match=r"cannot read the store nosuch://y \(ValueError: Protocol not known: nosuch.*See to"
    ):
        run_here({}, tmp_path, store="nosuch://y")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(MissingExtraError, match=r"'gcsfs': python -m pip install 'supermask\[gcs\]'"):
        Store("gs://bucket").finished("test")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtraError, match=r"'fsspec': python -m pip install 'supermask\[stores\]'"):
        Store("file:///nowhere").finished("test")


@pytest.mark.parametrize("url", ["s3:/bucket/folder", "bucket/folder"])
def test_a_store_is_a_url(url, tmp_path, monkeypatch):
    """A mistyped one would be a folder of that name here."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=rf"got '{url}'; for a folder say file://{tmp_path}/{url}$"):
        run_here({}, tmp_path, store=url)
    assert list(tmp_path.iterdir()) == []


def test_an_object_that_would_lie_outside_of_the_cache(tmp_path):
    fs = fsspec.filesystem("memory")
    fs.store["/outside/test/../../../result.json"] = fs.open("/outside/test/x", "wb")
    try:
        with pytest.raises(StoreError, match=r"result\.json' in the store memory://outside would lie outside"):
            mirror("memory://outside", tmp_path / "cache")
    finally:
        fs.store.clear()
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_another_machine_left_beside_the_result(tmp_path):
    """Both trained the run; the slower one uploads no second result, and leaves nothing."""
    url = f"file://{tmp_path}/store"
    run_here({}, tmp_path / "a", store=url)
    before = only_run(tmp_path / "store").result.read_bytes()
    late = only_run(tmp_path / "store").path / "checkpoint.zip"
    late.write_bytes(b"of the slower one")
    run_here({}, tmp_path / "b")
    Store(url).push_finished(only_run(tmp_path / "b"), "test")
    assert not late.exists()
    assert only_run(tmp_path / "store").result.read_bytes() == before


def test_a_run_that_another_host_trains_is_not_fetched_under_its_hands(tmp_path, monkeypatch):
    """Its lease is seen where its lock is not, and also where there are no locks at all."""
    url = f"file://{tmp_path}/store"
    run_here({}, tmp_path / "a", store=url)
    folder = run_folder(tmp_path / "b", "test", only_run(tmp_path / "a").path.name)
    folder.path.mkdir(parents=True)
    monkeypatch.setattr("supermask.core.locking._try_lock", lambda file, *, optional: optional)
    with claim(folder.lease, look(folder.lease), Leasing()):
        Store(url).exchange(folder, "test", here=True)
        assert not folder.result.exists()
    Store(url).exchange(folder, "test", here=True)
    assert folder.result.exists()


@pytest.mark.parametrize("what", ["result", "checkpoint"])
def test_a_process_that_lost_its_run_while_it_fetched(what, store_of_a_stopped_run, tmp_path):
    """Paused for long in the middle of a download: what another process has written since stays."""
    url = f"file://{store_of_a_stopped_run if what == 'checkpoint' else tmp_path / 'store'}"
    if what == "result":
        run_here({}, tmp_path / "a", store=url)
    (run,) = Path(url.removeprefix("file://")).glob("test/*")
    folder = run_folder(tmp_path / "b", "test", run.name)
    left = [1, 1]

    def before_write():
        if not left:
            raise RunHeldError("another process has taken this run over")
        left.pop()

    with pytest.raises(RunHeldError):
        Store(url).fetch(folder, "test", before_write)
    assert len([path for path in folder.path.rglob("*") if path.is_file()]) == 2
    assert not folder.result.exists()
    assert not folder.checkpoint.exists()


def _denied(url, **options):
    raise PermissionError("access denied")


def test_a_store_that_cannot_be_reached(monkeypatch, tmp_path, s3):
    with pytest.raises(StoreError, match=r"there is nothing at s3://no-such-bucket/x"):
        mirror("s3://no-such-bucket/x", tmp_path)
    monkeypatch.setattr(fsspec.core, "url_to_fs", _denied)
    with pytest.raises(StoreError, match=r"cannot read the store s3://bucket/x \(PermissionError: .*credentials"):
        mirror("s3://bucket/x", tmp_path)
