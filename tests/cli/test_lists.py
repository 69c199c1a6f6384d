from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from supermask.data import DATASETS
from supermask.models import MODELS

from .conftest import Invoke

PLUGIN = '''
from dataclasses import dataclass
from typing import ClassVar

import torch

from supermask import Method, register


@register
@dataclass(frozen=True, kw_only=True)
class Careless(Method):
    """Draws from torch's global generator."""

    name: ClassVar[str] = "careless"

    def setup(self, s):
        for target in s.targets:
            s.install_mask(target, torch.rand(target.shape) < 0.9)
'''


def test_methods_are_listed_with_their_source(supermask: Invoke) -> None:
    lines = supermask("methods").stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("signed-supermask ")]
    assert "weights stay random and frozen" in line
    assert "ICLR 2022" in line
    assert "``" not in "".join(lines)


def test_a_method_is_shown_whole(supermask: Invoke) -> None:
    text = supermask("methods", "signed-supermask").stdout
    assert text.startswith("signed-supermask (version 1, ")
    assert "    code   = +1 if M > tau, -1 if M < -tau, else 0\n" in text
    assert "**Differs:**" in text
    table = text[text.index("field  ") :].splitlines()
    assert ["threshold", "0.01"] in [line.split() for line in table]
    assert ["signed", "true"] in [line.split() for line in table]


def test_the_cost_and_state_of_a_method_are_told(supermask: Invoke) -> None:
    text = supermask("methods", "random").stdout
    assert "\n**Cost:** once, a number drawn for each weight." in text
    (method,) = json.loads(supermask("methods", "random", "--json").stdout)["methods"]
    assert text.startswith(f"random (version {method['version']}, {method['status']})\n")
    assert method["cost"].startswith("once, a number drawn for each weight. A step takes")
    assert method["cost"].endswith("Memory: 1 byte a weight.")
    assert method["differs"].startswith("counts are exact")


def test_a_method_without_fields(supermask: Invoke) -> None:
    assert "field" not in supermask("methods", "dense").stdout


def test_unknown_names_are_corrected(supermask: Invoke) -> None:
    for verb, name, hint in (
        ("methods", "signed-supermsk", "signed-supermask"),
        ("models", "fcm", "fcn"),
        ("data", "cifar01", "cifar10"),
        ("check", "magnitud", "magnitude"),
    ):
        result = supermask(verb, name)
        assert result.exit_code == 2
        assert f"did you mean {hint!r}?" in result.stderr


def test_models_are_listed_with_their_weights(supermask: Invoke) -> None:
    lines = [line.split() for line in supermask("models").stdout.splitlines()]
    assert ["fcn", "266,200", "1x28x28"] in [line[:3] for line in lines]
    assert [line[0] for line in lines[2 : 2 + len(MODELS)]] == list(MODELS)


def test_a_model_is_shown_with_its_options(supermask: Invoke) -> None:
    text = supermask("models", "fcn").stdout
    assert "weights  266,200\n" in text
    assert "trained  266,200 (" in text
    assert "trained  266,610 (" in supermask("models", "lenet-300-100").stdout
    assert ["classes", "10"] in [line.split() for line in text.splitlines()]


def test_data_sets_are_listed_with_what_to_do(supermask: Invoke) -> None:
    lines = supermask("data").stdout.splitlines()
    assert [line.split()[0] for line in lines[2 : 2 + len(DATASETS)]] == list(DATASETS)
    (cifar,) = [line for line in lines if line.startswith("cifar10 ")]
    assert "missing: supermask data get cifar10" in cifar
    (digits,) = [line for line in lines if line.startswith("digits ")]
    assert "scikit-learn" in digits
    assert "CC BY 4.0" in digits


def test_a_missing_data_set_says_what_to_put_where(supermask: Invoke, tmp_path: Path) -> None:
    text = supermask("data", "cifar10", "--data-dir", tmp_path).stdout
    assert "found    no\n" in text
    assert str(tmp_path / "cifar-10-batches-bin") in text
    assert "licence  none stated" in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("npz", ("train_images, train_labels", "test_images, test_labels", "images and labels", "uint8", "NCHW", "0.2",
                 "file           must be given", "layout         \"auto\"", "data: {name: npz, file: mine.npz}")),
        ("folder", ("path/train/CLASS/*", "path/CLASS/*", ".png", "path           must be given", "size           null",
                    "data: {name: folder, path: my-images}")),
    ],
)  # fmt: skip
def test_own_data_sets_say_what_they_read(supermask: Invoke, name: str, words: tuple[str, ...]) -> None:
    text = supermask("data", name).stdout
    for word in (*words, "test_fraction  null", "split_seed     0", 'normalize      "image"'):
        assert word in text, word


