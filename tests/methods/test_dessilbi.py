"""DessiLBI against hand-computed steps, an independent loop over the authors' equations, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supermask import Sparsifier
from supermask.core import path
from supermask.core.checks import Session
from supermask.core.zoo import ZOO
from supermask.errors import AttachError, HyperparameterError, StateError
from supermask.methods import DessiLBI
from supermask.optim import SGDW

from .helpers import bare, batch, train

Make = Callable[[Any], torch.optim.Optimizer]


def sgd(**options: Any) -> Make:
    return lambda params: torch.optim.SGD(params, **{"lr": 0.1, **options})


def adam(params: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, lr=0.01)


# ---------------------------------------------------------------------- the recursion, by hand


def one_weight(method: DessiLBI, make: Make, start: float, gradient: float, steps: int) -> list[tuple[float, ...]]:
    """(W, kappa * V, Gamma) after each step of a single weight with a constant gradient."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False, dtype=torch.float64))
    nn.init.constant_(model[0].weight, start)
    s = method.attach(model)
    optimizer = make(s.param_groups())
    s.bind(optimizer, total_steps=steps + 1)
    (target,) = s.targets
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        (gradient * target.weight).sum().backward()
        optimizer.step()
        found.append((target.dense.item(), s.state["v/0.weight"].item(), s.state["gamma/0.weight"].item()))
    return found


def close(found: Sequence[Sequence[float]], expected: Sequence[Sequence[float]], tolerance: float = 1e-12) -> None:
    assert len(found) == len(expected)
    for step, (row, wanted) in enumerate(zip(found, expected, strict=True)):
        assert row == pytest.approx(wanted, abs=tolerance), step


def test_five_steps_without_a_loss() -> None:
    """lr = .1, nu = 1, lambda = .15: W <- .9 W + .1 Gamma until and after it enters, at step 2."""
    found = one_weight(DessiLBI(nu=1.0, linear_lambda=0.15), sgd(), 1.0, 0.0, 5)
    close(
        found,
        [
            (0.9, 0.1, 0.0),
            (0.81, 0.19, 0.04),
            (0.733, 0.267, 0.117),
            (0.6714, 0.3286, 0.1786),
            (0.62212, 0.37788, 0.22788),
        ],
    )


def test_five_steps_of_plain_sgd() -> None:
    """The same with a gradient of -1, which adds .1 a step."""
    expected = [
        (1.0, 0.1, 0.0),
        (1.0, 0.2, 0.05),
        (1.005, 0.295, 0.145),
        (1.019, 0.381, 0.231),
        (1.0402, 0.4598, 0.3098),
    ]
    for coupling in ("direct", "in-gradient"):  # the same without momentum
        method = DessiLBI(nu=1.0, linear_lambda=0.15, coupling=coupling)  # type: ignore[arg-type]
        close(one_weight(method, sgd(), 1.0, -1.0, 5), expected)


def test_kappa_enters_as_threshold_alone_where_lr_is_kappa_alpha() -> None:
    """kappa = 2, alpha = .05: V half as fast, Gamma = 2 * prox(V): kappa * V is what it was, its threshold doubled."""
    a = one_weight(DessiLBI(nu=1.0, linear_lambda=0.075, kappa=2.0), sgd(), 1.0, -1.0, 5)
    b = one_weight(DessiLBI(nu=1.0, linear_lambda=0.15), sgd(), 1.0, -1.0, 5)
    close(a, b)


def by_hand(
    *, coupling: str, momentum: float = 0.0, decay: float = 0.0, start: float = 1.0, gradient: float = -1.0
) -> list[tuple[float, ...]]:
    """Section by section: momentum as the authors' code (v = g at first), lr = .1, nu = 1, lambda = .15."""
    w, v, gamma, buffer, rows = start, 0.0, 0.0, None, []
    for _ in range(5):
        gap = w - gamma
        g = gradient + decay * w + (gap if coupling == "in-gradient" else 0.0)
        buffer = g if buffer is None else momentum * buffer + g
        w = w - 0.1 * (buffer + (gap if coupling == "direct" else 0.0))
        v = v + 0.1 * gap
        gamma = math.copysign(max(abs(v) - 0.15, 0.0), v)
        rows.append((w, v, gamma))
    return rows


