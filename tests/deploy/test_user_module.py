"""A user's own module goes the whole way: attach, train, finalize, pack, compile, export; and every equality holds."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supermask import Magnitude, SignedSupermask
from supermask.core.method import Method
from supermask.deploy import compile, export, load, pack, read, trace, unpack, verify

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


class Block(nn.Module):
    """A residual block with a depthwise convolution between two pointwise ones."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels, bias=False)
        self.narrow = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in (2 * channels, 2 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.norms[0](self.wide(x)))
        y = F.relu6(self.norms[1](self.depthwise(y)))
        return x + self.norms[2](self.narrow(y))


class Mixed(nn.Module):
    """Convolutions, residual blocks with depthwise convolutions, and a transformer's encoder block over the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(Block(8), Block(8))
        self.position = nn.Parameter(torch.zeros(16, 8))
        self.encoder = nn.TransformerEncoderLayer(8, 2, 32, dropout=0.1, activation="gelu", batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.norm(self.stem(x))))
        rows = F.max_pool2d(x, 2).flatten(2).transpose(1, 2) + self.position
        return self.head(self.encoder(rows).mean(1))


def _data(number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images with a bright quarter: which one is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (number,), generator=generator)
    images = torch.randn(number, 1, 8, 8, generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 1.0
    return images, labels


@pytest.mark.slow
@pytest.mark.parametrize("method", [SignedSupermask(), Magnitude(density=0.2)], ids=["signed-supermask", "magnitude"])
def test_the_whole_way(method: Method, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Mixed()
    images, labels = _data(128, 0)
    sparsifier = method.attach(model, seed=0)
    optimizer = torch.optim.SGD(sparsifier.param_groups(), lr=0.05, momentum=0.9)
    for _ in sparsifier.rounds():
        sparsifier.bind(optimizer, total_steps=12)
        for step in range(12):
            part = slice(step % 4 * 32, step % 4 * 32 + 32)
            optimizer.zero_grad()
            F.cross_entropy(model(images[part]), labels[part]).backward()
            optimizer.step()
    model.eval()
    masked = copy.deepcopy(model)
    masks = sparsifier.finalize()
    assert any(not mask.all() for mask in masks.values())

    x, _ = _data(300, 1)
    graph, _ = trace(model, x[:2])
    path = tmp_path / "mixed.smk.safetensors"
    pack(model, path, masks=masks, graph=graph.to_dict())
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in unpack(path).items())

    engine = compile(model, x[:8], batch_sizes=(1, 32), seconds=0.02)
    names = [row.layer.name for row in engine.plan().layers]
    assert "blocks.0.depthwise" in names
    assert "encoder.self_attn.in_proj_weight" in names
    exports = [tmp_path / "mixed.onnx", tmp_path / "mixed.pt2"]
    for file in exports:
        export(model, file, example=x[:4])
    certificate = verify(model, x, masked=masked, packed=path, engine=engine, exported=exports, data="bright quarters")
    assert certificate.holds, str(certificate)
    assert [form.name for form in certificate.forms] == [
        "masked",
        "packed",
        "run time",
        "engine",
        "mixed.onnx",
        "mixed.pt2",
    ]
    assert all(form.agreement == 1 or form.wrong == 0 for form in certificate.forms)
    assert read(path).certificate == certificate.to_dict()
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(load(path)(x.numpy())), model(x), rtol=1e-4, atol=1e-5)
