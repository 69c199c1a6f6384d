"""What verbs look at before training starts: the device, the data, the initial state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from supermask.errors import ConfigError, MissingDataError, RunError

if TYPE_CHECKING:
    from supermask.core.sparsifier import Sparsifier
    from supermask.lab.plan import RunSpec


def resolve_device(name: str) -> str:
    """The device to train on; "auto" is cuda where there is one.

    Raises:
        RunError: It does not exist here.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise RunError(f"--device {name}: {reason}; use --device cpu, or auto to take what is there") from error
    return name


def require_data(specs: Iterable[RunSpec], out: Path, root: Path | None) -> None:
    """Look for the data sets of all runs that have no result yet.

    Raises:
        MissingDataError: One of them is not on this machine; says what to put where.
    """
    if missing := missing_data(specs, out, root):
        raise MissingDataError(missing)


def missing_data(specs: Iterable[RunSpec], out: Path, root: Path | None) -> str:
    """Which data set of the runs that have no result yet is not on this machine, and what to put where; empty if none."""
    from supermask.cli.datasets import way_to_get
    from supermask.data import DATASETS, status
    from supermask.lab.store import run_folder

    wanted = {
        spec.sections["data"]["name"] for spec in specs if not run_folder(out, spec.experiment, spec.id).result.exists()
    }
    for entry in status(root):
        if entry.name in wanted and not entry.ready:
            info = DATASETS[entry.name]
            fetched = " (run --download fetches it)" if info.files else ""
            way = way_to_get(info, root, entry.hint)
            return f"the data set {entry.name!r} is not on this machine{fetched}. {way}"
    return ""


def initial_state(model: str, method: str, seed: int, settings: Sequence[str]) -> Sparsifier:
    """A method attached to a model exactly as a run with that seed starts.

    Args:
        model: Name or reference.
        method: Name.
        seed: The run's seed.
        settings: `KEY=VALUE`, dotted keys of the sections model, init and method.

    Raises:
        ConfigError: A name, key or value is wrong, or the method's start depends on training data.
    """
    import torch

    from supermask.lab.channels import trace
    from supermask.lab.config import parse_run
    from supermask.lab.load import parse_yaml
    from supermask.lab.parts import attach, build_loss, build_model
    from supermask.lab.patch import merge, nest
    from supermask.models import MODELS

    pairs = [setting.partition("=") for setting in settings]
    for key, equals, _ in pairs:
        if not equals or key.partition(".")[0] not in ("model", "init", "method"):
            raise ConfigError(f"--set {key}{equals}...: expected model.KEY=VALUE, init.KEY=VALUE or method.KEY=VALUE")
    patch = nest({key: parse_yaml(value, f"--set {key}") for key, _, value in pairs}, "--set")
    # what stands under data and train has no part in the initial state
    unused = {"data": {"name": "digits"}, "train": {"epochs": 1, "optimizer": {"name": "sgd", "lr": 0.1}}}
    config = parse_run(merge({"model": {"name": model}, "method": {"name": method}, **unused}, patch), Path())
    if config.method.needs_data:
        raise ConfigError(f"{method} computes its start from training data; start a run instead")
    built = build_model(config, seed, Path(), torch.device("cpu"))
    traced = None
    if config.method.needs_structure:
        if model not in MODELS:
            raise ConfigError(
                f"{method} traces its model, and nothing here tells the shape of {model}'s inputs; start a run instead"
            )
        channels, *size = MODELS[model].input_shape
        traced = trace(config.method, built, torch.zeros(2, config.model.options.get("channels", channels), *size))
    return attach(config, built, seed, [], build_loss("cross-entropy", Path()), traced)
