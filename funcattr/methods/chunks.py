"""The chunks of a sweep, in eager and compiled."""

from __future__ import annotations

import ast
import contextlib
import functools
import math
import operator
import re
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from .. import errors
from ..core.contexts import tracked
from ..core.graph import check_compiler
from ..core.levels import compiling, transforming
from ..core.memory import Largest, fitting, keep_blocks
from ..core.private import is_wrapped
from ..core.trees import stacked
from ..cotangents import check_range, check_range_on_gpu
from ..display.progress import bar
from ..engine.mapped import Reduce, mapped, reduced
from ..errors import ArgumentError, FuncattrError, check_flags
from ..models.unwritten import Undo, models_in
from ..operations.tape import Tape
from ..targets import OneOf, Target, as_tensor, encode_all, settled
from .attribution import Attribution, Method, OnePass, PerToken

Targets = Sequence[Target] | Tensor | np.ndarray[Any, Any] | range
ChunkSize = int | str | None
Compile = bool | str
MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")

_OURS = "Funcattr|Argument|NoSite|NoMatch|HiddenSite|Target|Layer"
# As it is, or quoted in an error of torch's.
_QUOTED = r"\(\\?('|\")(.*?)\\?\2\)(?:['\"]\))?$"
_TOLD = re.compile(rf"(?m)(?:raised exception|got) ((?:{_OURS})Error){_QUOTED}")
AUTO_LIMIT = 256  # targets at once, beyond which a sweep gains nothing more


