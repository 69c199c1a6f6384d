"""Networks as users write them: each with what is special to it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGE = (2, 3, 8, 8)
ROWS = (2, 5, 6)


class Concat(nn.Module):
    """Two branches and the input itself, joined; then read by a convolution and, flattened, by a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 5, 3, padding=1)
        self.right = nn.Conv2d(3, 4, 1)
        self.bn = nn.BatchNorm2d(12)
        self.mix = nn.Conv2d(12, 6, 3, padding=1)
        self.fc = nn.Linear(6 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        both = self.bn(torch.cat([self.left(x), x, self.right(x)], dim=1))
        return self.fc(F.max_pool2d(F.relu(self.mix(F.relu(both))), 2).flatten(1))


class Depthwise(nn.Module):
    """An inverted residual with squeeze and excite."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.expand = nn.Conv2d(4, 8, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.squeeze = nn.Conv2d(8, 3, 1)
        self.excite = nn.Conv2d(3, 8, 1)
        self.project = nn.Conv2d(8, 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        h = F.hardswish(self.bn2(self.depth(F.relu6(self.bn1(self.expand(x))))))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(h, 1)))))
        x = x + self.bn3(self.project(h * gate))
        return self.fc(x.mean((2, 3)))


class Projection(nn.Module):
    """A residual block with a projection, one without, activations in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.shortcut = nn.Sequential(nn.Conv2d(3, 6, 1, stride=2), nn.BatchNorm2d(6))
        self.inner = nn.Conv2d(6, 5, 3, padding=1)
        self.back = nn.Conv2d(5, 6, 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(6 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.relu(self.bn1(self.conv1(x))))
        y += self.shortcut(x)
        y = self.relu(y)
        y = y + self.back(self.relu(self.inner(y)))
        return self.fc(torch.flatten(y, 1))


class Shared(nn.Module):
    """One convolution called twice, its own output its input; one called on two maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3, padding=1)
        self.twice = nn.Conv2d(5, 5, 3, padding=1)
        self.head = nn.Conv2d(5, 4, 1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.twice(F.relu(self.twice(x))))
        maps = [self.head(x), self.head(F.avg_pool2d(x, 2))]
        return self.fc(sum(F.relu(m).mean((2, 3)) for m in maps))


class ThenLSTM(nn.Module):
    """Columns of a feature map as the steps of a two-layer bidirectional LSTM, then a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.lstm = nn.LSTM(4 * 4, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(10, 6, batch_first=True)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = F.max_pool2d(F.relu(self.conv(x)), 2)  # (N, 4, 4, 4)
        steps = maps.permute(0, 3, 1, 2).flatten(2)
        out, _ = self.lstm(steps)
        _, last = self.gru(out)
        return self.fc(last.squeeze(0))


class UNet(nn.Module):
    """Down, up by a transposed convolution, joined with the skip; group norm; the output is a map."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.GroupNorm(3, 6)
        self.deep = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.norm_up = nn.InstanceNorm2d(4, affine=True)
        self.join = nn.Conv2d(10, 5, 3, padding=1)
        self.out = nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.norm(self.down(x)))
        up = F.relu(self.norm_up(self.up(F.relu(self.deep(skip)))))
        wide = F.interpolate(F.avg_pool2d(up, 2), scale_factor=2, mode="nearest")
        return self.out(F.leaky_relu(self.join(torch.cat([skip, wide], 1)), 0.1))


class Attention(nn.Module):
    """Heads made by one linear layer for queries, keys and values; the number of heads follows from the weights."""

    def __init__(self, by_hand: bool = False) -> None:
        super().__init__()
        self.size, self.by_hand = 2, by_hand
        self.embed = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.qkv = nn.Linear(6, 3 * 8)
        self.out = nn.Linear(8, 6)
        self.up = nn.Linear(6, 10)
        self.down = nn.Linear(10, 6)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        heads = self.qkv(self.norm(x)).unflatten(-1, (3, -1, self.size))  # (N, L, 3, heads, size)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        if self.by_hand:
            scores = (q @ k.transpose(-2, -1)) * self.size**-0.5
            mixed = scores.softmax(-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(x)))
        return self.fc(x.mean(1))


class SeparateHeads(nn.Module):
    """Heads made by three linear layers; how many is a number of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.query, self.key, self.value = (nn.Linear(6, 8) for _ in range(3))
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).mean(1))


class Grouped(nn.Module):
    """Grouped convolutions, forth and transposed, a scale and a saved buffer of one's own, PReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.act = nn.PReLU(8)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=4)
        self.scale = nn.Parameter(torch.ones(12, 1, 1))
        self.register_buffer("gain", torch.ones(1, 12, 1, 1))
        self.up = nn.ConvTranspose2d(12, 8, 2, groups=2)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.act(self.stem(x))) * self.scale * self.gain
        return self.fc(F.relu(self.up(x)).sum((2, 3)))


class Halves(nn.Module):
    """A gated linear unit: two halves of one convolution, one as the sigmoid gate of the other; sub-pixel maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.up = nn.Conv2d(6, 16, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.conv(x).chunk(2, dim=1)
        return self.out(self.shuffle(F.relu(self.up(a * torch.sigmoid(b)))))


class Lines(nn.Module):
    """One-dimensional: an embedding, transposed to channels, convolutions, weights used by hand, tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 6)
        self.conv = nn.Conv1d(6, 7, 3, padding="same")
        self.bn = nn.BatchNorm1d(7)
        self.hidden = nn.Parameter(torch.randn(7, 6))
        self.bias = nn.Parameter(torch.zeros(6))

    def forward(self, tokens: Tensor) -> Tensor:
        x = F.elu(self.bn(self.conv(self.words(tokens).transpose(1, 2)))).mT
        x = torch.tanh(x @ self.hidden + self.bias)
        return F.linear(x, self.words.weight)


class Volume(nn.Module):
    """Three-dimensional."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(1, 4, 3, padding=1)
        self.bn = nn.BatchNorm3d(4)
        self.conv2 = nn.Conv3d(4, 5, 3)
        self.fc = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool3d(F.selu(self.conv2(F.relu(self.bn(self.conv1(x))))), 1).view(len(x), -1))


class Bits(nn.Module):
    """What else is rearranged: parts written in place, turned, repeated, stacked, halved; channels as a batch; a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.c = nn.Conv2d(12, 10, 1)
        self.one = nn.Conv2d(1, 2, 3, bias=False)
        self.pairs = nn.Conv2d(10, 4, 1)
        self.fc = nn.Linear(5 + 4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        a[:, :, 0].add_(b[:, :, 1])
        both = torch.stack([a, b], 1).flatten(1, 2)
        y = self.c(torch.cat([both, F.glu(b.roll(1, 2).repeat(1, 2, 1, 1), 1)], 1))  # (N, 10, 8, 8)
        gram = self.pairs(y).flatten(2) @ F.glu(y, 1).flatten(2).mT  # (N, 4, 5)
        maps = self.one(F.relu(y).flip(1).flatten(0, 1).unsqueeze(1)).unflatten(0, (len(x), -1)).mean((3, 4))
        return self.fc(torch.cat([gram.sum(1) + F.glu(maps.sum(2), 1), a[:, :, :2, :2].flatten(1)], 1))


class Cells(nn.Module):
    """An LSTM cell and class tokens of linear layers and parameters: states start as zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.places = nn.Parameter(torch.zeros(1, 6, 4))
        self.input, self.hidden = nn.Linear(4, 20), nn.Linear(5, 20, bias=False)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x)], 1) + self.places
        h = c = x.new_zeros(len(x), self.hidden.in_features)
        for step in self.input(F.relu(x)).unbind(1):
            i, f, g, o = (step + self.hidden(h)).chunk(4, 1)
            c = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.fc(h)


