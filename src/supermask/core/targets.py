"""Which tensors of a model a method acts on: finding them, naming them, and what can be asked of one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from supermask.core.gates import Gated
from supermask.core.parametrizations import Masked, Scored
from supermask.errors import AttachError, NoTargetsError, UnsupportedModuleError
from supermask.tensors.initializers import fans

Kind = Literal["linear", "conv", "recurrent", "attention", "other"]
Pattern = str | nn.Module | type[nn.Module]

_ATTENTION: Final = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(frozen=True, eq=False)
class Site:
    """One place where a tensor is used as a module's attribute."""

    path: str
    module: nn.Module
    attribute: str

    @property
    def name(self) -> str:
        """``path.attribute``, as in a state dict."""
        return f"{self.path}.{self.attribute}" if self.path else self.attribute


@dataclass(eq=False, repr=False)
class Target:
    """A tensor that a method acts on. Tied weights are one target with several sites.

    Attributes:
        name: State-dict name of the first site, for example ``"conv1.weight"``.
        sites: Every place that uses the tensor.
        kind: The sort of layer, for methods whose recipe distinguishes them; ``other`` for what is no default target, such as a
            bias.
        trainable: Whether the tensor required a gradient before a method was attached.
        redrawn: Whether the method replaced the model's values with its own initial ones.
    """

    name: str
    sites: tuple[Site, ...]
    kind: Kind
    shape: torch.Size
    trainable: bool
    redrawn: bool = field(default=False)

    def __repr__(self) -> str:
        return f"Target({self.name!r}, {'x'.join(map(str, self.shape))}, {self.kind})"

    @property
    def module(self) -> nn.Module:
        """The module of the first site."""
        return self.sites[0].module

    @property
    def attribute(self) -> str:
        """The attribute of the first site."""
        return self.sites[0].attribute

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.shape.numel()

    @property
    def fans(self) -> tuple[int, int]:
        """(fan_in, fan_out) of the layer."""
        return fans(self.shape, transposed=isinstance(self.module, _ConvTransposeNd))

    @property
    def parametrization(self) -> Masked | Scored | Gated | None:
        """What a method installed here; None when nothing."""
        chain = parametrization_list(self.module, self.attribute)
        if chain is None:
            return None
        installed = chain[0]
        assert isinstance(installed, Masked | Scored | Gated)
        return installed

    @property
    def parameter(self) -> nn.Parameter:
        """The tensor an optimizer sees: the score of a supermask, the dense weight otherwise."""
        chain = parametrization_list(self.module, self.attribute)
        parameter = getattr(self.module, self.attribute) if chain is None else chain.original
        assert isinstance(parameter, nn.Parameter)
        return parameter

    @property
    def dense(self) -> Tensor:
        """The stored weight, without mask or gate; what is trained, but frozen for :class:`Scored` unless released."""
        installed = self.parametrization
        return installed.frozen_weight() if isinstance(installed, Scored) and not installed.released else self.parameter

    @property
    def weight(self) -> Tensor:
        """The effective weight, as the layer uses it."""
        weight = getattr(self.module, self.attribute)
        assert isinstance(weight, Tensor)
        return weight

    @property
    def score(self) -> Tensor:
        """The learnt score, relative to the frozen weight (positive = keep, negative = invert).

        Raises:
            AttachError: The method attached here learns no scores, or no longer.
        """
        installed = self.parametrization
        if not isinstance(installed, Scored):
            raise AttachError(f"{self.name} has no score: the attached method does not learn scores")
        if installed.released:
            raise AttachError(f"{self.name} has no score any more: its weight is trained in this round")
        return installed.relative_score(self.parameter)

    @property
    def mask(self) -> Tensor:
        """Bool tensor, True = remaining; all True where nothing is installed."""
        installed = self.parametrization
        if isinstance(installed, Scored):
            return installed.remaining(self.parameter)
        if isinstance(installed, Masked):
            return installed.mask
        if isinstance(installed, Gated):
            return installed.remaining(self.shape)
        return torch.ones(self.shape, dtype=torch.bool, device=self.parameter.device)


def parametrization_list(module: nn.Module, attribute: str) -> parametrize.ParametrizationList | None:
    """The parametrizations of a module's attribute; None when it has none."""
    if not parametrize.is_parametrized(module, attribute):
        return None
    lists = module.parametrizations
    assert isinstance(lists, nn.ModuleDict)
    chain = lists[attribute]
    assert isinstance(chain, parametrize.ParametrizationList)
    return chain


