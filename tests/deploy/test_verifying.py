from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from tests.deploy.test_engine import SHAPE, engine_of, net
from torch import nn

from supermask.deploy import pack, read, trace, verify
from supermask.deploy.choosing import Way
from supermask.deploy.engine import Engine
from supermask.deploy.network import prepare
from supermask.errors import EngineError


def _changed(by: float, layer: str = "fc2") -> nn.Module:
    model = net()
    with torch.no_grad():
        model.get_submodule(layer).weight[0] += by  # type: ignore[index,operator]
    return model


def _engine(model: nn.Module) -> Engine:
    return engine_of(prepare(*trace(model, torch.randn(2, *SHAPE))), Way(True, frozenset({"act", "fc2"}), False))


def _pack(model: nn.Module, path: Path) -> Path:
    graph, _ = trace(model, torch.randn(1, *SHAPE))
    pack(model, path, graph=graph.to_dict())
    return path


def test_a_certificate_that_holds(tmp_path: Path) -> None:
    path = _pack(net(), tmp_path / "net.safetensors")
    x = torch.randn(50, *SHAPE)
    certificate = verify(net(), x, masked=net(), packed=path, batch_size=16, data="noise")
    assert certificate.holds
    assert [form.name for form in certificate.forms] == ["masked", "packed", "run time", "engine"]
    masked, packed = certificate.forms[:2]
    assert masked.max_difference == packed.max_difference == 0
    assert masked.layers.keys() >= {"conv.weight", "conv()", "fc1()", "fc2.bias"}
    assert all(form.agreement == 1 and form.wrong == 0 for form in certificate.forms)
    written = read(path).certificate
    assert written is not None
    assert written == json.loads(json.dumps(certificate.to_dict()))
    assert (written["examples"], written["data"], written["holds"]) == (50, "noise", True)
    text = str(certificate)
    assert "every form is the same network: 50 examples (noise)" in text


def test_the_engine_is_compared_unit_by_unit() -> None:
    x = torch.randn(9, *SHAPE)
    (form,) = verify(net(), x, engine=_engine(net())).forms
    assert form.layers
    assert all(value < 1e-5 for value in form.layers.values())


def test_another_network_is_found_in_every_form(tmp_path: Path) -> None:
    x = torch.randn(40, *SHAPE)
    other = _changed(0.5)
    path = _pack(other, tmp_path / "other.safetensors")
    certificate = verify(net(), x, masked=other, packed=path, engine=_engine(other), write=False)
    assert not certificate.holds
    assert [form.holds for form in certificate.forms] == [False] * 4
    assert certificate.forms[0].layers["fc2.weight"] == pytest.approx(0.5)
    assert certificate.forms[0].layers["fc1()"] == 0
    assert [form.worst for form in certificate.forms[:2]] == ["fc2.weight", "fc2.weight"]  # not the outputs behind it
    assert certificate.forms[0].wrong > 0
    assert read(path).certificate is None
    assert "NOT every form is the same network" in str(certificate)
    assert "DIFFERS" in str(certificate)


def test_a_small_difference_is_too_large_without_a_wrong_prediction() -> None:
    certificate = verify(net(), torch.ones(3, *SHAPE), engine=_engine(_changed(3e-3)))
    assert 1e-4 < certificate.forms[0].max_difference < 1e-1
    assert not certificate.holds


def test_predictions_within_the_margin_may_differ() -> None:
    model = nn.Linear(2, 2, bias=False).eval()
    other = copy.deepcopy(model)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [1.0 + 1e-5, 0.0]]))
        other.weight.copy_(torch.tensor([[1.0 + 1e-5, 0.0], [1.0, 0.0]]))
    (form,) = [f for f in verify(model, torch.ones(3, 2), masked=other).forms if f.name == "masked"]
    assert form.agreement == 0
    assert form.wrong == 0
    assert form.holds


def test_nan_is_a_difference() -> None:
    broken = net()
    with torch.no_grad():
        broken.get_parameter("fc2.bias")[0] = float("nan")
    form = verify(net(), torch.randn(3, *SHAPE), masked=broken).forms[0]
    assert form.max_difference == float("inf")
    assert not form.holds


def test_a_certificate_with_nan_fits_json(tmp_path: Path) -> None:
    broken = net()
    with torch.no_grad():
        broken.get_parameter("fc2.bias")[0] = float("nan")
    path = tmp_path / "net.safetensors"
    pack(net(), path)
    certificate = verify(net(), torch.randn(3, *SHAPE), masked=broken, packed=path)
    json.dumps(certificate.to_dict(), allow_nan=False)
    assert read(path).certificate == certificate.to_dict()


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="at least one example"):
        verify(net(), torch.randn(0, *SHAPE))
    for wrong in (torch.randn(2, 3), torch.randn(2, *SHAPE).double()):
        with pytest.raises(EngineError, match="x: the model does not take torch.float"):
            verify(net(), wrong)
    with pytest.raises(EngineError, match="at least one example, got a list"):
        verify(net(), [1.0])  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="batch_size: must be at least 1, got 0"):
        verify(net(), torch.randn(2, *SHAPE), batch_size=0)
    with pytest.raises(EngineError, match="model: must give one tensor with one row an example, got a tuple"):
        verify(nn.LSTM(8, 2, batch_first=True), torch.randn(2, 8, 8))
    path = tmp_path / "other.safetensors"
    pack(nn.Linear(3, 2), path)
    with pytest.raises(EngineError, match="does not fit the model"):
        verify(net(), torch.randn(2, *SHAPE), packed=path)