@pytest.mark.parametrize("coupling", ["direct", "in-gradient"])
@pytest.mark.parametrize(("momentum", "decay"), [(0.9, 0.0), (0.9, 0.01), (0.0, 0.01)])
def test_five_steps_of_momentum_and_decay(coupling: Any, momentum: float, decay: float) -> None:
    method = DessiLBI(nu=1.0, linear_lambda=0.15, coupling=coupling)
    found = one_weight(method, sgd(momentum=momentum, weight_decay=decay), 1.0, -1.0, 5)
    close(found, by_hand(coupling=coupling, momentum=momentum, decay=decay))
    if (momentum, decay, coupling) == (0.9, 0.0, "direct"):  # worked out on paper
        close(found[:3], [(1.0, 0.1, 0.0), (1.09, 0.2, 0.05), (1.257, 0.304, 0.154)])
    if (momentum, decay, coupling) == (0.9, 0.0, "in-gradient"):
        close(found[:3], [(1.0, 0.1, 0.0), (1.0, 0.2, 0.05), (1.005, 0.295, 0.145)])


@pytest.mark.parametrize("coupling", ["direct", "in-gradient"])
def test_five_steps_of_adam(coupling: Any) -> None:
    """Inside the moments, or decoupled; V has a step size of its own, ten times Adam's."""
    lr, b1, b2, eps, speed, nu, threshold = 0.01, 0.9, 0.999, 1e-8, 10.0, 1.0, 0.15
    w, v, gamma, m1, m2, rows = 1.0, 0.0, 0.0, 0.0, 0.0, []
    for t in range(1, 6):
        gap = w - gamma
        h = 0.3 + (gap / nu if coupling == "in-gradient" else 0.0)
        m1, m2 = b1 * m1 + (1 - b1) * h, b2 * m2 + (1 - b2) * h * h
        w -= lr * (m1 / (1 - b1**t)) / (math.sqrt(m2 / (1 - b2**t)) + eps)
        w -= lr * gap / nu if coupling == "direct" else 0.0
        v += speed * lr * gap / nu
        gamma = math.copysign(max(abs(v) - threshold, 0.0), v)
        rows.append((w, v, gamma))
    method = DessiLBI(nu=nu, linear_lambda=threshold, coupling=coupling, path_speed=speed)
    close(one_weight(method, adam, 1.0, 0.3, 5), rows)
    assert rows[-1][2] > 0.1


def test_five_steps_of_sgdw() -> None:
    """The paper's decay of W itself, with the coupling inside the momentum."""

    def make(params: Any) -> SGDW:
        return SGDW(params, lr=0.1, momentum=0.9, nesterov=False, weight_decay=0.02)

    w, v, gamma, velocity, rows = 1.0, 0.0, 0.0, 0.0, []
    for _ in range(5):
        gap = w - gamma
        velocity = 0.9 * velocity - 0.1 * (-1.0 + gap)
        w = w - 0.02 * w + velocity
        v += 0.1 * gap
        gamma = max(v - 0.15, 0.0)
        rows.append((w, v, gamma))
    close(one_weight(DessiLBI(nu=1.0, linear_lambda=0.15, coupling="in-gradient"), make, 1.0, -1.0, 5), rows)


# ---------------------------------------------------------------------- a network, against the authors' equations


