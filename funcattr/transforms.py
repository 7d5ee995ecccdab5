"""Transforms of a function: `relu_rule` and `layer_output`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from . import rules
from ._clone import Wraps
from ._intercept import (
    RELU_ENTRIES,
    Entry,
    Intercept,
    Met,
    Plan,
    entries,
)
from ._scope import Replay, Scope, compiling
from ._site import levels
from ._spellings import ACTIVATIONS, RELUS, SPELLINGS
from ._taps import Layer, Tapped, Taps, tapped
from ._unseen import refuse_none, refuse_unseen
from .errors import ArgumentError, nearest
from .functional import Inside, call, module_of

__all__ = ["layer_output", "relu_rule"]

Rules = Mapping[Callable[..., Any], rules.Rule]
SiteChoice = str | Iterable[str] | Rules | Callable[[str], bool]


@dataclass(eq=False)  # not frozen: the compiler cannot make frozen ones after a graph break
class Ruled:
    """A function with its values, whose reverse-mode derivative follows a plan.

    ``also`` are plans that a backward pass may follow instead, where a `Scope` says so.
    """

    func: Callable[..., Any]
    plan: Plan
    also: tuple[Plan, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(args, kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(getattr(self.func, "forward", self.func))

    def run(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        detach: bool = False,
        met: list[Met] | None = None,
        scope: Scope | None = None,
        taps: Taps | None = None,
        replay: Replay | None = None,
    ) -> Any:
        """The call.

        ``detach`` cuts a module off from its own parameters; ``met``, where given, collects every
        activation of the forward pass; ``scope`` can tell its sites what to do; ``replay`` has
        what they would save.
        """
        if compiling():
            from . import _graph  # noqa: F401  it completes what the compiler hands to a mode
        path = [""] if self.plan.where is not None or not compiling() else None
        mode = Intercept(self.plan, levels(), path, met, scope, self.also, replay)
        wraps = taps.wraps() if taps is not None else ()
        out = call(self.func, args, kwargs, mode=mode, detach=detach, path=path, wraps=wraps)
        for plan, matched, others in zip(mode.plans, mode.matched, mode.others):
            if plan.require_match and not compiling():
                refuse_unseen(self.func, plan, out)
            if plan.require_match and not matched:
                refuse_none(self.func, plan, others)
        if replay is not None:
            replay.check()
        return out

    def repeating(self, scope: Scope | None) -> Intercept:
        """For a backward pass that may repeat parts of the forward pass."""
        plan = replace(self.plan, where=None, require_match=False)
        return Intercept(plan, levels(), scope=scope)


def relu_rule(
    func: Callable[..., Any],
    rule: rules.Rule = rules.guided,
    *,
    sites: SiteChoice = "relu",
    require_match: bool = True,
) -> Callable[..., Any]:
    """``func`` with its own values, bit for bit, and a reverse-mode derivative by ``rule``.

    The rule belongs to the innermost level of differentiation around the call. Levels further out
    see the true derivative of the function that the rule computes, as with ``jax.custom_vjp``, and
    forward mode always sees the true derivative of ``func``.

    Args:
        func: a pure function, an ``nn.Module``, or the ``f`` of `make_functional`.
        rule: ``(x, g) -> g_in``, elementwise: the input of a ReLU, the cotangent of its output,
            the cotangent of its input. A clipped ReLU (ReLU6, ``hardtanh(x, 0, c)``) also blocks
            where ``x >= c``.
        sites: which activations follow the rule. ``"relu"``: ``max(x, 0)`` in every spelling and
            its clipped forms. Other names, one or several: ``"gelu"``, ``("relu", "silu")``; there
            guided is ``relu(g * act'(x))`` and DeconvNet ``relu(g)``. A mapping from a torch
            function to its own rule (any spelling of an activation stands for all of them).
            A predicate on the path of the module whose ``forward`` calls the ReLU
            (``lambda path: path.startswith("features")``).
        require_match: whether it is an error that no such activation runs, or one that cannot
            be reached.

    Returns:
        A callable with the signature of ``func``.

    Raises:
        ArgumentError: ``func`` is not callable, ``sites`` names no known activation; when called:
            the rule returns another shape than ``x``'s.
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
    where: Callable[[str], bool] | None = None
    if callable(sites) and not isinstance(sites, (str, Mapping)):
        if isinstance(sites, type) or sites in SPELLINGS:
            raise ArgumentError(
                f"sites names activations ('relu'), maps functions to rules, or is a predicate on "
                f"module paths; got {sites!r}."
            )
        where, sites = sites, "relu"
        if module_of(func) is None:
            raise ArgumentError(
                "sites is a predicate on module paths, and a plain function has none; pass the "
                "module, or the f of make_functional."
            )
    return Ruled(func, Plan(_entries(sites, rule), where, require_match))


def check_func(func: Any) -> None:
    """Raises where ``func`` cannot be a model or a function."""
    if not callable(func) or isinstance(func, type) or hasattr(func, "linearize"):
        hint = {True: " Pass an instance of the class."}.get(isinstance(func, type), "")
        hint = " It is an attribution already." if hasattr(func, "linearize") else hint
        raise ArgumentError(
            f"func is a function, a module or the f of make_functional; got {func!r}.{hint}"
        )


def _entries(sites: Any, rule: rules.Rule) -> Mapping[Callable[..., Any], Entry]:
    if isinstance(sites, str) and sites == "relu":
        for named, table in RELU_ENTRIES.items():
            if named is rule:
                return table
    if compiling():
        raise ArgumentError(
            "with a rule or sites of your own, call relu_rule (rule_backprop, guided_backprop) "
            "outside of the function that is compiled, and what it returns inside."
        )
    return entries(*_choice(sites, rule))


def _choice(
    sites: str | Iterable[str] | Rules, rule: rules.Rule
) -> tuple[dict[str, rules.Rule], dict[Callable[..., Any], rules.Rule]]:
    """The activations chosen by name, and other functions by themselves, with their rules."""
    names: dict[str, rules.Rule] = {}
    others: dict[Callable[..., Any], rules.Rule] = {}
    if isinstance(sites, Mapping):
        for func, own in sites.items():
            if not callable(func) or isinstance(func, type) or not callable(own):
                raise ArgumentError(
                    f"a mapping in sites is from torch functions to rules; got {func!r}: {own!r}."
                )
            if func not in SPELLINGS and getattr(func, "__name__", "").endswith("_"):
                raise ArgumentError(
                    f"{func!r} works in place, which only activations may "
                    f"({', '.join(ACTIVATIONS)}); use the function that returns its result."
                )
            if func in SPELLINGS:
                names[SPELLINGS[func].activation] = own
            else:
                others[func] = own
        return names, others
    if not isinstance(sites, Iterable):
        raise ArgumentError(
            f"sites names activations ('relu'), maps functions to rules, or is a predicate on "
            f"module paths; got {sites!r}."
        )
    for name in (sites,) if isinstance(sites, str) else sites:
        if name not in ACTIVATIONS:
            raise ArgumentError(
                f"sites names activations, of {', '.join(ACTIVATIONS)}; got {name!r}."
                f"{nearest(str(name), ACTIVATIONS)} Any other elementwise torch function goes in "
                "as a mapping {function: rule}."
            )
        names.update(dict.fromkeys(RELUS.get(name, (name,)), rule))
    return names, others


def layer_output(
    model: Callable[..., Any], layer: Layer | Sequence[Layer], *, at_input: bool = False
) -> Callable[..., Any]:
    """The activation of a layer as a pure function of what the model is called with.

    Every attribution of it explains a neuron, and a callable target several at once.

    Args:
        model: an ``nn.Module``, the ``f`` of `make_functional`, or what `relu_rule` returned.
        layer: a dotted path (``"layer3.0.relu"``), or the module itself. Where it is called more
            than once, the last call; ``"layer3.0.relu:0"`` names another. Or a list of layers.
        at_input: whether it is what goes into the layer instead.

    Returns:
        A callable with the signature of ``model`` that returns the activation: a tensor, a tuple
        where the layer has several, a list for a list of layers.

    Raises:
        LayerError: the model has no such layer; when called: the layer does not run, or has no
            float tensor.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> layer_output(model, "1")(torch.ones(5, 3)).shape
    torch.Size([5, 4])
    """
    many = isinstance(layer, (list, tuple))
    layers: tuple[Layer, ...] = tuple(layer) if many else (layer,)  # type: ignore[arg-type, assignment]
    function = LayerOutput(model, layers, many, at_input)
    function.tapped()
    return function


@dataclass(eq=False)
class LayerOutput(Inside):
    """The activations of layers, as a function."""

    func: Callable[..., Any]
    layers: tuple[Layer, ...]
    many: bool
    at_input: bool

    def tapped(self) -> list[Tapped]:
        """The layers, as the model is now."""
        return [tapped(self.func, layer) for layer in self.layers]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(args, kwargs, mode=Intercept(Plan(), levels()))

    def call(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, wraps: Wraps = (), **how: Any
    ) -> Any:
        layers = self.tapped()
        found: list[dict[int, list[Tensor]]] = [{} for _ in layers]

        def visit(i: int, number: int, tensors: list[Tensor]) -> list[Tensor]:
            if layers[i].occurrence < 0:
                found[i].clear()
            if layers[i].occurrence in (-1, number):
                found[i][number] = [t.clone() for t in tensors]  # the model may write to them
            return tensors

        taps = Taps(layers, self.at_input, visit)
        call(self.func, args, kwargs, wraps=(*wraps, *taps.wraps()), **how)
        acts = [one_or_tuple(f[number]) for f, number in zip(found, taps.check())]
        return acts if self.many else acts[0]


def one_or_tuple(values: Sequence[Any]) -> Any:
    """What stands for the tensors of one layer: the only one, or a tuple of several."""
    return values[0] if len(values) == 1 else tuple(values)
