"""One forward pass, and its derivatives at the inputs and at layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..core.contexts import graph_only_if, no_autocast, plain_pass, tracked, within_ruled_call
from ..core.edges import EDGES, edge_of
from ..core.graft import graft
from ..core.levels import compiling, transforming
from ..core.trees import pack
from ..cotangents import cotangents
from ..errors import TargetError, fused
from ..models.arguments import Chosen
from ..models.copies import Forward
from ..models.functional import takes_parameters
from ..models.layer import Tapped
from ..models.taps import Taps
from ..operations.fold import Unfold
from ..operations.operation import Args, Kwargs
from ..operations.place import Pass
from ..operations.tape import Tape
from ..rules import floored
from ..targets import Index, Target
from .backward import Backward, Points, Pulled
from .hidden import refuse_checkpoint
from .run import Plan, run
from .unbroken import unbroken

Tensors = Sequence[Tensor]


@dataclass
class Linearized:
    """A forward pass that was done: its output, the activations of layers, and its derivative.

    ``inputs``, ``layers`` and ``composites`` are which tensors, which layers and which of the
    composites it is about; see `part`.
    """

    out: Any
    outs: Tensors
    unpack: Callable[[Tensors], Any]
    acts: list[Tensors]
    tracked: bool
    backward: Callable[[Sequence[Tensor | None], Sequence[int], Sequence[int], int], Pulled]
    inputs: Sequence[int]
    layers: Sequence[int]
    composites: Sequence[int]

    def pull(
        self,
        target: Target | Index,
        *,
        inputs: bool = True,
        layers: bool = False,
        composite: int = 0,
        of_one: bool = False,
    ) -> Pulled:
        """What is asked for, by the rules of a composite; ``of_one``, as if the output were 1."""
        with graph_only_if(self.tracked):
            cots: Sequence[Tensor | None] = cotangents(self.outs, self.unpack, target)
            if of_one:
                cots = [c if c is None else c / floored(o) for c, o in zip(cots, self.outs)]
            with no_autocast(self.outs):
                return self.backward(
                    cots,
                    self.inputs if inputs else (),
                    self.layers if layers else (),
                    self.composites[composite],
                )

    def part(
        self, inputs: Sequence[int], layers: Sequence[int], composites: Sequence[int]
    ) -> Linearized:
        """The same forward pass for somebody who asked for less."""
        acts = [self.acts[i] for i in layers]
        return replace(self, acts=acts, inputs=inputs, layers=layers, composites=composites)


@unbroken
def linearize(
    func: Callable[..., Any],
    plans: Sequence[Plan],
    args: Args,
    kwargs: Kwargs,
    chosen: Chosen | None = None,
    layers: Sequence[Tapped] = (),
    *,
    at_input: bool = False,
    pulls: int | None = None,
    tape: Tape | None = None,
) -> Linearized:
    """Runs ``func`` once, ready to be differentiated by the chosen arguments and the layers.

    ``pulls`` is how often that will be pulled, None for any number: the last one frees what it has
    passed, and a few gain nothing from sites for speed. ``tape`` is as for `Intercept`.
    """
    values = tracked((args, kwargs))
    # Of a graph nobody can tell the sites which composite to follow: each has its own pass there.
    groups = [[plan] for plan in plans] if compiling() else [plans]
    with graph_only_if(values):
        runs = [
            _Run(func, group, args, kwargs, chosen, layers, at_input, pulls, values, tape)
            for group in groups
        ]
        found = [one.linearized() for one in runs]
    outs, others, acts, _ = found[0]

    def whole(outs: Tensors) -> Any:
        return runs[0].unpack(outs, others)

    def backward(
        cots: Sequence[Tensor | None], inputs: Sequence[int], layers: Sequence[int], which: int
    ) -> Pulled:
        own, place = (found[which], 0) if len(found) > 1 else (found[0], which)
        return own[3](cots, inputs, layers, place)

    return Linearized(
        whole(outs),
        outs,
        whole,
        acts,
        values,
        backward,
        range(len(runs[0].primals)),
        range(len(layers)),
        range(len(plans)),
    )


class _Run:
    """One forward pass, at a level of differentiation of its own."""

    def __init__(
        self,
        func: Callable[..., Any],
        plans: Sequence[Plan],
        args: Args,
        kwargs: Kwargs,
        chosen: Chosen | None,
        layers: Sequence[Tapped],
        at_input: bool,
        pulls: int | None,
        tracked: bool,
        tape: Tape | None,
    ) -> None:
        self.func, self.plans, self.args, self.kwargs = func, plans, args, kwargs
        self.chosen, self.layers, self.at_input = chosen, layers, at_input
        self.tracked, self.tape = tracked, tape
        # Plain autograd where it can be: its calls cost less than those of torch.func.
        self.plain = not (transforming() or within_ruled_call())
        self.pulls, self.quick = pulls, pulls is None
        strict = any([plan.require_match for plan in plans])
        self.passing: Pass | None = None
        if not compiling():
            # Where a rule must match, a function that takes gradients of its own is refused.
            folds = self.plain and self.quick and strict and not (tracked or at_input or tape)
            self.passing = Pass(self.plain, folds)
            self.passing.last = self.plain and not (tracked or tape)
        self.primals = [] if chosen is None else chosen.floats
        self.unpack: Callable[[Tensors, Tensors], Any]

    def linearized(self) -> tuple[Tensors, Tensors, list[Tensors], Backward]:
        """Output (float tensors and others), activations, and the derivative.

        What a layer gives is marked as differentiable at the moment that it is there.
        """
        inside: Any = None

        def forward(anchor: Tensor, *primals: Tensor) -> Any:
            nonlocal inside
            acts: list[list[Tensors]] = [[] for _ in self.layers]
            points: list[list[Points]] = [[] for _ in self.layers]

            def visit(i: int, call: int | None, tensors: Tensors) -> Tensors:
                # The model may go on to write to what it gets.
                point, new = self._at_input(tensors, anchor) if self.at_input else ([], [])
                if not self.at_input:
                    point = [graft(t, t, anchor) for t in tensors]
                    new = [p.clone() for p in point]
                if call is not None:
                    acts[i].append([t.clone() for t in tensors] if self.at_input else tensors)
                    points[i].append(point)
                return new

            taps = Taps(self.layers, self.at_input, visit, marks=True)
            args = self.args if self.chosen is None else self.chosen.args_with(primals)
            kwargs = self.kwargs
            by_input = any([plan.composite.by_input for plan in self.plans])
            if self.at_input or (by_input and self.chosen is None):
                taps.embedded = lambda t: graft(t, t, anchor)
                first = 1 if takes_parameters(self.func) else 0
                args = (*args[:first], *marked(args[first:], anchor))
                kwargs = marked(kwargs, anchor)
            out, mode = run(
                self.func,
                self.plans,
                args,
                kwargs,
                detach=True,
                quick=self.quick,
                explained=self.chosen is not None,
                passing=self.passing,
                taps=taps,
                tape=self.tape,
                inputs=(anchor, *primals),
            )
            outs, others = self._separated(out, mode.fused)
            calls = taps.check(mode.escaped, mode.fused)
            own = [a[call] for a, call in zip(acts, calls)]
            inside = mode, outs, primals, [p[call] for p, call in zip(points, calls)], own
            return outs, (others, own)

        primals = [torch.zeros(()), *self.primals]
        if self.plain and self.passing is not None:
            outs, (others, acts) = self._plainly(self.passing, forward, primals)
        else:
            try:
                outs, _, (others, acts) = torch.func.vjp(forward, *primals, has_aux=True)  # type: ignore[misc]
            except RuntimeError as error:
                if not compiling():
                    refuse_checkpoint(error)
                raise
        mode, *tensors = inside
        mode = mode if self.passing is not None and self.passing.repeats else None
        return outs, others, acts, Backward(self.passing, mode, self.pulls, *tensors)

    def _at_input(self, tensors: Tensors, anchor: Tensor) -> tuple[Points, Tensors]:
        """Where the derivative by what goes into a layer is taken, and what is to go in.

        All that is made of such a tensor counts, in other places than the layer as well.
        """
        points: list[Any] = [edge_of(t) for t in tensors]
        new = list(tensors)
        for i, t in enumerate(tensors):
            if points[i] is None and (compiling() or (not EDGES and t.requires_grad)):
                points[i] = t
            if points[i] is None:  # it does not depend on the input
                points[i] = graft(t, t, anchor)
                new[i] = points[i].clone()
        return points, new

    def _plainly(self, passing: Pass, forward: Forward, primals: Tensors) -> tuple[Any, Any]:
        """Runs ``forward`` at the level of plain autograd."""
        state = torch.get_rng_state() if passing.folds else torch.empty(0)

        def twice() -> tuple[Any, Any]:
            own = [_differentiable(p) for p in primals]
            try:
                return forward(*own)  # type: ignore[no-any-return]
            except Unfold:
                if not passing.folds:
                    raise  # to a pass further out
                passing.folds = False
                torch.set_rng_state(state)  # the next try draws what this one drew
                return forward(*own)  # type: ignore[no-any-return]

        outs, (others, acts) = plain_pass(twice)
        if not self.tracked:
            outs, acts = [t.detach() for t in outs], [[t.detach() for t in ts] for ts in acts]
        return outs, (others, acts)

    def _separated(self, out: Any, fused_at: Sequence[str]) -> tuple[Tensors, Tensors]:
        """The float tensors of the output, and the others."""
        tensors, unpack = pack(out)
        is_float = [t.is_floating_point() or t.is_complex() for t in tensors]

        def merged(outs: Tensors, others: Tensors) -> Any:
            sources = {True: iter(outs), False: iter(others)}
            return unpack([next(sources[yes]) for yes in is_float])

        self.unpack = merged
        outs = tuple(t for t, yes in zip(tensors, is_float) if yes)
        if not outs:
            raise TargetError(
                f"the output, a {type(out).__name__}, holds no float tensor, so it has no "
                f"derivative; return the scores, not what was decided by them.{fused(fused_at)}"
            )
        return outs, tuple(t for t, yes in zip(tensors, is_float) if not yes)


def marked(values: Any, anchor: Tensor) -> Any:
    """``values`` with every float tensor differentiable at the level of ``anchor``."""
    tensors, unpack = pack(values)
    return unpack([graft(t, t, anchor) if t.is_floating_point() else t for t in tensors])


def _differentiable(p: Tensor) -> Tensor:
    """``p``, differentiable; where it is already, a tensor that is made of it."""
    if p.requires_grad:
        return p.view_as(p)
    return (p.clone() if p.is_inference() else p.detach()).requires_grad_()