class Net(nn.Module):
    """Convolution, batch norm and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.bn = nn.BatchNorm2d(6)
        self.fc = nn.Linear(24, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.elu(self.bn(self.conv(x)))
        return self.out(F.elu(self.fc(x.flatten(1))))  # type: ignore[no-any-return]


def net() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Net().double()


def images(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    y = torch.arange(12) % 3
    x = torch.randn(12, 1, 4, 4, generator=generator, dtype=torch.float64) * 0.5
    x[range(12), 0, y, y] += 2.0
    return x, y


def authors(
    steps: int,
    *,
    alphas: Callable[[int], float],
    kappa: float,
    mu: float,
    fc: float,
    conv: float,
    momentum: float,
    decay: float,
    nesterov: bool = False,
    normalised: bool = False,
    plain: bool = False,
    coupled: bool = False,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Their optimizers as one loop: ``alphas`` is its lr, Z from the old W, W in steps of kappa * lr.

    The base class decays no tensor of one dimension; that for lottery tickets (``nesterov``) no bias, but norms' scales.
    """
    model = net()
    buffers: dict[str, Tensor] = {}
    zs = {n: torch.zeros_like(p) for n, p in model.named_parameters() if p.dim() > 1}
    gammas = {n: torch.zeros_like(p) for n, p in model.named_parameters() if p.dim() > 1}
    for step in range(steps):
        model.zero_grad()
        x, y = images(step)
        F.cross_entropy(model(x), y).backward()
        a = alphas(step)
        for name, p in model.named_parameters():
            assert p.grad is not None
            w = p.detach().clone()
            decayed = "bias" not in name if nesterov else p.dim() != 1 and "bn" not in name
            g = p.grad + decay * decayed * w
            if coupled and name in zs:
                g = g + (w - gammas[name]) / mu
            buffers[name] = g if step == 0 else momentum * buffers[name] + g
            d = g + momentum * buffers[name] if nesterov else buffers[name]
            if name not in zs:
                p.data = w - a * kappa * d
                continue
            pull = 0.0 if coupled else (w - gammas[name]) / mu
            p.data = w - a * kappa * (d + pull)
            z = zs[name] = zs[name] - (a / mu) * (gammas[name] - w)
            if p.dim() == 2 or plain:
                threshold = fc if p.dim() == 2 else conv
                gammas[name] = kappa * z.sign() * torch.relu(z.abs() - threshold)
            else:
                norm = z.flatten(1).norm(dim=1)
                if normalised:
                    norm = norm / math.sqrt(z[0].numel())
                gammas[name] = kappa * z * torch.relu(1 - conv / norm).view(-1, 1, 1, 1)
    return {n: p.detach() for n, p in model.named_parameters()}, gammas


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({"momentum": 0.0, "decay": 0.0}, {}),
    "momentum": ({"momentum": 0.9, "decay": 0.0}, {}),
    "momentum and decay": ({"momentum": 0.9, "decay": 5e-3}, {}),
    "kappa 5": ({"momentum": 0.9, "decay": 5e-3, "kappa": 5.0}, {}),
    "lottery, group": (
        {"momentum": 0.9, "decay": 5e-3, "nesterov": True, "normalised": True, "conv": 0.03},
        {"size_normalised": True},
    ),
    "lottery, lasso": (
        {"momentum": 0.9, "decay": 5e-3, "nesterov": True, "plain": True},
        {"conv_prox": "elementwise"},
    ),
    "coupled": ({"momentum": 0.9, "decay": 5e-3, "coupled": True}, {"coupling": "in-gradient"}),
}


@pytest.mark.parametrize("case", CASES)
def test_it_follows_the_authors_equations(case: str) -> None:
    """80 steps with a cut of the learning rate, which slows the path as well; norms and biases take the plain step."""
    common, fields = CASES[case]
    settings: dict[str, Any] = {"kappa": 1.0, "mu": 10.0, "fc": 0.04, "conv": 0.1, "nesterov": False} | common
    kappa = settings["kappa"]
    settings["fc"], settings["conv"] = settings["fc"] / kappa, settings["conv"] / kappa
    steps, cut = 80, 50
    weights, gammas = authors(steps, alphas=lambda step: (0.05 if step < cut else 0.005) / kappa, **settings)

    method = DessiLBI(
        nu=settings["mu"], kappa=kappa, linear_lambda=settings["fc"], conv_lambda=settings["conv"], **fields
    )
    s = method.attach(net())
    optimizer = torch.optim.SGD(
        s.param_groups(decay_on="no-biases" if settings["nesterov"] else "weights"),
        lr=0.05,
        momentum=settings["momentum"],
        weight_decay=settings["decay"],
        nesterov=settings["nesterov"],
    )
    s.bind(optimizer, total_steps=steps)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 if step < cut else 0.005
        optimizer.zero_grad()
        x, y = images(step)
        F.cross_entropy(s.model(x), y).backward()
        optimizer.step()
    found = s._parameters()
    assert found.keys() == weights.keys()
    for name, weight in weights.items():
        assert torch.allclose(found[name], weight, rtol=0, atol=1e-10), name
    for target in s.targets:
        gamma = s.state[f"gamma/{target.name}"]
        assert torch.allclose(gamma, gammas[target.name], rtol=0, atol=1e-10)
        assert torch.equal(target.mask, gammas[target.name] != 0)
    assert 0.1 < s.density() < 0.95  # there is a path to compare