def _heads(small: nn.Module, _: nn.Module) -> None:
    small.heads = len(small.query.weight) // 2  # type: ignore[union-attr,arg-type]


Case = tuple[Callable[[], nn.Module], Callable[[], Tensor], set[str], Callable[[nn.Module, nn.Module], None] | None]
IMAGES = lambda: torch.randn(IMAGE)  # noqa: E731
SEQUENCE = lambda: torch.randn(ROWS)  # noqa: E731
TOKENS = lambda: torch.randint(11, (2, 5))  # noqa: E731

# network, example, the groups that can lose channels, numbers of its own that follow
CASES: dict[str, Case] = {
    "concat": (Concat, IMAGES, {"left", "right", "mix"}, None),
    "depthwise": (Depthwise, IMAGES, {"stem", "expand", "squeeze"}, None),
    "projection": (Projection, IMAGES, {"conv1", "conv2", "inner"}, None),
    "shared": (Shared, IMAGES, {"stem", "head"}, None),
    "lstm": (ThenLSTM, IMAGES, {"conv", "lstm", "gru"}, None),
    "unet": (UNet, IMAGES, {"down", "deep", "up", "join"}, None),
    "attention": (Attention, SEQUENCE, {"qkv", "up"}, None),
    "attention-by-hand": (lambda: Attention(by_hand=True), SEQUENCE, {"qkv", "up"}, None),
    "heads": (SeparateHeads, SEQUENCE, {"query"}, _heads),
    "grouped": (Grouped, IMAGES, {"stem"}, None),
    "halves": (Halves, IMAGES, {"conv", "up"}, None),
    "lines": (Lines, TOKENS, {"words", "conv"}, None),
    "bits": (Bits, IMAGES, {"a", "one", "c", "pairs"}, None),
    "cells": (Cells, SEQUENCE, {"embed", "input"}, None),
    "volume": (Volume, lambda: torch.randn(2, 1, 6, 6, 6), {"conv1", "conv2"}, None),
}
