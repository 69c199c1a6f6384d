"""The functions that a benchmark compares. Each is made in a process of its own and imports only what it needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn

    from supermask.lab.contender import Run


def eager(*, model: Any, threads: int) -> Run:
    """Torch as it is, channels first."""
    return _torch(_load(model, threads))


def channels_last(*, model: Any, threads: int) -> Run:
    """Torch with images and weights whose channels lie beside each other."""
    import torch

    module: Any = _load(model, threads)
    module = module.to(memory_format=torch.channels_last)

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            images = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)
            return np.asarray(module(images).numpy(), np.float32)

    return run


def compiled(*, model: Any, threads: int) -> Run:
    """``torch.compile`` with the weights frozen in; compiles at the first call of every batch size."""
    import torch
    from torch._inductor import config

    config.freezing = True
    config.compile_threads = 1  # a process of a benchmark starts no others
    return _torch(torch.compile(_load(model, threads), dynamic=False), no_grad=True)


def onnxruntime(*, path: Path, threads: int) -> Run:
    """An exported file in onnxruntime."""
    from supermask.deploy.session import onnx_session

    session = onnx_session(path, threads)
    name = session.get_inputs()[0].name
    return lambda x: np.asarray(session.run(None, {name: x})[0], np.float32)


def engine(*, path: Path | None, model: Any, batches: tuple[int, ...], threads: int) -> Run:
    """The engine, made from a packed file, or from the model where its graph cannot be written to a file."""
    import torch

    from supermask.deploy import compile

    torch.set_num_threads(threads)
    if path is not None:
        return compile(path, batch_sizes=batches, threads=threads).__call__
    from supermask.lab.artefact import load_artefact

    artefact = load_artefact(**model)
    assert artefact.input_shape is not None, "the benchmark has asked for it"
    example = torch.randn(1, *artefact.input_shape, generator=torch.Generator().manual_seed(0))
    return compile(artefact.model, example, batch_sizes=batches, threads=threads).__call__


def runtime(*, path: Path, threads: int) -> Run:
    """A packed file without torch."""
    from supermask.deploy import load

    return load(path, threads=threads).__call__


def _load(model: dict[str, Any], threads: int) -> nn.Module:
    import torch

    from supermask.lab.artefact import load_artefact

    torch.set_num_threads(threads)
    return load_artefact(**model).model


def _torch(module: Any, *, no_grad: bool = False) -> Run:
    import torch

    off = torch.no_grad if no_grad else torch.inference_mode  # frozen weights need the former

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        with off():
            return np.asarray(module(torch.from_numpy(x)).numpy(), np.float32)

    return run
