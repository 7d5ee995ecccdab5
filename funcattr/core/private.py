"""What funcattr uses of torch that torch does not promise, each with what happens without it.

Nothing else in the package uses private torch. ``tests/core/test_private.py`` says which of these a
new torch has taken away; none of them is needed to import funcattr.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..errors import FuncattrError

# Older compilers do not see what is put around a module's ``forward`` while they trace.
CAN_COMPILE = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)

T = TypeVar("T")
_functorch: Any = getattr(torch._C, "_functorch", None)
_others = itertools.count()
#: The modules of derivatives: of operators that others register, and of those that take functions.
OPERATORS = ("torch._library.", "torch._higher_order_ops.")

# Whether a transform of torch.func is under way, in this thread. Without it (torch before 2.1)
# every call is made as if one were, which is right, and slower.
transforms_active: Callable[[], bool] = getattr(
    torch._C, "_are_functorch_transforms_active", lambda: True
)

# What ``torch.no_grad`` and its kin call, where a mode sees it: since torch 2.1, which has edges of
# graphs, too. Without it Python's frames say whether a Function runs (`inside_function`).
set_grad_enabled: Callable[..., Any] | None = (
    getattr(torch._C, "_set_grad_enabled", None)
    if hasattr(torch.autograd.graph, "get_gradient_edge")
    else None
)


def inside_function(outermost: CodeType) -> bool:
    """Whether the ``forward`` of an autograd.Function runs, further in than a frame of this code.

    Where ``apply`` is not Python code no Function is found, and a rule inside of one is lost.
    """
    apply = getattr(torch.autograd.Function.apply, "__code__", None)
    frame = sys._getframe(1)
    while frame is not None and frame.f_code is not outermost:
        if frame.f_code is apply:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


_set_fwd_grad_enabled: Any = getattr(torch.autograd.forward_ad, "_set_fwd_grad_enabled", None)


def pushed(f: Callable[..., T], *tensors: Tensor | None) -> T:
    """``f(*tensors)`` in the ``jvp`` of a Function, seen by levels of forward mode further out.

    Torch switches forward mode off there, and so loses the tangents of tangents in silence. Without
    its switch every derivative in forward mode is refused.
    """
    if _set_fwd_grad_enabled is None:
        raise FuncattrError(
            "this torch does not show its switch of forward mode, without which derivatives in "
            "forward mode can be wrong; use reverse mode (torch.func.grad, jacrev)."
        )
    if any(t is not None and is_batched(t) for t in tensors):
        # Torch cannot take these apart, which matters only where there is a level further out.
        if transforms().count(_functorch.TransformType.Jvp) > 1:
            raise FuncattrError(
                "the derivative in forward mode of a derivative in forward mode cannot be taken of "
                "a torch.vmap; take it inside: torch.vmap around torch.func.jvp."
            )
        return f(*tensors)
    # What is of this level is a constant here, and what is further out is not.
    unpacked = [t if t is None else forward_ad.unpack_dual(t, level=0).primal for t in tensors]
    with _set_fwd_grad_enabled(True):
        return f(*unpacked)


def transforms() -> list[Any]:
    """The kinds of the transforms of torch.func under way; an AttributeError where none shows."""
    if hasattr(_functorch, "get_interpreter_stack"):
        return [level.key() for level in _functorch.get_interpreter_stack() or ()]
    # Torch 2.0 shows the innermost alone, so each is taken off for as long as the next is asked.
    top = _functorch.peek_interpreter_stack()
    if top is None:
        return []
    kind, taken = top.key(), _functorch.pop_dynamic_layer_stack()
    try:
        return [*transforms(), kind]
    finally:
        _functorch.push_dynamic_layer_stack(taken)


def forward_mode_active() -> bool:
    """Whether a level of forward-mode autograd is open.

    Without torch's count every call is made as if one were, which is right, and slower.
    """
    return bool(getattr(torch.autograd.forward_ad, "_current_level", 0) >= 0)


def compiles_here() -> bool:
    """Whether it is this thread that torch.compile works in: torch's own flag is the process's.

    The flag stays up, too, when two threads have compiled at once. Without torch's context of a
    compilation the flag has to do, and eager calls beside a thread that compiles are not safe.
    """
    context = getattr(getattr(torch, "_guards", None), "TracingContext", None)
    return context is None or context.try_get() is not None


def vmap_active() -> bool:
    """Whether a ``torch.vmap`` is under way, in this thread.

    Without torch's stack of transforms one counts as under way wherever a transform may be, and a
    single map has sites that only many gain from.
    """
    return transforms_active() and vmaps() != 0


def vmaps() -> int | None:
    """How many of the transforms under way are a ``torch.vmap``; None without torch's stack."""
    try:
        return transforms().count(_functorch.TransformType.Vmap)
    except AttributeError:
        return None


def below_a_mode() -> bool:
    """Whether tensors are fake ones, as where the compiler traces a node of a graph.

    Without torch's count of modes they are not, and the compiler fails at smooth activations in
    forward mode.
    """
    count: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)
    return count() > 0


def is_batched(t: Tensor) -> bool:
    """Whether ``t`` is one of many, under ``torch.vmap``.

    Without it cotangents under ``torch.vmap`` keep torch's own layout, which is right, and slower.
    """
    known = getattr(_functorch, "is_batchedtensor", None)
    return known is not None and bool(known(t))


