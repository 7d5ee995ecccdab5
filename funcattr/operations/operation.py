"""Kinds of operations, a call taken apart, and the operation as rules see it."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from .. import rules
from ..core import layout
from ..core.levels import compiling
from ..core.private import unbatched, version
from ..errors import MISUSED, ArgumentError, FuncattrError, first_line, short

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Shape = tuple[int, ...]
Tensors = Sequence[Tensor | None]
Keep = Callable[[Any, Callable[[], Tensor]], Tensor]


class Kind(ABC):
    """A torch function with its options, as a function of tensors: ``kind.value(x, *tensors)``.

    A kind is a frozen dataclass of plain values, so that a compiled graph can hold it. What a kind
    does not define is derived from its value. The first tensor, ``x``, is the one on which rules
    act; the others (weights) always have their true derivative.
    """

    #: The names by which a composite finds it, the most special first.
    names: ClassVar[tuple[str, ...]] = ()
    #: Whether many cotangents pass it quicker by its `pull` than by torch's own derivative.
    quick: ClassVar[bool] = False
    #: Whether its derivative by ``x`` depends on ``x``; if not, ``x`` need not be saved.
    reads_x: ClassVar[bool] = True
    #: Whether its other tensors have no batch, so that any number of examples can be pulled.
    any_batch: ClassVar[bool] = True

    def constants(self, x: Tensor) -> tuple[Tensor, ...]:
        """More tensors that its value and derivative go by, which have no derivative themselves."""
        return ()

    def witness(
        self, x: Tensor, out: Tensor, own: Sequence[rules.Rule | None], more: bool
    ) -> Tensor | None:
        """What is saved in the place of ``x``: a tensor that says as much.

        The model may write to ``x`` later, where it may under torch's own derivative. ``more`` says
        that tangents, or cotangents of other tensors, are asked for as well.
        """
        return x if more or any(self.needs_x(rule) for rule in own or (None,)) else None

    def guards_x(self, own: Sequence[rules.Rule | None]) -> bool:
        """Whether its site works on a copy of ``x``, which nobody else can write to."""
        return False

    def needs_x(self, rule: rules.Rule | None) -> bool:
        """Whether a backward pass by ``rule`` goes by ``x``."""
        return self.reads_x if rule is None else getattr(rule, "reads_x", True)

    @abstractmethod
    def value(self, x: Tensor, *tensors: Tensor | None) -> Tensor:
        """Torch's own value, bit for bit."""

    def push(self, t: Tensor, x: Tensor | None, *tensors: Tensor | None) -> Tensor:
        """The tangent of the output, for the tangent ``t`` of ``x``."""
        assert x is not None
        out: Tensor = torch.func.jvp(lambda x: self.value(x, *tensors), (x,), (t,))[1]
        return out

    def pull(self, g: Tensor, operation: Operation) -> Tensor:
        """The true cotangent of ``x``, for the cotangent ``g`` of the output."""
        f = lambda x: self.value(x, *operation.tensors)
        g_x: Tensor = torch.func.vjp(f, operation.x)[1](g)[0]
        return g_x

    def push_tensors(self, tangents: Tensors, x: Tensor, *tensors: Tensor | None) -> Tensor:
        """The tangent of the output, for tangents of ``tensors``, or None where there is none."""
        moving = [i for i, t in enumerate(tangents) if t is not None]
        f = lambda *some: self.value(x, *_with(tensors, moving, some))
        primals = tuple(tensors[i] for i in moving)
        out: Tensor = torch.func.jvp(f, primals, tuple(tangents[i] for i in moving))[1]
        return out

    def pull_tensors(
        self, g: Tensor, needs: Sequence[bool], x: Tensor, *tensors: Tensor | None
    ) -> Tensors:
        """The true cotangents of those ``tensors`` that need one, None for the others."""
        wanted = [i for i, need in enumerate(needs) if need]
        f = lambda *some: self.value(x, *_with(tensors, wanted, some))
        grads = torch.func.vjp(f, *(tensors[i] for i in wanted))[1](g)
        return _with([None] * len(tensors), wanted, grads)

    def by_rule(self, rule: rules.Rule, g: Tensor, operation: Operation, *made: Any) -> Tensor:
        """The cotangent of ``x`` as ``rule`` says; ``made`` is what it has prepared."""
        assert rules.is_pair(rule)
        pull = functools.partial(rule.pull, operation, g, *made)
        if isinstance(rule, rules.Plain):
            return pull()
        return by_users(rule, pull, operation.shape, g, operation.x, *made)


def _with(values: Sequence[Any], places: Sequence[int], some: Sequence[Any]) -> list[Any]:
    result = list(values)
    for i, value in zip(places, some):
        result[i] = value
    return result


