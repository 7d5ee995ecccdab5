"""Functions with rules: `with_rules`, and its short form `relu_rule`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch.overrides import resolve_name

from .. import rules
from ..core.contexts import ruled_call
from ..core.levels import compiling
from ..errors import ArgumentError, check_flags, nearest, short
from ..models.functional import Inside, call, module_of
from ..operations.composite import Composite, Row
from ..operations.kinds.activation import ACTIVATIONS, SPELLINGS
from ..operations.operation import Args, Kwargs
from ..operations.where import ONE_OF
from .run import Plan, run
from .unbroken import unbroken

__all__ = ["relu_rule", "with_rules"]

Rules = Mapping[Callable[..., Any], rules.Elementwise]
SiteChoice = str | Iterable[str] | Rules | Callable[[str], bool]


@dataclass(eq=False)  # not frozen: the compiler cannot make frozen ones after a graph break
class Ruled(Inside):
    """A function with its values, whose reverse-mode derivative follows a plan."""

    func: Callable[..., Any]
    plan: Plan

    @unbroken
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if compiling():
            return run(self.func, [self.plan], args, kwargs)[0]
        return ruled_call(run, self.func, [self.plan], args, kwargs)[0]

    def call(self, args: Args, kwargs: Kwargs, **how: Any) -> Any:
        return call(self.func, args, kwargs, **how)  # `run` has put its plan into the mode

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(getattr(self.func, "forward", self.func))


def with_rules(
    func: Callable[..., Any], composite: Composite, *, require_match: bool = True
) -> Callable[..., Any]:
    """``func`` with its own values, bit for bit, and a reverse-mode derivative by a composite.

    Every rule belongs to the innermost level of differentiation around the call. Levels further out
    see the true derivative of the function that the rules compute, as with ``jax.custom_vjp``, and
    forward mode always sees the true derivative of ``func``.

    Args:
        func: a pure function, an ``nn.Module``, or the ``f`` of `make_functional`; or what this
            function returned: then the first row that fits wins, those of ``composite`` first.
        composite: which operations get which rule.
        require_match: whether it is an error that no row fits any operation, or that an activation
            for which one would fit cannot be reached.

    Returns:
        A callable with the signature of ``func``.

    Raises:
        ArgumentError: ``func`` is not callable, ``composite`` is none, or has no row and
            ``require_match`` asks for one; when called: a rule fails, writes to what it is given,
            or returns another shape than ``x``'s.
        NoSiteError: when called, with ``require_match``: the forward pass met no such operation, or
            one is out of reach (TorchScript, ``nn.RNN(nonlinearity="relu")``).

    >>> import torch
    >>> import funcattr as fa
    >>> composite = fa.Composite([("relu", fa.rules.guided), ("tanh", lambda x, g: g)])
    >>> f = with_rules(lambda x: torch.tanh(x.relu()), composite)
    >>> torch.func.grad(lambda x: f(x).sum())(torch.tensor([-1.0, 2.0]))
    tensor([0., 1.])
    """
    check_func(func)
    if not isinstance(composite, Composite):
        hint = "; call it" if callable(composite) else ""
        if isinstance(composite, str):
            hint = ". Those that are ready-made are functions, composites.epsilon_plus()"
        raise ArgumentError(
            f"composite is a Composite, Composite([(where, rule), ...]); got {composite!r}{hint}."
        )
    check_flags(require_match=require_match)
    if composite.asks_for_paths() and module_of(func) is None:
        raise ArgumentError(
            "a row of the composite is for module paths, and a plain function has none; pass the "
            "module, or the f of make_functional."
        )
    if isinstance(func, Ruled):
        inner = func.plan
        composite, func = composite + inner.composite, func.func
        require_match = require_match or inner.require_match
    if require_match and not composite.rows:
        raise ArgumentError(
            "there is no row, and so no rule: name at least one place (in sites= or in the "
            "Composite), or pass require_match=False to take the plain gradient."
        )
    return Ruled(func, Plan(composite, require_match))


def relu_rule(
    func: Callable[..., Any],
    rule: rules.Elementwise = rules.guided,
    *,
    sites: SiteChoice = "relu",
    require_match: bool = True,
) -> Callable[..., Any]:
    """``func`` with its own values, bit for bit, and a reverse-mode derivative by ``rule``.

    A short form of `with_rules`: every ReLU, or what ``sites`` names, gets one rule.

    Args:
        func: as for `with_rules`.
        rule: ``(x, g) -> g_in``, elementwise: the input of a ReLU, the cotangent of its output,
            the cotangent of its input. A clipped ReLU (ReLU6, ``hardtanh(x, 0, c)``) also blocks
            where ``x >= c``.
        sites: which activations follow the rule. ``"relu"``: ``max(x, 0)`` in every spelling and
            its clipped forms. Other names, one or several: ``"gelu"``, ``("relu", "silu")``; there
            guided is ``relu(g * act'(x))`` and DeconvNet ``relu(g)``. A mapping from a torch
            function to its own rule (any spelling stands for all of them, but for operators).
            A predicate on the path of the module whose ``forward`` calls the ReLU
            (``lambda path: path.startswith("features")``).
        require_match: whether it is an error that no such activation runs, or one that cannot
            be reached.

    Returns:
        A callable with the signature of ``func``.

    Raises:
        ArgumentError: ``func`` is not callable, ``sites`` names no known activation; when called:
            the rule fails, writes to ``x`` or ``g``, or returns another shape than ``x``'s.
        NoSiteError: when called, with ``require_match``: the forward pass met no such activation,
            or one is out of reach (TorchScript, ``nn.RNN(nonlinearity="relu")``).

    >>> import torch
    >>> f = lambda x: torch.relu(x @ torch.tensor([[1.0], [-1.0]])).sum()
    >>> x = torch.tensor([[2.0, 1.0]])
    >>> torch.func.grad(relu_rule(lambda x: -f(x), rules.deconvnet))(x)
    tensor([[0., 0.]])
    >>> torch.func.grad(relu_rule(lambda x: -f(x), rules.standard))(x)
    tensor([[-1.,  1.]])
    """
    check_func(func)
    if not callable(rule):
        raise ArgumentError(f"rule is a function (x, g) -> g_in; got {rule!r}.")
    return with_rules(func, Composite(_rows(func, rule, sites)), require_match=require_match)


def check_func(func: Any) -> None:
    """Raises where ``func`` cannot be a model or a function."""
    if callable(func) and not isinstance(func, type) and not hasattr(func, "linearize"):
        return
    hint = ""
    if isinstance(func, type):
        hint = " Pass an instance of the class."
    elif hasattr(func, "linearize"):
        hint = " It is an attribution already."
    elif isinstance(func, Mapping):
        hint = " A state dict holds weights only; load it into a model, and pass that."
    raise ArgumentError(
        f"func is a function, a module or the f of make_functional; got {short(func)}.{hint}"
    )


def _rows(func: Callable[..., Any], rule: rules.Elementwise, sites: Any) -> list[Row]:
    if isinstance(sites, str):
        return [(_known(sites), rule)]
    if isinstance(sites, Mapping):
        return [_row(place, own) for place, own in sites.items()]
    if callable(sites):
        if isinstance(sites, type) or sites in SPELLINGS:
            raise _unknown(sites)
        if module_of(func) is None:
            raise ArgumentError(
                "sites is a predicate on module paths, and a plain function has none; pass the "
                "module, or the f of make_functional."
            )
        return [(("relu", sites), rule)]
    if not isinstance(sites, Iterable):
        raise _unknown(sites)
    return [(_known(name), rule) for name in sites]


def _unknown(sites: Any) -> ArgumentError:
    return ArgumentError(
        "sites names activations ('relu'), maps functions to rules, or is a predicate on module "
        f"paths; got {sites!r}."
    )


def _known(name: Any) -> str:
    if name not in ACTIVATIONS:
        raise ArgumentError(
            f"sites names activations, of {', '.join(ACTIVATIONS)}; got {name!r}."
            f"{nearest(str(name), ACTIVATIONS)} Any other elementwise torch function goes in "
            "as a mapping {function: rule}."
        )
    known: str = name
    return known


def _row(place: Any, own: Any) -> Row:
    if not callable(place) or isinstance(place, type) or not callable(own):
        raise ArgumentError(
            f"a mapping in sites is from torch functions to rules; got {place!r}: {own!r}."
        )
    if not resolve_name(place):
        raise ArgumentError(
            f"a mapping in sites is from torch functions to rules, and {place!r} is none that "
            "torch lets others replace."
        )
    name = getattr(ONE_OF.get(place, place), "__name__", "")
    if place not in SPELLINGS and name.endswith("_"):
        raise ArgumentError(
            f"{place!r} works in place, and torch has no function that returns its result."
        )
    return place, own