# ---------------------------------------------------------------------- what follows by algebra


def trained(method: DessiLBI, steps: int = 60, **options: Any) -> tuple[Sparsifier, list[list[Tensor]]]:
    """A network trained with SGD whose rate falls, and its weights before each step."""
    s = method.attach(bare(9, 8, 5, dtype=torch.float64))
    optimizer = torch.optim.SGD(s.param_groups(), **{"lr": 0.1, **options})
    s.bind(optimizer, total_steps=steps)
    before = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate(step)
        before.append([target.dense.detach().clone() for target in s.targets])
        train(s, 1, first=step, optimizer=optimizer)
    return s, before


def rate(step: int) -> float:
    return 0.1 if step < 40 else 0.02


def test_the_entry_time_is_when_the_path_length_is_gone() -> None:
    """A weight enters at the first step k with |sum of alpha W before it| > lambda * nu; the others never do."""
    s, before = trained(DessiLBI(nu=5.0, linear_lambda=0.1))
    paths = s.method.results(s)
    for i, target in enumerate(s.targets):
        sums = torch.stack([rate(step) * weights[i] for step, weights in enumerate(before)]).cumsum(0)
        beyond = sums.abs() > 0.1 * 5.0
        expected = torch.where(beyond.any(0), beyond.int().argmax(0) + 1, -1)
        found = paths[f"path/{target.name}"]
        assert torch.equal(found, expected.int())
        assert bool((found == -1).any())
        assert found.unique().numel() > 5
        never = found == -1  # mean magnitude of the sum below lambda * nu / T
        length = sum(rate(step) for step in range(len(before)))
        assert bool((sums[-1].abs()[never] / length <= 0.1 * 5.0 / length).all())


def test_density_falls_with_nu_and_lambda() -> None:
    base = trained(DessiLBI(nu=5.0, linear_lambda=0.1))[0].density()
    assert trained(DessiLBI(nu=8.0, linear_lambda=0.1))[0].density() < base
    assert trained(DessiLBI(nu=5.0, linear_lambda=0.2))[0].density() < base
    assert trained(DessiLBI(nu=5.0, linear_lambda=0.1, kappa=2.0))[0].density() < base


def test_weights_off_the_support_decay() -> None:
    """Without a loss, by 1 - lr / nu a step."""
    found = one_weight(DessiLBI(nu=4.0), sgd(), 1.0, 0.0, 6)
    close(found, [(0.975**k, 1 - 0.975**k, 0.0) for k in range(1, 7)])


def test_a_coupling_that_must_diverge_is_refused() -> None:
    """Where W remains, W - Gamma shrinks by 1 - (1 + path_speed) * lr / nu a step."""
    for method, least in ((DessiLBI(nu=0.09), "0.1"), (DessiLBI(nu=0.5, path_speed=10.0), "0.55")):
        with pytest.raises(
            HyperparameterError, match=rf"dessilbi: nu must be a number in \[{least}, .*unstable at this"
        ):
            one_weight(method, sgd(), 1.0, 0.0, 1)
    *_, (w, _, gamma) = one_weight(DessiLBI(nu=0.11), sgd(), 1.0, 0.0, 200)
    assert abs(w) < 1
    assert abs(w - gamma) < 1e-6


# ---------------------------------------------------------------------- densities


@pytest.mark.parametrize("stop", ["order", "early", "nu"])
@pytest.mark.parametrize("conv_prox", ["filter", "kernel", "layer", "elementwise"])
@pytest.mark.parametrize("density", [0.03, 0.5, 0.98])
def test_densities_are_exact(stop: Any, conv_prox: Any, density: float) -> None:
    """Also with ties everywhere: equal weights within a layer, and a layer that is dead."""
    model = net()
    nn.init.constant_(model.conv.weight, 0.2)
    nn.init.constant_(model.fc.weight, -0.1)
    nn.init.zeros_(model.out.weight)
    method = DessiLBI(density=density, stop=stop, conv_prox=conv_prox, nu=1.0, linear_lambda=0.05, conv_lambda=0.05)
    s = method.attach(model)
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.05)
    s.bind(optimizer, total_steps=12)
    for step in range(14):  # beyond the end, too
        optimizer.zero_grad()
        F.cross_entropy(s.model(images(step)[0]), images(step)[1]).backward()
        optimizer.step()
    total = 6 * 9 + 24 * 8 + 8 * 3
    assert s.remaining() == math.floor(density * total + 0.5)
    assert s.finalize().remaining() == math.floor(density * total + 0.5)


