"""`Attribution`, and what one is made of."""

from __future__ import annotations

import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..core.levels import vmapping
from ..engine.layer_output import LayerOutput
from ..engine.linearize import Linearized, linearize
from ..engine.output import Output, Part, check_part
from ..engine.ruled import Ruled, check_func
from ..engine.run import Plan
from ..engine.unbroken import unbroken
from ..errors import ArgumentError, FuncattrError, short
from ..models.arguments import Argnums, Chosen
from ..models.embeddings import Embedded, OverEmbeddings
from ..models.functional import Inside, module_of
from ..models.layer import Layer, tapped
from ..operations.composite import Composite
from ..operations.operation import Args, Kwargs
from ..operations.tape import Tape
from ..rules import floored
from ..targets import Target

__all__ = ["Attribution", "Explain", "Method", "OnePass"]

Explain = Callable[..., Any]

_TARGETS = ("target", "targets")
_SHOWN = 8  # rows of a composite in a repr


class Tokens(NamedTuple):
    """A model of token ids, and which of its arguments are explained."""

    model: OverEmbeddings
    nums: tuple[int, ...]


class Method(ABC):
    """What an attribution of this library does: forward passes, then maps of targets."""

    @abstractmethod
    def linearize(self, args: Args, kwargs: Kwargs, once: bool = False) -> tuple[Any, Explain]:
        """For `Attribution`; ``once`` says that a single target will be explained."""

    @property
    def called(self) -> str:
        """The name of the function that made it."""
        return re.sub("(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    def described(self) -> str:
        """What it is of, and how, for a repr."""
        return ""

    @property
    def tokens(self) -> Tokens | None:
        """Which arguments are token ids, of a model `over_embeddings`."""
        return None

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, Explain]:
        try:
            return self.linearize(args, kwargs)
        except TypeError as error:
            if not isinstance(error, FuncattrError) and not kwargs.keys().isdisjoint(_TARGETS):
                raise ArgumentError(
                    "linearize takes what the function takes; a target goes to the explain that it "
                    "returns: out, explain = attr.linearize(x); explain(3). Several go in "
                    f"funcattr.sweep(attr, x, targets=...). {error}"
                ) from error
            raise


@dataclass(frozen=True)
class OnePass(Method):
    """A method of a single forward pass, which others of the same function can share.

    Args:
        ruled: the function, and the composite of its first backward pass.
        argnums: which arguments are explained, None for none.
        layers: where else a derivative is taken.
        at_input: whether that is at what goes into the layers.
        plans: composites of further backward passes.
    """

    ruled: Ruled
    argnums: Argnums | None = None
    layers: tuple[Layer, ...] = ()
    at_input: bool = False
    plans: tuple[Plan, ...] = ()

    def linearize(self, args: Args, kwargs: Kwargs, once: bool = False) -> tuple[Any, Explain]:
        return self.taped(args, kwargs, once, None)

    def described(self) -> str:
        composites = [self.ruled.plan.composite, *(plan.composite for plan in self.plans)]
        rows = [text for composite in composites for text in composite.texts()]
        more = [f"and {len(rows) - _SHOWN} more"] if len(rows) > _SHOWN else []
        layers = ", ".join(_layer_name(self.ruled.func, layer) for layer in self.layers)
        parts = [_name(self.ruled.func), ", ".join(rows[:_SHOWN] + more)]
        parts += [f"at {'what goes into ' * self.at_input}{layers}" if layers else ""]
        return "; ".join(part for part in parts if part)

    @property
    def pulls(self) -> int:
        """How many backward passes a target takes."""
        return 1 + len(self.plans)

    @property
    def tokens(self) -> Tokens | None:
        func: Any = self.ruled.func
        while isinstance(func, Inside) and not isinstance(func, OverEmbeddings):
            func = func.func
        if self.argnums is None or not isinstance(func, OverEmbeddings):
            return None
        return Tokens(func, self.argnums if isinstance(self.argnums, tuple) else (self.argnums,))

    @abstractmethod
    def explain(self, done: Linearized, chosen: Chosen | None) -> Explain:
        """Makes of a forward pass, and the arguments that are explained, what maps a target."""

    def taped(
        self, args: Args, kwargs: Kwargs, once: bool, tape: Tape | None
    ) -> tuple[Any, Explain]:
        """`linearize`, with a tape for a compiled sweep."""
        chosen = None if self.argnums is None else Chosen(args, self.argnums)
        func, plans = self.ruled.func, (self.ruled.plan, *self.plans)
        taps = [tapped(func, layer) for layer in self.layers]
        at_input, pulls = self.at_input, self.pulls if once else None
        done = linearize(
            func, plans, args, kwargs, chosen, taps, at_input=at_input, pulls=pulls, tape=tape
        )
        return done.out, self.explain(done, chosen)


@dataclass(frozen=True)
class PerToken(Method):
    """A method of embeddings, for ids; its maps have a number for each of them."""

    method: Method
    tokens: Tokens | None = None

    @property
    def called(self) -> str:
        return self.method.called

    def described(self) -> str:
        return self.method.described()

    def linearize(self, args: Args, kwargs: Kwargs, once: bool = False) -> tuple[Any, Explain]:
        assert self.tokens is not None
        embedded = self.tokens.model.embedded(args, self.tokens.nums)
        out, explain = self.method.linearize(embedded, kwargs, once)
        if all(a is b for a, b in zip(args, embedded)):  # by another method, which goes on with it
            return out, explain
        return out, lambda target: self._per_token(explain(target))

    def _per_token(self, maps: Any) -> Any:
        assert self.tokens is not None
        if isinstance(maps, Embedded):
            return maps.embeddings.sum(-1) if self.tokens.model.per_token else maps.embeddings
        return tuple(map(self._per_token, maps)) if isinstance(maps, tuple) else maps


