"""The derivative of a forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._intercept import Plan
from ._scope import Scope, compiling

Tensors = Sequence[Tensor]


class Pulled(NamedTuple):
    """Cotangents of the inputs' tensors, and of each layer's."""

    inputs: Tensors
    layers: list[Tensors]


class Backward:
    """The derivative of a forward pass, from the tensors of its level.

    ``repeating`` makes the mode for a backward pass that repeats parts of it (checkpointing).
    """

    def __init__(
        self,
        scope: Scope | None,
        repeating: Callable[[], AbstractContextManager[Any]] | None,
        outs: Tensors,
        inputs: Tensors,
        layers: list[Tensors],
    ) -> None:
        self.scope, self.repeating = scope, repeating or contextlib.nullcontext
        self.outs, self.inputs, self.layers = outs, inputs, layers

    def __call__(
        self, cots: Tensors, inputs: Sequence[int], layers: Sequence[int], plan: Plan | None
    ) -> Pulled:
        at_inputs = [self.inputs[i] for i in inputs]
        at_layers = [self.layers[i] for i in layers]
        points = [*at_inputs, *(t for ts in at_layers for t in ts)]
        grads = iter(self._grads(cots, points, plan))
        return Pulled(
            [next(grads) for _ in inputs], [[next(grads) for _ in ts] for ts in at_layers]
        )

    def _grads(self, cots: Tensors, points: Tensors, plan: Plan | None) -> Tensors:
        if compiling():
            from ._graph import grad_in_graph

            return grad_in_graph(self.outs, points, cots)  # type: ignore[no-any-return]
        reached = [p for p in points if p.requires_grad]
        pairs = [(out, c) for out, c in zip(self.outs, cots) if out.requires_grad]
        if not (reached and pairs):
            return [torch.zeros_like(p) for p in points]
        outs, grads = [out for out, _ in pairs], [c for _, c in pairs]
        assert self.scope is not None
        create = torch.is_grad_enabled()
        # Without a graph of the maps, this level is the only one.
        with self.scope.using(plan, keeping=not create), self.repeating():
            # What torch.autograd.grad calls; itself it would keep the mode from what is repeated.
            engine: Any = torch.autograd.Variable._execution_engine
            found = engine.run_backward(
                tuple(outs),
                tuple(grads),
                True,  # the graph is for further targets, too
                create,
                tuple(reached),
                True,  # not every input need be used
                accumulate_grad=False,
            )
        by_id = {id(p): g for p, g in zip(reached, found) if g is not None}
        return [by_id[id(p)] if id(p) in by_id else torch.zeros_like(p) for p in points]