def early(density: float) -> tuple[Sparsifier, list[list[Tensor]]]:
    s = DessiLBI(nu=5.0, linear_lambda=0.1, density=density, stop="early").attach(bare(9, 8, 5))
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.1, momentum=0.9)
    s.bind(optimizer, total_steps=60)
    masks = []
    for step in range(60):
        train(s, 1, first=step, optimizer=optimizer)
        masks.append([target.mask.clone() for target in s.targets])
    return s, masks


def test_an_early_stop_freezes_the_mask_and_the_path() -> None:
    s, masks = early(0.3)
    counts = [sum(int(mask.sum()) for mask in step) for step in masks]
    stopped = counts.index(34)
    assert 3 < stopped < 50
    assert max(counts[:stopped]) < 34
    assert set(counts[stopped:]) == {34}
    assert int(s.state["stopped"]) == stopped + 1
    assert all(torch.equal(a, b) for a, b in zip(masks[stopped], masks[-1], strict=True))
    for target, mask, before in zip(s.targets, masks[-1], masks[stopped - 1], strict=True):
        assert bool((mask | ~before).all())  # what is too much is taken from this step's newcomers
        assert not bool(s.state[f"gamma/{target.name}"][~mask].any())
        assert int(path.entered(s, target).max()) <= stopped + 1
    assert not s.notes


def test_early_stops_are_nested() -> None:
    large = early(0.3)[1][-1]
    small = early(0.1)[1][-1]
    assert all(bool((b | ~a).all()) for a, b in zip(small, large, strict=True))


def test_a_support_that_stays_too_small_is_filled_and_noted() -> None:
    s = DessiLBI(density=0.5, stop="early").attach(bare(9, 8, 5))
    train(s, 4)
    assert s.remaining() == 56
    assert s.notes == [
        "only 0 of the promised 56 weights entered the path, the others remain by their magnitude; a smaller nu or lambda, "
        "or more steps let more enter"
    ]
    magnitudes = torch.cat([target.dense.detach().abs().flatten() for target in s.targets])
    kept = torch.cat([target.mask.flatten() for target in s.targets])
    assert float(magnitudes[kept].min()) > float(magnitudes[~kept].max())


def test_an_empty_path_is_noted() -> None:
    s = DessiLBI().attach(bare(9, 8, 5))
    train(s, 4)
    assert s.notes == ["nothing remains of 0.weight, 2.weight; a smaller nu or lambda, or more steps let more enter"]


def test_nu_steers_to_the_density() -> None:
    """From a nu that would let everything enter, or nothing, the support comes near before it is made exact."""
    for nu in (0.6, 30.0):
        s = DessiLBI(density=0.2, stop="nu", nu=nu, linear_lambda=0.2).attach(bare(9, 8, 5))
        optimizer = torch.optim.SGD(s.param_groups(), lr=0.1)
        s.bind(optimizer, total_steps=200)
        train(s, 199, optimizer=optimizer)
        assert abs(s.remaining() - 22) <= 2
        assert 0.01 * nu <= float(s.state["nu"]) <= 100 * nu
        train(s, 1, first=199, optimizer=optimizer)
        assert s.remaining() == 22
        free = DessiLBI(nu=nu, linear_lambda=0.2).attach(bare(9, 8, 5))
        train(free, 200, optimizer=_plain(free, 200))
        assert abs(free.remaining() - 22) > 10


def _plain(s: Sparsifier, total: int) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.1)
    s.bind(optimizer, total_steps=total)
    return optimizer


def test_a_density_of_nothing_is_refused_at_attach() -> None:
    with pytest.raises(HyperparameterError, match="keeps none"):
        DessiLBI(density=1e-6).attach(bare(9, 8, 5))


# ---------------------------------------------------------------------- groups, dtypes, gradients


