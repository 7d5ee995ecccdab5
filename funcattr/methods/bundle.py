"""Several attributions from one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..engine.linearize import linearize
from ..engine.output import Output
from ..engine.run import Plan
from ..errors import ArgumentError
from ..models.arguments import Chosen
from ..models.layer import tapped
from ..operations.operation import Args, Kwargs
from ..targets import Target
from .attribution import Attribution, Explain, Method, OnePass, PerToken, Tokens

__all__ = ["bundle"]


def bundle(*attrs: Attribution) -> Attribution:
    """Several attributions of one model as one, from one forward pass.

    Args:
        *attrs: attributions; those of the same function (the same module object, say) share their
            forward pass, whatever their rules, arguments and layers are. Others, and those that
            take several passes (`smooth_grad`), do their own.

    Returns:
        An `Attribution` whose maps are the tuple of those of ``attrs``. Each has a backward pass of
        its own, which ends where its layer is. Compiled, each rule has a forward pass, too.

    Raises:
        ArgumentError: there is none, or one is no `Attribution`.
        NoSiteError, LayerError, TargetError: when called: as the attributions.

    >>> import torch
    >>> import funcattr as fa
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> both = bundle(fa.gradient(model), fa.guided_backprop(model))
    >>> plain, guided = both(torch.ones(5, 3), target=0)
    >>> plain.shape, guided.shape
    (torch.Size([5, 3]), torch.Size([5, 3]))
    """
    if not attrs or not all(isinstance(attr, Attribution) for attr in attrs):
        came = ", ".join(type(attr).__name__ for attr in attrs) or "nothing"
        raise ArgumentError(f"bundle takes attributions one by one, bundle(a, b); got {came}.")
    methods = [attr.method for attr in attrs]
    inner = [m.method for m in methods if isinstance(m, PerToken)]
    if len(inner) == len(methods):  # of token ids, which are looked up once
        attrs = tuple([Attribution(method, method) for method in inner])
    return Attribution.by(Bundle(attrs))


@dataclass(frozen=True)
class Bundle(Method):
    """The methods of several attributions, those of one function together."""

    attrs: tuple[Attribution, ...]

    def described(self) -> str:
        return ", ".join(map(repr, self.attrs))

    @property
    def tokens(self) -> Tokens | None:
        each = [None if a.method is None else a.method.tokens for a in self.attrs]
        found = [t for t in each if t is not None]
        nums = tuple(sorted({n for t in found for n in t.nums}))
        same = len(found) == len(each) and len({id(t.model) for t in found}) == 1
        return Tokens(found[0].model, nums) if same else None

    def linearize(self, args: Args, kwargs: Kwargs, once: bool = False) -> tuple[Any, Explain]:
        done: list[Any] = [None] * len(self.attrs)
        for group in _sharing(self.attrs):
            methods = [self.attrs[i].method for i in group]
            passes = [m for m in methods if isinstance(m, OnePass)]
            if passes:
                for i, result in zip(group, _shared(passes, args, kwargs, once)):
                    done[i] = result
            elif methods[0] is not None:  # several passes
                done[group[0]] = methods[0].linearize(args, kwargs, once)
            else:  # of another library
                done[group[0]] = self.attrs[group[0]].linearize(*args, **kwargs)
        return done[0][0], lambda target: _explained(done, target)


def _explained(done: Sequence[tuple[Any, Explain]], target: Target) -> tuple[Any, ...]:
    return tuple([explain(target) for _, explain in done])


def _sharing(attrs: Sequence[Attribution]) -> list[list[int]]:
    """The places of attributions that can share a forward pass, together."""
    groups: dict[Any, list[int]] = {}
    methods = [attr.method for attr in attrs]
    layers = [isinstance(m, OnePass) and bool(m.layers) for m in methods]
    for i in sorted(range(len(attrs)), key=lambda i: not layers[i]):
        method = methods[i]
        if not isinstance(method, OnePass):
            groups[i] = [i]
            continue
        # A forward pass marks what goes into layers or what comes out; the others do not mind.
        key = (*_identity(method.ruled.func), method.at_input)
        if not layers[i]:
            key = next((k for k in (key, (*key[:-1], True)) if k in groups), key)
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def _identity(func: Callable[..., Any]) -> tuple[Any, ...]:
    """Tells functions apart; the same part of the output of one function is the same."""
    if not isinstance(func, Output):
        return (id(func),)
    part = func.part if isinstance(func.part, (str, int)) else id(func.part)
    return (*_identity(func.func), part)


def _shared(
    methods: Sequence[OnePass], args: Args, kwargs: Kwargs, once: bool
) -> list[tuple[Any, Explain]]:
    """What each of the methods' own forward pass would return, from one for all."""
    func, at_input = methods[0].ruled.func, methods[0].at_input
    plans: list[Plan] = []
    which: list[list[int]] = []  # of the plans, for each method
    for method in methods:
        own = (method.ruled.plan, *method.plans)
        plans += [plan for plan in own if not any(plan.same(known) for known in plans)]
        which.append([next(i for i, p in enumerate(plans) if p.same(plan)) for plan in own])
    chosen = [None if m.argnums is None else Chosen(args, m.argnums) for m in methods]
    nums = {n for mine in chosen if mine is not None for n in mine.nums}
    union = Chosen(args, tuple(sorted(nums))) if nums else None
    taps = [tapped(func, layer) for method in methods for layer in method.layers]
    pulls = sum(method.pulls for method in methods) if once else None
    done = linearize(func, plans, args, kwargs, union, taps, at_input=at_input, pulls=pulls)
    results, start = [], 0
    for method, mine, composites in zip(methods, chosen, which):
        inputs = [] if union is None or mine is None else union.places(mine.nums)
        part = done.part(inputs, range(start, start + len(method.layers)), composites)
        start += len(method.layers)
        results.append((done.out, method.explain(part, mine)))
    return results