def test_shards_say_what_they_read(supermask: Invoke) -> None:
    text = supermask("data", "webdataset").stdout
    for word in ("KEY.cls", "classes.txt", 'train          "*train*.tar"', "shards         must be given",
                 "data: {name: webdataset, shards: my-shards, classes: 10}", "looked for in the data folders"):  # fmt: skip
        assert word in text, word


def test_imagenet_says_where_it_was_looked_for(supermask: Invoke, tmp_path: Path) -> None:
    text = supermask("data", "imagenet", "--data-dir", tmp_path).stdout
    for word in ("terms", "option   classes: 1000", "option   crop: 224", "found    no", "It is not downloaded",
                 str(tmp_path / "imagenet" / "train"), "https://image-net.org"):  # fmt: skip
        assert word in text, word


def test_decoding_by_hand(supermask: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for split, value in (("train", 1), ("val", 2)):
        for wnid in ("n00000001", "n00000002"):
            folder = tmp_path / "tiny-imagenet" / split / wnid
            folder.mkdir(parents=True)
            Image.new("RGB", (64, 64), value).save(folder / "a.png")
    arguments = ("data", "decode", "tiny-imagenet", "--data-dir", tmp_path, "--processes", 1)
    result = supermask(*arguments, "--set", "classes=2")
    assert result.stdout.startswith("tiny-imagenet: 2 training and 2 test images are in ")
    assert (Path(result.stdout.split()[-1]) / "meta.json").exists()
    result = supermask(*arguments)
    assert result.exit_code == 2
    assert "data.classes is 200, but" in result.stderr
    assert "--set classes: expected KEY=VALUE" in supermask(*arguments, "--set", "classes").stderr
    result = supermask("data", "decode", "mnist")
    assert "'mnist' has no images to decode" in result.stderr


def test_a_data_set_that_is_there(supermask: Invoke) -> None:
    assert supermask("data", "digits").stdout.endswith("found    scikit-learn\n")


def test_getting_data_uses_the_folder(supermask: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def get(name: str, *, root: Path, progress: object) -> Path:
        asked.append((name, root, progress))
        return root / name

    monkeypatch.setattr("supermask.data.get", get)
    result = supermask("data", "get", "mnist", "--data-dir", tmp_path)
    assert result.stdout == f"mnist is in {tmp_path / 'mnist'}\n"
    assert asked == [("mnist", tmp_path, None)]


def test_getting_what_is_no_download(supermask: Invoke) -> None:
    result = supermask("data", "get", "digits")
    assert result.exit_code == 2
    assert "there is nothing to download for data set 'digits'" in result.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("known_methods")
def test_check_finds_what_is_wrong(supermask: Invoke, tmp_path: Path) -> None:
    (tmp_path / "careless.py").write_text(PLUGIN)
    result = supermask("check", "careless.py")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0] == "careless"
    (line,) = [line for line in lines if line.startswith("same_seed_same_result ")]
    assert line.split()[1:] == ["FAILED"] * 4
    assert "FAILED same_seed_same_result on mlp: torch's global generator was used" in lines
    assert lines[-1].endswith(" failed")


def test_check_of_a_good_method(supermask: Invoke) -> None:
    result = supermask("check", "dense")
    assert result.exit_code == 0
    assert result.stdout.endswith("\ndense: every check holds\n")


def test_a_refusal_is_no_failure(supermask: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    from supermask.core.checks import Report, Result
    from supermask.methods import Dense

    results = (
        Result("learns", "mlp", "pass"),
        Result("learns", "lstm", "refused", "no recurrent layers"),
        Result("learns", "lstm", "pass"),
    )
    monkeypatch.setattr("supermask.core.checks.check_method", lambda cls: Report(Dense(), results))
    result = supermask("check", "dense")
    assert result.exit_code == 0
    assert ["learns", "pass", "refused"] in [line.split() for line in result.stdout.splitlines()]
    assert "refused on lstm: no recurrent layers" in result.stdout
    content = json.loads(supermask("check", "dense", "--json").stdout)
    assert content["passed"] is True
    assert [entry["status"] for entry in content["methods"][0]["results"]] == ["pass", "refused"]


@pytest.mark.usefixtures("known_methods")
def test_check_of_a_file_that_is_no_plugin(supermask: Invoke, tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    result = supermask("check", "empty.py")
    assert result.exit_code == 2
    assert "registers no method" in result.stderr
    assert "no such plug-in file" in supermask("check", "gone.py").stderr
