from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.deploy.test_engine import SHAPE, Small, net, sparse

from supermask.deploy import load, pack, read, trace
from supermask.errors import EngineError


def _pack(path: Path, model: torch.nn.Module, shape: tuple[int, ...]) -> Path:
    graph, _ = trace(model, torch.randn(1, *shape))
    pack(model, path, graph=graph.to_dict(), classes=["a", "b", "c", "d"])
    return path


@pytest.mark.parametrize(("make", "shape"), [(net, SHAPE), (lambda: sparse(Small(), 0.2), (3, 10, 10))])
def test_a_packed_file_runs(tmp_path: Path, make: object, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = make()  # type: ignore[operator]
    runtime = load(_pack(tmp_path / "net.safetensors", model, shape), threads=2)
    x = torch.randn(5, *shape)
    with torch.no_grad():
        expected = model(x).numpy()
    np.testing.assert_allclose(runtime(x.numpy()), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(runtime(x[:1].numpy()), expected[:1], rtol=1e-5, atol=1e-5)
    assert runtime(np.empty((0, *shape), np.float32)).shape == (0, expected.shape[1])
    assert runtime.classes == ["a", "b", "c", "d"]
    assert runtime.input_shape == shape


@pytest.mark.parametrize("kernels", ["", "off"])
def test_torch_is_never_imported(tmp_path: Path, kernels: str) -> None:
    torch.manual_seed(0)
    model = sparse(Small(), 0.2)
    path = _pack(tmp_path / "net.safetensors", model, (3, 10, 10))
    x = torch.randn(3, 3, 10, 10)
    np.save(tmp_path / "x.npy", x.numpy())
    code = (
        "import sys, numpy as np\n"
        "sys.modules['torch'] = None  # an import of torch fails\n"
        "from supermask.deploy import load, read\n"
        f"y = load({str(path)!r})(np.load({str(tmp_path / 'x.npy')!r}))\n"
        f"np.save({str(tmp_path / 'y.npy')!r}, y)\n"
        "assert not [name for name in sys.modules if name.startswith('torch.')]\n"
    )
    import os

    environment = {**os.environ, "SUPERMASK_KERNELS": kernels} if kernels else dict(os.environ)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    with torch.no_grad():
        np.testing.assert_allclose(np.load(tmp_path / "y.npy"), model(x).numpy(), rtol=1e-5, atol=1e-5)


def test_what_is_refused(tmp_path: Path) -> None:
    path = _pack(tmp_path / "net.safetensors", net(), SHAPE)
    runtime = load(read(path), threads=1)
    for wrong in (np.zeros((1, 2, 8, 8), np.float32), np.zeros((1, *SHAPE)), [1.0]):
        with pytest.raises(EngineError, match=r"x: must be a float32 array of shape \(N, 1, 8, 8\)"):
            runtime(wrong)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="threads"):
        load(path, threads=0)
    bare = tmp_path / "bare.safetensors"
    pack(net(), bare)
    with pytest.raises(EngineError, match="holds no graph"):
        load(bare)


def test_a_network_of_integers(tmp_path: Path) -> None:
    class Halving(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x / 2)

    model, x = sparse(Halving(), 0.5), torch.arange(8).reshape(2, 4)
    graph, _ = trace(model, x)
    pack(model, tmp_path / "net.safetensors", graph=graph.to_dict())
    runtime = load(tmp_path / "net.safetensors", threads=1)
    with torch.no_grad():
        np.testing.assert_allclose(runtime(x.numpy()), model(x).numpy(), rtol=1e-5, atol=1e-6)
    with pytest.raises(EngineError, match="x: must be a int64 array of shape"):
        runtime(x.float().numpy())


def test_copies_and_pickles(tmp_path: Path) -> None:
    runtime = load(_pack(tmp_path / "net.safetensors", net(), SHAPE), threads=1)
    assert copy.deepcopy(runtime) is runtime
    with pytest.raises(EngineError, match="cannot be pickled"):
        pickle.dumps(runtime)