def test_filters_enter_and_leave_as_a_whole() -> None:
    """In convolutions of one and three dimensions, and transposed ones, whose filters lie along the second dimension."""
    model = nn.ModuleList(
        [nn.Conv1d(2, 4, 3), nn.Conv3d(2, 4, (1, 2, 2)), nn.ConvTranspose2d(4, 6, 2, groups=2)]
    ).double()
    s = DessiLBI(nu=1.0, conv_lambda=0.25).attach(model)
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.1)
    s.bind(optimizer, total_steps=100)
    seen = [False] * 3
    for _ in range(20):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        for i, target in enumerate(s.targets):
            mask = target.mask.unflatten(0, (2, 2)).transpose(1, 2).flatten(0, 1) if i == 2 else target.mask
            filters = mask.flatten(1)
            assert torch.equal(filters.all(1), filters.any(1))
            seen[i] |= 0 < int(filters.all(1).sum()) < len(filters)
    assert all(seen)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_that_cannot_hold_the_coupling_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(
        AttachError, match=r"0.weight is torch.*float16, in which steps of lr / nu .*autocast .*in-gradient"
    ):
        DessiLBI().attach(nn.Sequential(nn.Linear(4, 3)).to(dtype))
    s = DessiLBI().attach(bare(9, 8, 5))
    _plain(s, 4)
    s.model.to(dtype)
    for target in s.targets:
        target.parameter.grad = torch.zeros_like(target.parameter)
    with pytest.raises(AttachError, match="0.weight is torch"):
        s.method.before_step(s)


def test_what_moved_to_another_device_is_told() -> None:
    s = DessiLBI().attach(bare(9, 8, 5))
    _plain(s, 4)
    s.state["never/2.weight"] = s.state["never/2.weight"].to("meta")
    for target in s.targets:
        target.parameter.grad = torch.zeros_like(target.parameter)
    with pytest.raises(
        StateError, match=r"2.weight is on cpu, what its method knows of it on meta: .* optimizer anew and bind it"
    ):
        s.method.before_step(s)


def test_a_frozen_target_is_noted_and_never_enters() -> None:
    model = bare(9, 8, 5)
    model[0].weight.requires_grad_(False)  # type: ignore[union-attr]
    s = DessiLBI(nu=2.0, linear_lambda=0.05).attach(model, targets="*.weight")
    assert s.notes == ["0.weight does not train (requires_grad is False), so none of its weights enters the path"]
    train(s, 6)
    assert not bool(s.targets[0].mask.any())
    assert bool(s.targets[1].mask.any())


def test_v_and_gamma_are_at_least_float32() -> None:
    """In bfloat16 an increment of lr / nu * W would vanish beside V."""
    method = DessiLBI(nu=100.0, linear_lambda=0.01, coupling="in-gradient")
    s = method.attach(nn.Sequential(nn.Linear(4, 3, bias=False)).bfloat16())
    optimizer = torch.optim.SGD(s.param_groups(), lr=1e-3)
    s.bind(optimizer, total_steps=1000)
    (target,) = s.targets
    weight = target.dense.detach().float().clone()
    for _ in range(500):
        target.parameter.grad = torch.zeros_like(target.parameter)
        optimizer.step()
    v = s.state["v/0.weight"]
    assert v.dtype == torch.float32
    assert torch.allclose(v, 500 * 1e-5 * weight, rtol=0.02)
    assert target.dense.dtype == torch.bfloat16


def test_gradients_that_are_still_scaled_get_a_scaled_coupling() -> None:
    """GradScaler with a fused optimizer: the kernel divides by the scale."""
    results = []
    for scale in (1.0, 64.0):
        s = DessiLBI(nu=2.0, linear_lambda=0.05, coupling="in-gradient").attach(bare(9, 8, 5))
        optimizer = torch.optim.SGD(s.param_groups(), lr=0.1, momentum=0.9, fused=True)
        s.bind(optimizer, total_steps=10)
        for step in range(5):
            optimizer.zero_grad()
            x, y = batch(s.model, step)  # type: ignore[arg-type]
            (scale * F.cross_entropy(s.model(x), y)).backward()
            optimizer.grad_scale = torch.tensor(scale)  # type: ignore[attr-defined]
            optimizer.found_inf = torch.tensor(0.0)  # type: ignore[attr-defined]
            optimizer.step()
        results.append([target.dense.detach().clone() for target in s.targets])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*results, strict=True))


