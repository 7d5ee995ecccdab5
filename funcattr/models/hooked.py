"""Layers with hooks of the user's, which may replace what comes out of them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import nn

from ..core.levels import compiling
from ..errors import LayerError
from .copies import Forward

Wrap = Callable[[Forward], Forward]

# Whether a call of a module goes through its attribute ``_call_impl``, as since torch 2.1.
_CALLS = hasattr(nn.Module, "_wrapped_call_impl")


def behind_hooks(wrap: Wrap, layer: nn.Module, name: str) -> Wrap:
    """``wrap``, so that it sees what the model gets of a layer, as a hook that comes last does.

    Raises:
        LayerError: there are hooks, and this code or this torch does not show what they return.
    """
    everywhere = getattr(nn.modules.module, "_global_forward_hooks", None)
    if not (layer._forward_hooks or everywhere):
        return wrap
    if compiling() or not _CALLS:
        raise LayerError(
            f"layer {name!r} has a forward hook, which may replace its output, and that "
            f"{'compiled code' if _CALLS else 'torch before 2.1'} does not show; remove the hook, "
            "or explain the layer behind it."
        )
    return _BehindHooks(wrap)


class _BehindHooks:
    """A wrap of a layer whose hooks may replace its output: it goes around the call, hooks and
    all, and around a ``forward`` that is called by itself.
    """

    def __init__(self, wrap: Callable[[Forward], Forward]) -> None:
        self.wrap, self.within = wrap, False

    def __call__(self, forward: Forward) -> Forward:
        alone = self.wrap(forward)

        def of_a_call_or_alone(*args: Any, **kwargs: Any) -> Any:
            within, self.within = self.within, False
            return (forward if within else alone)(*args, **kwargs)

        return of_a_call_or_alone

    def around_hooks(self, module: nn.Module) -> None:
        """Goes around all calls of ``module``, a copy."""
        weak: Any = weakref.ref(module)  # a bound method would keep the module alive by itself
        call: Callable[..., Any] = type(module)._call_impl

        def entered(*args: Any, **kwargs: Any) -> Any:
            self.within = True
            try:
                return call(weak(), *args, **kwargs)
            finally:
                self.within = False

        module.__dict__["_call_impl"] = self.wrap(entered)
