"""The site as one node of a compiled graph.

Imported only while the compiler traces: marking a function imports the compiler itself.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch._dynamo.variables.torch
from torch import Tensor

# What torch.func.vjp's pullback is made of. The compiler traces it, but not torch.autograd.grad.
from torch._functorch.eager_transforms import _autograd_grad

from . import _intercept, _linear_calls, _mark, _max_pool, _site, compose
from ._spellings import SPELLINGS

# Dynamo refuses a Function that has a jvp, and fails on vmap over a forward pass with a Function in
# it. As a node of its own the site is traced by AOTAutograd instead, and fused like any other code.
site_in_graph = torch.compiler.allow_in_graph(_intercept.site)  # type: ignore[no-untyped-call]
linear_in_graph = torch.compiler.allow_in_graph(_linear_calls.linear)  # type: ignore[no-untyped-call]
overwrite_in_graph = torch.compiler.allow_in_graph(_intercept.overwrite)  # type: ignore[no-untyped-call]
max_pool_in_graph = torch.compiler.allow_in_graph(_max_pool.max_pool)  # type: ignore[no-untyped-call]
count_levels = torch.compiler.assume_constant_result(_site.count_levels)  # type: ignore[no-untyped-call]
mark_in_graph = torch.compiler.allow_in_graph(_mark.mark_now)  # type: ignore[no-untyped-call]

# The compiler hands to a mode what is in this set, which leaves out some functions that act in
# place (torch.relu_), and that eager hands over.
_handed = getattr(torch._dynamo.variables.torch, "get_overridable_functions", None)
if _handed is not None:
    _handed().update(SPELLINGS)


def grad_in_graph(
    outs: Sequence[Tensor], points: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> Any:
    """The cotangents of ``points``, which belong to the level of ``outs``."""
    return _autograd_grad(
        outs, points, cotangents, retain_graph=True, create_graph=torch.is_grad_enabled()
    )


# Called when the graph runs, which has no seeds of its own.
@torch.library.custom_op("funcattr::seeded_noise", mutates_args=())
def seeded_in_graph(seed: int, place: Sequence[int], shape: Sequence[int]) -> Tensor:
    """`compose.seeded_noise`."""
    return compose.seeded_noise(seed, place, shape)


@seeded_in_graph.register_fake
def _(seed: int, place: Sequence[int], shape: Sequence[int]) -> Tensor:
    return torch.empty(shape, dtype=torch.float64)
