"""Packed files in repositories of the Hugging Face Hub, or in local folders of the same shape, with a generated card.

A repository holds the packed file under the name :data:`FILE`, and a ``README.md`` that says what it is, how to run it, what
it does on test data, and what was verified. Nothing in the card is guessed: what the file does not say is left out.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from supermask._version import __version__
from supermask.core.arrays import atomic_write
from supermask.deploy.graph import Graph
from supermask.deploy.session import first_line
from supermask.deploy.unpacking import Packed, read
from supermask.errors import HubError, MissingExtraError

FILE: Final = "model.smk.safetensors"
CARD: Final = "README.md"
T = TypeVar("T")


def push(
    path: str | Path,
    repository: str | Path,
    *,
    licence: str,
    title: str,
    about: str = "",
    dataset: str | None = None,
    results: Mapping[str, float] | None = None,
    task: str = "image-classification",
    tags: Sequence[str] = (),
    private: bool | None = None,
    token: str | None = None,
) -> str:
    """Put a packed file and its card into a repository, which is made if it is not there.

    Args:
        path: The packed file.
        repository: ``owner/name`` on the Hub as text, or a local folder as a :class:`pathlib.Path`.
        licence: Of the weights, as the Hub writes it: ``apache-2.0``, ``mit``, ``cc-by-4.0``, ``other``, ...
        title: Of the card.
        about: A paragraph on the network.
        dataset: What it was trained on and tested with.
        results: Name of a metric -> its value on the test data of ``dataset``.
        task: What the results are of, as the Hub names it.
        tags: More tags than ``supermask`` and ``sparse``.
        private: Whether a repository that is made now is private; None: as the owner's settings say.
        token: Of the Hub; None: the one that the machine is logged in with.

    Returns:
        Where it is: the address of the commit, or the folder.

    Raises:
        HubError: The Hub cannot be reached or refuses, or the card lacks something.
        MissingExtraError: huggingface_hub is not installed, and the repository is on the Hub.
        PackedFileError: The packed file is damaged.
    """
    packed = read(path)
    card = model_card(
        packed, licence=licence, title=title, about=about, dataset=dataset, results=results or {}, task=task, tags=tags
    )
    data = Path(path).read_bytes()
    if isinstance(repository, Path):
        _write(repository, data, card)
        return str(repository)
    api = _hub().HfApi(token=token, library_name="supermask", library_version=__version__)
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), data, card)

        def upload() -> Any:
            api.create_repo(repository, private=private, exist_ok=True)
            return api.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"supermask {__version__}")

        return str(_ask(upload, repository).commit_url)


def download(repository: str | Path, *, revision: str | None = None, token: str | None = None) -> Path:
    """The packed file of a repository, opened and checked.

    Args:
        repository: ``owner/name`` on the Hub as text, or a local folder as a :class:`pathlib.Path`.
        revision: A branch, tag or commit of the Hub; None: the newest.
        token: Of the Hub; None: the one that the machine is logged in with, if there is one.

    Returns:
        The file, on the Hub's own cache on this machine or in the folder: for ``read``, ``unpack``, ``load`` and ``compile``.

    Raises:
        HubError: There is no such repository or file, or the Hub cannot be reached.
        MissingExtraError: huggingface_hub is not installed, and the repository is on the Hub.
        PackedFileError: The file is damaged.
    """
    if isinstance(repository, Path):
        if revision is not None:
            raise HubError(f"revision is for the Hub; {repository} is a folder")
        path = repository / FILE
        if not path.is_file():
            raise HubError(f"there is no {FILE} in {repository}; push() puts it there")
    else:
        hub = _hub()
        path = Path(
            _ask(
                lambda: hub.hf_hub_download(
                    repository,
                    FILE,
                    revision=revision,
                    token=token,
                    library_name="supermask",
                    library_version=__version__,
                ),
                repository,
            )
        )
    read(path)
    return path


def model_card(
    packed: Packed,
    *,
    licence: str,
    title: str,
    about: str,
    dataset: str | None,
    results: Mapping[str, float],
    task: str,
    tags: Sequence[str],
) -> str:
    """The card as Markdown with the Hub's header.

    Raises:
        HubError: It has no title or licence, or results without a data set or that are no numbers.
        GraphError: The file's graph is damaged.
    """
    for name, value in (("title", title), ("licence", licence)):
        if not value.strip() or "\n" in value:
            raise HubError(f"{name} must be one line of text, got {value!r}")
    if results and not dataset:
        raise HubError("results need the data set that they are of; say dataset=")
    for name, number in results.items():
        if not isinstance(number, int | float) or not math.isfinite(number):
            raise HubError(f"results: {name} must be a finite number, got {number!r}")
    parts = [
        _header(licence, title, dataset, results, task, tags),
        f"# {title}",
        *([about.strip()] if about.strip() else []),
        _facts(packed, dataset),
        *([_results(results, dataset or "")] if results else []),
        _how_to_run(packed),
        _verified(packed.certificate),
        f"## Licence\n\n{licence}",
    ]
    return "\n\n".join(parts) + "\n"


def _header(
    licence: str, title: str, dataset: str | None, results: Mapping[str, float], task: str, tags: Sequence[str]
) -> str:
    """The Hub's fields; JSON texts are YAML texts."""
    fields: dict[str, Any] = {
        "license": licence,
        "library_name": "supermask",
        "tags": list(dict.fromkeys(["supermask", "sparse", *tags])),
    }
    if results:
        fields["metrics"] = list(results)
        entry = {
            "task": {"type": task},
            "dataset": {"name": dataset, "type": dataset},
            "metrics": [{"type": name, "value": value} for name, value in results.items()],
        }
        fields["model-index"] = [{"name": title, "results": [entry]}]
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in fields.items()), "---"])