def find_targets(
    model: nn.Module, targets: Iterable[Pattern] | Pattern | None = None, ignore: Iterable[Pattern] | Pattern = ()
) -> list[Target]:
    """Find the tensors to act on, in the order of the model's parameters.

    Args:
        model: Any module.
        targets: Globs on names (``"conv*"``, ``"*.weight"``, ``"encoder"``), modules or module types; None takes every default
            target that requires a gradient: weights of Linear, convolutions and transposed convolutions, recurrent input
            and hidden weights, and attention projections. What the user froze is left alone unless it is named. A full
            parameter name may also pick any other floating-point parameter.
        ignore: Globs or modules to leave out.

    Raises:
        NoTargetsError: Nothing is left, or a pattern matches nothing.
        UnsupportedModuleError: A weight cannot be taken over; the message names it and the way out.
    """
    sites = _parameter_sites(model)
    candidates = {site.name: _kind(site.module) for site in _candidate_sites(model)}
    known = list(candidates)
    if targets is None:
        frozen = {name for name, site in sites.items() if _is_frozen(_raw(site))}
        wanted = set(known) - frozen
    else:
        wanted = _select(model, _as_tuple(targets), known, list(sites))
    left_out = _select(model, _as_tuple(ignore), known, list(sites))

    storages: dict[int, list[Site]] = {}
    for site in sites.values():
        storages.setdefault(id(_raw(site)), []).append(site)
    found: list[Target] = []
    for group in storages.values():
        names = {site.name for site in group}
        if not names & wanted or names & left_out:
            continue
        first = next((site for site in group if site.name in candidates), group[0])
        group.sort(key=lambda site: site is not first)
        parameter = _raw(first)
        _check_supported(first, parameter)
        kind = _kind(first.module) if first.name in candidates else "other"
        found.append(Target(first.name, tuple(group), kind, parameter.shape, parameter.requires_grad))
    _refuse_hidden(model, wanted - left_out - sites.keys())
    _refuse_shared_memory(found, list(sites.values()))
    if not found:
        left = " that requires a gradient" + (" is left after ignore" if left_out else " was found")
        raise NoTargetsError(
            f"{type(model).__name__} has no weight to act on: no Linear, convolution, recurrent or attention weight"
            f"{left}; name parameters with targets=[...]. Its parameters: {', '.join(sites) or 'none'}"
        )
    return found


def _is_frozen(parameter: nn.Parameter) -> bool:
    """Whether the user switched its gradient off (an integer weight never had one)."""
    return parameter.is_floating_point() and not parameter.requires_grad


def _candidate_sites(model: nn.Module) -> list[Site]:
    """Default targets, also those whose weight is not a plain parameter (so that they can be refused by name)."""
    return [
        Site(path, module, attribute)
        for path, module in model.named_modules()
        for attribute in _weight_attributes(module)
        if getattr(module, attribute, None) is not None
    ]


def _weight_attributes(module: nn.Module) -> Sequence[str]:
    if isinstance(module, nn.Linear | _ConvNd):
        return ("weight",)
    if isinstance(module, nn.RNNBase):
        return [name for name in module._flat_weights_names if name.startswith(("weight_ih", "weight_hh"))]
    if isinstance(module, nn.RNNCellBase):
        return ("weight_ih", "weight_hh")
    if isinstance(module, nn.MultiheadAttention):
        return _ATTENTION
    return ()


def _kind(module: nn.Module) -> Kind:
    if isinstance(module, _ConvNd):
        return "conv"
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return "recurrent"
    if isinstance(module, nn.MultiheadAttention):
        return "attention"
    return "linear" if isinstance(module, nn.Linear) else "other"


def _parameter_sites(model: nn.Module) -> dict[str, Site]:
    """Every direct parameter of every module, by name, in order; tied ones appear once per site."""
    found = [
        Site(path, module, attribute)
        for path, module in model.named_modules()
        if not isinstance(module, parametrize.ParametrizationList)
        for attribute, parameter in module._parameters.items()
        if parameter is not None
    ]
    return {site.name: site for site in found}


def _raw(site: Site) -> nn.Parameter:
    parameter = site.module._parameters[site.attribute]
    assert parameter is not None
    return parameter


def _as_tuple(patterns: Iterable[Pattern] | Pattern) -> tuple[Pattern, ...]:
    return (patterns,) if isinstance(patterns, str | nn.Module | type) else tuple(patterns)


