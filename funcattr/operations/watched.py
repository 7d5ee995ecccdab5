"""Calls that a mode has to watch: what holds a ReLU where no mode can see it, and what looks at
gradients in the middle of a forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType
from typing import TYPE_CHECKING, Any

import torch

from ..core.graft import graft, steady
from ..core.layout import ambiguous
from ..core.levels import compiling, levels, transforming
from ..core.private import (
    forward_mode_active,
    inside_function,
    left_behind,
    set_grad_enabled,
)
from ..core.trees import leaves
from ..errors import HiddenSiteError
from .fold import Unfold
from .kinds import norm
from .operation import Args, Kwargs
from .place import Met

if TYPE_CHECKING:
    from .intercept import Intercept

_OPAQUE = {  # what holds a ReLU where no mode can see it
    torch.rnn_relu: "nn.RNN(nonlinearity='relu')",
    torch.rnn_relu_cell: "nn.RNNCell(nonlinearity='relu')",
}
_AUTOGRAD = (torch.autograd.grad, torch.autograd.backward, torch.Tensor.backward)
_GRAD_FN: Any = torch.Tensor.grad_fn
_HOOKED = (torch.Tensor.register_hook, torch.Tensor.retain_grad, _GRAD_FN.__get__)
_STATISTICS = (torch.nn.functional.batch_norm, torch.nn.functional.instance_norm)
_EMBEDDINGS = (torch.embedding, torch.nn.functional.embedding, torch.nn.functional.embedding_bag)
#: The functions that are watched.
WATCHED = frozenset((*_OPAQUE, *_AUTOGRAD, *_HOOKED, *_STATISTICS, *_EMBEDDINGS))


def watched(mode: Intercept, func: Callable[..., Any], args: Args, kwargs: Kwargs) -> Any:
    """``func(*args, **kwargs)``, one of those.

    Raises:
        HiddenSiteError: a rule that must act could not be where it should.
    """
    if func in _EMBEDDINGS:
        out = func(*args, **kwargs)
        return out if mode.embedded is None else mode.embedded(out)
    if func in _STATISTICS:
        named = norm.without_statistics(func, args, kwargs) if transforming() else None
        out = func(*args, **kwargs) if named is None else func(**named)
        if compiling() or not out.requires_grad or not ambiguous(out):
            return out
        return graft(out, out) if transforming() or forward_mode_active() else steady(out)
    if func in _HOOKED and mode.passing is not None and mode.passing.folds:
        raise Unfold
    if func in _OPAQUE and mode.met is not None:
        path = mode.path[-1] if mode.path else ""
        mode.met.append(Met("relu", _OPAQUE[func], path, tuple(args[0].shape), None))
    if mode.strict and func in _OPAQUE:
        where = f" in {mode.path[-1]!r}" if mode.path and mode.path[-1] else ""
        raise HiddenSiteError(
            f"{_OPAQUE[func]}{where} runs its ReLUs inside of one kernel, where no rule can "
            "reach. Write the recurrence with torch.relu, or pass require_match=False to "
            "differentiate through it as it is."
        )
    # The function that torch.func.vjp returns runs when its level is over; it is of a level all
    # the same, where sites have their true derivative.
    own = func in _AUTOGRAD and levels() == mode.depth
    if mode.strict and own and not any(map(left_behind, leaves(args[:1]))):
        raise HiddenSiteError(
            "the function takes gradients of its own by plain autograd, and a rule cannot "
            "tell those from yours. Use torch.func.grad inside of it, or pass "
            "require_match=False to let the rule act on both."
        )
    return func(*args, **kwargs)


class Functions:
    """Follows whether a forward pass is inside of the ``forward`` of an autograd.Function.

    Torch switches gradients off there by itself, which no mode sees; it sees whoever else does.
    ``outermost`` is the code that the forward pass began with.
    """

    def __init__(self, outermost: CodeType) -> None:
        self._outermost = outermost
        self._recording = True  # what it would be if only Python code had switched it
        self.inside = self._finished = False

    def finish(self) -> None:
        """Says that the forward pass is over; what a checkpoint repeats comes later."""
        self._finished, self.inside = True, False

    def follow(self, func: Callable[..., Any], args: Args) -> None:
        """Is told of every call."""
        if self._finished:
            return
        if set_grad_enabled is None:
            off = not torch.is_grad_enabled()
            self.inside = off and inside_function(self._outermost)
            return
        if torch.is_grad_enabled():
            if not self._recording:
                self._recording, self.inside = True, False
        elif self._recording and not torch.is_inference_mode_enabled():
            self._recording, self.inside = False, True
        if func is set_grad_enabled and args:
            self._recording = bool(args[0])