def ruled(func: Callable[..., Any], output: Part | None = None) -> Ruled:
    """``func``, or a part of its output, as a function with rules, of which it may have none."""
    check_func(func)
    function = func if isinstance(func, Ruled) else Ruled(func, Plan(Composite(()), False))
    if output is None:
        return function
    check_part(output)
    return Ruled(Output(function.func, output), function.plan)


def _name(func: Callable[..., Any]) -> str:
    """How a model or a function is called."""
    if isinstance(func, LayerOutput):
        layers = ", ".join(_layer_name(func.func, layer) for layer in func.layers)
        return f"{_name(func.func)} up to {layers}"
    if isinstance(func, (Ruled, Output)):
        part = f" [{func.part!r}]" if isinstance(func, Output) else ""
        return _name(func.func) + part
    module = module_of(func)
    if module is not None:
        return type(module).__name__
    return getattr(func, "__qualname__", type(func).__name__).rpartition("<locals>.")[2]


def _layer_name(func: Callable[..., Any], layer: Layer) -> str:
    """The path of a layer; where the model has changed, its class."""
    model = module_of(func)
    if isinstance(layer, str) or model is None:
        return repr(layer)
    paths = [name for name, module in model.named_modules() if module is layer]
    return repr(paths[0]) if paths else type(layer).__name__


def times(function: Ruled) -> Callable[[Tensor, Tensor], Tensor]:
    """How a map is made of a gradient and what it is taken by.

    Some rules of relevance divide by that, and give a part to what is 0 as well.
    """
    return _times_floored if function.plan.composite.ignores_x else operator.mul


def _times_floored(g: Tensor, x: Tensor) -> Tensor:
    return g * floored(x)


@dataclass(frozen=True, repr=False)
class Attribution:
    """A method of attribution, bound to a model: ``attr(*args, target=None, **kwargs)``.

    It is pure, and composes with ``torch.func`` and ``torch.compile`` in any order. ``linearize``
    does its forward pass once and for all targets:

    >>> import torch
    >>> import funcattr as fa
    >>> attr = fa.gradient(torch.nn.Linear(4, 10))
    >>> out, explain = attr.linearize(torch.ones(2, 4))
    >>> out.shape, torch.vmap(explain)(torch.arange(10)).shape
    (torch.Size([2, 10]), torch.Size([10, 2, 4]))
    >>> attr
    <gradient of Linear>

    Args:
        linearize: ``(*args, **kwargs) -> (out, explain)``: the output of the model, and a pure
            function from a target to the maps.
        method: for attributions of this library, what they are made of.
    """

    linearize: Callable[..., tuple[Any, Explain]]
    method: Method | None = None
    compiled: dict[tuple[object, ...], Any] = field(default_factory=dict, init=False, compare=False)

    #: What compiled code has gone by, of what was seen of values.
    facts: list[bool] = field(default_factory=list, init=False, compare=False)

    def __post_init__(self) -> None:
        if not callable(self.linearize) or isinstance(self.linearize, nn.Module):
            raise ArgumentError(
                "an Attribution is made of a function, (*args, **kwargs) -> (out, explain); got "
                f"{short(self.linearize)}. For a model there is funcattr.gradient(model)."
            )

    @classmethod
    def by(cls, method: Method) -> Attribution:
        """The attribution of a method."""
        tokens = method.tokens
        if tokens is not None and not isinstance(method, PerToken):
            method = PerToken(method, tokens)
        return cls(method, method)

    def __repr__(self) -> str:
        if self.method is None:
            return f"<Attribution by {_name(self.linearize)}>"
        described = self.method.described()
        return f"<{self.method.called}{' of ' if described else ''}{described}>"

    def __getstate__(self) -> dict[str, Any]:
        """All but compiled code, which cannot be pickled and is made again."""
        return {**self.__dict__, "compiled": {}}

    @unbroken
    def __call__(self, *args: Any, target: Target = None, **kwargs: Any) -> Any:
        """The maps for ``target``: ``self.linearize(*args, **kwargs)[1](target)``.

        Raises:
            ArgumentError: the target is among the positional arguments.
        """
        try:
            explain = self.once(args, kwargs)
        except TypeError as error:
            if isinstance(error, FuncattrError):
                raise
            if "targets" in kwargs:
                raise ArgumentError(
                    "several targets go in funcattr.sweep(attr, x, targets=...), or one in "
                    f"attr(x, target=...). {error}"
                ) from error
            if target is None and args and isinstance(args[-1], (int, list, tuple)):
                raise ArgumentError(
                    f"a target goes by its keyword, attr(x, target={args[-1]!r}), and several go "
                    f"in funcattr.sweep; what is positional is the function's own. {error}"
                ) from error
            raise
        return explain(target)

    def once(self, args: Args, kwargs: Kwargs) -> Explain:
        """The ``explain`` of ``linearize``, for a single target."""
        if self.method is None:
            return self.linearize(*args, **kwargs)[1]
        return self.method.linearize(args, kwargs, once=not vmapping())[1]
