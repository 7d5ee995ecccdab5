"""The site: an operation whose derivative is ours."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import rules
from ..core import layout
from ..core.contexts import raw, seen
from ..core.graph import named, node
from ..core.levels import apply, compiling
from ..core.private import (
    CAN_COMPILE,
    below_a_mode,
    forward_mode_active,
    is_batched,
    is_wrapped,
    pushed,
    transforms_active,
)
from ..errors import FuncattrError
from .calls import prepared_by, pulled_by
from .fresh import Named, reference, shown
from .kinds.activation import Activation
from .operation import Kind, Operation, Tensors
from .place import Pass, Place
from .tape import Tape, merged


@node
def placed(
    kind: Kind,
    references: tuple[Any, ...],
    sizes: tuple[int, ...],
    depth: int,
    x: Tensor,
    *tensors: Tensor | None,
    passing: Pass | None = None,
    merges: bool = False,
    path: str = "",
) -> Tensor:
    """The output of a fresh site. In a graph the rules are what `reference` made of them."""
    own = tuple(named(r.name) if isinstance(r, Named) else r for r in references)
    place = Place(depth, own, sizes, passing, merges, path)
    function = Site if transforms_active() else PlainSite
    out: Tensor = apply(function, kind, place, x, *tensors)
    seen(out)
    return out


class Site(torch.autograd.Function):
    """``kind.value(x, *tensors)``, with the derivative by ``x`` that a rule says, at its level.

    The tensors after ``x`` are the operation's others and what its rules have prepared, which is
    constant at the level of the rules: it is a part of how they pull, not of the value.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(kind: Kind, place: Place, x: Tensor, *tensors: Tensor | None) -> Tensor:
        return raw(kind.value, x, *tensors[: place.sizes[0]])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.kind, ctx.place, x, *tensors = inputs
        ctx.level = ctx.place.counter.next()
        ctx.shape, ctx.dtype, ctx.out_shape = tuple(x.shape), x.dtype, tuple(output.shape)
        # None as a cotangent fails under torch.vmap before torch 2.13, and is zeros there.
        ctx.set_materialize_grads(not CAN_COMPILE and is_batched(x))
        # Under torch.vmap nothing but tensors can be saved, and the same for both directions. What
        # is not needed is not saved, since the model may write to it.
        if ctx.kind.stands_in:
            tensors[0] = None  # a copy of it is the output
        weights = ctx.needs_input_grad[3 + ctx.kind.stands_in : 3 + ctx.place.sizes[0]]
        more = any(weights) or forward_mode_active()
        witness = ctx.kind.witness(x, output, ctx.place.rules, more)
        values = (witness, *tensors)
        ctx.there = [value is not None for value in values]
        ctx.save_for_backward(*(value for value in values if value is not None))
        ctx.save_for_forward(*(value for value in values if value is not None))

    @staticmethod
    def saved(ctx: Any) -> tuple[Tensor | None, Tensors]:
        """``x``, as far as it was saved, and the tensors."""
        saved = iter(ctx.saved_tensors)
        x, *tensors = [next(saved) if there else None for there in ctx.there]
        return x, tensors

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = Site.saved(ctx)  # a checkpoint repeats its operations here, which are the model's
        return raw(Site.pulled, ctx, g, *saved)

    @staticmethod
    def pulled(
        ctx: Any, g: Tensor | None, x: Tensor | None, tensors: Tensors
    ) -> tuple[Tensor | None, ...]:
        """The cotangents of the inputs."""
        kind: Kind = ctx.kind
        place: Place = ctx.place
        if g is None:
            return (None,) * (3 + len(tensors))
        rule, start, stop = place.rule(ctx.level)
        if rule is None and kind.stands_in:
            return (None, None, None, g, *[None] * (len(tensors) - 1))
        own = tensors[: place.sizes[0]]
        needs_x, *needs = ctx.needs_input_grad[2 : 3 + len(own)]
        if kind.stands_in:
            needs[0] = False  # what stands behind the operation takes its place
        g_x: Tensor | None = None
        if needs_x:
            if place.passing is not None and layout.many(g):
                g = layout.innermost(g)
            true = rule is None or rule is rules.standard
            if not true and place.passing is None and ctx.level == 0 and torch.is_grad_enabled():
                raise FuncattrError(
                    "create_graph=True cannot tell the rule from the true derivative that a "
                    "second derivative needs. Take the map with funcattr.rule_backprop or "
                    "torch.func.grad, and differentiate that."
                )

            def pull(g: Tensor, x: Tensor | None) -> Any:
                # Many cotangents as one larger batch are along the first dim.
                shape = (*g.shape[:1], *ctx.shape[1:]) if merges else ctx.shape
                operation = Operation(kind, x, own, shape, place.keep, place.alone, place.path)
                if rule is None or true:
                    return kind.pull(g, operation)
                if rules.is_pair(rule):
                    return pulled_by(rule, g, kind.as_ruled(operation), tensors[start:stop])
                assert isinstance(kind, Activation)
                return kind.by_rule(rule, g, operation)

            known = rule is None or any(rule is one for one in rules.BY_EXAMPLE)
            merges = place.merges and kind.any_batch and known and g.dim() == 4
            g_x = merged(pull, g, x) if merges else pull(g, x)
            if g_x is not None and g_x.dtype != ctx.dtype:
                g_x = g_x.to(ctx.dtype)
        pulled: Tensors = [None] * len(own)
        if any(needs):
            assert x is not None
            grads = kind.pull_tensors(g, needs, x, *own)
            pulled = [p if p is None else p.to(t.dtype) for p, t in zip(grads, own)]  # type: ignore[union-attr]
        return (None, None, g_x, *pulled, *[None] * (len(tensors) - len(own)))

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor | None:
        x, tensors = Site.saved(ctx)
        own = tensors[: ctx.place.sizes[0]]
        out: Tensor | None = raw(
            pushed, functools.partial(Site.pushed, ctx), x, *own, *tangents[2:]
        )
        if out is None:  # of what a rule has prepared alone, and torch fails without a tangent
            known = next((t for t in tangents if t is not None), None)
            out = None if known is None else known.new_zeros(ctx.out_shape)
        return out

    @staticmethod
    def pushed(ctx: Any, x: Tensor | None, *rest: Tensor | None) -> Tensor | None:
        """The tangent of the output, for those of ``x`` and the operation's own tensors."""
        count = ctx.place.sizes[0]
        own, (t, *ts) = rest[:count], rest[count : 2 * count + 1]
        if ctx.kind.stands_in:
            return ts[0]
        out: Tensor | None = None if t is None else ctx.kind.push(t, x, *own)
        if any(t is not None for t in ts):
            assert x is not None
            more: Tensor = ctx.kind.push_tensors(ts, x, *own)
            out = more if out is None else out + more
        return out


