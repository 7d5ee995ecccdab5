"""Which of a call's arguments are explained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from .errors import ArgumentError

Argnums = int | tuple[int, ...]


class Chosen:
    """The arguments that are explained, as a flat list of their float tensors."""

    def __init__(self, args: tuple[Any, ...], argnums: Argnums) -> None:
        self.args = args
        self.single = isinstance(argnums, int)
        nums = (argnums,) if isinstance(argnums, int) else argnums
        self.nums = [_wrapped(n, len(args)) for n in nums]
        if len(set(self.nums)) < len(self.nums):
            raise ArgumentError(f"argnums names each argument once; got {argnums}.")
        self.leaves, self.spec = tree_flatten(tuple(args[n] for n in self.nums))
        self.where = [i for i, leaf in enumerate(self.leaves) if _is_float(leaf)]
        for n in self.nums:
            own = tree_flatten(args[n])[0]
            if not any(map(_is_float, own)):
                came = ", ".join(_described(leaf) for leaf in own[:3]) or "nothing"
                raise ArgumentError(
                    f"argument {n} is explained, so it has to hold a float tensor; got {came}. "
                    "Convert it (x.float(), torch.as_tensor(x)), explain another argument with "
                    "argnums=, or explain the output of an embedding layer."
                )
        self.floats: list[Tensor] = [self.leaves[i] for i in self.where]

    def places(self, nums: Sequence[int]) -> list[int]:
        """Where in ``floats`` the tensors of some of the arguments are."""
        counts = [sum(map(_is_float, tree_flatten(self.args[n])[0])) for n in self.nums]
        return [
            sum(counts[: self.nums.index(n)]) + i
            for n in nums
            for i in range(counts[self.nums.index(n)])
        ]

    def _filled(self, floats: Sequence[Any], rest: Sequence[Any]) -> tuple[Any, ...]:
        leaves = list(rest)
        for i, value in zip(self.where, floats):
            leaves[i] = value
        filled: tuple[Any, ...] = tree_unflatten(leaves, self.spec)
        return filled

    def args_with(self, floats: Sequence[Tensor]) -> tuple[Any, ...]:
        """All arguments, with other tensors in the place of those explained."""
        args = list(self.args)
        for n, value in zip(self.nums, self._filled(floats, self.leaves)):
            args[n] = value
        return tuple(args)

    def maps(self, grads: Sequence[Tensor | None]) -> Any:
        """What `Attribution` returns: in the form of the arguments."""
        maps = self._filled(grads, [None] * len(self.leaves))
        return maps[0] if self.single else maps


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