class Sweep:
    """One call of `funcattr.sweep` or `funcattr.stream`."""

    def __init__(
        self,
        attr: Attribution,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        targets: Targets,
        chunk_size: ChunkSize,
        reduce: Reduce | None,
        compile: Compile,
    ) -> None:
        if not isinstance(attr, Attribution):
            raise ArgumentError(
                "attr is an Attribution (funcattr.guided_backprop(model), say; several go in "
                "funcattr.bundle, and compile=True takes the place of torch.compile(attr)); got a "
                f"{type(attr).__name__}."
            )
        self.attr, self.args, self.kwargs = attr, args, kwargs
        self.reduce = reduce
        self.targets = as_tensor(targets) if isinstance(targets, np.ndarray) else targets
        self.index = encode_all(self.targets)
        if not isinstance(self.targets, (Tensor, range, list, tuple)):
            self.targets = list(self.targets)  # a deque has no slices
        self.compile = False if compiling() else checked_compile(compile)
        if self.compile and self.index is None:
            raise ArgumentError(
                "compile=True needs targets of one form that are no callables; sweep them with "
                "compile=False."
            )
        self.chunk_size = checked_chunk_size(chunk_size)
        if reduce is not None and not callable(reduce):
            raise ArgumentError(f"reduce is a function of one map; got {reduce!r}.")

    def chunks(self, progress: bool) -> Iterator[tuple[Any, Any]]:
        """Slices of the targets, and their maps."""
        count = len(self.targets)
        run, size = self._compiled() if self.compile else self._eager()
        size = min(size or count, count)
        with bar(count, "target", progress, 1.0) as shown:
            for start in range(0, count, size):
                stop = min(start + size, count)
                yield self.targets[start:stop], run(start, stop, size)
                shown.update(stop - start)

    def _eager(self) -> tuple[Callable[[int, int, int], Any], int | None]:
        size = None if isinstance(self.chunk_size, str) else self.chunk_size
        if _device(self.args).type == "cpu" and not compiling():
            keep_blocks()
        if self.chunk_size == "auto":
            with Largest() as largest:
                out, explain = self.attr.linearize(*self.args, **self.kwargs)
            size = fitting(largest, self.args, AUTO_LIMIT)
            chunks = -(-len(self.targets) // size)
            size = -(-len(self.targets) // chunks)  # of one size, as far as they can be
        else:
            out, explain = self.attr.linearize(*self.args, **self.kwargs)
        index = None if self.index is None else settled(self.targets, self.index, out)
        known = self.attr.method is not None  # others may ask of a target what it is

        def run(start: int, stop: int, size: int) -> Any:
            if index is not None:
                check_range_on_gpu(out, index[start:stop])
                return mapped(explain, self.reduce, index[start:stop])
            own: Any = self.targets[start:stop]
            if all(map(callable, own)) and isinstance(out, Tensor) and not compiling() and known:
                with contextlib.suppress(RuntimeError, FuncattrError):  # what needs no torch.vmap
                    numbers = torch.arange(len(own), device=out.device)
                    return mapped(explain, self.reduce, numbers, functools.partial(OneOf, own))
            return stacked([reduced(explain(t), self.reduce) for t in own], torch.stack)

        return run, size

    def _compiled(self) -> tuple[Callable[[int, int, int], Any], int | None]:
        assert self.index is not None
        models, once = models_in(self.attr), _runs_once(self.attr.method)
        undo = Undo(models)  # of a function's model, which has no copy in eager
        with Largest() as largest:
            out, tape = self._taped()
        undo()
        whole = settled(self.targets, self.index, out)
        check_range(out, whole)
        whole = whole.to(_device(out))  # a CUDA graph reads nothing of the CPU's
        size = None if isinstance(self.chunk_size, str) else self.chunk_size
        if self.chunk_size == "auto":
            # Of few sizes, since each is compiled; smaller, since what it does between convolutions
            # is little but a pass over memory.
            size = fitting(largest, self.args, AUTO_LIMIT, 2**24)
            size = 2 ** round(math.log2(size))
        mode = self.compile if isinstance(self.compile, str) else None
        facts = tape[1] if tape is not None else []
        run = _compiled_chunk(self.attr, mode, tape is not None, facts)

        def padded(start: int, stop: int, size: int) -> Any:
            # The last chunk repeats a target, to be of the shape that is compiled.
            index = whole[torch.arange(start, start + size).clamp(max=len(whole) - 1)]
            undo = Undo(models)
            try:
                maps = run(self.reduce, index, tape, self.args, self.kwargs)
            except Exception as error:
                raise _cause(error) from None
            finally:
                written = undo()
            if written and not once:
                raise FuncattrError(
                    "the model writes to attributes of its own as it runs, and several forward "
                    f"passes go into a map of {self.attr!r}; compiled, each would see what the "
                    "last one wrote. Sweep it with compile=False, where each has a copy."
                )
            # A CUDA graph writes the next chunk to where this one is.
            own: Callable[[Tensor], Tensor] = (lambda m: m) if mode is None else torch.clone
            return tree_map(lambda m: None if m is None else own(m[: stop - start]), maps)

        return padded, size

    def _taped(self) -> tuple[Any, tuple[list[Tensor], list[bool]] | None]:
        """The output of a forward pass in eager, and its tape, where a graph can go by that."""
        method, tape = self.attr.method, Tape(before=self.attr.facts)
        if (
            not isinstance(method, OnePass)
            or method.plans
            or method.ruled.plan.composite.classes()  # what is in a module has no order of its own
            or transforming()
            or tracked((self.args, self.kwargs))
        ):
            return self.attr.linearize(*self.args, **self.kwargs)[0], None
        device = _device(self.args)
        state = _random_state(device)
        out, _ = method.taped(self.args, self.kwargs, False, tape)
        self.attr.facts[:] = tape.facts
        # A forward pass in the graph would draw other numbers, and of what the model itself runs
        # under torch.vmap nothing is left.
        goes = torch.equal(state, _random_state(device)) and not any(map(is_wrapped, tape.tensors))
        return out, (tape.tensors, tape.facts) if goes else None


def _runs_once(method: Method | None) -> bool:
    """Whether compiled code of a method is known to have a single forward pass."""
    if isinstance(method, PerToken):
        method = method.method
    one = isinstance(method, OnePass) and method.pulls == 1
    return one and method.ruled.plan.baseline is None  # type: ignore[union-attr]


def _device(args: Any) -> torch.device:
    tensors = [t for t in tree_flatten(args)[0] if isinstance(t, Tensor)]
    return tensors[0].device if tensors else torch.device("cpu")


def _random_state(device: torch.device) -> Tensor:
    """The state of all generators that a model on this device may draw from."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


def _compiled_chunk(
    attr: Attribution, mode: str | None, taped: bool, facts: Sequence[bool]
) -> Callable[..., Any]:
    """A compiled function from encoded targets to their maps, kept with the attribution."""
    check_compiler()

    def chunk(reduce: Reduce | None, index: Tensor, tape: Any, args: Any, kwargs: Any) -> Any:
        if taped:
            assert isinstance(attr.method, OnePass)
            explain = attr.method.taped(args, kwargs, False, Tape(*tape))[1]
        else:
            explain = attr.linearize(*args, **kwargs)[1]
        return mapped(explain, reduce, index)

    key = (mode, taped, *facts)
    found: Callable[..., Any] | None = attr.compiled.get(key)
    if found is None:
        # The compiler counts how often it has compiled a code object, and soon refuses to; so each
        # attribution has one of its own.
        own = types.FunctionType(chunk.__code__.replace(), globals(), closure=chunk.__closure__)
        found = attr.compiled[key] = torch.compile(own, fullgraph=True, mode=mode)
    return found


def _cause(error: BaseException) -> BaseException:
    """The error of ours that the compiler has wrapped; without one, what it raised, in words."""
    inside: BaseException | None = error
    while inside is not None and not isinstance(inside, FuncattrError):
        inside = inside.__cause__ or inside.__context__
    if inside is not None or not type(error).__module__.startswith("torch."):
        return inside or error
    told = _TOLD.search(str(error))  # of what is raised in traced code the text alone is left
    if told is not None:
        cls: type[FuncattrError] = getattr(errors, told[1])
        return cls(ast.literal_eval(told[2] + told[3] + told[2]))
    return FuncattrError(
        "torch.compile failed on the sweep of this model, as it does where a model keeps tensors "
        "on itself or takes shapes from values. Sweep it with compile=False, or take that out of "
        f"the model. It said: {error}"
    )


def checked_compile(compile: Compile) -> Compile:
    """``compile``, where it is True, False or a mode of ``torch.compile``.

    Raises:
        ArgumentError: it is something else.
    """
    if not isinstance(compile, str):
        check_flags(compile=compile)
    elif compile not in MODES:
        raise ArgumentError(
            f"compile is True, False or a mode of torch.compile, one of {', '.join(MODES)}; got "
            f"{compile!r}."
        )
    return compile


def checked_chunk_size(size: ChunkSize) -> ChunkSize:
    """``size``, as an int where it is a number.

    Raises:
        ArgumentError: it is no positive int, None or "auto".
    """
    if size is None or (isinstance(size, str) and size == "auto"):
        return size
    try:
        number = 0 if isinstance(size, bool) else operator.index(size)  # type: ignore[arg-type]
    except TypeError:
        number = 0
    if number < 1:
        raise ArgumentError(f"chunk_size is a positive int, None or 'auto'; got {size!r}.")
    return number
