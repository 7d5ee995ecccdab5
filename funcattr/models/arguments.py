"""Which of a call's arguments are explained."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..core.layout import broadcasts
from ..errors import ArgumentError

Argnums = int | tuple[int, ...]


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

        ``baseline`` is None for zeros, a number, or what the argument is.
        """
        given = [b for b in tree_flatten(baseline)[0] if isinstance(b, (Tensor, int, float))]
        if baseline is None:
            given = [0.0] * len(self.floats)
        elif len(given) == 1:
            given = given * len(self.floats)
        if len(given) != len(self.floats):
            raise ArgumentError(
                f"baseline has the form of what is explained, with {len(self.floats)} float "
                f"tensor{'s' if len(self.floats) != 1 else ''}, or is one number; got {len(given)} "
                f"values in a {type(baseline).__name__}. An array goes in by torch.as_tensor."
            )
        bad = [b for b in given if not isinstance(b, Tensor) and not math.isfinite(b)]
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

    def filled(self, floats: Iterator[Any], rest: Sequence[Any]) -> Any:
        """The argument with others in the place of its float tensors, and ``rest`` elsewhere."""
        leaves = list(rest)
        for i in self.where:
            leaves[i] = next(floats)
        return leaves[0] if self.spec is None else tree_unflatten(leaves, self.spec)


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


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}"
    return f"a {type(value).__name__}"
