"""Transforms of a function: `relu_rule`, and the report of what it replaces, `sites`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from . import rules
from ._intercept import (
    ACTIVATIONS,
    RELU_ENTRIES,
    RELUS,
    SPELLINGS,
    Entry,
    Intercept,
    Met,
    Plan,
    entries,
)
from ._site import compiling, levels
from .errors import ArgumentError, NoSiteError, nearest
from .functional import call, module_of

__all__ = ["Sites", "relu_rule", "sites"]

Rules = Mapping[Callable[..., Any], rules.Rule]
SiteChoice = str | Iterable[str] | Rules | Callable[[str], bool]


@dataclass(eq=False)  # not frozen: the compiler cannot make frozen ones after a graph break
class Ruled:
    """A function with its values, whose reverse-mode derivative follows a plan."""

    func: Callable[..., Any]
    plan: Plan

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(args, kwargs)

    def run(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        detach: bool = False,
        met: list[Met] | None = None,
    ) -> Any:
        """The call. ``detach`` cuts a module off from its own parameters; ``met``, where given,
        collects every activation of the forward pass.
        """
        path = [""] if self.plan.where is not None or not compiling() else None
        mode = Intercept(self.plan, levels(), path, met)
        out = call(self.func, args, kwargs, mode=mode, detach=detach, path=path)
        if self.plan.require_match:
            if not compiling():
                self._refuse_unseen(out)
            if not mode.matched:
                self._refuse_none(mode.others)
        return out

    def backward(self) -> Intercept:
        """For a backward pass that repeats parts of the forward pass (checkpointing)."""
        return Intercept(replace(self.plan, where=None, require_match=False), levels())

    def _refuse_none(self, others: list[str]) -> None:
        names = sorted({entry.spelling.activation for entry in self.plan.entries.values()})
        seen = f"it met {', '.join(sorted(set(others)))}" if others else "it met no activation"
        raise NoSiteError(
            f"the forward pass of {_name(self.func)} met none of the activations that the rule is "
            f"for ({', '.join(names)}"
            f"{', where the predicate holds' if self.plan.where is not None else ''}); {seen}. "
            "Name other activations in sites=..., or pass require_match=False to take the plain "
            "gradient. funcattr.sites(func, *args) lists what a forward pass meets."
        )

    def _refuse_unseen(self, out: Any) -> None:
        """Raises where the forward pass ran an activation of the plan unseen."""
        names = {entry.spelling.activation for entry in self.plan.entries.values()}
        way_out = (
            "Use the Python module in its place (before torch.jit.script or torch.jit.trace), or "
            "pass require_match=False to differentiate through it as it is."
        )
        model = module_of(self.func)
        for path, module in model.named_modules() if model is not None else ():
            if self.plan.where is None or self.plan.where(path):
                found = sorted(names & set(_scripted(module)))
                if found:
                    raise NoSiteError(
                        f"{path or 'the model'!r} is TorchScript and runs its own "
                        f"{', '.join(found)}, where no rule can reach. {way_out}"
                    )
        unseen = _unseen(out, names)
        if unseen:
            raise NoSiteError(
                f"the forward pass of {_name(self.func)} has {unseen} in autograd's graph, which "
                "no Python call made: a TorchScript or compiled function, where no rule can "
                f"reach. {way_out}"
            )


def _name(func: Callable[..., Any]) -> str:
    return getattr(func, "__name__", None) or type(module_of(func) or func).__name__


def _scripted(module: torch.nn.Module) -> list[str]:
    """The activations in the graph of a TorchScript module."""
    if not isinstance(module, torch.jit.ScriptModule):
        return []
    graph = str(module.inlined_graph)
    return [n for n in ACTIVATIONS if f"aten::{n}(" in graph or f"aten::{n}_(" in graph]


def _unseen(out: Any, names: set[str]) -> str | None:
    """The name of a node in the graph behind ``out`` that stands for an activation of ``names``.

    The activations that a mode sees are sites, which leave a node of their own.
    """
    todo = [t.grad_fn for t in tree_flatten(out)[0] if isinstance(t, Tensor)]
    done = set(todo)
    nodes = {f"{name.title().replace('_', '')}Backward0" for name in names if name != "elu"}
    while todo:
        node = todo.pop()
        if node is None:
            continue
        name = node.name()
        if "CompiledFunction" in name or "DifferentiableGraph" in name or name in nodes:
            return name
        if (
            name == "HardtanhBackward0"
            and getattr(node, "_saved_min_val", None) == 0
            and "relu6" in names
        ):
            return name
        for parent, _ in node.next_functions:
            if parent is not None and parent not in done:
                done.add(parent)
                todo.append(parent)
    return None


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

    >>> f = lambda x: torch.relu(x @ torch.tensor([[1.0], [-1.0]])).sum()
    >>> x = torch.tensor([[2.0, 1.0]])
    >>> torch.func.grad(relu_rule(lambda x: -f(x), rules.deconvnet))(x)
    tensor([[0., 0.]])
    >>> torch.func.grad(relu_rule(lambda x: -f(x), rules.standard))(x)
    tensor([[-1.,  1.]])
    """
    if not callable(func):
        raise ArgumentError(
            f"func is a function, a module or the f of make_functional; got {func!r}."
        )
    if not callable(rule):
        raise ArgumentError(f"rule is a function (x, g) -> g_in; got {rule!r}.")
    where: Callable[[str], bool] | None = None
    if callable(sites) and not isinstance(sites, (str, Mapping)):
        where, sites = sites, "relu"
        if module_of(func) is None:
            raise ArgumentError(
                "sites is a predicate on module paths, and a plain function has none; pass the "
                "module, or the f of make_functional."
            )
    return Ruled(func, Plan(_entries(sites, rule), where, require_match))


