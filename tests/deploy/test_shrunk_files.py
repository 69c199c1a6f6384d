"""Shrunk models as files: they come back in the user's class, with this package and without it."""

from __future__ import annotations

import importlib.util
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.test_package import _code_lines
from torch import nn

from supermask.deploy import Shrunk, load_shrunk, shrink
from supermask.deploy.patching import named
from supermask.deploy.shrunk_files import KEY, is_shrunk, read_shrunk
from supermask.errors import PackedFileError, PackError, StructureError

from .smaller import (
    Heads,
    Rows,
    Tied,
    example,
    heads_structure,
    outputs,
    rows_structure,
    small_net,
    small_structure,
    tied_structure,
    without,
)

DECODER = Path(__file__).parents[2] / "decoders" / "python" / "load_shrunk.py"
Load = Callable[..., nn.Module]


def alone() -> Load:
    """The decoder that stands alone, in this process."""
    spec = importlib.util.spec_from_file_location("load_shrunk_alone", DECODER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    load: Load = module.load
    return load


LOADERS = {"package": load_shrunk, "alone": alone()}


@pytest.fixture
def shrunk() -> Shrunk:
    net = small_net()
    keeps = {"conv1": without(8, 1, 6), "conv2": without(6, 0), "fc1": without(5, 4)}
    return shrink(net, example(), keeps=keeps, structure=small_structure(net), zero=True)


def edited(path: Path, change: Callable[[dict[str, Any]], None], **header: Any) -> Path:
    """A copy of a file with another description."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    outer = json.loads(data[8 : 8 + length])
    about = json.loads(outer["__metadata__"][KEY])
    change(about)
    outer["__metadata__"][KEY] = json.dumps(about)
    outer |= header
    text = json.dumps(outer).encode()
    other = path.with_name("edited.safetensors")
    other.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return other


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_a_file_gives_the_model_back(load: Load, shrunk: Shrunk, tmp_path: Path) -> None:
    path = shrunk.save(tmp_path / "small.safetensors")
    assert list(tmp_path.iterdir()) == [path]
    seed = iter(range(7, 99))
    for model in (lambda: small_net(next(seed)), small_net(3)):  # its own values do not count
        back = load(path, model)
        assert all(torch.equal(value, back.state_dict()[name]) for name, value in shrunk.model.state_dict().items())
        assert repr(back) == repr(shrunk.model)
        assert torch.equal(outputs(back, example(3)), outputs(shrunk.model, example(3)))
    found = read_shrunk(path)
    assert found.patch == shrunk.patch
    assert found.certificate == shrunk.certificate
    assert found.checksum == shrunk.certificate.shrunk
    assert found.architecture is None
    assert is_shrunk(path)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Any], dict[str, Any], tuple[int, ...]]] = {
    "tied": (Tied, tied_structure, {"keeps": {"first": without(6, 2, 3)}}, (3,)),
    "heads": (Heads, heads_structure, {"keeps": {"query": without(3, 1)}, "follows": {"heads": "query"}}, (5, 6)),
    "recurrent": (Rows, rows_structure, {"keeps": {"embed": without(5, 0)}}, (6, 3)),
    "half": (lambda: small_net().half(), small_structure, {"keeps": {"conv1": without(8, 0)}}, (3, 8, 8)),
    "channels last": (
        lambda: small_net().to(memory_format=torch.channels_last),
        small_structure,
        {"keeps": {"conv1": without(8, 0)}},
        (3, 8, 8),
    ),
}


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("case", CASES)
def test_all_kinds_come_back(load: Load, case: str, tmp_path: Path) -> None:
    make, structure, options, shape = CASES[case]
    net = make()
    x = example(2, shape).to(next(net.parameters()).dtype)
    small = shrink(net, x, structure=structure(net), zero=True, **options).model
    path = shrink(net, x, structure=structure(net), zero=True, **options).save(tmp_path / "small.safetensors")
    back = load(path, make)
    assert repr(back) == repr(small)
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in small.state_dict().items())
    assert torch.equal(outputs(back.float(), x.float()), outputs(small.float(), x.float()))


class Versioned(nn.Linear):
    """A layer with a state that is no tensor."""

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        raise AssertionError(state)


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_an_extra_state_is_no_tensor_and_gradients_do_not_stay(load: Load, tmp_path: Path) -> None:
    dense = nn.Sequential(Versioned(4, 8), nn.Linear(8, 3))
    x = torch.randn(3, 4)
    small = shrink(dense, x, keeps={"0": without(8, 1)}, zero=True)
    dense(x).sum().backward()
    again = load(small.save(tmp_path / "net.safetensors"), dense)
    assert torch.equal(again(x), small.model(x))
    assert all(parameter.grad is None for parameter in again.parameters())


def test_memory_format_and_device_are_the_models(shrunk: Shrunk, tmp_path: Path) -> None:
    path = shrunk.save(tmp_path / "small.safetensors")
    back = load_shrunk(path, small_net().to(memory_format=torch.channels_last))
    assert back.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    with torch.device("meta"):
        empty = nn.Sequential(*small_net().children())
    with pytest.raises(StructureError, match="is it the same model"):
        load_shrunk(path, empty)
    with pytest.raises(StructureError, match="on the device 'meta', which hold nothing"):
        load_shrunk(path, small_net().to("meta"))


def test_a_model_that_was_trained_on_is_saved_as_it_is_now(shrunk: Shrunk, tmp_path: Path) -> None:
    with torch.no_grad():
        shrunk.model.fc2.bias += 1
    path = shrunk.save(tmp_path / "small.safetensors")
    assert torch.equal(load_shrunk(path, small_net).fc2.bias, shrunk.model.fc2.bias)
    assert read_shrunk(path).checksum != shrunk.certificate.shrunk
    shrunk.model.conv1 = nn.Conv2d(3, 8, 3)
    with pytest.raises(
        PackError, match=r"conv1.weight should have the shape \(6, 3, 3, 3\) of the patch, .* model changed"
    ):
        shrunk.save(tmp_path / "other.safetensors")
    with pytest.raises(PackError, match=r"ends in .safetensors, got 'small.pt'"):
        shrunk.save(tmp_path / "small.pt")
    assert [file.name for file in tmp_path.iterdir()] == ["small.safetensors"]


def test_the_decoder_needs_nothing_of_this_package(shrunk: Shrunk, tmp_path: Path) -> None:
    path = shrunk.save(tmp_path / "small.safetensors")
    x = example(3)
    torch.save(outputs(shrunk.model, x), tmp_path / "wanted.pt")
    source = Path(__file__).with_name("smaller.py").read_text()
    net = source[source.index("def small_net") : source.index("def shake")].replace("        shake(net)\n", "")
    code = f"""
import sys
sys.modules["supermask"] = None
sys.path.insert(0, {str(DECODER.parent)!r})
import torch
from collections import OrderedDict
from torch import nn
from load_shrunk import load
{net}
try:
    import supermask
except ImportError:
    pass
else:
    raise SystemExit("supermask was imported")
model = load({str(path)!r}, small_net).eval()
with torch.no_grad():
    found = model(torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(5)))
