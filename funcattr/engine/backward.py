"""The derivative of a forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.levels import compiling
from ..core.private import backward_under_modes, below_a_mode, grad_in_graph
from ..errors import FuncattrError
from ..operations.intercept import Intercept
from ..operations.place import Pass
from .unbroken import unbroken

Tensors = Sequence[Tensor]
# Tensors, or edges of autograd's graph.
Points = Sequence[Any]


class Pulled(NamedTuple):
    """Cotangents of the inputs' tensors, and of each layer's."""

    inputs: Tensors
    layers: list[Tensors]


class Backward:
    """The derivative of a forward pass, from the tensors of its level.

    Args:
        passing: tells the sites of the pass which composite to follow.
        mode: the mode of the forward pass, where parts of that are repeated.
        pulls: how many times it will be called, None for any number.
        outs: the float tensors of the output.
        inputs: those that are explained.
        layers: where the derivative by each layer's tensors is taken.
        acts: these tensors.
    """

    def __init__(
        self,
        passing: Pass | None,
        mode: Intercept | None,
        pulls: int | None,
        outs: Tensors,
        inputs: Tensors,
        layers: list[Points],
        acts: list[Tensors],
    ) -> None:
        self._passing, self._mode, self._pulls = passing, mode, pulls
        self._outs, self._inputs, self._layers, self._acts = outs, inputs, layers, acts

    @unbroken
    def __call__(
        self,
        cots: Sequence[Tensor | None],
        inputs: Sequence[int],
        layers: Sequence[int],
        which: int,
    ) -> Pulled:
        """The cotangents of some inputs and layers, by the composite of this number."""
        if compiling() and self._passing is not None:
            torch._dynamo.graph_break()  # what was made outside of the graph is pulled there
        points = [self._inputs[i] for i in inputs]
        shapes = list(points)
        for i in layers:
            points += self._layers[i]
            shapes += self._acts[i]
        grads = iter(self._grads(cots, points, shapes, which))
        return Pulled(
            [next(grads) for _ in inputs], [[next(grads) for _ in self._acts[i]] for i in layers]
        )

    def _grads(
        self, cots: Sequence[Tensor | None], points: Points, shapes: Tensors, which: int
    ) -> Tensors:
        if compiling():
            pairs = [(out, c) for out, c in zip(self._outs, cots) if c is not None]
            if not pairs:
                return [torch.zeros_like(t) for t in shapes]
            outs, some = [out for out, _ in pairs], [c for _, c in pairs]
            return grad_in_graph(outs, points, some)
        if self._passing is None:
            raise FuncattrError(
                "what compiled code has linearized is differentiated outside of that, or behind "
                "something that breaks the graph (a target, say). Compile both together with "
                "fullgraph=True to see what, or call the attribution without torch.compile."
            )
        reached = [p for p in points if not isinstance(p, Tensor) or p.requires_grad]
        pairs = [
            (out, c) for out, c in zip(self._outs, cots) if out.requires_grad and c is not None
        ]
        if not (reached and pairs):
            return [torch.zeros_like(t) for t in shapes]
        outs, some = [out for out, _ in pairs], [c for _, c in pairs]
        create = torch.is_grad_enabled()
        if self._pulls is not None:
            self._pulls -= 1
        # The last one frees what it has passed, so that the memory is there for what it makes.
        retain = create or self._pulls != 0
        # Without a graph of the maps, this level is the only one; and torch.func.linearize makes
        # constants of its own of what is made here, to which nothing may be written.
        with self._passing.pulled(which, keeping=not create and not below_a_mode()):
            if self._mode is not None:
                found = self._mode.around(backward_under_modes, outs, some, reached, retain, create)
            else:
                found = torch.autograd.grad(
                    outs, reached, some, retain, create_graph=create, allow_unused=True
                )
        by_id: dict[int, Any] = {id(p): g for p, g in zip(reached, found)}
        grads = [by_id.get(id(p)) for p in points]
        return [torch.zeros_like(t) if g is None else g for t, g in zip(shapes, grads)]
