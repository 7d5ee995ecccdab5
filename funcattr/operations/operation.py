"""Kinds of operations, a call taken apart, and the operation as rules see it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from .. import rules
from ..core import layout
from ..errors import ArgumentError

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

    #: Whether its derivative by ``x`` depends on ``x``; if not, ``x`` need not be saved.
    reads_x: ClassVar[bool] = True
    #: Whether its other tensors have no batch, so that any number of examples can be pulled.
    any_batch: ClassVar[bool] = True
    #: Whether its value, and the true derivative, are those of its first other tensor; only rules
    #: go by ``x`` (see `kinds.stand_in`).
    stands_in: ClassVar[bool] = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names by which a composite finds it, the most special first."""
        return ()

    @property
    def quick(self) -> bool:
        """Whether many cotangents pass it quicker by its `pull` than by torch's own derivative."""
        return False

    def quick_once(self, *tensors: Tensor | None) -> bool:
        """Whether a single cotangent does so, too."""
        return False

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

    def as_ruled(self, operation: Operation) -> Operation:
        """An operation of this kind as rules see it."""
        return operation

    def weights(self, *tensors: Any) -> tuple[Tensor, Tensor | None] | None:
        """Weight and bias, in ``value(x, *with_weights(weight, bias))``; None without a weight."""
        return None

    def with_weights(self, weight: Tensor, bias: Tensor | None) -> Tensors:
        """The ``tensors`` of an operation by this weight and bias; see `weights`."""
        return weight, bias


def _with(values: Sequence[Any], places: Sequence[int], some: Sequence[Any]) -> list[Any]:
    result = list(values)
    for i, value in zip(places, some):
        result[i] = value
    return result


class Operation:
    """One call of a torch function in a forward pass, as a rule sees it.

    ``x`` is the tensor that a rule acts on (None where neither the derivative nor the rule reads
    it), ``shape`` its shape, ``tensors`` are the others, and ``path`` is that of the module which
    makes the call, where it is known. ``reference`` is the same operation as it is for a baseline,
    for rules that ask for it by an attribute ``compares = True``. ``alone`` says that no graph of
    what is done now is made, so that what is fresh can be written over.
    """

    __slots__ = (
        *("_keep", "_known", "_nonnegative"),
        *("alone", "kind", "path", "reference", "shape", "tensors", "x"),
    )

    def __init__(
        self,
        kind: Kind,
        x: Tensor | None,
        tensors: Tensors,
        shape: Shape,
        keep: Keep | None = None,
        alone: bool = False,
        path: str = "",
        known: Tensor | None = None,
        nonnegative: Callable[[], bool] | None = None,
        reference: Operation | None = None,
    ) -> None:
        self.reference = reference
        self.kind, self.x, self.tensors, self.shape = kind, x, tensors, shape
        self._keep, self.alone, self.path = keep, alone, path
        self._known, self._nonnegative = known, nonnegative

    def of_kind(self, kind: Kind, tensors: Tensors, known: Tensor | None) -> Operation:
        """The same call, as one of another kind; ``known`` is its value."""
        return Operation(
            kind,
            self.x,
            tensors,
            self.shape,
            self._keep,
            self.alone,
            self.path,
            known,
            self._nonnegative,
            self.reference,
        )

    def beside(self, reference: Operation | None) -> Operation:
        """The same call, with what it is for a baseline."""
        if reference is None:
            return self
        same = self.of_kind(self.kind, self.tensors, self._known)
        same.reference = reference
        return same

    @property
    def where(self) -> str:
        """What it is and where, for errors."""
        at = f" of {self.path!r}" if self.path else ""
        return f"the {self.kind.names[0] if self.kind.names else 'operation'}{at}"

    @property
    def weight(self) -> Tensor:
        """The weight of a linear operation, dense where the model's is sparse.

        Raises:
            ArgumentError: it has none.
        """
        return layout.dense(self._weights()[0])

    @property
    def bias(self) -> Tensor | None:
        """The bias, None where there is none."""
        found = self.kind.weights(*self.tensors)
        return None if found is None else found[1]

    def _weights(self) -> tuple[Tensor, Tensor | None]:
        found = self.kind.weights(*self.tensors)
        if found is None:
            raise ArgumentError(
                f"the rule is for operations with a weight (convolutions, linear layers), which "
                f"{self.where} has not; rules.epsilon() and rules.pass_through need none."
            )
        return found

    def linear(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        x: Tensor | None = None,
        name: Any = None,
    ) -> Operation:
        """The same operation by another weight and bias, of ``x`` where that is given.

        ``name``, where given, names the weight: what is derived of it is then kept for further
        backward passes, see `keep`.
        """
        self._weights()
        keep = self._keep_apart(name)
        tensors = self.kind.with_weights(weight, bias)
        here = self.x if x is None else x
        return Operation(self.kind, here, tensors, self.shape, keep, self.alone, self.path)

    def by(self, name: Any, tensors: Tensors) -> Operation:
        """The same operation by other tensors; ``name`` as for `linear`."""
        keep = self._keep_apart(name)
        return Operation(self.kind, self.x, tensors, self.shape, keep, self.alone, self.path)

    def _keep_apart(self, name: Any) -> Keep | None:
        outer = self._keep
        if name is None or outer is None:
            return None
        return lambda key, make: outer((name, key), make)

    def nonnegative(self) -> bool:
        """Whether ``x`` is known to have no negative number, for all inputs or for this one."""
        return self._nonnegative is not None and self._nonnegative()

    def value(self) -> Tensor:
        """The output."""
        if self._known is not None:
            return self._known
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


class Call(NamedTuple):
    """What a call of a torch function computes, and of which tensors."""

    kind: Kind
    x: Tensor
    tensors: tuple[Tensor | None, ...]
    spelling: str
    in_place: bool = False
    #: The tensor that a call in place writes to, where it is not ``x``.
    written: Tensor | None = None
    #: The class of the module, where the call is that of a whole one.
    module: type | None = None
    #: Of an operation of several tensors with parts of a rule: their roles, and where they stand
    #: among the arguments.
    operands: tuple[tuple[str, int | str], ...] = ()


Depends = Callable[[Tensor], bool]  # on what is explained
# (function, args, kwargs, depends) -> the call taken apart, or None where it is none of our kinds
Recognise = Callable[[Callable[..., Any], Args, Kwargs, Depends], Call | None]


def by_name(defaults: Kwargs, args: Args, kwargs: Kwargs) -> Kwargs:
    """All arguments of a call by their names."""
    return {**defaults, **dict(zip(defaults, args)), **kwargs}


def per_dim(value: Any, dims: int) -> tuple[int, ...]:
    """A size for each dim, from a number for all or one for each."""
    values = (int(value),) if hasattr(value, "__index__") else tuple(value)
    return values * dims if len(values) == 1 else values