assert torch.equal(found, torch.load({str(tmp_path / "wanted.pt")!r}, weights_only=True))
assert not [name for name in sys.modules if name.startswith("supermask.")]
print("equal")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("equal\n", 0), done.stderr
    assert _code_lines(DECODER) <= 60
    imported = {
        line.split()[1].split(".")[0]
        for line in DECODER.read_text().splitlines()
        if line.startswith(("import", "from"))
    }
    assert imported == {"hashlib", "json", "torch", "safetensors"}


BAD: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a newer format": (lambda a: a.update(format=2), "format 2, .*install a newer version"),
    "a newer patch": (lambda a: a["patch"].update(version=2), "patch has version 2"),
    "no version": (lambda a: a["patch"].pop("version"), "has no version"),
    "no patch": (lambda a: a.pop("patch"), "its description has"),
    "another certificate": (lambda a: a["certificate"].pop("torch"), "certificate is damaged"),
    "another checksum": (
        lambda a: a.update(checksum="0" * 64),
        "have the checksum .*, not 000000000000…: it is damaged",
    ),
    "a checksum that is none": (lambda a: a.update(checksum=3), "is damaged"),
    "a huge tensor": (
        lambda a: a["patch"]["tensors"]["conv1.weight"].update(dense=[1 << 60, 3, 3, 3]),
        "size that is none",
    ),
    "another dense shape": (
        lambda a: a["patch"]["tensors"]["conv1.weight"].update(dense=[9, 3, 3, 3]),
        "is the same model|is for",
    ),
    "another shape": (
        lambda a: a["patch"]["tensors"]["conv1.weight"].update(shape=[5, 3, 3, 3]),
        "should have the shape",
    ),
    "ranges that fall": (
        lambda a: a["patch"]["tensors"]["conv1.weight"]["kept"].update({"0": [[4, 6], [0, 4]]}),
        "do not rise within 8",
    ),
    "ranges beyond": (
        lambda a: a["patch"]["tensors"]["conv1.weight"]["kept"].update({"0": [[0, 9]]}),
        "do not rise within 8",
    ),
    "ranges of text": (lambda a: a["patch"]["tensors"]["conv1.weight"]["kept"].update({"0": ["ab"]}), "do not rise"),
    "an axis that is none": (
        lambda a: a["patch"]["tensors"]["conv1.weight"]["kept"].update({"7": [[0, 1]]}),
        "no axis '7'",
    ),
    "a tensor that is none": (
        lambda a: a["patch"]["tensors"].update(conv9=a["patch"]["tensors"]["conv1.bias"]),
        "conv9",
    ),
    "a module that is none": (lambda a: a["patch"]["modules"].update(conv9={"groups": [1, 1]}), "no module 'conv9'"),
    "a hidden attribute": (
        lambda a: a["patch"]["modules"]["conv1"].update(__class__=[1, 1]),
        "'__class__' is no attribute",
    ),
    "a method": (
        lambda a: a["patch"]["modules"]["conv1"].update(forward=[1, 1]),
        "forward is None, the patch is for 1",
    ),
    "a larger number": (
        lambda a: a["patch"]["modules"]["conv1"].update(out_channels=[8, 9]),
        "out_channels from 8 to 9",
    ),
    "text for a number": (
        lambda a: a["patch"]["modules"]["conv1"].update(out_channels=[8, "a"]),
        "out_channels from 8 to 'a'",
    ),
    "another tie": (lambda a: a["patch"]["aliases"].update({"fc2.bias": "fc1.bias"}), "the model ties nothing"),
    "a tie to no name": (lambda a: a["patch"]["aliases"].update({"fc2.bias": 3}), "an alias is no name"),
    "a patch that is none": (lambda a: a.update(patch=[]), "no version"),
    "tensors that are none": (lambda a: a["patch"].update(tensors=[1]), "patch is damaged"),
    "an architecture of text": (lambda a: a.update(architecture="vgg"), "architecture is no object"),
    "a cut that is forgotten": (
        lambda a: a["patch"]["tensors"].pop("fc1.bias"),
        r"fc1.bias has the shape \(4,\), it should",
    ),
}


