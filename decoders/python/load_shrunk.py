"""Load a shrunk model with torch and safetensors alone: ``load(path, Net)``. The file: docs/shrink.md."""

import hashlib
import json

import torch
from safetensors import safe_open


def load(path, model):
    """The smaller model. ``model``: your class or function that makes the dense one, or the dense one, which is changed.

    ValueError if the file is damaged or of another model; the model is then as it was.
    """
    dense = model if isinstance(model, torch.nn.Module) else model()
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["supermask-shrunk"])
            shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            changes, places = check(about, shapes, dense)
            tensors = {name: file.get_tensor(name) for name in shapes}
        need(all(tensors[name].dtype == place.dtype for name, place in places.items()), "other types than the model's")
        need(checksum(tensors) == about["checksum"], "its tensors are damaged")
    except (KeyError, TypeError, AttributeError, LookupError, RecursionError, OSError) as error:
        raise ValueError(f"{path} is no shrunk model, or damaged: {error!r}") from error
    except Exception as error:  # safetensors has errors of its own
        raise ValueError(f"{path}: {error}") from error
    for module, key, after in changes:
        setattr(module, key, after)
    for name, place in places.items():
        place.data, place.grad = tensors[name].to(place.device), None
    return dense


def check(about, shapes, dense):
    need(about["format"] == 1 and about["patch"]["version"] == 1, "of another version")
    first, aliases, places = {}, {}, {}
    for name, tensor in dense.state_dict(keep_vars=True).items():
        if not isinstance(tensor, torch.Tensor):
            continue  # a module's extra state
        if first.setdefault(id(tensor), name) == name:
            places[name] = tensor
        else:
            aliases[name] = first[id(tensor)]
    cuts = about["patch"]["tensors"]
    same_names = aliases == about["patch"]["aliases"] and cuts.keys() <= places.keys() == shapes.keys()
    need(same_names, "the model has other tensors")
    for name, tensor in places.items():
        same = {"dense": shapes[name], "shape": shapes[name]}
        cut = cuts.get(name, same)
        need([cut["dense"], cut["shape"]] == [list(tensor.shape), shapes[name]], f"{name} has another shape")
    changes, modules = [], dict(dense.named_modules())
    for name, attributes in about["patch"]["modules"].items():
        for key, (before, after) in attributes.items():
            now = vars(modules[name]).get(key)
            right = type(now) is type(after) is int and now == before and 0 <= after <= before and key[0] != "_"
            need(right, f"{name}.{key} is {now}, not {before}")
            changes.append((modules[name], key, after))
    return changes, places


def checksum(tensors):
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n".encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def need(right, message):
    if not right:
        raise ValueError(message)
