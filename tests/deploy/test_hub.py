from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
import yaml
from torch import nn

from supermask.deploy import annotate, hub, pack, read, unpack
from supermask.errors import GraphError, HubError, MissingExtraError, PackedFileError


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = nn.Linear(32, 4, bias=False)
    model.weight.data = torch.where(torch.rand(4, 32) < 0.2, 0.5, 0.0)
    path = tmp_path / "net.smk.safetensors"
    pack(
        model,
        path,
        architecture={"name": "fcn", "options": {}},
        classes=["a", "b|c", "d", "e"],
        normalization={"name": "image"},
        provenance={"run": "0123456789ab"},
    )
    return path


def header(card: str) -> dict[str, Any]:
    found = yaml.safe_load(card.split("---")[1])
    assert isinstance(found, dict)
    return found


def test_push_and_download_a_folder(packed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "repository"
    where = hub.push(
        packed,
        folder,
        licence="mit",
        title="A: small one",
        about="Four rows.",
        dataset="mnist",
        results={"accuracy": 0.9748},
        task="tabular-classification",
        tags=["supermask", "mnist"],
    )
    assert where == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.smk.safetensors"]
    path = hub.download(folder)
    assert path.read_bytes() == packed.read_bytes()
    assert torch.equal(unpack(path)["weight"], unpack(packed)["weight"])
    card = (folder / "README.md").read_text()
    fields = header(card)
    assert fields["license"] == "mit"
    assert fields["tags"] == ["supermask", "sparse", "mnist"]
    (entry,) = fields["model-index"]
    assert entry["name"] == "A: small one"
    assert entry["results"][0]["task"] == {"type": "tabular-classification"}
    assert entry["results"][0]["metrics"] == [{"type": "accuracy", "value": 0.9748}]
    count = int((unpack(path)["weight"] != 0).sum())
    for text in (
        "# A: small one",
        "Four rows.",
        f"{count} of 128 are not zero",
        f"{packed.stat().st_size:,} bytes",
        "a, b\\|c, d, e",
        "| accuracy | 0.9748 |",
        '{"run": "0123456789ab"}',
        "Nothing was verified yet",
        "## Licence\n\nmit",
        "model.load_state_dict(deploy.unpack(path))",
    ):
        assert text in card


def test_the_card_holds_the_certificate_and_how_to_run_a_graph(packed: Path) -> None:
    annotate(packed, certificate={"n": 100, "max_difference": 1e-6})
    node = {"op": "flatten", "name": "flat", "inputs": ["input"]}
    graph = {"version": 1, "input": {"shape": [1, 28, 28], "dtype": "float32"}, "nodes": [node], "output": "flat"}
    annotate(packed, graph=graph)
    opened = read(packed)
    card = hub.model_card(opened, licence="mit", title="t", about="", dataset=None, results={}, task="other", tags=())
    assert json.dumps({"max_difference": 1e-6, "n": 100}, indent=1) in card
    assert "float32 of shape (N, 1, 28, 28)" in card
    assert "run = deploy.load(path)" in card
    assert "metrics" not in header(card)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": " "}, "title must be one line of text, got ' '"),
        ({"licence": "mit\nno"}, "licence must be one line of text"),
        ({"results": {"accuracy": 1.0}}, "results need the data set that they are of; say dataset="),
        ({"results": {"accuracy": float("nan")}, "dataset": "d"}, "results: accuracy must be a finite number, got nan"),
        ({"results": {"accuracy": "high"}, "dataset": "d"}, "results: accuracy must be a finite number, got 'high'"),
    ],
)
def test_a_card_that_lacks_something(packed: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(HubError, match=message):
        hub.push(packed, tmp_path / "r", **{"licence": "mit", "title": "t", **change})
    assert not (tmp_path / "r").exists()


def test_what_is_not_there_or_damaged(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"there is no model.smk.safetensors in .*; push\(\) puts it there"):
        hub.download(tmp_path)
    with pytest.raises(HubError, match="revision is for the Hub"):
        hub.download(tmp_path, revision="main")
    (tmp_path / "model.smk.safetensors").write_bytes(packed.read_bytes()[:-1])
    with pytest.raises(PackedFileError):
        hub.download(tmp_path)
    with pytest.raises(PackedFileError):
        hub.push(tmp_path / "model.smk.safetensors", tmp_path / "r", licence="mit", title="t")


class Api:
    """Stands for the Hub's own interface, and writes down what it is asked."""

    asked: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def __init__(self, **options: Any) -> None:
        self.asked.append(("login", options))

    def create_repo(self, repository: str, **options: Any) -> None:
        self.asked.append((repository, options))

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> SimpleNamespace:
        names = sorted(path.name for path in Path(folder_path).iterdir())
        self.asked.append((repo_id, {"names": names}))
        return SimpleNamespace(commit_url="https://hub/commit/1")


def test_the_hub_is_asked_for_what_was_meant(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[Any] = []
    monkeypatch.setattr(Api, "asked", asked)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)

    def fetch(repository: str, name: str, **options: Any) -> str:
        asked.append((repository, name, options["revision"], options["token"]))
        return str(packed)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    url = hub.push(packed, "me/net", licence="mit", title="t", token="secret", private=True)
    assert url == "https://hub/commit/1"
    assert hub.download("me/net", revision="v1", token="secret") == packed
    login, made, uploaded, fetched = asked
    assert login[1]["token"] == "secret"
    assert made == ("me/net", {"private": True, "exist_ok": True})
    assert uploaded == ("me/net", {"names": ["README.md", "model.smk.safetensors"]})
    assert fetched == ("me/net", "model.smk.safetensors", "v1", "secret")


def test_the_hub_refuses(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(*arguments: Any, **options: Any) -> str:
        raise OSError("no route to the Hub\nmany details")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    for ask in (
        lambda: hub.download("me/net"),
        lambda: hub.push(packed, "me/net", licence="mit", title="t", token="secret"),
    ):
        with pytest.raises(HubError, match=r"^the Hugging Face Hub, repository 'me/net': no route to the Hub$"):
            ask()


def test_without_the_extra(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"python -m pip install 'supermask\[hub\]'"):
        hub.download("me/net")


def test_texts_of_a_file_cannot_break_the_card(packed: Path, tmp_path: Path) -> None:
    annotate(packed, classes=["a\n\n# b", "c|d"])  # type: ignore[arg-type]
    hub.push(packed, tmp_path / "r", licence="mit", title="t")
    assert "| classes | a # b, c\\|d |" in (tmp_path / "r" / "README.md").read_text()
    annotate(packed, graph={"version": 1})
    with pytest.raises(GraphError, match="graph lacks 'input'"):
        hub.push(packed, tmp_path / "r", licence="mit", title="t")