def is_wrapped(t: Tensor) -> bool:
    """Whether ``t`` belongs to a transform of torch.func.

    Without torch's answer it does, and nothing folds.
    """
    known = getattr(_functorch, "is_functorch_wrapped_tensor", None)
    return known is None or bool(known(t))


def left_behind(t: Any) -> bool:
    """Whether ``t`` belongs to a transform of torch.func that is over.

    Without torch's number of its level a model that calls ``torch.func.vjp`` is refused.
    """
    known = getattr(_functorch, "maybe_get_level", None)
    return isinstance(t, Tensor) and known is not None and known(t) == -2


def unbatched(t: Tensor, wrapped: Callable[[Tensor], bool] = is_batched) -> Tensor:
    """All of what ``t`` is one of, under ``torch.vmap``; or what else it is ``wrapped`` by.

    Without it a ReLU that no rule reaches is not found in what runs under ``torch.vmap``.
    """
    while wrapped(t):
        t = _functorch.get_unwrapped(t)
    return t


def is_view(t: Tensor) -> bool:
    """Whether ``t`` shares the memory of another tensor that autograd knows of.

    Without it a tensor counts as a view, and a write to it sends zeros to what it was before.
    """
    known = getattr(unbatched(t) if transforms_active() else t, "_is_view", None)
    return True if known is None else bool(known())


def share_memory(a: Tensor, b: Tensor) -> bool:
    """Whether a write to one of two tensors is a write to the other.

    Without torch's answer that is so of a tensor and its views.
    """
    known = getattr(torch._C, "_is_alias_of", None)
    a, b = unbatched(a, is_wrapped), unbatched(b, is_wrapped)
    return a is b or getattr(a, "_base", None) is b if known is None else bool(known(a, b))


def version(t: Tensor) -> int:
    """How often ``t`` was written to, as autograd counts it: of all, where ``t`` is one of many.

    Without it nothing folds (`funcattr.operations.fold`), since every count is another.
    """
    count: Any = getattr(unbatched(t) if transforms_active() else t, "_version", None)
    return next(_others) if count is None else int(count)


def watched(t: Tensor) -> bool:
    """Whether somebody has asked for the gradient of ``t``, by a hook or ``retain_grad``.

    Without torch's table of hooks every tensor counts as watched, and nothing folds.
    """
    return bool(getattr(t, "_backward_hooks", True)) or t.retains_grad


def uncompiled(value: T) -> T:
    """The module or function that ``torch.compile`` has wrapped; ``value`` where there is none.

    Without it a compiled part of a model counts as out of reach.
    """
    wrapper = type(value).__name__ == "OptimizedModule"
    inside: T = getattr(value, "_orig_mod" if wrapper else "_torchdynamo_orig_callable", value)
    return value if inside is value else uncompiled(inside)


def saved_tensors_are_hooked(unknown: bool = True) -> bool:
    """Whether what autograd saves goes through hooks, as in a checkpoint.

    Without torch's answer it is ``unknown``; hooked is right then, and slower.
    """
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return unknown if top is None else top(True) is not None


def backward_under_modes(
    outs: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    points: Sequence[Any],
    retain_graph: bool,
    create_graph: bool,
) -> Sequence[Tensor | None]:
    """``torch.autograd.grad``, with the modes of torch functions that are on left on.

    ``torch.autograd.grad`` is itself a torch function, and so takes them off; but a checkpoint
    repeats its forward pass within a backward pass, and needs them. Without autograd's engine a
    model with checkpoints is refused.
    """
    engine: Any = getattr(torch.autograd.Variable, "_execution_engine", None)
    if engine is None:
        raise FuncattrError(
            "this torch does not show the engine of autograd, without which no rule reaches what "
            "a checkpoint repeats; switch the checkpoints of the model off."
        )
    found: Sequence[Tensor | None] = engine.run_backward(
        tuple(outs),
        tuple(cotangents),
        retain_graph,
        create_graph,
        tuple(points),
        True,  # not every point need be reached
        accumulate_grad=False,
    )
    return found


def grad_in_graph(
    outs: Sequence[Tensor], points: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> Sequence[Tensor]:
    """What the pullback of ``torch.func.vjp`` calls, which the compiler traces.

    It does not trace ``torch.autograd.grad``. Without it nothing of funcattr compiles.
    """
    from torch._functorch import eager_transforms

    found: Sequence[Tensor] = eager_transforms._autograd_grad(
        outs, points, cotangents, retain_graph=True, create_graph=torch.is_grad_enabled()
    )
    return found


def show_to_modes(functions: Sequence[Callable[..., Any]]) -> None:
    """Has the compiler hand all of ``functions`` to a mode, as eager code does.

    Its own list leaves out some that act in place (``torch.relu_``). Without it what it does not
    hand over would keep its true derivative in silence, so that is an error.
    """
    import torch._dynamo.variables.torch as dynamo

    handed = getattr(dynamo, "get_overridable_functions", None)
    if handed is None:
        raise FuncattrError(
            "this torch does not say which functions its compiler shows to a mode, so that a rule "
            "could be missed; call the attribution without torch.compile."
        )
    handed().update(functions)