def _select(model: nn.Module, patterns: tuple[Pattern, ...], known: list[str], every: list[str]) -> set[str]:
    chosen: set[str] = set()
    for pattern in patterns:
        if isinstance(pattern, nn.Module):
            path = next((name for name, module in model.named_modules() if module is pattern), None)
            if path is None:
                raise NoTargetsError(f"the given {type(pattern).__name__} is not a part of this model")
            matched = {name for name in known if name == path or name.startswith(f"{path}." if path else "")}
            shown = f"module {path!r}"
        elif isinstance(pattern, type) and issubclass(pattern, nn.Module):
            typed = {name for name, module in model.named_modules() if isinstance(module, pattern)}
            matched = {name for name in known if name.rpartition(".")[0] in typed}
            shown = pattern.__name__
        elif not isinstance(pattern, str):
            raise NoTargetsError(
                f"targets and ignore take globs, modules or module types, got {type(pattern).__name__}"
            )
        else:
            matched = {name for name in known if _matches(name, pattern)} | ({pattern} & set(every))
            shown = repr(pattern)
        if not matched:
            near = difflib.get_close_matches(str(pattern), [*known, *every], n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise NoTargetsError(f"{shown} matches no weight; {hint}known: {', '.join(known) or 'none'}")
        chosen |= matched
    return chosen


def _matches(name: str, pattern: str) -> bool:
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def _check_supported(site: Site, parameter: nn.Parameter) -> None:
    if isinstance(parameter, UninitializedParameter):
        raise UnsupportedModuleError(
            f"{site.name} has no shape yet ({type(site.module).__name__}): run one batch through the model first"
        )
    if parameter.is_meta:
        raise UnsupportedModuleError(
            f"{site.name} is on the meta device and has no values: load the model's weights before attach()"
        )
    if not parameter.is_floating_point():
        raise UnsupportedModuleError(
            f"{site.name} has dtype {parameter.dtype}; only floating-point weights are supported. "
            f"Leave it out with ignore=[{site.name!r}]"
        )
    if parameter.numel() == 0:
        raise UnsupportedModuleError(
            f"{site.name} has no entries (shape {tuple(parameter.shape)}). Leave it out with ignore=[{site.name!r}]"
        )


def _refuse_hidden(model: nn.Module, names: set[str]) -> None:
    """Refuse weights that are computed by something else, by name."""
    for name in sorted(names):
        path, _, attribute = name.rpartition(".")
        module = model.get_submodule(path)
        chain = parametrization_list(module, attribute)
        if chain is not None:
            if isinstance(chain[0], Masked | Scored | Gated):
                raise AttachError(
                    f"{name} already carries a mask: finalize() the first sparsifier before attaching another"
                )
            why = f"is computed by the parametrization {type(chain[0]).__name__}"
            way = f"torch.nn.utils.parametrize.remove_parametrizations(module, {attribute!r})"
        elif f"{attribute}_orig" in module._parameters:
            why = "is pruned by torch.nn.utils.prune"
            way = (
                f"take its masks with Masks.from_prune(model), then torch.nn.utils.prune.remove(module, {attribute!r})"
            )
        elif f"{attribute}_g" in module._parameters:
            why = "is computed by torch.nn.utils.weight_norm"
            way = f"torch.nn.utils.remove_weight_norm(module, {attribute!r})"
        else:
            why, way = f"is not a parameter of {type(module).__name__}", "make it one"
        raise UnsupportedModuleError(f"{name} {why}; {way} first, or leave it out with ignore=[{name!r}]")


def _refuse_shared_memory(found: list[Target], sites: list[Site]) -> None:
    """A target over the same memory as a different parameter cannot be masked alone."""
    targeted = {id(target.parameter) for target in found}
    owners: dict[int, Site] = {}
    for site in sites:
        parameter = _raw(site)
        if isinstance(parameter, UninitializedParameter) or parameter.data_ptr() == 0:
            continue
        owner = owners.setdefault(parameter.data_ptr(), site)
        if _raw(owner) is not parameter and targeted & {id(parameter), id(_raw(owner))}:
            raise UnsupportedModuleError(
                f"{owner.name} and {site.name} are different parameters over the same memory; tie them by assigning "
                f"one parameter to both modules, or leave both out with ignore=[{owner.name!r}, {site.name!r}]"
            )
