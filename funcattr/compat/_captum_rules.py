"""Captum's rules of LRP, and the rows of a composite that the rules on modules stand for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from .. import rules
from ..errors import ArgumentError, short
from ..operations.composite import Composite, Row
from ..rules import propagation


class _EpsilonRule:
    """Captum's ``EpsilonRule``, where Captum is not installed."""

    def __init__(self, epsilon: float = 1e-9) -> None:
        self.STABILITY_FACTOR = epsilon


class _GammaRule:
    """Captum's ``GammaRule``, likewise."""

    STABILITY_FACTOR = 1e-9

    def __init__(self, gamma: float = 0.25, set_bias_to_zero: bool = False) -> None:
        self.gamma, self.set_bias_to_zero = gamma, set_bias_to_zero


class _Alpha1Beta0Rule:
    """Captum's ``Alpha1_Beta0_Rule``, likewise."""

    STABILITY_FACTOR = 1e-9

    def __init__(self, set_bias_to_zero: bool = False) -> None:
        self.set_bias_to_zero = set_bias_to_zero


class _IdentityRule(_EpsilonRule):
    """Captum's ``IdentityRule``, likewise."""


try:
    from captum.attr._utils import lrp_rules as _captum  # type: ignore[import, unused-ignore]
except ImportError:
    _captum = None
Alpha1_Beta0_Rule: Any = getattr(_captum, "Alpha1_Beta0_Rule", _Alpha1Beta0Rule)
EpsilonRule: Any = getattr(_captum, "EpsilonRule", _EpsilonRule)
GammaRule: Any = getattr(_captum, "GammaRule", _GammaRule)
IdentityRule: Any = getattr(_captum, "IdentityRule", _IdentityRule)

# Captum's rules act on a layer alone, also where a batch norm comes next, which has its own.


@dataclass(frozen=True)
class _Epsilon(propagation.Epsilon):
    merges: ClassVar[bool] = False


@dataclass(frozen=True)
class _Gamma(propagation.Gamma):
    merges: ClassVar[bool] = False


@dataclass(frozen=True)
class _ZPlus(propagation.ZPlus):
    merges: ClassVar[bool] = False


_DEFAULT = _Epsilon(1e-9)
#: What the modules without a rule have.
COMPOSITE = Composite(
    [
        ("activation", rules.pass_through),
        *[(kind, _DEFAULT) for kind in ("batch_norm", "max_pool", "mean", "sum")],
        *[(kind, _DEFAULT) for kind in ("convolution", "linear")],
    ]
)
_NON_LINEAR = (nn.ReLU, nn.Dropout, nn.Tanh)  # where Captum has no use for a rule


def layers(model: Any) -> Iterator[tuple[str, nn.Module, Any]]:
    """The modules that can have a rule, by all of their names, with their own."""
    if not isinstance(model, nn.Module):
        return
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) not in _NON_LINEAR and not any(True for _ in module.children()):
            yield name, module, getattr(module, "rule", None)


def rows(model: Any) -> Iterator[Row]:
    """Rows for the modules that have a rule.

    Raises:
        ArgumentError: one is none of Captum's.
    """
    for name, module, rule in layers(model):
        if rule is not None:
            yield _Path(name), _rule_of(rule, module)


@dataclass(frozen=True)
class _Path:
    """A predicate on the paths of modules."""

    name: str

    def __call__(self, path: str) -> bool:
        return path == self.name


def _rule_of(rule: Any, module: nn.Module) -> rules.Pair:
    eps, zero = getattr(rule, "STABILITY_FACTOR", 0), getattr(rule, "set_bias_to_zero", False)
    if type(rule) is IdentityRule:
        return rules.pass_through
    if type(rule) is EpsilonRule:
        return _Epsilon(eps)
    if type(rule) is GammaRule:
        return _Gamma(eps, zero, rule.gamma)
    if type(rule) is Alpha1_Beta0_Rule:
        return _ZPlus(eps, zero)
    raise ArgumentError(
        "the rule of a module is an EpsilonRule, GammaRule, Alpha1_Beta0_Rule or IdentityRule; "
        f"{module} has {short(rule)}. funcattr.lrp takes rules of your own."
    )
