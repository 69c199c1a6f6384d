"""Every registered method keeps every rule on every small model."""

from __future__ import annotations

import pytest

from supermask import Initializer, Magnitude, Method, RandomMask, SignedSupermask
from supermask.core.checks import CHECKS, run_check
from supermask.core.registry import methods
from supermask.core.zoo import RESIDUAL, ZOO, ZooModel


def drawn(distribution: str) -> Initializer:
    return Initializer(distribution=distribution, rule="he")  # type: ignore[arg-type]


MORE: dict[str, Method] = {
    "signed-relative": SignedSupermask(threshold_rule="relative", threshold=0.4),
    "signed-variable": SignedSupermask(threshold_rule="variable"),
    "signed-binary": SignedSupermask(signed=False),
    "signed-binary-variable": SignedSupermask(signed=False, threshold_rule="variable", conv_fraction=0.4),
    "signed-uniform": SignedSupermask(weights=drawn("uniform")),
    "signed-normal": SignedSupermask(weights=drawn("normal"), threshold_rule="relative", threshold=0.6),
    "signed-bn-trained": SignedSupermask(batchnorm="trained"),
    "random-uniform": RandomMask(density=0.37, scope="uniform"),
    "random-global": RandomMask(density=0.5, scope="global"),
    "random-dense": RandomMask(density=1.0),
    "magnitude-one-shot-uniform": Magnitude(schedule="one-shot", scope="uniform", density=0.43),
    "magnitude-one-shot-erk": Magnitude(schedule="one-shot", scope="erk", density=0.2, begin=0.3),
    "magnitude-one-shot-late": Magnitude(schedule="one-shot", scope="global", begin=0.99),
    "magnitude-gradual-global": Magnitude(scope="global", every=1, end=1.0, density=0.23),
    "magnitude-gradual-erk": Magnitude(scope="erk", every=3, begin=0.2, initial_density=0.8, density=0.31),
}


def configurations(zoo: ZooModel) -> list[tuple[str, Method]]:
    model = zoo.build()
    found = [
        (name if i == 0 else f"{name}-{i}", example)
        for name, cls in methods().items()
        for i, example in enumerate(cls.examples(model))
    ]
    return found + list(MORE.items())


def cases() -> list[object]:
    found = []
    for zoo in (*ZOO.values(), RESIDUAL):
        for label, method in configurations(zoo):
            if zoo is RESIDUAL and not method.needs_structure:
                continue
            for check in CHECKS:
                # compiling takes a third of a second; the configurations differ in nothing it could see but on the mlp
                if check != "compiles" or zoo.name == "mlp" or (zoo.compiles and label not in MORE):
                    found.append(pytest.param(check, method, zoo, id=f"{label}-{zoo.name}-{check}"))
    return found


@pytest.mark.parametrize(("check", "method", "zoo"), cases())
def test_conformance(check: str, method: Method, zoo: ZooModel) -> None:
    result = run_check(check, method, zoo)
    assert result.status in ("pass", "refused"), result.detail
    if method.needs_structure and zoo.name in ("conv+bn", "residual"):
        assert result.status == "pass", result.detail
