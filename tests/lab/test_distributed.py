"""Two processes train one run together, and it is the run that one process trains."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from supermask.core.masks import Masks
from supermask.data import CropFlip, RandomResizedCrop, SubsetCropFlip
from supermask.data.augment import Rows
from supermask.errors import ConfigError, RunError
from supermask.lab.distributed import ALONE, Looks, World
from supermask.lab.executors.choose import make_executor
from supermask.lab.executors.torchrun import Torchrun
from supermask.lab.parallel import Division, checksum, load_own_state, own_state, shared_norms, shares
from supermask.lab.run import run_experiment
from supermask.lab.search import search
from supermask.lab.seeds import training_seed
from supermask.lab.store import RunFolder, read_metrics, read_result, read_story

from .helpers import experiment, timeless_metrics
from .rankparts import Exact
from .ranks import ids, launch, run_together, write_digits
from .test_resume import built_in_methods, section

TRAIN = {"epochs": 2, "batch_size": 25, "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9}}
KILLED = {"model": {"name": "rankparts:build_killed"}, "method": {"name": "rigl", "density": 0.3}}
TOLERANCE = {"rtol": 1e-9, "atol": 1e-11}  # of numbers in float64


def base(folder, file=None):
    return {
        "model": {"name": "rankparts:build"},
        "data": {"name": "npz", "file": str(file or write_digits(folder / "digits.npz")), "augment": {"padding": 1}},
        "train": TRAIN,
    }


def variants(folder):
    """Every method, and settings of their own."""
    found = {name: {"method": section(name, folder / name, Exact)} for name in built_in_methods()}
    found["parts"] = {"method": {"name": "signed-supermask"}, "train.accumulate": 3, "train.clip": {"norm": 0.5}}
    found["metric"] = {"train.metric": "userparts:mean_rank", "train.better": "lower"}
    found["killed"] = KILLED
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """All variants by two processes, and by this one: label -> run folder, each."""
    folder = tmp_path_factory.mktemp("ranks")
    patch, vary = base(folder), {"variant": variants(folder)}
    code, events, err = run_together(patch, vary, folder / "two", folder / "driver.py")
    assert code == 0, err
    assert {event[0] for event in events} == {"started", "done"}, events
    outcome = run_experiment(experiment(patch, vary=vary), out=folder / "one", workers=0)
    assert not outcome.failed
    return {
        label: (RunFolder(folder / "one" / "test" / run), RunFolder(folder / "two" / "test" / run))
        for label, run in ids(patch, vary).items()
    }


def labels():
    return [*built_in_methods(), "parts", "metric"]


def close(left, right):
    """Whether two values are equal, numbers to rounding."""
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-11)
    return left == right


@pytest.mark.slow
@pytest.mark.parametrize("label", labels())
def test_two_processes_equal_one(label, trained):
    one, two = trained[label]
    masks, others = Masks.load(one.masks), Masks.load(two.masks)
    assert list(masks) == list(others)
    for name in masks:
        assert torch.equal(masks[name], others[name]), name
    weights, others = load_file(one.weights), load_file(two.weights)
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        assert torch.allclose(weight, others[name], **TOLERANCE), name
    for line, other in zip(read_metrics(one), read_metrics(two), strict=True):
        assert line.keys() == other.keys()
        assert all(close(line[key], other[key]) for key in line if key != "seconds"), (line, other)
    assert read_result(two)["processes"] == 2
    assert read_result(one)["processes"] == 1
    assert read_result(two)["conditions"]["processes"] == 2
    assert json.loads(two.env.read_text())["starts"][0]["processes"] == 2
    assert sorted(path.name for path in one.path.iterdir()) == sorted(path.name for path in two.path.iterdir())


@pytest.mark.slow
def test_predictions_are_in_the_order_of_the_examples(trained):
    one, two = (read_story(run) for run in trained["dense"])
    assert one.keys() == two.keys()
    for name in one:
        assert (one[name] == two[name]).all(), name


@pytest.mark.slow
def test_goes_on_after_a_process_was_killed(trained, tmp_path):
    """The second process is killed by kill -9 in its tenth step; torchrun starts both again. By the command line."""
    straight = trained["killed"][1]
    patch = base(tmp_path, straight.path.parents[2] / "digits.npz") | KILLED
    file = tmp_path / "test.yaml"
    file.write_text(json.dumps({"name": "test", **patch}))
    command = ["-m", "supermask", "run", file, "--out", tmp_path / "out", "--checkpoint-seconds", "0", "--json"]
    code, out, err = launch(command, restarts=1, TEST_KILL="1,10")
    assert code == 0, err
    (told,) = json.loads(out)["runs"]  # one document: the second process says nothing
    assert told["state"] == "done"
    assert "a process that trains this run was lost" in err
    resumed = RunFolder(tmp_path / "out" / "test" / told["run"])
    assert len(json.loads(resumed.env.read_text())["starts"]) == 2
    assert not resumed.failed.exists()
    assert resumed.weights.read_bytes() == straight.weights.read_bytes()
    assert timeless_metrics(resumed) == timeless_metrics(straight)
    masks = Masks.load(resumed.masks)
    assert all(torch.equal(masks[name], mask) for name, mask in Masks.load(straight.masks).items())


@pytest.mark.slow
def test_errors_of_one_process(tmp_path):
    """What fails is told with its rank, and no process waits for the other; a run that both give up does not stop the next."""
    patch = base(tmp_path)
    vary = {
        "variant": {
            "strange": {"model": {"name": "rankparts:build_strange"}},
            "failing": {"model": {"name": "rankparts:build_failing"}},
            "fine": {"train.epochs": 1},
            "broken": {"train.loss": "rankparts:failing_loss"},
            "never": {"train.epochs": 3},
        }
    }
    code, events, err = run_together(patch, vary, tmp_path / "out", tmp_path / "driver.py")
    assert code != 0
    told = {label: message for kind, label, message in events if kind in ("done", "failed")}
    assert "rank 1 and rank 0 differ in the values of conv1." in told["strange"]
    assert "after step 7 of round 0" in told["strange"]
    assert told["failing"].startswith("rank 1: RuntimeError: no model here")
    assert told["fine"] is None
    assert "rank 1: RuntimeError: no loss here" in told["broken"]
    assert "never" not in told
    assert "the processes came apart" in err
    runs = {label: RunFolder(tmp_path / "out" / "test" / run) for label, run in ids(patch, vary).items()}
    for label in ("strange", "failing", "broken"):
        assert json.loads(runs[label].failed.read_text())["error"] == told[label]
    assert runs["fine"].result.exists()
    assert not runs["never"].path.exists()


# ------------------------------------------------------------------------------------------------------ in this process


@pytest.mark.parametrize(
    ("count", "parts", "size"), [(25, 1, 2), (25, 3, 2), (1, 1, 2), (1, 4, 3), (7, 7, 2), (12, 5, 4)]
)
def test_shares_are_the_batch(count, parts, size):
    ranks = [shares(count, parts, World(rank, size)) for rank in range(size)]
    assert len({len(found) for found in ranks}) == 1
    counted = [place for found in zip(*ranks) for s in found if not s.void for place in range(s.start, s.stop)]
    assert counted == list(range(count))
    assert len(ranks[0]) == min(parts, count)
    for part in zip(*ranks):
        assert {share.of for share in part} == {sum(share.counted for share in part)}
        assert max(s.counted for s in part) - min(s.counted for s in part) <= 1
        assert all(share.stop - share.start == 1 for share in part if share.void)


@pytest.mark.parametrize(
    "augment",
    [CropFlip(1), CropFlip(2, flip=False), SubsetCropFlip(2), RandomResizedCrop(6), RandomResizedCrop(6, flip=False)],
)
def test_a_part_is_augmented_as_in_the_whole_batch(augment):
    x = torch.rand(7, 2, 8, 8)
    whole = augment(x, torch.Generator().manual_seed(3))
    places = torch.tensor([5, 1, 2])
    part = augment(x[places], torch.Generator().manual_seed(3), Rows(places, 7))
    assert torch.equal(part, whole[places])


@pytest.mark.parametrize("method", ["signed-supermask", "rigl", "lottery-ticket"])
def test_parts_of_a_batch_give_its_update(method, tmp_path):
    """Without batch norm, whose statistics are those of each part."""
    patch = base(tmp_path) | {"model": {"name": "rankparts:build", "norm": False}, "method": {"name": method}}
    vary = {"train.accumulate": [1, 4]}
    outcome = run_experiment(experiment(patch, vary=vary), out=tmp_path / "out", workers=0)
    assert not outcome.failed
    whole, parts = (RunFolder(tmp_path / "out" / "test" / run) for run in ids(patch, vary).values())
    lines = [[line["train_loss"] for line in read_metrics(run)] for run in (whole, parts)]
    assert lines[0] == pytest.approx(lines[1], rel=1e-9)
    assert Masks.load(whole.masks).remaining() == Masks.load(parts.masks).remaining()


def test_accumulate_is_judged():
    with pytest.raises(ConfigError, match=r"train: accumulate must be at least 1, got 0"):
        ids({"train.accumulate": 0}, {})
    with pytest.raises(
        ConfigError, match="accumulate is the number of parts of a batch and batch_size is 256, got 300"
    ):
        ids({"train.accumulate": 300}, {})


def test_the_same_run_id_without_parts():
    assert ids({"train.accumulate": 1}, {}) == ids({}, {})
    assert ids({"train.accumulate": 2}, {}) != ids({}, {})


def test_a_world_of_one_answers_by_itself():
    assert ALONE.gather(3) == [3]
    assert ALONE.from_first("x") == "x"
    assert ALONE.numbers(1, 2) == [1, 2]
    assert [ALONE.any_says(flag) for flag in (True, False)] == [True, False]
    tensor = torch.ones(2)
    assert ALONE.total(tensor) is tensor
    with pytest.raises(KeyError), ALONE.together(), ALONE.in_step(None):
        raise KeyError


def test_looks_of_one_process_go_by_time():
    assert not Looks(ALONE, 100.0).due()
    looks = Looks(ALONE, 0.0)
    assert looks.due()
    looks.done()
    assert looks.due()


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.bool, torch.int64, torch.complex64]
)
def test_checksums_tell_values_and_places(dtype):
    tensor = torch.zeros(3, 5).to(dtype)
    tensor[1, 2] = 1
    moved = torch.zeros(3, 5).to(dtype)
    moved[1, 3] = 1
    sums = {int(checksum(one)) for one in (tensor, moved, torch.zeros(3, 5).to(dtype), torch.zeros(3, 6).to(dtype))}
    assert len(sums) == 4
    assert checksum(tensor) == checksum(tensor.t().contiguous().t())


def test_a_state_of_another_number_of_processes():
    """The first one goes on with all that was counted; generators without a state keep theirs."""
    ranks = [own_state(ALONE, torch.tensor(float(rank + 1))) for rank in range(3)]
    state = ranks[0] | {"ranks": ranks}
    sums = []
    for rank in range(2):
        held = torch.tensor(-1.0)
        load_own_state(World(rank, 2), state, held)
        sums.append(float(held))
    assert sums == [6.0, 0.0]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    load_own_state(World(3, 4), state, torch.tensor(0.0))
    assert torch.equal(torch.get_rng_state(), before)
    held = torch.tensor(-1.0)
    load_own_state(World(2, 3), state, held)
    assert float(held) == 3.0


def test_processes_draw_their_own_numbers():
    assert training_seed(4) == training_seed(4, 0)
    assert len({training_seed(4, rank) for rank in range(4)}) == 4


@pytest.mark.parametrize(
    ("name", "options", "workers", "message"),
    [
        ("ray", [], None, "--executor ray under torchrun: its processes train one run after the other"),
        ("local", [], 2, "--workers 2 under torchrun"),
        ("local", ["timeout_seconds=0"], None, "timeout_seconds must be more than 0, got 0"),
    ],
)
def test_what_does_not_go_with_torchrun(name, options, workers, message, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with pytest.raises(RunError, match=message):
        make_executor(name, options, workers=workers)


def test_under_torchrun_the_executor_is_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert make_executor("local", ["timeout_seconds=30"]) == Torchrun(timeout_seconds=30.0)
    with pytest.raises(ConfigError, match="pack"):
        make_executor("local", ["pack=true"])
    with pytest.raises(RunError, match=r"executor=Torchrun\(\) under torchrun"):
        run_experiment(experiment(), out=tmp_path, workers=0)
    with pytest.raises(RunError, match="give the command without torchrun"):
        search(experiment(), out=tmp_path, train=None)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    with pytest.raises(RunError, match="or start without it"):
        run_experiment(experiment(), out=tmp_path, executor=Torchrun())


class Own(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x)


def test_batch_norm_with_code_of_its_own_is_refused():
    model = nn.Sequential(Own(3))
    with (
        pytest.raises(ConfigError, match=r"the batch norm 0 \(Own\) has a forward\(\) of its own"),
        shared_norms(model, Division(World(0, 2), 1)),
    ):
        pass
    with shared_norms(model, Division(ALONE, 2)):
        pass
