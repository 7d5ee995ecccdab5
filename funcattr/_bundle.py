"""Several attributions from one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._arguments import Chosen
from ._intercept import Plan
from ._linearize import forward_pass
from ._taps import tapped
from .attribution import Attribution, Explain, Method
from .errors import ArgumentError
from .transforms import Ruled

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

    groups = _sharing(attrs)
    shared = [_Shared([m for m in (attrs[i].method for i in group) if m]) for group in groups]

    def linearize(*args: Any, **kwargs: Any) -> tuple[Any, Explain]:
        done: list[Any] = [None] * len(attrs)
        for group, one in zip(groups, shared):
            if not one.methods:  # several passes, or of another library
                done[group[0]] = attrs[group[0]].linearize(*args, **kwargs)
            else:
                for i, result in zip(group, one.linearize(args, kwargs)):
                    done[i] = result
        return done[0][0], lambda target: tuple([explain(target) for _, explain in done])

    return Attribution(linearize)


def _sharing(attrs: Sequence[Attribution]) -> list[list[int]]:
    """The places of attributions that can share a forward pass, together."""
    groups: dict[Any, list[int]] = {}
    with_layers = [bool(attr.method and attr.method.layers) for attr in attrs]
    for i in sorted(range(len(attrs)), key=lambda i: not with_layers[i]):
        method = attrs[i].method
        if method is None:
            groups[i] = [i]
            continue
        # A forward pass marks what goes into layers or what comes out; the others do not mind.
        key = (id(method.ruled.func), method.at_input)
        if not with_layers[i]:
            key = next((k for k in (key, (key[0], True)) if k in groups), key)
        groups.setdefault(key, []).append(i)
    return list(groups.values())


class _Shared:
    """One forward pass for several methods."""

    def __init__(self, methods: Sequence[Method]) -> None:
        self.methods = methods
        self.plans: list[Plan] = []
        self.which: list[list[int]] = []  # of the plans, for each method
        for method in methods:
            own = (method.ruled.plan, *method.ruled.also)
            self.plans += [p for p in own if not any(p.same(known) for known in self.plans)]
            places = [next(i for i, p in enumerate(self.plans) if p.same(plan)) for plan in own]
            self.which.append(places)

    def linearize(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[Any, Explain]]:
        """What each method's own would return."""
        func, at_input = self.methods[0].ruled.func, self.methods[0].at_input
        chosen = [None if m.argnums is None else Chosen(args, m.argnums) for m in self.methods]
        nums = {n for own in chosen if own is not None for n in own.nums}
        union = Chosen(args, tuple(sorted(nums))) if nums else None
        taps = [tapped(func, layer) for method in self.methods for layer in method.layers]
        ruled = Ruled(func, self.plans[0], tuple(self.plans[1:]))
        done = forward_pass(ruled, args, kwargs, union, taps, at_input=at_input)
        results, start = [], 0
        for method, own, plans in zip(self.methods, chosen, self.which):
            inputs = [] if union is None or own is None else union.places(own.nums)
            part = done.part(inputs, range(start, start + len(method.layers)), plans)
            start += len(method.layers)
            results.append((done.out, method.explain(part, own)))
        return results