class PlainSite(torch.autograd.Function):
    """`Site` where no transform is under way, at a third of the time of a call.

    Torch looks up the signature of a Function that transforms know: 23.7 against 6.2 microseconds a
    call, measured with a forward that does nothing.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        out = Site.forward(*inputs)
        Site.setup_context(ctx, inputs, out)
        return out

    backward = Site.backward
    jvp = Site.jvp


def _made(make: Callable[[], Sequence[Tensor]]) -> Sequence[Tensor]:
    return make()


def site(
    kind: Kind,
    own: Sequence[rules.Rule | None],
    depth: int,
    x: Tensor,
    *tensors: Tensor | None,
    passing: Pass | None = None,
    tape: Tape | None = None,
    path: str = "",
    references: Sequence[Operation | None] = (),
) -> Tensor:
    """``kind.value(x, *tensors)`` as a site, with a rule for each composite, or None.

    What a rule prepares does not depend on the target. It is made here, once, and given to the site
    as more tensors, so that levels further out see how it depends on ``x`` and the weights.
    """
    through = _made if tape is None else tape.made

    def prepare() -> tuple[Operation, list[Sequence[Tensor]]]:
        here = x
        if tape is not None and any(kind.needs_x(rule) for rule in own or (None,)):
            here = tape.x(x)
        constants = through(lambda: kind.constants(here))
        every, shape = (*tensors, *constants), tuple(x.shape)
        operation = Operation(
            kind,
            here,
            every,
            shape,
            path=path,
            nonnegative=functools.partial(known_nonnegative, here, tape),
        )
        seen = kind.as_ruled(operation)
        others = references or [None for _ in own]
        each = [(rule, seen.beside(other)) for rule, other in zip(own, others)]
        return operation, [through(functools.partial(prepared_by, *one)) for one in each]

    operation, prepared = prepare() if compiling() else raw(prepare)
    sizes = (len(operation.tensors), *map(len, prepared))
    assert operation.x is not None
    more = (*operation.tensors, *(t for some in prepared for t in some))
    if compiling():
        for rule, some in zip(own, prepared):
            shown(rule, kind.as_ruled(operation), some)
        references = tuple([reference(rule) for rule in own])
        merges = tape is not None
        return placed(kind, references, sizes, depth, operation.x, *more, merges=merges, path=path)
    return placed(kind, tuple(own), sizes, depth, operation.x, *more, passing=passing, path=path)


def known_nonnegative(x: Tensor, tape: Tape | None) -> bool:
    """Whether ``x`` is seen to have no negative number: in eager, and not under a transform."""

    def look() -> bool:
        if compiling() or below_a_mode() or is_wrapped(x) or not x.numel():
            return False
        return bool(x.detach().amin() >= 0)

    return look() if tape is None else tape.fact(look)
