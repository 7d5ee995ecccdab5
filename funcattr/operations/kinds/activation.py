"""Activations: every way to write every one of them, and how rules act there."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import rules
from ...core.graph import named, show
from ...core.levels import compiling
from ...core.private import below_a_mode, vmap_active
from ..calls import by_users
from ..operation import Args, Call, Depends, Kind, Kwargs, Operation, Recognise

_IN_PLACE_AT = {  # position of the argument ``inplace`` in torch.nn.functional
    **dict.fromkeys(("relu", "relu6", "selu", "silu", "mish", "hardswish", "hardsigmoid"), 1),
    **dict.fromkeys(("leaky_relu", "elu", "celu"), 2),
    **dict.fromkeys(("hardtanh", "threshold"), 3),
}

ACTIVATIONS = (*_IN_PLACE_AT, "prelu", "gelu", "softplus", "sigmoid", "tanh", "clamp")

_INFINITY = float("inf")
# Autograd has one node for all of them.
ELUS = frozenset(("elu", "celu", "selu"))
_BY_MASK = (rules.standard, rules.guided, rules.deconvnet)  # read no more of x than where it is > 0


class Spelling(NamedTuple):
    """One way to write an activation."""

    activation: str
    text: str
    call: Callable[..., Tensor]  # the same, not in place
    in_place: bool = False
    flag: int | None = None  # position of the argument ``inplace``


def _spellings() -> dict[Callable[..., Any], Spelling]:
    spaces = (
        ("nn.functional.", F),
        ("torch.", torch),
        ("Tensor.", torch.Tensor),
        ("ops.aten.", torch.ops.aten),
    )
    names = [(a, a) for a in ACTIVATIONS]
    names += [("clamp", alias) for alias in ("clip", "clamp_min", "clamp_max")]
    table: dict[Callable[..., Any], Spelling] = {}
    for (activation, name), (prefix, space), suffix in itertools.product(names, spaces, ("", "_")):
        func = getattr(space, name + suffix, None)
        if func is None:
            continue
        call = getattr(space, name, None) or getattr(F, name)
        flag = _IN_PLACE_AT.get(name) if space is F and not suffix else None
        spelling = Spelling(activation, prefix + name + suffix, call, bool(suffix), flag)
        table.setdefault(func, spelling)
        for overload in getattr(func, "overloads", list)():
            if "out" not in overload:  # those have no derivative to begin with
                table[getattr(func, overload)] = spelling._replace(
                    text=f"{spelling.text}.{overload}", call=getattr(call, overload, call)
                )
    return table


SPELLINGS: Mapping[Callable[..., Any], Spelling] = _spellings()
_CALLS = {spelling.text: spelling.call for spelling in SPELLINGS.values()}
show(*SPELLINGS)


@dataclass(frozen=True)
class Activation(Kind):
    """An elementwise function of ``x``: ``call(*first, x, *tensors, *args, **kwargs)``.

    ``turned`` says that the first of the tensors is in front of ``x``, and ``quotient`` that it is
    the quotient of two. ``text`` names the function, and ``activation`` what it computes. The last
    of the tensors go by ``keywords``. ``ceiling`` is None where the function is no ReLU, infinity
    for ReLU, and ``c`` where it is clipped at ``c``.
    """

    text: str
    activation: str
    ceiling: float | None
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()
    keywords: tuple[str, ...] = ()
    in_place: bool = False
    first: tuple[Any, ...] = ()
    turned: bool = False
    quotient: bool = False

    @property
    def straight(self) -> bool:
        """Whether it is known to be linear in ``x``."""
        return self.quotient and not (self.first or self.turned)

    def turned_round(self) -> Activation:
        """The same function of two tensors, as one of the other."""
        return replace(self, turned=not self.turned)

    @property
    def names(self) -> tuple[str, ...]:
        """The activation's own name, ``"relu"`` for all that clips at 0, and ``"activation"``."""
        relu = () if self.ceiling is None or self.activation == "relu" else ("relu",)
        return (self.activation, *relu, "activation")

    @property
    def quick(self) -> bool:
        """Of ReLUs the mask is kept in the layout that many cotangents have."""
        return self.ceiling is not None

    def witness(
        self, x: Tensor, out: Tensor, own: Sequence[rules.Rule | None], more: bool
    ) -> Tensor | None:
        # It says where x is clipped. Torch saves it of ReLU alone, so that else the model may write
        # to it; but what is in place gives the model a copy.
        clips = self.ceiling == _INFINITY or (self.ceiling is not None and self.in_place)
        return out if clips and _known(own) else x

    def guards_x(self, own: Sequence[rules.Rule | None]) -> bool:
        # Nobody promised to a rule's author that x stays as it is; of a ReLU the output is saved.
        return not _known(own) or (self.in_place and self.ceiling is None)

    def value(self, x: Tensor, *tensors: Tensor | None) -> Tensor:
        call = _CALLS.get(self.text) or named(self.text)
        lead = len(tensors) - len(self.keywords)
        by_name = dict(zip(self.keywords, tensors[lead:]))
        front, behind = tensors[: self.turned], tensors[self.turned : lead]
        both = (*self.first, *front, x, *behind)
        out: Tensor = call(*both, *self.args, **dict(self.kwargs), **by_name)
        return out

    def push(self, t: Tensor, x: Tensor | None, *tensors: Tensor | None) -> Tensor:
        return self.pull(t, Operation(self, x, tensors, ()))  # elementwise: its own transpose

    def pull(self, g: Tensor, operation: Operation) -> Tensor:
        if self.activation == "hardsigmoid" and operation.x is not None:
            # The second derivative is 0, and torch fails where a graph could ask for it.
            fixed = Operation(self, operation.x.detach(), operation.tensors, ())
            return super().pull(g, fixed)
        if self.ceiling is None and (compiling() or below_a_mode() or not vmap_active()):
            return super().pull(g, operation)
        if self.ceiling is None:
            # torch.vmap fails on a backward pass within a backward pass, so by forward mode.
            x = operation.x
            if x is not None and self.activation == "prelu":
                x = x.masked_fill(x == 0, -1)  # where torch's two modes take different sides
            return super().push(g, x, *operation.tensors)
        x = operation.x_beside(g)
        if self.ceiling == _INFINITY:
            return rules.standard(x, g)
        pulled: Tensor = torch.ops.aten.hardtanh_backward(g, x, 0.0, self.ceiling)
        return pulled

    def by_rule(self, elementwise: rules.Elementwise, g: Tensor, operation: Operation) -> Tensor:
        """The cotangent of ``x`` by an elementwise rule."""
        rule = elementwise
        if rule is rules.guided and self.ceiling is not None:
            # One pass over memory, where a clipped ReLU's rule takes two.
            pulled = operation.pull(g)
            return pulled.relu_() if operation.alone else torch.relu(pulled)
        x = operation.x_beside(g)
        call = functools.partial(elementwise, x, g)
        if self.ceiling is None:
            call = functools.partial(rules.at, elementwise, x, g, operation.pull)
        if any([elementwise is known for known in rules.BY_EXAMPLE]):
            result = call()
        else:
            result = by_users(rule, call, x.shape, g, x)
        if self.ceiling is None or self.ceiling == _INFINITY:
            return result
        return result.masked_fill(x >= self.ceiling, 0)