# what loading does not need: the stand-alone decoder does not read it
UNSEEN = {"another certificate", "ranges that fall", "ranges beyond", "ranges of text", "an axis that is none"}
UNSEEN |= {"an architecture of text"}


@pytest.mark.parametrize("case", BAD)
def test_hostile_descriptions_are_refused_and_change_nothing(case: str, shrunk: Shrunk, tmp_path: Path) -> None:
    change, message = BAD[case]
    path = edited(shrunk.save(tmp_path / "small.safetensors"), change)
    net = small_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    shown = repr(net)
    with pytest.raises((PackedFileError, StructureError), match=message):
        load_shrunk(path, net)
    if case not in UNSEEN:
        with pytest.raises(ValueError, match=str(path)):
            LOADERS["alone"](path, net)
    assert repr(net) == shown
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_damaged_and_other_files_are_refused(shrunk: Shrunk, tmp_path: Path) -> None:
    path = shrunk.save(tmp_path / "small.safetensors")
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    flipped = bytearray(data)
    flipped[-5] ^= 64
    contents = {
        "cut off": data[:-9],
        "cut in the header": data[: length // 2],
        "empty": b"",
        "a huge header": struct.pack("<Q", 1 << 60) + data[8:],
        "a header that is no JSON": data[:8] + b"x" * length + data[8 + length :],
        "a flipped bit": bytes(flipped),
        "a pickle": b"\x80\x04K\x01.",
    }
    for name, content in contents.items():
        path.write_bytes(content)
        for load in LOADERS.values():
            with pytest.raises(ValueError, match=str(path)):
                load(path, small_net)
        assert name == "cut off" or name == "a flipped bit" or not is_shrunk(path)
    other = tmp_path / "weights.safetensors"
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3)}, other)
    assert not is_shrunk(other)
    assert not is_shrunk(tmp_path / "none.safetensors")
    with pytest.raises(PackedFileError, match="but no shrunk model: it lacks the metadata 'supermask-shrunk'"):
        load_shrunk(other, small_net)
    with pytest.raises(PackedFileError, match="no such file"):
        load_shrunk(tmp_path / "none.safetensors", small_net)


def test_another_model_is_refused(shrunk: Shrunk, tmp_path: Path) -> None:
    path = shrunk.save(tmp_path / "small.safetensors")
    more, fewer, half = small_net(), small_net(), small_net().half()
    more.extra = nn.Linear(1, 1)
    fewer.fc2 = nn.Identity()
    for other, message in (
        (more, r"extra.weight has the shape None, it should have \(1, 1\)"),
        (fewer, "the model has no parameter or buffer fc2.weight"),
        (half, r"has the type torch.float32, the model's has torch.float16; give a model of the file's"),
        (Tied(), "the model has no parameter or buffer bn1.bias"),
    ):
        with pytest.raises(StructureError, match=message):
            load_shrunk(path, other)
        with pytest.raises(ValueError, match=r"."):
            LOADERS["alone"](path, other)
    with pytest.raises(StructureError, match=r"must give a torch.nn.Module, got int"):
        load_shrunk(path, lambda: 3)  # type: ignore[arg-type, return-value]


def test_untied_models_are_refused(tmp_path: Path) -> None:
    net = Tied()
    shrunk = shrink(net, example(2, (3,)), keeps={"first": without(6, 2)}, structure=tied_structure(net), zero=True)
    path = shrunk.save(tmp_path / "tied.safetensors")
    untied = Tied()
    untied.again.weight = nn.Parameter(untied.again.weight.detach().clone())
    with pytest.raises(
        StructureError, match="the model ties nothing, the patch is for one that ties again.weight to middle"
    ):
        load_shrunk(path, untied)


def test_parameters_stay_the_same_objects(shrunk: Shrunk, tmp_path: Path) -> None:
    path = shrunk.save(tmp_path / "small.safetensors")
    net = small_net()
    before = [id(tensor) for tensor in named(net).values()]
    assert [id(tensor) for tensor in named(load_shrunk(path, net)).values()] == before
