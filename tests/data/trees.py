"""Writes small trees of JPEG files in the layouts of ImageNet and Tiny-ImageNet."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

WNIDS = ("n01440764", "n01443537", "n02002724")
Bytes = npt.NDArray[np.uint8]


def smooth(seed: int, width: int, height: int) -> Image.Image:
    """A picture with colours that change slowly: JPEG changes it little."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def jpeg(path: Path, seed: int, size: tuple[int, int] = (64, 64), mode: str = "RGB") -> Path:
    """Write a picture; ``size`` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    smooth(seed, *size).convert(mode).save(path, "JPEG", quality=90)
    return path


def pixels(path: Path) -> Bytes:
    """What Pillow makes of a file, (3, H, W)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def tiny(folder: Path, *, train: int = 3, val: int = 2, annotations: bool = True) -> Path:
    """Tiny-ImageNet as it is unpacked, of three classes, numbered otherwise than they are listed in wnids.txt."""
    for number, wnid in enumerate(WNIDS):
        for i in range(train):
            jpeg(folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", 100 * number + i)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("left alone")
    lines = []
    for i in range(val * len(WNIDS)):
        jpeg(folder / "val" / "images" / f"val_{i}.JPEG", 1000 + i)
        lines.append(f"val_{i}.JPEG\t{WNIDS[i % len(WNIDS)]}\t0\t32\t44\t62\n")
    if annotations:
        (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("\n".join(reversed(WNIDS)) + "\n")
    (folder / "words.txt").write_text(
        "n00001740\tentity\nn01440764\ttench, Tinca tinca\nn01443537\tgoldfish\nn02002724\tgoldfish\n"
    )
    (folder / "test" / "images").mkdir(parents=True)
    return folder


def imagenet(folder: Path, *, train: int = 2, val: int = 2, flat: bool = False) -> Path:
    """ImageNet, of three classes and pictures of several shapes; ``flat``: validation images without class folders."""
    shapes = [(40, 30), (30, 40), (25, 61), (20, 20)]
    for number, wnid in enumerate(WNIDS):
        for i in range(train):
            jpeg(folder / "train" / wnid / f"{wnid}_{i}.JPEG", 100 * number + i, shapes[(number + i) % 4])
        for i in range(val):
            name = f"ILSVRC2012_val_{number + 3 * i + 1:08d}.JPEG"
            jpeg(folder / "val" / ("" if flat else wnid) / name, 1000 + number + 3 * i, shapes[i % 4])
    return folder


def shard(path: Path, samples: list[tuple[str, dict[str, bytes]]]) -> Path:
    """A tar file of samples: key, and content by suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, parts in samples:
            for suffix, content in parts.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def encoded(seed: int, size: tuple[int, int] = (32, 32)) -> bytes:
    """A JPEG file's content."""
    buffer = io.BytesIO()
    smooth(seed, *size).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
