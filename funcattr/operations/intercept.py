"""The mode that sees every operation of a forward pass, and puts sites in their places."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .. import rules
from ..core.contexts import is_raw
from ..core.edges import depends_on, requires_grad
from ..core.identity import ByIdentity, Stands
from ..core.layout import ambiguous
from ..core.levels import compiling
from ..core.private import is_view, saved_tensors_are_hooked, unbatched
from .behind import behind, collect, compared, elsewhere, merged, of_two, overwrite
from .composite import Composite, among
from .fold import Convolved, Mergeable, written_by
from .kinds import activation, convolution, norm
from .kinds.others.elementwise import other
from .kinds.outcome import Outcome
from .kinds.table import CALLS, CLONES, GROUP_OF, in_order
from .operation import Args, Call, Kwargs, Operation
from .origins.opened import OPENED
from .origins.operands import of_several, unstopped
from .origins.origin import Origins
from .place import Met, Pass
from .site import site
from .tape import Tape
from .watched import WATCHED, Functions, in_a_function, watched
from .where import Before

COMPILED = frozenset(("activation", "convolution", "norm", "group_norm", "mean"))
QUICK = COMPILED | {"max_pool", "pad", "attention"}  # where the compiler's own is as quick
Substitute = Callable[[Args, Kwargs, bool], tuple[Args, Kwargs]]


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
        self.watch: Callable[[Any, Any], None] | None = None
        #: Where the graph of the input begins, if other graphs can be about.
        self.roots: set[tuple[Any, int]] | None = None
        self._reaching: dict[Any, bool] = {}
        self.embedded: Callable[[Tensor], Tensor] | None = None  # what goes on for embeddings
        self._functions, self._active = Functions(Intercept.around.__code__), True
        #: The TorchScript parts of the model, by their paths.
        self.scripted: list[tuple[str, torch.nn.Module]] = []
        self.fused: list[str] = []  # where attention is one call
        self.plain = passing is not None and passing.plain
        self.groups = {group for c in composites for group in c.groups}
        self._relevance = not self.groups <= {"activation"}
        if not self.groups.isdisjoint(("convolution", "linear")):
            self.groups.add("norm")  # which is merged into these
        if compiling():
            self.groups |= (COMPILED if tape is None else QUICK) if quick else {"norm"}
        elif quick:
            self.groups |= QUICK
        self._once = not quick and met is None and (self.plain or compiling())
        self.functions = frozenset().union(*[c.functions for c in composites])
        self.origins: Origins | None = None
        if not self.groups.isdisjoint(("elementwise", "deviation")):
            self.groups |= {"softmax", "activation"}
            self.origins = Origins()
        self.own: Sequence[rules.Rule | None] = ()  # the rules of the last call that has some
        self.stands, self.cut = Stands(), False  # cut: a rule acted so that no site is needed
        self._opens = not self.groups.isdisjoint(("linear", "deviation"))
        self._convolved: Convolved | None = None
        self.outputs: ByIdentity[Mergeable] = ByIdentity()
        self.known: list[ByIdentity[Any]] = [self.outputs]
        self.known += [] if self.origins is None else [self.origins.known]
        # For each composite, the kinds that have run, and the whole modules that are one operation.
        self._before = [Before(self._functions) for _ in composites]
        self.within = [0 for _ in composites]
        #: Where to note operations that others are compared with, and for each composite these.
        self.collected: list[Operation] | None = None
        self.references: dict[int, Iterator[Operation]] = {}
        self.running: type | None = None  # torch's own module that is one operation
        # For each composite, how many calls get its rule, and which activations do not.
        self.matched = [0 for _ in composites]
        self.others: list[list[str]] = [[] for _ in composites]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Args = (), kwargs: Kwargs | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not compiling() and (is_raw() or not self._active):
            return func(*args, **kwargs)
        func, args, kwargs = in_order(func, args, kwargs)
        passing = self.passing
        if passing is not None and passing.plain:
            passing.repeats = passing.repeats or saved_tensors_are_hooked()
            self._functions.follow(func, args)
        if self.watch is not None:
            self.watch((args, kwargs), func)
        if self.stands:
            args, kwargs = self.stands.arguments(args, kwargs)
        if func in CLONES and self.outputs.get(args[0]) is not None:
            return self._copied(args[0], func(*args, **kwargs))
        if self.substitute is not None:
            args, kwargs = self.substitute(args, kwargs, self._functions.inside)
        if self._opens and func in OPENED:
            with self:
                return OPENED[func](*args, **kwargs)
        if self.origins is not None and self.collected is None:
            return self.origins.called(self, func, args, kwargs)
        return self.routed(func, args, kwargs)

    def routed(self, func: Callable[..., Any], args: Args, kwargs: Kwargs) -> Any:
        """A call of a torch function, by what kind of operation it is."""
        out = self._routed(func, args, kwargs)
        written = written_by(func, args, kwargs) if compiling() else None
        if written is not None:
            for known in self.known:
                known.written(written)
        return out

    def _routed(self, func: Callable[..., Any], args: Args, kwargs: Kwargs) -> Any:
        if (self._once and convolution.few_inputs(func, args)) or GROUP_OF.get(func) in self.groups:
            call = CALLS[func](func, args, kwargs, self.depends)
            if call is not None:
                return self.called(call, func, args, kwargs)
        elif func in self.functions or (compiling() and among(func, self.functions)):
            return self.called(other(func, args, kwargs, self.depends), func, args, kwargs)
        if func in WATCHED:
            return watched(self, func, args, kwargs)
        return func(*args, **kwargs)

    def around(self, f: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """``f(*args, **kwargs)`` under the mode, which is inert afterwards, interrupted or not."""
        self._active = True
        try:
            with self:
                return f(*args, **kwargs)
        finally:
            self._active = False

    @property
    def escaped(self) -> bool:
        """Whether a module of the model ran that its copy does not have."""
        return bool(getattr(self.substitute, "escaped", False))

    def replaced(self, old: Tensor, new: Tensor) -> None:
        """Is told that the model gets ``new`` in the place of ``old``, a layer's output."""
        self._copied(old, new, True)
        if self.origins is not None:
            self.origins.replaced(old, new)

    def _copied(self, old: Tensor, new: Tensor, explained: bool = False) -> Tensor:
        found = self.outputs.get(old)
        if found is not None:
            mergeable = found[0].copied(explained, found[1])
            self.outputs.set(new, mergeable, mergeable.call.x)
        return new

    def finish(self) -> None:
        """Says that the forward pass is over; what a checkpoint repeats comes later."""
        self._convolved = self.watch = None
        self.outputs.clear()
        self._reaching.clear()
        self._functions.finish()
        if self.origins is not None:
            self.origins.finish()

    def depends(self, t: Any) -> bool:
        """Whether ``t`` depends on the input that is differentiated."""
        if not isinstance(t, Tensor) or isinstance(t, torch.nn.Parameter):
            return False
        if not requires_grad(t, self._relevance):
            return False
        return compiling() or self.roots is None or depends_on(t, self.roots, self._reaching)

    def called(self, call: Call, func: Callable[..., Any], args: Args, kwargs: Kwargs) -> Any:
        """A call that was taken apart, with its rules."""
        own = self.rules_of(call, func)
        if call.operands and self.origins is not None:
            own = unstopped(self.origins, call, own, args, kwargs)
        ruled = any([rule is not None for rule in own])
        if self.collected is not None:
            return collect(self.collected, call, own[0], func, args, kwargs)
        if ruled and self._functions.inside and self.strict:
            raise in_a_function(self, call)
        y = merged(self, call, own, func, args, kwargs)
        if y is not None:
            return y
        y = of_several(self, call, own, func, args, kwargs) if call.operands else None
        if y is not None:
            self.note(call, own[0] if own else None, y)
            return y if call.written is None else overwrite(call.written, y)
        if ruled and not isinstance(call.kind, (activation.Activation, Outcome)):
            return behind(self, call, own, func, args, kwargs)
        if not ruled and not self.pays(call) and not elsewhere(self, call, func):
            self.note(call)
            made = isinstance(call.kind, Outcome) and not call.in_place
            return call.x if made else func(*args, **kwargs)
        if self._convolved is not None and self.passing is not None:
            convolved, self._convolved = self._convolved, None
            folded = None if ruled else convolved.folded(call, self.passing)
            if folded is not None:
                return folded
        copied = call.written is None and call.kind.guards_x(own)
        y = self.site(call, own, call.x.clone() if copied else call.x)
        self.note(call, own[0] if own else None, y)
        if call.in_place:
            return overwrite(call.x if call.written is None else call.written, y)
        if not ruled and self.passing is not None and self.passing.folds:
            self._convolved = Convolved.of(call, y)
        return self.given(y)

    def rules_of(self, call: Call, func: Callable[..., Any]) -> list[rules.Rule | None]:
        """The rule of each composite for a call."""
        own: list[rules.Rule | None] = [None for _ in self.composites]
        path = self.path[-1] if self.path else None
        for i, (composite, before) in enumerate(zip(self.composites, self._before)):
            if self.within[i] or not (call.x.is_floating_point() or call.x.is_complex()):
                continue
            rule = composite.rule(call, func, path, before.of(call, path), self.running)
            own[i] = rule = None if rule is not None and of_two(self, call) else rule
            before.note(call, path)
            if rule is not None:
                self.matched[i] += 1
            elif isinstance(call.kind, activation.Activation):
                self.others[i].append(call.kind.activation)
        self.own = own
        return own

    def given(self, y: Tensor) -> Tensor:
        """What the model gets of a site."""
        # It may write to it, and to views of it: torch refuses where it is itself a view.
        return y if self.plain and type(y) is Tensor and not is_view(y) else y.clone()

    @property
    def where(self) -> str:
        """The path of the module that is running, where it is known."""
        return self.path[-1] if self.path else ""

    def site(self, call: Call, own: Sequence[rules.Rule | None], x: Tensor) -> Tensor:
        """What stands for a call, of ``x``."""
        return site(
            call.kind,
            own,
            self.depth,
            x,
            *call.tensors,
            passing=self.passing,
            tape=self.tape,
            path=self.where,
            references=compared(self.references, call.kind, own),
        )

    def pays(self, call: Call) -> bool:
        """Whether an operation without a rule is quicker as a site."""
        if isinstance(call.kind, norm.Norm) and (compiling() or ambiguous(call.x)):
            return True  # the compiler fails on torch's own in forward mode
        if not ((self.quick and call.kind.quick) or call.kind.quick_once(*call.tensors)):
            return False
        tensors = [t for t in (call.x, *call.tensors) if t is not None]
        if not all([t.is_floating_point() for t in tensors]):
            return False
        # A graph does not know what depends on the input, and a tape is for one.
        known = self.plain and self.tape is None
        return not known or any([t.requires_grad for t in tensors])

    def note(self, call: Call, rule: rules.Rule | None = None, y: Tensor | None = None) -> None:
        if self.met is not None:
            name, node = call.kind.names[0], None if y is None else unbatched(y).grad_fn
            self.met.append(Met(name, call.spelling, self.where, tuple(call.x.shape), rule, node))