def _entries(sites: Any, rule: rules.Rule) -> Mapping[Callable[..., Any], Entry]:
    if isinstance(sites, str) and sites == "relu" and rule in RELU_ENTRIES:
        return RELU_ENTRIES[rule]
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
            if not callable(func) or not callable(own):
                raise ArgumentError(
                    f"a mapping in sites is from torch functions to rules; got {func!r}: {own!r}."
                )
            if func in SPELLINGS:
                names[SPELLINGS[func].activation] = own
            else:
                others[func] = own
        return names, others
    for name in (sites,) if isinstance(sites, str) else sites:
        if name not in ACTIVATIONS:
            raise ArgumentError(
                f"sites names activations, of {', '.join(ACTIVATIONS)}; got {name!r}."
                f"{nearest(str(name), ACTIVATIONS)} Any other elementwise torch function goes in "
                "as a mapping {function: rule}."
            )
        names.update(dict.fromkeys(RELUS.get(name, (name,)), rule))
    return names, others


@dataclass(frozen=True)
class Sites:
    """The activations of one forward pass, in order; prints as a table.

    Each row of ``met`` has the fields ``activation``, ``spelling``, ``path`` (of the module whose
    ``forward`` makes the call; empty where it is not known), ``shape`` (of the input) and
    ``replaced`` (whether a rule acts there).
    """

    met: tuple[Met, ...]

    def __iter__(self) -> Iterator[Met]:
        return iter(self.met)

    def __len__(self) -> int:
        return len(self.met)

    def __getitem__(self, index: int) -> Met:
        return self.met[index]

    def __str__(self) -> str:
        head = ("activation", "spelling", "path", "shape", "rule")
        rows = [
            (m.activation, m.spelling, m.path or "-", "x".join(map(str, m.shape)), _YES[m.replaced])
            for m in self.met
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows)]
        lines = [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip()
            for row in (head, *rows)
        ]
        count = sum(m.replaced for m in self.met)
        return "\n".join([*lines, f"{count} of {len(self.met)} activations follow the rule"])


_YES = {True: "yes", False: "no"}


def sites(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Sites:
    """What `relu_rule` meets: every activation of one forward pass, and whether a rule acts there.

    Args:
        func: a model or function (then as `relu_rule` takes it by default), or what `relu_rule`
            returned.
        *args: what ``func`` is called with; changed as little as by any other call here.
        **kwargs: likewise.

    Returns:
        A `Sites`: a sequence of rows that prints as a table. An activation inside of TorchScript
        or of a compiled kernel that no rule can reach has a row of its own where it can be known.

    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.GELU())
    >>> print(sites(model, torch.ones(1, 2)))
    activation  spelling            path  shape  rule
    relu        nn.functional.relu  1     1x3    yes
    gelu        nn.functional.gelu  2     1x3    no
    1 of 2 activations follow the rule
    """
    ruled = func if isinstance(func, Ruled) else Ruled(func, Plan(RELU_ENTRIES[rules.guided]))
    met: list[Met] = []
    plan = replace(ruled.plan, require_match=False)
    with torch.no_grad():
        Ruled(ruled.func, plan).run(args, kwargs, met=met)
    model = module_of(ruled.func)
    for path, module in model.named_modules() if model is not None else ():
        met += [Met(name, "TorchScript", path, (), False) for name in _scripted(module)]
    return Sites(tuple(met))
