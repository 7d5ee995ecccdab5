"""One forward pass, and its derivatives at the inputs and at layers."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from . import _mark, _own
from ._arguments import Chosen
from ._backward import Backward, Pulled
from ._contexts import graph_only_if, no_autocast, tracked
from ._scope import Replay, Scope, Unfold, compiling, plainly, transforming, within_plain
from ._site import levels
from ._taps import Tapped, Taps
from ._tree import pack
from .errors import FuncattrError, TargetError
from .functional import Functional
from .targets import Index, Target, cotangents
from .transforms import Ruled

Tensors = Sequence[Tensor]
_HOOKS = "funcattr: the model has hooks for what autograd saves"


@dataclass
class Forward:
    """A forward pass that was done: its output, the activations of layers, and its derivative.

    ``inputs``, ``layers`` and ``plans`` are which tensors, which layers and which of a ruled
    function's plans it is about; see `part`.
    """

    out: Any
    outs: Tensors
    unpack: Callable[[Tensors], Any]
    acts: list[Tensors]
    tracked: bool
    backward: Callable[[Tensors, Sequence[int], Sequence[int], int], Pulled]
    inputs: Sequence[int]
    layers: Sequence[int]
    plans: Sequence[int]

    def pull(
        self, target: Target | Index, *, inputs: bool = True, layers: bool = False, plan: int = 0
    ) -> Pulled:
        """What is asked for, for a target, by the rules of a plan."""
        with graph_only_if(self.tracked):
            cots = cotangents(self.outs, self.unpack, target)
            with no_autocast(cots):
                return self.backward(
                    cots,
                    self.inputs if inputs else (),
                    self.layers if layers else (),
                    self.plans[plan],
                )

    def part(self, inputs: Sequence[int], layers: Sequence[int], plans: Sequence[int]) -> Forward:
        """The same forward pass for somebody who asked for less."""
        acts = [self.acts[i] for i in layers]
        return replace(self, acts=acts, inputs=inputs, layers=layers, plans=plans)


def forward_pass(
    ruled: Ruled,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    chosen: Chosen | None = None,
    layers: Sequence[Tapped] = (),
    *,
    at_input: bool = False,
    record: list[Tensor] | None = None,
    replay: Replay | None = None,
) -> Forward:
    """Runs ``ruled`` once, ready to be differentiated by the chosen arguments and the layers.

    ``record`` collects what its sites save, and ``replay`` has that for them.
    """
    # A graph has no sites that can be told to change: each plan has a forward pass of its own.
    first = Ruled(ruled.func, ruled.plan) if compiling() else ruled
    run = _Run(first, args, kwargs, chosen, layers, at_input, tracked((args, kwargs)))
    run.replay = replay
    if run.scope is not None:
        run.scope.record = record
    with graph_only_if(run.tracked):
        outs, others, acts, backward = run.linearized()
        backwards = [backward]
        if compiling():
            for plan in ruled.also:
                again = _Run(Ruled(ruled.func, plan), *run.what())
                backwards.append(again.linearized()[-1])

    def whole(outs: Tensors) -> Any:
        return run.unpack(outs, others)

    def either(cots: Tensors, inputs: Sequence[int], layers: Sequence[int], plan: int) -> Pulled:
        if compiling():
            return backwards[plan](cots, inputs, layers, None)
        return backward(cots, inputs, layers, (ruled.plan, *ruled.also)[plan] if plan else None)

    return Forward(
        whole(outs),
        outs,
        whole,
        acts,
        run.tracked,
        either,
        range(len(run.primals)),
        range(len(layers)),
        range(1 + len(ruled.also)),
    )


class _Run:
    def __init__(
        self,
        ruled: Ruled,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        chosen: Chosen | None,
        layers: Sequence[Tapped],
        at_input: bool,
        tracked: bool,
    ) -> None:
        self.ruled, self.args, self.kwargs = ruled, args, kwargs
        self.chosen, self.layers, self.at_input = chosen, layers, at_input
        self.tracked = tracked
        self.plain = False  # whether the level is that of plain autograd
        self.repeats = False  # whether the backward pass repeats parts of the forward pass
        self.scope = None if compiling() else Scope()
        if not (tracked or transforming() or within_plain()):
            self._be_plain()
        self.replay: Replay | None = None
        self.primals = [] if chosen is None else chosen.floats
        self.unpack: Callable[[Tensors, Tensors], Any]

    def what(self) -> tuple[Any, ...]:
        """All but the function."""
        return self.args, self.kwargs, self.chosen, self.layers, self.at_input, self.tracked

    def forward(self, args: Any, kwargs: Any, taps: Taps) -> tuple[Tensors, Tensors]:
        """The float tensors of the output, and the others."""
        out = self.ruled.run(
            args,
            kwargs,
            detach=self.tracked or self.plain,
            scope=self.scope,
            taps=taps,
            replay=self.replay,
        )
        if self.scope is not None:
            self.scope.convolved = None
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
                "derivative; return the scores, not what was decided by them."
            )
        return outs, tuple(t for t, yes in zip(tensors, is_float) if not yes)

    def linearized(self) -> tuple[Tensors, Tensors, list[Tensors], Backward]:
        """Output (float tensors and others), activations, and the derivative.

        What a layer gives is marked as differentiable at the moment that it is there.
        """
        marked: Any = None

        def forward(anchor: Tensor, *primals: Tensor) -> Any:
            nonlocal marked
            acts: list[list[Tensors]] = [[] for _ in self.layers]
            points: list[list[Tensors]] = [[] for _ in self.layers]

            def visit(i: int, call: int, tensors: list[Tensor]) -> Tensors:
                acts[i].append(tensors)
                everywhere = compiling() or _all_tracked(tensors)
                if self.at_input and self.layers[i].reads and everywhere:
                    # All that is made of the tensor counts, in other places than the layer too.
                    points[i].append(tensors)
                    return tensors
                points[i].append([_mark.mark(t, anchor) for t in tensors])
                # The model may go on to write to what it gets.
                return [point.clone() for point in points[i][-1]]

            taps = Taps(self.layers, self.at_input, visit)
            args = self.args if self.chosen is None else self.chosen.args_with(primals)
            kwargs = self.kwargs
            if self.at_input:
                first = 1 if isinstance(self.ruled.func, Functional) else 0
                args = (*args[:first], *_mark.marked(args[first:], anchor))
                kwargs = _mark.marked(kwargs, anchor)
            outs, others = self.forward(args, kwargs, taps)
            calls = taps.check()
            marked = outs, primals, [p[call] for p, call in zip(points, calls)]
            return outs, (others, [a[call] for a, call in zip(acts, calls)])

        outs, (others, acts) = self._levelled(forward, [torch.zeros(()), *self.primals])
        again = functools.partial(self.ruled.repeating, self.scope) if self.repeats else None
        return outs, others, acts, Backward(self.scope, again, *marked)

    def _levelled(self, forward: Callable[..., Any], primals: list[Tensor]) -> tuple[Any, Any]:
        """Runs ``forward`` at a level of differentiation of its own."""
        if self.plain:
            return self._plainly(forward, primals)
        state = None if compiling() else torch.get_rng_state()
        try:
            outs, _, aux = torch.func.vjp(forward, *primals, has_aux=True)  # type: ignore[misc]
            return outs, aux
        except RuntimeError as error:
            # An autograd.Function without setup_context, a saved-tensor hook: the model works, only
            # not under torch.func.
            told = "functorch" in str(error) or "torch.func" in str(error)
            if state is None or levels() > 1 or not told:
                raise
            if self.tracked:
                raise FuncattrError(
                    "this model runs under plain autograd only, where a map has no derivative, "
                    "and an input requires grad. Detach it (x.detach()), or make the model fit for "
                    f"torch.func. {error}"
                ) from error
        torch.set_rng_state(state)  # the second try draws what the first one drew
        self._be_plain()
        return self._plainly(forward, primals)

    def _be_plain(self) -> None:
        # Where a rule must match, a function that takes gradients of its own is refused.
        strict = any(p.require_match for p in (self.ruled.plan, *self.ruled.also))
        _own.learn()
        self.plain, self.scope = True, Scope(alone=True, folds=strict and not self.at_input)

    def _plainly(self, forward: Callable[..., Any], primals: list[Tensor]) -> tuple[Any, Any]:
        """Runs ``forward`` at the level of plain autograd, whose calls cost less.

        A second time, where the model has hooks that the first did not reckon with.
        """
        own = [p.clone() if p.is_inference() else p.detach() for p in primals]
        state, scope = torch.get_rng_state(), self.scope
        assert scope is not None
        for _ in range(3):
            hooks = torch.autograd.graph.disable_saved_tensors_hooks(_HOOKS)
            try:
                with (
                    torch.enable_grad(),
                    plainly(),
                    contextlib.nullcontext() if self.repeats else hooks,
                ):
                    outs, (others, acts) = forward(*(p.requires_grad_() for p in own))
                break
            except Unfold:
                pass
            except RuntimeError as error:
                if self.repeats or _HOOKS not in str(error):
                    raise
                self.repeats = True
            scope.folds = False
            torch.set_rng_state(state)  # the next try draws what this one drew
            if scope.record is not None:
                scope.record.clear()
        return [t.detach() for t in outs], (others, [[t.detach() for t in ts] for ts in acts])


def _all_tracked(tensors: Tensors) -> bool:
    return all(t.requires_grad for t in tensors)