class Operation:
    """One call of a torch function in a forward pass, as a rule sees it.

    ``x`` is the tensor that a rule acts on (None where neither the derivative nor the rule reads
    it), ``shape`` its shape, ``tensors`` are the others. ``alone`` says that no graph of what is
    done now is made, so that what is fresh can be written over.
    """

    __slots__ = ("_keep", "alone", "kind", "shape", "tensors", "x")

    def __init__(
        self,
        kind: Kind,
        x: Tensor | None,
        tensors: Tensors,
        shape: Shape,
        keep: Keep | None = None,
        alone: bool = False,
    ) -> None:
        self.kind, self.x, self.tensors, self.shape = kind, x, tensors, shape
        self._keep, self.alone = keep, alone

    def value(self) -> Tensor:
        """The output."""
        assert self.x is not None
        return self.kind.value(self.x, *self.tensors)

    def pull(self, g: Tensor) -> Tensor:
        """The true cotangent of ``x``, for the cotangent ``g`` of the output."""
        return self.kind.pull(g, self)

    def keep(self, name: Any, make: Callable[[], Tensor]) -> Tensor:
        """What ``make`` returns, made once for all backward passes where it can be."""
        return make() if self._keep is None else self._keep(name, make)

    def x_beside(self, g: Tensor) -> Tensor:
        """``x``, in the layout that many cotangents ``g`` have."""
        x = self.x
        assert x is not None
        return self.keep("x", lambda: layout.channels_last(x)) if layout.many(g) else x


def by_users(
    rule: rules.Rule, call: Callable[[], Tensor], shape: Shape, *given: Tensor | None
) -> Tensor:
    """What ``call`` returns, which calls a rule of the user's with the tensors ``given``.

    Raises:
        ArgumentError: it fails, writes to what it is given, or returns another shape than ``x``'s.
    """
    pair = rules.is_pair(rule)
    name = repr(getattr(rule, "__name__", type(rule).__name__ if pair else rule))
    form = "(operation, g, *prepared) -> g_in" if pair else "(x, g) -> g_in"
    before = [_version(t) for t in given]
    try:
        result = call()
    except MISUSED as error:
        if isinstance(error, FuncattrError):
            raise
        kind = "is linear in g, pull" if pair else "is elementwise, "
        raise ArgumentError(
            f"the rule {name} raised {first_line(error)}. A rule {kind}{form}, and in sweeps it "
            "runs under torch.vmap: without .item(), numpy, or an if on values (torch.where)."
        ) from error
    if before != [_version(t) for t in given]:
        raise ArgumentError(
            f"the rule {name} writes to a tensor that it is given, which others go by as well; "
            "return a new one (g.clamp(min=0) instead of g.clamp_(min=0))."
        )
    first = 1 if pair else 0  # the batch, of which merged cotangents have more
    fits = isinstance(result, Tensor) and result.shape[first:] == shape[first:]
    if not (fits and result.is_floating_point()):
        came = short(result)
        if isinstance(result, Tensor):
            came = f"shape {tuple(result.shape)}, {result.dtype}"
        how = "" if pair else "elementwise: "
        raise ArgumentError(
            f"a rule returns a float tensor of the shape of x, here {tuple(shape)}; {name} "
            f"returned {came}. Write it {how}{form}."
        )
    return result


def _version(t: Tensor | None) -> int:
    t = None if t is None else unbatched(t)
    return 0 if t is None or t.is_inference() or compiling() else version(t)


def prepared_by(rule: rules.Rule | None, operation: Operation) -> Sequence[Tensor]:
    """What a rule prepares.

    Raises:
        ArgumentError: that is no sequence of tensors.
    """
    if not rules.is_pair(rule):
        return ()
    made = rule.prepare(operation)
    if not isinstance(made, (tuple, list)) or not all([isinstance(t, Tensor) for t in made]):
        raise ArgumentError(
            f"prepare of a rule returns a tuple of tensors, which may be empty; that of "
            f"{type(rule).__name__!r} returned {short(made)}."
        )
    return made


class Call(NamedTuple):
    """What a call of a torch function computes, and of which tensors."""

    kind: Kind
    x: Tensor
    tensors: tuple[Tensor | None, ...]
    spelling: str
    in_place: bool = False


# whether a tensor depends on what is explained
Depends = Callable[[Tensor], bool]
# (function, args, kwargs, depends) -> the call taken apart, or None where it is none of our kinds
Recognise = Callable[[Callable[..., Any], Args, Kwargs, Depends], Call | None]


def by_name(defaults: Kwargs, args: Args, kwargs: Kwargs) -> Kwargs:
    """All arguments of a call by their names."""
    return {**defaults, **dict(zip(defaults, args)), **kwargs}


def per_dim(value: Any, dims: int) -> tuple[int, ...]:
    """A size for each dim, from a number for all or one for each."""
    values = (int(value),) if hasattr(value, "__index__") else tuple(value)
    return values * dims if len(values) == 1 else values