def test_without_a_gradient_nothing_of_a_target_moves() -> None:
    """As in the authors' code; the steps count on."""
    s = DessiLBI(nu=2.0, linear_lambda=0.05).attach(bare(9, 8, 5))
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.1)
    s.bind(optimizer, total_steps=20)
    train(s, 5, optimizer=optimizer)
    first, second = s.targets
    before = {key: value.clone() for key, value in s.state.items()} | {"w": first.dense.detach().clone()}
    for _ in range(3):
        optimizer.zero_grad()
        second.weight.sum().backward()
        optimizer.step()
    assert torch.equal(first.dense, before["w"])
    for key in ("v/0.weight", "gamma/0.weight"):
        assert torch.equal(s.state[key], before[key])
    assert not torch.equal(s.state["v/2.weight"], before["v/2.weight"])
    s.catch_up()  # neither does anything in steps that were left out
    assert s.step == 20
    assert torch.equal(first.dense, before["w"])


def test_groups_of_the_optimizer_have_rates_of_their_own() -> None:
    s = DessiLBI(nu=2.0).attach(bare(9, 8, 5, dtype=torch.float64))
    a, b = (target.parameter for target in s.targets)
    optimizer = torch.optim.SGD([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.01}])
    s.bind(optimizer, total_steps=10)
    weights = [a.detach().clone(), b.detach().clone()]
    train(s, 1, optimizer=optimizer)
    assert torch.allclose(s.state["v/0.weight"], weights[0] * 0.1 / 2, rtol=1e-12)
    assert torch.allclose(s.state["v/2.weight"], weights[1] * 0.01 / 2, rtol=1e-12)


def test_the_dense_model_trains_and_the_sparse_one_is_evaluated() -> None:
    s = DessiLBI(nu=2.0, linear_lambda=0.05).attach(bare(9, 8, 5))
    x, _ = batch(s.model)  # type: ignore[arg-type]
    assert s.tracked
    assert s.density() == 0.0
    train(s, 6)
    assert 0 < s.density() < 1
    full = s.model(x)
    with s.sparse():
        sparse = s.model(x)
    assert not torch.allclose(full, sparse)
    s.finalize()
    assert torch.equal(s.model(x), sparse)


# ---------------------------------------------------------------------- after the search


class Rounds:
    """The user's loop over rounds of eight steps on the convolutional model of the suite; it can be left and taken up."""

    def __init__(self, method: DessiLBI, saved: dict[str, Any] | None = None) -> None:
        self.session = Session(method, ZOO["conv+bn"])
        self.s = self.session.sparsifier
        if saved is not None:
            self.session.restore(saved)
        self.built = self.s.round  # the round that the optimizer was built for
        self.seen: list[dict[str, Tensor]] = []  # all values where a round began

    def run(self, stop: tuple[int, int] | None = None) -> None:
        """Train to the end, or until ``stop`` = (round, step)."""
        for number in self.s.rounds():
            if self.built != number:
                self.session.optimizer = torch.optim.SGD(self.s.param_groups(), lr=0.1, momentum=0.9, weight_decay=1e-3)
                self.s.bind(self.session.optimizer, total_steps=8)
                self.built = number
            self.seen.append({n: tensor.detach().clone() for n, tensor in self.s._values().items()})
            while self.s.step < 8:
                if stop == (number, self.s.step):
                    return
                self.session.train(1, first=10 * number + self.s.step)


QUICK: dict[str, Any] = {"nu": 2.0, "linear_lambda": 0.05, "conv_lambda": 0.4}


def test_fine_tuning_goes_on_from_the_trained_weights_under_the_mask() -> None:
    rounds = Rounds(DessiLBI(after="fine-tune", **QUICK))
    rounds.run((0, 7))
    rounds.session.train(1, first=7)
    s = rounds.s
    dense = {target.name: target.dense.detach().clone() for target in s.targets}
    masks = {target.name: target.mask.clone() for target in s.targets}
    paths = s.method.results(s)
    assert s.tracked
    rounds.run()
    assert s.round == 1
    assert not s.tracked
    for target in s.targets:
        name = target.name
        assert torch.equal(rounds.seen[-1][name], dense[name] * masks[name])
        assert torch.equal(target.mask, masks[name])
        assert not bool(target.dense[~target.mask].any())
        assert not torch.equal(target.dense, rounds.seen[-1][name])
        assert torch.equal(s.method.results(s)[f"path/{name}"], paths[f"path/{name}"])
    assert not [key for key in s.state if key.startswith(("v/", "gamma/", "start/"))]
    assert 0 < s.density() < 1