def _known(own: Sequence[rules.Rule | None]) -> bool:
    return all(rule is None or any(rule is one for one in _BY_MASK) for rule in own)


def _ceiling(activation: str, args: Args, kwargs: Kwargs) -> float | None:
    """Where a ReLU is clipped: infinity for none, and None for what is no ReLU."""
    if activation == "relu":
        return _INFINITY
    if activation == "relu6":
        return 6.0
    if activation == "hardtanh":
        low = args[0] if args else kwargs.get("min_val", -1.0)
        high = args[1] if len(args) > 1 else kwargs.get("max_val", 1.0)
        return float(high) if low == 0 else None
    return None


def call_of(spelling: Spelling, args: Args, kwargs: Kwargs, **more: Any) -> Call:
    """A call of a function of one tensor, or of several; ``more`` as for `Activation`."""
    rest, positional = dict(kwargs), args[1:]
    x: Tensor = args[0] if args else rest.pop("input" if "input" in rest else "self")
    in_place = spelling.in_place
    if spelling.flag is not None and len(args) > spelling.flag:
        in_place, positional = args[spelling.flag], positional[: spelling.flag - 1]
    elif spelling.flag is not None:
        in_place = rest.pop("inplace", False)
    ceiling = _ceiling(spelling.activation, positional, rest)
    lead = 0
    while lead < len(positional) and isinstance(positional[lead], Tensor):
        lead += 1
    keywords = tuple(name for name, value in rest.items() if isinstance(value, Tensor))
    kind = Activation(
        spelling.text,
        spelling.activation,
        ceiling,
        positional[lead:],
        tuple((name, value) for name, value in rest.items() if name not in keywords),
        keywords,
        in_place,
        **more,
    )
    tensors = (*positional[:lead], *(rest[name] for name in keywords))
    mark = "(inplace=True)" if in_place and not spelling.in_place else ""
    return Call(kind, x, tensors, spelling.text + mark, in_place)


def _recognise(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    return call_of(SPELLINGS[func], args, kwargs)


CALLS: Mapping[Callable[..., Any], Recognise] = dict.fromkeys(SPELLINGS, _recognise)
