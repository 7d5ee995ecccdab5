"""Which of a call's arguments are explained."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..core.layout import broadcasts
from ..errors import ArgumentError, short

Argnums = int | tuple[int, ...]
_VALUES = (Tensor, int, float)


class Chosen:
    """The arguments that are explained, as a flat list of their float tensors."""

    def __init__(self, args: tuple[Any, ...], argnums: Argnums) -> None:
        self.args = args
        self._single = isinstance(argnums, int)
        nums = (argnums,) if isinstance(argnums, int) else argnums
        self.nums = [_wrapped(n, len(args)) for n in nums]
        if len(set(self.nums)) < len(self.nums):
            raise ArgumentError(f"argnums names each argument once; got {argnums}.")
        self._trees = {n: _Tree(args[n], n) for n in self.nums}
        self.floats = [t for tree in self._trees.values() for t in tree.floats]

    def places(self, nums: Sequence[int]) -> list[int]:
        """Where in ``floats`` the tensors of some of the arguments are."""
        starts, count = {}, 0
        for n, tree in self._trees.items():
            starts[n] = count
            count += len(tree.floats)
        return [starts[n] + i for n in nums for i in range(len(self._trees[n].floats))]

    def args_with(self, floats: Sequence[Tensor]) -> tuple[Any, ...]:
        """All arguments, with other tensors in the place of those explained."""
        args, given = list(self.args), iter(floats)
        for n, tree in self._trees.items():
            args[n] = tree.filled(given, tree.leaves)
        return tuple(args)

    def baselines(self, baseline: Any) -> list[Tensor]:
        """What each tensor that is explained is compared with, of its shape.

        ``baseline`` is None for zeros, a number, or what the argument is; of several arguments, one
        number or a tuple of these.
        """
        trees = list(self._trees.values())
        if self._single or baseline is None or isinstance(baseline, _VALUES):
            each = [baseline] * len(trees)
        elif isinstance(baseline, (tuple, list)) and len(baseline) == len(trees):
            each = list(baseline)
        else:
            raise ArgumentError(
                f"baseline of {len(trees)} arguments is one number, or a tuple with what each of "
                f"them is compared with; got {short(baseline)}."
            )
        given = [b for part, tree in zip(each, trees) for b in tree.baselines(part)]
        bad = [b for b in given if not isinstance(b, Tensor) and not _is_finite(b)]
        if bad:
            raise ArgumentError(f"a baseline is made of finite numbers; got {bad[0]}.")
        starts = []
        for b, x in zip(given, self.floats):
            start = torch.as_tensor(b, dtype=x.dtype, device=x.device)
            if not broadcasts(start, x.shape):
                raise ArgumentError(
                    f"a baseline broadcasts to its input, of shape {tuple(x.shape)}; got "
                    f"{tuple(start.shape)}."
                )
            starts.append(start.expand(x.shape))
        return starts

    def maps(self, grads: Sequence[Tensor | None]) -> Any:
        """What `Attribution` returns: in the form of the arguments."""
        given = iter(grads)
        trees = self._trees.values()
        maps = tuple([tree.filled(given, [None] * len(tree.leaves)) for tree in trees])
        return maps[0] if self._single else maps


class _Tree:
    """One argument: its leaves, and which of them are float tensors."""

    def __init__(self, value: Any, n: int) -> None:
        self.spec = None
        self.leaves = [value]
        if not isinstance(value, Tensor):
            self.leaves, self.spec = tree_flatten(value)
        self.where = [i for i, leaf in enumerate(self.leaves) if _is_float(leaf)]
        if not self.where:
            came = ", ".join(map(_described, self.leaves[:3])) or "nothing"
            raise ArgumentError(
                f"argument {n} is explained, so it has to hold a float tensor; got {came}. "
                "Convert it (x.float(), torch.as_tensor(x)), explain another argument with "
                "argnums=, or explain the output of an embedding layer: "
                "funcattr.over_embeddings(model) takes token ids."
            )
        self.floats: list[Tensor] = [self.leaves[i] for i in self.where]

    def baselines(self, baseline: Any) -> list[Any]:
        """What a baseline has in the places of the float tensors."""
        found: list[Any] = [None] * len(self.leaves)
        places = list(range(len(self.leaves)))
        where = places[0] if self.spec is None else tree_unflatten(places, self.spec)
        _fill(found, where, baseline, set(self.where))
        return [0.0 if found[i] is None else found[i] for i in self.where]

    def filled(self, floats: Iterator[Any], rest: Sequence[Any]) -> Any:
        """The argument with others in the place of its float tensors, and ``rest`` elsewhere."""
        leaves = list(rest)
        for i in self.where:
            leaves[i] = next(floats)
        return leaves[0] if self.spec is None else tree_unflatten(leaves, self.spec)


def _fill(found: list[Any], where: Any, baseline: Any, floats: Set[int]) -> None:
    """Puts the parts of a baseline into ``found``, at the numbers that ``where`` has instead.

    Only ``floats`` of these numbers count.
    """
    places = set(tree_flatten(where)[0]) & floats
    if not places:
        return
    if baseline is None or isinstance(baseline, _VALUES):
        for place in places:
            found[place] = baseline
        return
    mappings = isinstance(where, Mapping) and isinstance(baseline, Mapping)
    if mappings and baseline.keys() <= where.keys():
        missing = [part for key, part in where.items() if key not in baseline]
        if floats.isdisjoint(tree_flatten(missing)[0]):
            for key, part in baseline.items():
                _fill(found, where[key], part, floats)
            return
    if mappings:
        raise ArgumentError(
            f"baseline has the keys of what is explained, {', '.join(map(repr, where))}; got "
            f"{', '.join(map(repr, baseline)) or 'none'}."
        )
    lists = isinstance(where, (tuple, list)) and isinstance(baseline, (tuple, list))
    if lists and len(where) == len(baseline):
        for part, other in zip(where, baseline):
            _fill(found, part, other, floats)
        return
    leaves, spec = tree_flatten(baseline)
    if isinstance(where, int) or spec != tree_flatten(where)[1]:
        like = "a tensor" if isinstance(where, int) else f"a {type(where).__name__}"
        like += f" of {len(where)}" if lists else ""
        raise ArgumentError(
            f"baseline has the form of what is explained, {like}, or a number or None in its "
            f"place; got {short(baseline)}. An array goes in by torch.as_tensor."
        )
    for place, leaf in zip(tree_flatten(where)[0], leaves):
        found[place] = leaf


def check_argnums(argnums: Argnums) -> None:
    """Raises where ``argnums`` is no int and no tuple of ints."""
    nums = argnums if isinstance(argnums, tuple) else (argnums,)
    if not nums or not all(isinstance(n, int) and not isinstance(n, bool) for n in nums):
        raise ArgumentError(f"argnums is an int or a tuple of ints; got {argnums!r}.")


def _wrapped(n: int, count: int) -> int:
    if not -count <= n < count:
        raise ArgumentError(
            f"what is explained is passed by position: argnums={n} names no argument, the call has "
            f"{count} positional argument{'s' if count != 1 else ''}."
        )
    return n % count


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}"
    return f"a {type(value).__name__}"