def _facts(packed: Packed, dataset: str | None) -> str:
    dense = sum(entry.dense_bytes for entry in packed.entries.values())
    total = sum(entry.numel for entry in packed.entries.values())
    remaining = sum(int((packed.array(name) != 0).sum()) for name in packed.entries)
    rows = [("file", f"`{FILE}`, {packed.size:,} bytes ({dense / packed.size:,.1f} times smaller than dense)")]
    rows.append(("weights", f"{remaining:,} of {total:,} are not zero ({100 * remaining / max(total, 1):.2f} %)"))
    if packed.architecture is not None:
        rows.append(("architecture", f"`{json.dumps(packed.architecture)}`"))
    if packed.graph is not None:
        graph = Graph.from_dict(packed.graph)
        rows.append(("input", f"{graph.input_dtype} of shape (N, {', '.join(map(str, graph.input_shape))})"))
    if packed.normalization is not None:
        rows.append(("normalisation", f"`{json.dumps(packed.normalization)}`"))
    if dataset is not None:
        rows.append(("data", dataset))
    if packed.classes is not None:
        rows.append(("classes", ", ".join(packed.classes)))
    if packed.provenance is not None:
        rows.append(("from", f"`{json.dumps(packed.provenance)}`"))
    return _table(("", ""), rows)


def _results(results: Mapping[str, float], dataset: str) -> str:
    rows = [(name, f"{value:.6g}") for name, value in results.items()]
    return "## Results\n\n" + _table(("metric", f"value on the test data of {dataset}"), rows)


def _how_to_run(packed: Packed) -> str:
    lines = ["from pathlib import Path", "", "from supermask import deploy", "from supermask.deploy import hub", ""]
    lines += ['path = hub.download("OWNER/NAME")  # or hub.download(Path("a/folder"))']
    if packed.graph is not None:
        lines += ["run = deploy.load(path)  # needs numpy alone", "outputs = run(inputs)"]
    else:
        lines += ["model.load_state_dict(deploy.unpack(path))  # a module of your own class"]
    return "\n".join(["## How to run it", "", "```python", *lines, "```"])


def _verified(certificate: Mapping[str, Any] | None) -> str:
    if certificate is None:
        return "## Verified\n\nNothing was verified yet; `supermask verify` does it."
    text = json.dumps(certificate, indent=1)
    return f"## Verified\n\nWhat `supermask verify` found:\n\n```json\n{text}\n```"


def _table(headers: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    lines = [f"| {' | '.join(headers)} |", "|---|---|"]
    lines += [f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _write(folder: Path, data: bytes, card: str) -> None:
    atomic_write(folder / FILE, data)
    atomic_write(folder / CARD, card.encode())


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "hub", "the Hugging Face Hub") from error
    return huggingface_hub


def _ask(request: Callable[[], T], repository: str) -> T:
    """Do something on the Hub; what goes wrong there is one error."""
    try:
        return request()
    except Exception as error:  # of http clients, the Hub's answers, and names that it does not allow
        raise HubError(f"the Hugging Face Hub, repository {repository!r}: {first_line(error)}") from error
