"""What a rule should have acted on and did not: never in silence."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ._intercept import Plan
from ._spellings import ACTIVATIONS
from ._tree import pack
from .errors import NoSiteError
from .functional import module_of

Func = Callable[..., Any]


def refuse_none(func: Func, plan: Plan, others: list[str]) -> None:
    """Raises since the forward pass met no activation of the plan, but others."""
    seen = f"it met {', '.join(sorted(set(others)))}" if others else "it met no activation"
    raise NoSiteError(
        f"the forward pass of {_name(func)} met none of the activations that the rule is "
        f"for ({', '.join(sorted(plan.names))}"
        f"{', where the predicate holds' if plan.where is not None else ''}); {seen}. "
        "Name other activations in sites=..., or pass require_match=False to take the plain "
        "gradient. funcattr.sites(func, *args) lists what a forward pass meets."
    )


def refuse_unseen(func: Func, plan: Plan, out: Any) -> None:
    """Raises where the forward pass ran an activation of the plan unseen."""
    way_out = (
        "Use the Python module in its place (before torch.jit.script or torch.jit.trace), or "
        "pass require_match=False to differentiate through it as it is."
    )
    model = module_of(func)
    for path, module in model.named_modules() if model is not None else ():
        if plan.where is None or plan.where(path):
            found = sorted(plan.names.intersection(scripted(module)))
            if found:
                raise NoSiteError(
                    f"{path or 'the model'!r} is TorchScript and runs its own "
                    f"{', '.join(found)}, where no rule can reach. {way_out}"
                )
    unseen = _unseen(out, plan.names)
    if unseen:
        raise NoSiteError(
            f"the forward pass of {_name(func)} has {unseen} in autograd's graph, which "
            "no Python call made: a TorchScript or compiled function, where no rule can "
            f"reach. {way_out}"
        )


def _name(func: Callable[..., Any]) -> str:
    return getattr(func, "__name__", None) or type(module_of(func) or func).__name__


def scripted(module: torch.nn.Module) -> list[str]:
    """The activations in the graph of a TorchScript module."""
    if not isinstance(module, torch.jit.ScriptModule):
        return []
    graph = str(module.inlined_graph)
    return [n for n in ACTIVATIONS if f"aten::{n}(" in graph or f"aten::{n}_(" in graph]


@functools.cache
def _nodes(names: frozenset[str]) -> frozenset[str]:
    """How autograd names the nodes of activations."""
    return frozenset(f"{n.title().replace('_', '')}Backward0" for n in names if n != "elu")


def _unseen(out: Any, names: frozenset[str]) -> str | None:
    """The name of a node in the graph behind ``out`` that stands for an activation of ``names``.

    The activations that a mode sees are sites, which leave a node of their own.
    """
    todo = [_unbatched(t).grad_fn for t in pack(out)[0]]
    done = set(todo)
    nodes = _nodes(names)
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


def _unbatched(tensor: Tensor) -> Tensor:
    functorch = torch._C._functorch
    while functorch.is_batchedtensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return tensor