@pytest.mark.parametrize("rewind_step", [0, 3])
def test_a_winning_ticket_is_retrained_from_where_it_was(rewind_step: int) -> None:
    """All parameters and batch norm's buffers; only the steps after are trained."""
    method = DessiLBI(after="retrain", rewind_step=rewind_step, **QUICK)
    start = Rounds(method)
    start.run((0, rewind_step))
    rounds = Rounds(method)
    rounds.run()
    s = rounds.s
    assert (s.round, s.step) == (1, 8)
    values = {name: tensor.detach() for name, tensor in start.s._values().items()}
    masks = s.masks()
    assert any("running_mean" in name for name in values)
    for name, value in values.items():
        assert torch.equal(rounds.seen[-1][name], value * masks[name] if name in masks else value), name
    assert 0 < s.density() < 1


def test_without_anything_after_there_is_one_round() -> None:
    rounds = Rounds(DessiLBI(**QUICK))
    rounds.run()
    assert (rounds.s.round, len(rounds.seen)) == (0, 1)
    assert rounds.s.tracked


@pytest.mark.parametrize("after", ["fine-tune", "retrain"])
@pytest.mark.parametrize("stop", [(0, 2), (0, 5), (1, 3), (1, 6)])
def test_resumes_bitwise_in_either_round(after: Any, stop: tuple[int, int]) -> None:
    method = DessiLBI(after=after, rewind_step=2 * (after == "retrain"), density=0.3, stop="nu", **QUICK)
    whole = Rounds(method)
    whole.run()
    first = Rounds(method)
    first.run(stop)
    saved = first.session.snapshot()
    second = Rounds(method, saved)
    second.run()
    for name, value in whole.session.model.state_dict().items():
        assert torch.equal(second.session.model.state_dict()[name], value), name
    assert second.s.state.keys() == whole.s.state.keys()
    assert all(torch.equal(second.s.state[key], value) for key, value in whole.s.state.items())
    assert second.s.tracked == whole.s.tracked is False


def test_a_round_cut_short_is_projected_before_it_is_retrained() -> None:
    s = DessiLBI(density=0.25, after="fine-tune", nu=2.0, linear_lambda=0.05).attach(bare(9, 8, 5))
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.1)
    s.bind(optimizer, total_steps=100)
    rounds = s.rounds()
    next(rounds)
    train(s, 5, optimizer=optimizer)
    next(rounds)
    assert s.remaining() == 28


def test_a_rewinding_step_beyond_the_round_is_refused_at_the_first_step() -> None:
    s = DessiLBI(after="retrain", rewind_step=4).attach(bare(9, 8, 5))
    with pytest.raises(HyperparameterError, match=r"rewind_step must be a number in \[0, 3\], got 4"):
        train(s, 4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stop": "early"}, "dessilbi: stop is 'early', but nothing uses it; set density, or remove it"),
        ({"stop": "nu"}, "dessilbi: stop is 'nu', but nothing uses it; set density, or remove it"),
        ({"rewind_step": 3}, "dessilbi: rewind_step is 3, but nothing uses it; set after to retrain, or remove it"),
        ({"rewind_step": 3, "after": "fine-tune"}, "rewind_step is 3, but nothing uses it"),
    ],
)
def test_fields_that_would_do_nothing_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperparameterError, match=message):
        DessiLBI(**fields)


def test_fields_are_checked() -> None:
    for wrong in (
        {"nu": 0.0},
        {"kappa": -1.0},
        {"density": 50},
        {"stop": "late"},
        {"after": "never"},
        {"conv_prox": "row"},
    ):
        with pytest.raises(HyperparameterError, match=next(iter(wrong))):
            DessiLBI(**wrong)  # type: ignore[arg-type]
    for wrong in ({"rewind_step": 1.5}, {"size_normalised": 1}, {"path_speed": math.inf}, {"coupling": "none"}):
        with pytest.raises(HyperparameterError, match=next(iter(wrong))):
            DessiLBI(**wrong)  # type: ignore[arg-type]
