"""State, order, momentum, penalties, rounds and the way back to a plain module."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supermask import Dense, FixedMask, Magnitude, Masks, Method, RandomMask, SignedSupermask
from supermask.core.parametrizations import Masked
from supermask.core.zoo import ZOO
from supermask.errors import AttachError, BindError, DivergedError, HyperparameterError, MaskError, StateError

from .helpers import DenseGradient, Penalised, Tracked, TwoRounds, half, loss_of, mlp, noise, sgd, train

# ---------------------------------------------------------------------- order of parameters


@pytest.mark.parametrize("zoo", ZOO.values(), ids=ZOO)
def test_a_dense_optimizer_state_keyed_by_index_still_fits(zoo: Any) -> None:
    """attach moves the stored tensors behind the others; param_groups and finalize restore the order."""
    dense = zoo.build()
    before = torch.optim.SGD(dense.parameters(), lr=0.1, momentum=0.9)
    F.cross_entropy(dense(zoo.batch()[0]), zoo.batch()[1]).backward()
    before.step()
    names = {id(p): name for name, p in dense.named_parameters()}
    wanted = {names[id(p)]: slots["momentum_buffer"] for p, slots in before.state.items()}

    s = RandomMask(density=0.5).attach(zoo.build())
    after = torch.optim.SGD(s.param_groups(), lr=0.1, momentum=0.9)
    after.load_state_dict(before.state_dict())
    for name, parameter in s._parameters().items():
        assert torch.equal(after.state[parameter]["momentum_buffer"], wanted[name]), name

    s.finalize()
    finally_plain = torch.optim.SGD(s.model.parameters(), lr=0.1, momentum=0.9)
    finally_plain.load_state_dict(after.state_dict())
    for name, parameter in s.model.named_parameters():
        assert torch.equal(finally_plain.state[parameter]["momentum_buffer"], wanted[name]), name


def test_without_the_cure_the_order_would_differ() -> None:
    model = mlp()
    shapes = [p.shape for p in model.parameters()]
    s = RandomMask().attach(model)
    assert [p.shape for p in model.parameters()] != shapes
    assert [p.shape for p in s.param_groups()[0]["params"]] == shapes


def test_what_is_registered_after_attach_survives_finalize() -> None:
    model = nn.Linear(4, 4)
    s = RandomMask(density=0.5).attach(model)
    model.register_parameter("extra", nn.Parameter(torch.ones(2)))
    s.finalize()
    assert list(model.state_dict()) == ["weight", "bias", "extra"]


def test_param_groups() -> None:
    s = RandomMask().attach(mlp())
    (group,) = s.param_groups()
    assert list(group) == ["params"]
    (group,) = s.param_groups(weight_decay=0.1)
    assert group["weight_decay"] == 0.1
    targets, others = s.param_groups(other_weight_decay=0.0)
    assert "weight_decay" not in targets
    assert [p.dim() for p in targets["params"]] == [2, 2]
    assert [p.dim() for p in others["params"]] == [1, 1]
    s = RandomMask().attach(nn.Linear(10, 10, bias=False))
    assert len(s.param_groups(weight_decay=0.1, other_weight_decay=0.0)) == 1  # no empty group


def test_progress() -> None:
    s = RandomMask().attach(mlp())
    assert s.progress == 0.0
    optimizer = sgd(s, 4)
    seen = []
    for step in range(6):
        train(s.model, optimizer, 1, first=step)
        seen.append(s.progress)
    assert seen == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


# ---------------------------------------------------------------------- hidden weights stay hidden

OPTIMIZERS: dict[str, Any] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adam-l2": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_hidden_weights_and_their_momentum_stay_zero(name: str) -> None:
    model = mlp()
    s = Magnitude(density=0.2, every=2, end=0.7, scope="global").attach(model)
    optimizer = OPTIMIZERS[name](s.param_groups())
    s.bind(optimizer, total_steps=14)
    for step in range(14):
        train(model, optimizer, 1, first=step)
        for target in s.targets:
            hidden = ~target.mask
            assert not bool(target.dense[hidden].any()), f"{target.name} was revived at step {step + 1}"
            slots = s.slots(target)
            moving = [slots[key] for key in ("momentum_buffer", "exp_avg") if key in slots]
            assert moving
            assert not any(bool(slot[hidden].any()) for slot in moving)
    assert s.density() == pytest.approx(0.2, abs=1 / 256)


def test_weights_that_return_start_from_zero() -> None:
    model = mlp()
    s = RandomMask(density=0.5).attach(model)
    optimizer = sgd(s, momentum=0.9)
    train(model, optimizer, 2)
    target = s.targets[0]
    hidden = ~target.mask
    s.set_mask(target, torch.ones_like(target.mask))
    assert not bool(target.weight[hidden].any())
    train(model, optimizer, 1)
    assert bool(target.weight[hidden].any())


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (4, 6, 3, 3)])
def test_masks_are_really_written_on_channels_last(shape: tuple[int, ...]) -> None:
    """``mask.clone().flatten()`` would write into a copy there."""
    torch_format = torch.channels_last
    conv = nn.Conv2d(shape[1], shape[0], 3).to(memory_format=torch_format)
    s = RandomMask(density=0.5).attach(conv)
    target = s.targets[0]
    conv.to(memory_format=torch_format)  # also the mask's own layout
    new = half(target.shape)
    s.set_mask(target, new)
    assert torch.equal(target.mask, new)
    assert not bool(target.weight[~new].any())
    assert bool(target.dense[new].any())
    s.finalize()
    assert conv.weight.is_contiguous(memory_format=torch_format)
    assert not bool(conv.weight[~new].any())


@pytest.mark.parametrize("method", [RandomMask(density=0.5), SignedSupermask(), SignedSupermask(signed=False)])
def test_the_memory_format_is_kept(method: Method) -> None:
    conv = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    s = method.attach(conv)
    assert s.targets[0].parameter.is_contiguous(memory_format=torch.channels_last)
    s.finalize()
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)


# ---------------------------------------------------------------------- penalty, dense gradient, tracked masks, rounds


@pytest.mark.parametrize("parts", [1, 4])
def test_the_penalty_gradient_is_added_once_per_step(parts: int) -> None:
    """Bitwise the same as adding its own backward pass to the accumulated gradients, in float64."""
    method = Penalised(strength=0.5)
    model, explicit = mlp().double(), mlp().double()
    s = method.attach(model)
    optimizer = sgd(s, momentum=0.9)
    reference = method.attach(explicit)
    plain = torch.optim.SGD(reference.param_groups(), lr=0.1, momentum=0.9)  # not bound: no hook acts
    x, y = noise(8, 12, dtype=torch.float64), torch.arange(8) % 4
    for _ in range(5):
        for net, opt in ((model, optimizer), (explicit, plain)):
            opt.zero_grad()
            for xs, ys in zip(x.chunk(parts), y.chunk(parts), strict=True):
                (F.cross_entropy(net(xs), ys) / parts).backward()
            if net is explicit:
                penalty = method.penalty(reference)
                penalty.backward()
            opt.step()
    for a, b in zip(model.parameters(), explicit.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_penalty_gradient_carries_the_factor_of_a_grad_scaler() -> None:
    model = mlp().double()
    s = Penalised(strength=0.5).attach(model)
    optimizer = sgd(s, fused=True)
    optimizer.grad_scale = torch.tensor(64.0)  # type: ignore[attr-defined]
    optimizer.found_inf = torch.tensor(0.0)  # type: ignore[attr-defined]
    target = s.targets[0]
    s._before_step(1.0)
    assert target.parameter.grad is not None
    once = target.parameter.grad.clone()
    assert torch.equal(once, 0.5 * target.weight)
    target.parameter.grad = None
    assert s._binding is not None
    s._binding._run_before()
    assert torch.equal(target.parameter.grad, 64.0 * once)
    assert s.grad_scale == 64.0


def test_a_dense_gradient_reaches_hidden_weights_and_is_masked_before_the_step() -> None:
    model, plain = mlp().double(), mlp().double()
    s = DenseGradient().attach(model)
    with torch.no_grad():
        for target in s.targets:
            plain.get_parameter(target.name).masked_fill_(~target.mask, 0.0)
    loss_of(plain).backward()
    optimizer = sgd(s, momentum=0.9, weight_decay=0.01)
    train(model, optimizer, 1)
    for target in s.targets:
        hidden = ~target.mask
        seen = s.state[target.name]
        assert torch.equal(seen, plain.get_parameter(target.name).grad)  # as if everything remained
        assert bool(seen[hidden].any())
        assert target.parameter.grad is not None
        assert not bool(target.parameter.grad[hidden].any())
        assert not bool(target.dense[hidden].any())


def test_an_ordinary_mask_hides_the_gradient_too() -> None:
    s = RandomMask(density=0.5).attach(mlp())
    loss_of(s.model).backward()
    for target in s.targets:
        assert target.parameter.grad is not None
        assert not bool(target.parameter.grad[~target.mask].any())


def test_a_tracked_mask_acts_only_in_sparse_and_after_finalize() -> None:
    model, plain = mlp(), mlp()
    s = Tracked().attach(model)
    x = noise(5, 12)
    assert torch.equal(model(x), plain(x))  # attach hid nothing
    optimizer = sgd(s, momentum=0.9)
    reference = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer, 3)
    train(plain, reference, 3)
    assert torch.equal(model(x), plain(x))  # nor did training
    masks = s.masks()
    assert all(0.4 < float(mask.float().mean()) < 0.6 for mask in masks.values())
    with s.sparse() as inside:
        assert inside is model
        sparse = model(x)
        assert all(not bool(t.weight[~t.mask].any()) for t in s.targets)
    assert torch.equal(model(x), plain(x))
    with torch.no_grad():
        for name, mask in masks.items():
            plain.get_parameter(name).mul_(mask)
    assert torch.equal(sparse, plain(x))
    s.finalize()
    assert torch.equal(model(x), sparse)


def test_sparse_ends_also_after_an_error() -> None:
    s = Tracked().attach(mlp())

    def fail() -> None:
        with s.sparse():
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert all(isinstance(p := t.parametrization, Masked) and not p.applied for t in s.targets)


def test_rounds() -> None:
    model = mlp()
    s = TwoRounds().attach(model)
    start = {t.name: t.dense.detach().clone() for t in s.targets}
    seen = []
    for number in s.rounds():
        optimizer = sgd(s, 5 + number, momentum=0.9)  # rounds may differ in length
        if number == 1:  # survivors start bitwise from the start
            assert all(torch.equal(t.weight, start[t.name] * half(t.shape)) for t in s.targets)
        assert s.step == 0
        train(model, optimizer, 5 + number)
        seen.append((number, s.round, s.step, s.density()))
    assert [entry[:3] for entry in seen] == [(0, 0, 5), (1, 1, 6)]
    assert [entry[3] for entry in seen] == [1.0, 0.5]
    assert s.progress == 1.0


def test_one_round_for_most_methods() -> None:
    assert list(RandomMask().attach(mlp()).rounds()) == [0]


def test_a_resume_in_the_second_round() -> None:
    def begin() -> tuple[Any, Any]:
        s = TwoRounds().attach(mlp())
        return s, s.rounds()

    s, rounds = begin()
    next(rounds)
    train(s.model, sgd(s, 4), 4)
    next(rounds)
    train(s.model, sgd(s, 4), 2)
    saved, weights = s.state_dict(), copy.deepcopy(s.model.state_dict())
    train(s.model, sgd(s, 4), 2, first=2)

    other, rounds = begin()
    other.load_state_dict(saved)
    other.model.load_state_dict(weights)
    assert next(rounds) == 1
    train(other.model, sgd(other, 4), 2, first=2)
    assert list(rounds) == []
    for a, b in zip(s.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)


# ---------------------------------------------------------------------- recurrent and attention layers, copies, export

# its compiler instantiates autograd functions and warns of itself
FROM_TORCH = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def masked_like(model: nn.Module, masks: Masks) -> nn.Module:
    """A plain copy whose hidden weights were set to zero by hand."""
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)
    return model


@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU, nn.RNN])
def test_masks_act_inside_recurrent_layers(cls: type[nn.RNNBase]) -> None:
    options = {"input_size": 5, "hidden_size": 6, "num_layers": 2, "bidirectional": True}
    model = cls(**options)
    s = RandomMask(density=0.4).attach(model)
    assert [t.name.removesuffix("_reverse") for t in s.targets[::2]] == [
        "weight_ih_l0", "weight_ih_l0", "weight_ih_l1", "weight_ih_l1",
    ]  # fmt: skip
    plain = cls(**options)
    s_plain = {k: v for k, v in s.model.state_dict().items() if "parametrizations" not in k}
    plain.load_state_dict(s_plain | {t.name: t.dense.detach() for t in s.targets})
    x = noise(4, 3, 5)
    assert torch.equal(model(x)[0], plain(x)[0])
    train_loss = model(x)[0].square().sum()
    train_loss.backward()
    gradient = s.targets[0].parameter.grad
    assert gradient is not None
    assert bool(gradient.any())
    assert not bool(gradient[~s.targets[0].mask].any())
    copy.deepcopy(model)
    s.finalize()
    assert torch.equal(model(x)[0], plain(x)[0])


def test_a_deep_copy_of_an_lstm_after_its_forward_is_independent() -> None:
    zoo = ZOO["lstm"]
    for method in (RandomMask(density=0.5), SignedSupermask()):
        s = method.attach(zoo.build())
        x = zoo.batch()[0]
        out = s.model(x)
        out.sum().backward()
        other = copy.deepcopy(s.model)
        assert torch.equal(other(x), out)
        with torch.no_grad():
            s.targets[0].parameter.zero_()
        assert torch.equal(other(x), out)
        assert not torch.equal(s.model(x), out)


@pytest.mark.parametrize("kdim", [None, 6])
@pytest.mark.parametrize("training", [True, False])
def test_masks_act_inside_attention(training: bool, kdim: int | None) -> None:
    model = nn.MultiheadAttention(8, 2, batch_first=True, kdim=kdim)
    plain = copy.deepcopy(model)
    s = RandomMask(density=0.3).attach(model)
    separate = ["q_proj_weight", "k_proj_weight", "v_proj_weight"]
    assert [t.name for t in s.targets] == ["out_proj.weight"] or sorted(t.name for t in s.targets) == sorted(
        ["out_proj.weight", *(["in_proj_weight"] if kdim is None else separate)]
    )
    masked_like(plain, s.masks())
    model.train(training)
    plain.train(training)
    q, k = noise(2, 5, 8), noise(2, 5, 6 if kdim else 8, seed=1)
    with torch.set_grad_enabled(training):
        args = (q, k, noise(2, 5, 8, seed=2)) if kdim else (q, q, q)
        torch.testing.assert_close(model(*args)[0], plain(*args)[0])
    assert list(s.finalize())
    assert list(model.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("method", [RandomMask(density=0.3), SignedSupermask()])
def test_masks_act_on_the_fast_path_of_a_transformer_layer(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    """In evaluation mode without gradients torch bypasses the submodules and hands all weights to one kernel."""
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    x = noise(3, 5, 8)
    s = method.attach(model)
    assert len(s.targets) == 4
    slow = model(x)
    calls = []
    kernel = torch._transformer_encoder_layer_fwd

    def counted(*args: Any) -> Tensor:
        calls.append(1)
        return kernel(*args)

    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", counted)
    model.eval()
    with torch.no_grad():
        fast = model(x)
    assert calls == [1]
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
    masks = s.finalize()
    with torch.no_grad():
        torch.testing.assert_close(model(x), fast, rtol=1e-5, atol=1e-6)
    assert torch.equal(model.self_attn.in_proj_weight != 0, masks["self_attn.in_proj_weight"])


@pytest.mark.parametrize("method", [RandomMask(density=0.5), SignedSupermask(), SignedSupermask(signed=False)])
@pytest.mark.parametrize(("module", "shape"), [(nn.Linear(6, 4), (2, 6)), (nn.Conv2d(2, 4, 3), (1, 2, 5, 5))])
@pytest.mark.parametrize("strict", [False, True])
@FROM_TORCH
def test_export(method: Method, module: nn.Module, shape: tuple[int, ...], strict: bool) -> None:
    model = copy.deepcopy(module)
    method.attach(model)
    x = noise(*shape)
    program = torch.export.export(model, (x,), strict=strict)
    assert torch.equal(program.module()(x), model(x))


@FROM_TORCH
def test_compiled_training_is_the_same() -> None:
    model, plain = mlp(), mlp()
    finals = []
    for net, compiled in ((model, True), (plain, False)):
        s = SignedSupermask().attach(net)
        optimizer = sgd(s)
        run = torch.compile(net, backend="aot_eager", fullgraph=True) if compiled else net
        for step in range(3):
            optimizer.zero_grad()
            loss_of(run, step).backward()
            optimizer.step()
        finals.append(s.finalize())
    assert all(torch.equal(finals[0][name], finals[1][name]) for name in finals[1])


def test_functional_call() -> None:
    s = SignedSupermask().attach(mlp())
    x = noise(3, 12)
    parameters = {name: p.detach() for name, p in s.model.named_parameters()}
    assert torch.equal(torch.func.functional_call(s.model, parameters, (x,)), s.model(x))


# ---------------------------------------------------------------------- tied weights


@pytest.mark.filterwarnings("ignore:magnitude promises density:UserWarning")  # it is not trained here
@pytest.mark.parametrize("method", [Dense(), RandomMask(density=0.4), SignedSupermask(), Magnitude(density=0.3)])
def test_tied_weights_are_one_target(method: Method) -> None:
    model = ZOO["tied"].build()
    s = method.attach(model)
    assert [t.name for t in s.targets] == ["decoder.weight", "first.weight", "head.weight"]
    assert [[site.name for site in t.sites] for t in s.targets[:2]] == [
        ["decoder.weight", "embedding.weight"],
        ["first.weight", "second.weight"],
    ]
    assert s.masks().total() == 10 * 12 + 12 * 12 + 4 * 10  # counted once
    parameters = s.param_groups()[0]["params"]
    assert len(parameters) == len({id(p) for p in parameters}) == 3 + 3  # and three biases
    s.finalize()
    assert model.second.weight is model.first.weight
    assert model.decoder.weight is model.embedding.weight


def test_inversions_of_tied_weights_are_not_lost() -> None:
    """Baking at both sites would multiply by the sign mask twice: (-1) * (-1) = +1."""
    model = ZOO["tied"].build()
    s = SignedSupermask(threshold_rule="relative", threshold=0.3).attach(model, seed=4)
    frozen = {t.name: t.dense.clone() for t in s.targets}
    out = model(ZOO["tied"].batch()[0])
    masks = s.finalize()
    for name, entry in masks.signed.items():
        assert set(entry.sign_mask.unique().tolist()) == {-1, 0, 1}
        assert torch.equal(model.get_parameter(name), frozen[name] * entry.sign_mask)
    assert torch.equal(model(ZOO["tied"].batch()[0]), out)


def test_a_tied_score_gets_the_gradient_of_both_sites() -> None:
    model = ZOO["tied"].build().double()
    s = SignedSupermask().attach(model)
    plain = ZOO["tied"].build().double()
    weights = {t.name: t.weight.detach().clone() for t in s.targets}
    with torch.no_grad():
        for name, weight in weights.items():
            plain.get_parameter(name).copy_(weight)
    x, y = ZOO["tied"].batch()
    F.cross_entropy(model(x), y).backward()
    F.cross_entropy(plain(x), y).backward()
    for target in s.targets:
        assert target.parameter.grad is not None
        dense = plain.get_parameter(target.name).grad
        assert dense is not None
        relative = target.parameter.grad * target.dense.sign()  # stored scores carry the sign
        torch.testing.assert_close(relative, dense * target.dense, rtol=1e-12, atol=1e-15)


# ---------------------------------------------------------------------- state


@pytest.mark.parametrize("method", [Magnitude(density=0.3, every=2), SignedSupermask(threshold_rule="variable")])
def test_a_state_survives_a_file_read_without_pickled_code(method: Method, tmp_path: Path) -> None:
    s = method.attach(mlp(), seed=3)
    optimizer = sgd(s, momentum=0.9)
    train(s.model, optimizer, 4)
    saved = {"m": s.model.state_dict(), "o": optimizer.state_dict(), "s": s.state_dict()}
    torch.save(saved, tmp_path / "state.pt")
    train(s.model, optimizer, 4, first=4)

    other = method.attach(mlp(seed=9), seed=3)  # other values: all must come from the file
    again = sgd(other, momentum=0.9)
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    other.model.load_state_dict(loaded["m"])
    again.load_state_dict(loaded["o"])
    other.load_state_dict(loaded["s"])
    assert (other.step, other.round, other.total_steps) == (4, 0, 8)
    train(other.model, again, 4, first=4)
    for (name, a), b in zip(s.model.state_dict().items(), other.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_loaded_state_is_not_shared() -> None:
    s = TwoRounds().attach(mlp())
    saved = s.state_dict()
    s.state["0.weight"].zero_()
    assert bool(saved["state"]["0.weight"].any())
    s.load_state_dict(saved)
    assert bool(s.state["0.weight"].any())
    s.state["0.weight"].zero_()
    assert bool(saved["state"]["0.weight"].any())


def test_a_state_may_be_loaded_before_bind_and_be_saved_before_bind() -> None:
    s = Magnitude().attach(mlp())
    unbound = s.state_dict()
    train(s.model, sgd(s, 5), 2)
    bound = s.state_dict()
    other = Magnitude().attach(mlp())
    other.load_state_dict(bound)
    with pytest.raises(StateError, match="step 2 of total_steps=5 is done, now total_steps is 6"):
        sgd(other, 6)
    sgd(other, 5)
    third = Magnitude().attach(mlp())
    sgd(third, 7)
    third.load_state_dict(unbound)
    assert third.total_steps == 7
    with pytest.raises(StateError, match="the saved state has total_steps=5, bound is 7"):
        third.load_state_dict(bound)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (SignedSupermask(), {}, "made with method .*'magnitude'.* but here it is .*'signed-supermask'"),
        (Magnitude(density=0.2), {}, "made with method density 0.1, but here it is 0.2"),
        (Magnitude(), {"seed": 1}, "made with seed 0, but here it is 1"),
        (Magnitude(), {"ignore": "2"}, r"made with targets \['0.weight', '2.weight'\], but here it is \['0.weight'\]"),
    ],
)
def test_a_state_of_something_else_is_refused(method: Method, options: dict[str, Any], message: str) -> None:
    saved = Magnitude().attach(mlp()).state_dict()
    with pytest.raises(StateError, match=message):
        method.attach(mlp(), **options).load_state_dict(saved)


def test_a_damaged_or_newer_state_is_refused() -> None:
    s = Magnitude().attach(mlp())
    with pytest.raises(StateError, match="state has format 2; this version reads 1"):
        s.load_state_dict(s.state_dict() | {"format": 2})
    with pytest.raises(StateError, match="state has format None"):
        s.load_state_dict({})
    with pytest.raises(StateError, match="the saved state is damaged: it lacks method, .* targets, total_steps"):
        s.load_state_dict({"format": 1})


# ---------------------------------------------------------------------- attach and finalize


USES: dict[str, Any] = {
    "bind": lambda s: s.bind(torch.optim.SGD(s.model.parameters(), lr=0.1), total_steps=1),
    "masks": lambda s: s.masks(),
    "density": lambda s: s.density(),
    "remaining": lambda s: s.remaining(),
    "summary": lambda s: s.summary(),
    "state_dict": lambda s: s.state_dict(),
    "load_state_dict": lambda s: s.load_state_dict({}),
    "finalize": lambda s: s.finalize(),
}


@pytest.mark.parametrize("use", USES)
def test_use_after_finalize_is_refused(use: str) -> None:
    s = RandomMask().attach(mlp())
    s.finalize()
    with pytest.raises(StateError, match="this sparsifier is finalized: its model is a plain module now; attach again"):
        USES[use](s)


def test_attach_again_after_finalize() -> None:
    model = mlp()
    masks = RandomMask(density=0.5).attach(model).finalize()
    s = FixedMask(masks=masks).attach(model)
    assert s.density() == 0.5


def test_attach_twice_is_refused_but_other_targets_may_be_taken() -> None:
    model = mlp()
    first = RandomMask(density=0.5).attach(model, ignore="2")
    with pytest.raises(AttachError, match=r"0.weight already carries a mask: finalize\(\) the first sparsifier"):
        SignedSupermask().attach(model)
    second = Magnitude(density=0.5, schedule="one-shot").attach(model, targets="2")
    train(model, sgd(second), 2)
    second.finalize()
    first.finalize()
    assert list(model.state_dict()) == list(mlp().state_dict())
    assert int((model[0].weight == 0).sum()) == 96


def bare(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


FAILURES: dict[str, tuple[Method, dict[str, Any], type[Exception], str]] = {
    "no scores": (
        Magnitude(schedule="one-shot"),
        {"scores": {"0.weight": torch.ones(16, 12), "2.weight": torch.ones(4, 16)}},
        AttachError,
        "magnitude learns no scores: attach it without scores=",
    ),
    "too small a density": (
        Magnitude(schedule="one-shot", density=1e-9),
        {},
        HyperparameterError,
        "density 1e-09 keeps none of 256 weights; the smallest that keeps one is 0.00195",
    ),
    "weights and scores": (
        RandomMask(),
        {
            "weights": {"0.weight": torch.ones(16, 12), "2.weight": torch.ones(4, 16)},
            "scores": {"0.weight": torch.ones(16, 12), "2.weight": torch.ones(4, 16)},
        },
        AttachError,
        "random learns no scores",
    ),
    "another model's mask": (
        FixedMask(masks={"0.weight": torch.ones(16, 12, dtype=torch.bool)}),
        {},
        MaskError,
        "the masks do not fit the model's targets; missing: 2.weight; known: 0.weight, 2.weight",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failed_attach_leaves_the_model_as_it_was(case: str) -> None:
    method, options, error, message = FAILURES[case]
    model = mlp()
    before, parameters = bare(model), list(model.parameters())
    with pytest.raises(error, match=message):
        method.attach(model, **options)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    for (name, value), (other, now) in zip(before.items(), model.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(value, now)
    SignedSupermask().attach(model)


def test_a_failed_attach_gives_tied_and_recurrent_layers_back() -> None:
    for name in ("tied", "lstm"):
        zoo = ZOO[name]
        model = zoo.build()
        with pytest.raises(HyperparameterError, match="keeps none of"):
            Magnitude(schedule="one-shot", density=1e-9).attach(model)
        assert torch.equal(model(zoo.batch()[0]), zoo.build()(zoo.batch()[0]))
        assert [n for n, _ in model.named_parameters()] == [n for n, _ in zoo.build().named_parameters()]
        RandomMask().attach(model)


def test_a_layer_under_the_users_own_parametrization_trains_as_usual_when_ignored() -> None:
    head = nn.utils.parametrizations.spectral_norm(nn.Linear(16, 4))
    model = nn.Sequential(nn.Linear(12, 16), nn.ELU(), head)
    s = RandomMask(density=0.5).attach(model, ignore="2")
    name = "2.parametrizations.weight.original"
    assert f"{name}  4x16" in s.summary()
    start = model.get_parameter(name).detach().clone()
    train(model, sgd(s), 2)
    assert not torch.equal(model.get_parameter(name), start)
    s.finalize()
    assert nn.utils.parametrize.is_parametrized(model[2])
    assert not nn.utils.parametrize.is_parametrized(model[0])


def test_trainable_or_not_is_remembered() -> None:
    model = mlp()
    model[0].weight.requires_grad_(False)
    s = RandomMask(density=0.5).attach(model, targets="*")
    assert "0.weight" not in s._parameters()
    assert "targeted: weight kept and frozen, mask applied" in s.summary()
    s.finalize()
    assert not model[0].weight.requires_grad
    assert model[2].weight.requires_grad


def test_isinstance_holds_on_parametrized_modules() -> None:
    """``type(m) is nn.Conv2d`` does not: a second look at the model must find the same layers."""
    zoo = ZOO["conv+bn"]
    model = zoo.build()
    RandomMask().attach(model)
    assert type(model.conv1) is not nn.Conv2d
    assert isinstance(model.conv1, nn.Conv2d)
    with pytest.raises(AttachError, match="conv1.weight already carries a mask"):
        RandomMask().attach(model)


def test_a_checkpoint_of_the_model_alone_restores_masks_and_thresholds() -> None:
    for method in (RandomMask(density=0.5), SignedSupermask(threshold_rule="relative", threshold=0.4)):
        s = method.attach(mlp(), seed=1)
        buffer = io.BytesIO()
        torch.save(s.model.state_dict(), buffer)
        buffer.seek(0)
        other = method.attach(mlp(seed=5), seed=1)
        other.model.load_state_dict(torch.load(buffer, weights_only=True))
        x = noise(3, 12)
        assert torch.equal(other.model(x), s.model(x))
        assert all(torch.equal(other.masks()[name], mask) for name, mask in s.masks().items())


# ---------------------------------------------------------------------- models that change, copies, several sparsifiers


def test_copies_survive_the_finalize_of_each_other() -> None:
    model = mlp()
    s = SignedSupermask().attach(model)
    first, second = copy.deepcopy(model), copy.deepcopy(s)
    x = noise(5, model[0].in_features)
    out = model(x)
    s.finalize()
    assert torch.equal(first(x), out)
    assert torch.equal(model(x), out)
    second.finalize()
    assert torch.equal(second.model(x), out)
    assert torch.equal(first(x), out)
    averaged = torch.optim.swa_utils.AveragedModel(first)
    assert torch.equal(averaged(x), out)


def test_layers_added_after_attach_train() -> None:
    model = mlp()
    s = RandomMask(density=0.5).attach(model)
    model.add_module("late", nn.Linear(4, 3))
    names = list(s._parameters())
    assert names[-2:] == ["late.weight", "late.bias"]
    with pytest.raises(BindError, match=r"lacks late\.weight, late\.bias"):
        s.bind(torch.optim.SGD([p for n, p in s._parameters().items() if "late" not in n], lr=0.1), total_steps=1)
    s.bind(torch.optim.SGD(s.param_groups(), lr=0.1), total_steps=1)


def test_a_replaced_target_is_named() -> None:
    model = mlp()
    s = RandomMask(density=0.5).attach(model)
    model[2] = nn.Linear(model[2].in_features, 3)
    with pytest.raises(StateError, match=r"2\.weight is no longer a part of the model"):
        s.param_groups()


def test_two_sparsifiers_share_a_model() -> None:
    model = mlp()
    first = SignedSupermask().attach(model, targets="0")
    second = RandomMask(density=0.5).attach(model, targets="2")
    names = [name for name, _ in mlp().named_parameters()]
    assert list(first._parameters()) == names
    assert set(second._parameters()) == set(names)
    first.finalize()
    assert set(second._parameters()) == set(names)
    second.finalize()
    assert [name for name, _ in model.named_parameters()] == names


def test_batch_norm_without_a_target_beside_it_trains_as_usual() -> None:
    def block() -> nn.Sequential:
        return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))

    model = nn.Sequential(block(), block())
    s = SignedSupermask().attach(model, targets="1")
    model.train()
    assert model[0][1].training
    assert model[0][1].weight.requires_grad
    assert not model[1][1].training
    assert list(s.frozen_norms) == [model[1][1]]


def test_a_frozen_target_has_no_learning_rate() -> None:
    model = mlp()
    model[0].weight.requires_grad_(False)
    s = RandomMask(density=0.5).attach(model, targets="*")
    sgd(s)
    with pytest.raises(BindError, match=r"does not hold 0\.weight: it does not require a gradient"):
        s.lr(s.targets[0])


def test_what_is_no_optimizer_is_refused() -> None:
    model = mlp()
    with pytest.raises(BindError, match=r"takes a torch\.optim\.Optimizer, got generator"):
        RandomMask(density=0.5).attach(model).bind(model.parameters(), total_steps=1)  # type: ignore[arg-type]


def test_an_lstm_keeps_its_gradients_under_cached_weights_and_copies_after_an_error() -> None:
    model = nn.LSTM(3, 4, batch_first=True)
    s = SignedSupermask().attach(model)
    with torch.nn.utils.parametrize.cached():
        model(noise(2, 5, 3))
        model(noise(2, 5, 3))[0].sum().backward()
    assert s.targets[0].parameter.grad is not None
    with pytest.raises(RuntimeError):
        model(noise(2, 5, 7))
    copy.deepcopy(model)


def test_magnitude_names_the_target_that_diverged() -> None:
    model = mlp()
    s = Magnitude(density=0.5, every=1).attach(model)
    sgd(s)
    with torch.no_grad():
        s.targets[1].parameter[0, 0] = float("nan")
    with pytest.raises(DivergedError, match=rf"{s.targets[1].name} holds values that are not numbers"):
        s._after_step()


def test_initial_weights_as_nested_lists() -> None:
    model = nn.Sequential(nn.Linear(2, 1))
    SignedSupermask().attach(model, weights={"0.weight": [[0.5, -0.5]]})
    with pytest.raises(MaskError, match=r"the weights of 0\.weight are not an array"):
        SignedSupermask().attach(nn.Sequential(nn.Linear(2, 1)), weights={"0.weight": "x"})  # type: ignore[dict-item]


def test_finalizing_before_a_promised_density_is_reached_warns() -> None:
    method = Magnitude(density=0.5, every=1)
    with pytest.warns(UserWarning, match=r"promises density 0\.5, but 100\.00 % .* remain: no optimizer was bound"):
        method.attach(mlp()).finalize()
    model = mlp()
    s = method.attach(model)
    optimizer = sgd(s, total_steps=8)
    train(model, optimizer, 2)
    with pytest.warns(UserWarning, match="step 2 of 8 is done"):
        s.finalize()
    model = mlp()
    s = method.attach(model)
    train(model, sgd(s, total_steps=8), 8)
    s.finalize()  # silent
