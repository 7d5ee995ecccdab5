"""The mode that sees every operation of a forward pass, and puts sites in their places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .. import rules
from ..core.contexts import is_raw
from ..core.graph import node
from ..core.levels import compiling, levels, transforming
from ..core.private import is_view, left_behind, saved_tensors_are_hooked, set_grad_enabled
from ..core.trees import leaves
from ..errors import HiddenSiteError
from .composite import Composite
from .fold import Convolved, Unfold
from .kinds import activation, norm
from .kinds.activation import ELUS, Activation
from .operation import Args, Call, Kwargs
from .site import Pass, site
from .table import CALLS, GROUP_OF
from .tape import Tape

QUICK = frozenset(("activation", "convolution", "norm", "group_norm", "max_pool", "mean", "pad"))
COMPILED = QUICK - {"max_pool", "pad"}  # where the compiler's own is as quick

_OPAQUE = {  # what holds a ReLU where no mode can see it
    torch.rnn_relu: "nn.RNN(nonlinearity='relu')",
    torch.rnn_relu_cell: "nn.RNNCell(nonlinearity='relu')",
}
_AUTOGRAD = (torch.autograd.grad, torch.autograd.backward, torch.Tensor.backward)
_GRAD_FN: Any = torch.Tensor.grad_fn
_HOOKED = (torch.Tensor.register_hook, torch.Tensor.retain_grad, _GRAD_FN.__get__)
_STATISTICS = (torch.nn.functional.batch_norm, torch.nn.functional.instance_norm)
_WATCHED = frozenset((*_OPAQUE, *_AUTOGRAD, *_HOOKED, torch.nn.functional.instance_norm))

Substitute = Callable[[Args, Kwargs, bool], tuple[Args, Kwargs]]


class Met(NamedTuple):
    """One operation that a forward pass met; a row of the report of `funcattr.sites`."""

    activation: str
    spelling: str
    path: str
    shape: tuple[int, ...]
    rule: rules.Rule | None
    node: Any = None
    reached: bool = True

    @property
    def replaced(self) -> bool:
        """Whether a rule acts there."""
        return self.rule is not None and self.reached


class Intercept(TorchFunctionMode):
    """Sees every call of a torch function and puts sites in the place of operations.

    Args:
        composites: which operations get which rule; a backward pass follows one of them.
        depth: the number of levels of differentiation under way (`core.levels.levels`).
        strict: whether an operation that the composites are for must not be out of reach.
        quick: whether operations are sites for the sake of speed as well.
        passing: the pass, where it is one of ours in eager.
        path: the stack of the paths of the modules that are running, where it is known.
        met: where given, collects every operation of a kind that the composites are for.
        substitute: what stands in the place of the model's own tensors.
        tape: what a pass in eager has made, or is to be made of this one.
    """

    def __init__(
        self,
        composites: Sequence[Composite],
        depth: int,
        *,
        strict: bool = False,
        quick: bool = False,
        passing: Pass | None = None,
        path: list[str] | None = None,
        met: list[Met] | None = None,
        substitute: Substitute | None = None,
        tape: Tape | None = None,
    ) -> None:
        super().__init__()
        self.composites, self.depth, self.strict = composites, depth, strict
        self.passing, self.path, self.met, self.substitute = passing, path, met, substitute
        self.quick, self.tape = quick, tape
        #: Where given, is shown what every call gets.
        self.watch: Callable[[Any], None] | None = None
        self._recording = True  # what it would be if only Python code had switched it
        self._inside = self._finished = False
        self._active = True
        #: The TorchScript parts of the model, by their paths.
        self.scripted: list[tuple[str, torch.nn.Module]] = []
        self.plain = passing is not None and passing.plain
        self.groups = {group for c in composites for group in c.groups}
        if compiling():
            self.groups |= (COMPILED if tape is None else QUICK) if quick else {"norm"}
        elif quick:
            self.groups |= QUICK
        self.functions = {f for c in composites for f in c.functions()}
        self._convolved: Convolved | None = None
        # For each composite, how many calls get its rule, and which activations do not.
        self.matched = [0 for _ in composites]
        self.others: list[list[str]] = [[] for _ in composites]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Args = (), kwargs: Kwargs | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not compiling() and (is_raw() or not self._active):
            return func(*args, **kwargs)
        passing = self.passing
        if passing is not None and passing.plain:
            passing.repeats = passing.repeats or saved_tensors_are_hooked()
            if not self._finished:
                self._follow(func, args)
        if self.watch is not None:
            self.watch((args, kwargs))
        if self.substitute is not None:
            args, kwargs = self.substitute(args, kwargs, self._inside)
        if GROUP_OF.get(func) in self.groups:
            call = CALLS[func](func, args, kwargs, self.depends)
            if call is not None:
                return self._called(call, func, args, kwargs)
        elif func in self.functions:
            return self._called(activation.other(func, args, kwargs), func, args, kwargs)
        if func in _WATCHED or func in _STATISTICS:
            return self._watched(func, args, kwargs)
        return func(*args, **kwargs)

    def around(self, f: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """``f(*args, **kwargs)`` under the mode.

        Afterwards it is inert, should an interrupt have left it on torch's stack of modes.
        """
        self._active = True
        try:
            with self:
                return f(*args, **kwargs)
        finally:
            self._active = False

    def _follow(self, func: Callable[..., Any], args: Args) -> None:
        """Follows whether the forward pass is inside of the ``forward`` of an autograd.Function.

        Torch switches gradients off there by itself, which no mode sees; it sees whoever else does.
        """
        if set_grad_enabled is None:
            return
        if torch.is_grad_enabled():
            if not self._recording:
                self._recording, self._inside = True, False
        elif self._recording and not torch.is_inference_mode_enabled():
            self._recording, self._inside = False, True
        if func is set_grad_enabled and args:
            self._recording = bool(args[0])

    @property
    def escaped(self) -> bool:
        """Whether a module of the model ran that its copy does not have."""
        return bool(getattr(self.substitute, "escaped", False))

    def finish(self) -> None:
        """Says that the forward pass is over; what a checkpoint repeats comes later."""
        self._convolved, self._finished, self._inside, self.watch = None, True, False, None

    def depends(self, t: Any) -> bool:
        """Whether ``t`` depends on what is differentiated."""
        return isinstance(t, Tensor) and t.requires_grad and not isinstance(t, torch.nn.Parameter)

    def _called(self, call: Call, func: Callable[..., Any], args: Args, kwargs: Kwargs) -> Any:
        path = self.path[-1] if self.path else None
        own = [c.rule(call, func, path) for c in self.composites]
        if not call.x.is_floating_point():
            own = [None for _ in own]
        ruled = False
        for i, rule in enumerate(own):
            if rule is not None:
                ruled = True
                self.matched[i] += 1
            elif isinstance(call.kind, Activation):
                self.others[i].append(call.kind.activation)
        if ruled and self._inside and self.strict:
            where = f" in {path!r}" if path else ""
            raise HiddenSiteError(
                f"an autograd.Function{where} calls {call.spelling} in its forward, and has a "
                "backward of its own, where no rule can reach. Use plain torch functions in its "
                "place (and checkpoints with use_reentrant=False), or pass require_match=False to "
                "differentiate through it as it is."
            )
        if not ruled and not self._pays(call) and not self._elsewhere(call, func):
            self._note(call)
            return func(*args, **kwargs)
        if self._convolved is not None and self.passing is not None:
            convolved, self._convolved = self._convolved, None
            folded = None if ruled else convolved.folded(call, self.passing)
            if folded is not None:
                return folded
        # An operation in place writes over the x that its derivative needs.
        x = call.x.clone() if call.in_place or call.kind.guards_x(own) else call.x
        y = self.site(call, own, x)
        self._note(call, own[0] if own else None, y)
        if call.in_place:
            return overwrite(call.x, y)
        if not ruled and self.passing is not None and self.passing.folds:
            self._convolved = Convolved.of(call, y)
        # The model may write to it, and to views of it: torch refuses where it is itself a view.
        return y if self.plain and type(y) is Tensor and not is_view(y) else y.clone()

    def site(self, call: Call, own: Sequence[rules.Rule | None], x: Tensor) -> Tensor:
        """What stands for a call, of ``x``."""
        passing, tape = self.passing, self.tape
        return site(call.kind, own, self.depth, x, *call.tensors, passing=passing, tape=tape)

    def _pays(self, call: Call) -> bool:
        """Whether an operation without a rule is quicker as a site."""
        if compiling() and isinstance(call.kind, norm.Norm):
            return True  # the compiler fails on the forward-mode derivative of torch's own
        if not (self.quick and call.kind.quick):
            return False
        tensors = [t for t in (call.x, *call.tensors) if t is not None]
        if not all([t.is_floating_point() for t in tensors]):
            return False
        # A graph does not know what depends on the input, and a tape is for one.
        known = self.plain and self.tape is None
        return not known or any([t.requires_grad for t in tensors])

    def _elsewhere(self, call: Call, func: Callable[..., Any]) -> bool:
        """Whether an operation would have a rule in another module, or by another name.

        It is a site all the same, so that each ReLU in autograd's graph is one that was not seen.
        """
        if not (self.strict and self.path and isinstance(call.kind, Activation)):
            return False
        alike = call.kind.activation in ELUS and any(
            [not ELUS.isdisjoint(c.activations) for c in self.composites]
        )
        return alike or any([c.rule(call, func, None) is not None for c in self.composites])

    def _note(self, call: Call, rule: rules.Rule | None = None, y: Tensor | None = None) -> None:
        if self.met is not None:
            path = self.path[-1] if self.path else ""
            name, node = call.kind.names[0], None if y is None else y.grad_fn
            self.met.append(Met(name, call.spelling, path, tuple(call.x.shape), rule, node))

    def _watched(self, func: Callable[..., Any], args: Args, kwargs: Kwargs) -> Any:
        if func in _STATISTICS and transforming():
            named = norm.without_statistics(func, args, kwargs)
            return func(*args, **kwargs) if named is None else func(**named)
        if func in _HOOKED and self.passing is not None and self.passing.folds:
            raise Unfold
        if func in _OPAQUE and self.met is not None:
            path = self.path[-1] if self.path else ""
            self.met.append(Met("relu", _OPAQUE[func], path, tuple(args[0].shape), None))
        if self.strict and func in _OPAQUE:
            where = f" in {self.path[-1]!r}" if self.path and self.path[-1] else ""
            raise HiddenSiteError(
                f"{_OPAQUE[func]}{where} runs its ReLUs inside of one kernel, where no rule can "
                "reach. Write the recurrence with torch.relu, or pass require_match=False to "
                "differentiate through it as it is."
            )
        # The function that torch.func.vjp returns runs when its level is over; it is of a level all
        # the same, where sites have their true derivative.
        own = func in _AUTOGRAD and levels() == self.depth
        if self.strict and own and not any(map(left_behind, leaves(args[:1]))):
            raise HiddenSiteError(
                "the function takes gradients of its own by plain autograd, and a rule cannot "
                "tell those from yours. Use torch.func.grad inside of it, or pass "
                "require_match=False to let the rule act on both."
            )
        return func(*args, **kwargs)


@node
def overwrite(x: Tensor, y: Tensor) -> Tensor:
    """``x.copy_(y)``.

    Detaches ``x`` first, so that the backward of ``copy_`` sends no zeros to what ``x`` was before.
    Where gradients are switched off, they do not see the write at all.
    """
    if torch.is_grad_enabled() and not is_view(x):
        x.detach_()
    return x.copy_(y)
