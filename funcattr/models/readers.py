"""Who reads a tensor that autograd has no place for."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.trees import leaves
from ..operations.fold import writes

# What reads of a tensor no more than its form, by the names of torch's functions.
_FORMS = frozenset((
        "__get__", "__len__", "size", "dim", "ndimension", "stride", "numel", "nelement",
        "element_size", "type", "get_device", "is_floating_point", "is_complex", "is_contiguous",
        "new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "zeros_like", "ones_like",
        "empty_like", "full_like", "rand_like", "randn_like", "detach", "_is_view",
))  # fmt: skip


class Readers:
    """Notes which calls of layers get tensors that others read as well.

    Only tensors count that depend on nothing that is differentiated: where the derivative by them
    is taken they are replaced by others, which who reads them elsewhere does not get.
    """

    def __init__(self) -> None:
        self._read: dict[int, weakref.ref[Tensor]] = {}  # by identity
        self._replaced: dict[int, tuple[Tensor, tuple[int, int]]] = {}
        #: The layers and their calls whose inputs are read elsewhere.
        self.elsewhere: set[tuple[int, int]] = set()

    def note(self, used: Any, func: Callable[..., Any] | None) -> None:
        """Is shown what a call gets, before it is made."""
        name = getattr(func, "__name__", "")
        if name in _FORMS or not torch.is_grad_enabled():
            return
        tensors = [t for t in leaves(used) if isinstance(t, Tensor)]
        for t in tensors[1:] if func is not None and writes(func) else tensors:
            if t.requires_grad or not t.is_floating_point():
                continue
            if id(t) in self._replaced:
                self.elsewhere.add(self._replaced[id(t)][1])
            else:
                self._read[id(t)] = weakref.ref(t)

    def read(self, tensors: Sequence[Tensor]) -> bool:
        """Whether one of these has been read."""
        found = [self._read.get(id(t), lambda: None)() for t in tensors]
        return any([a is b for a, b in zip(found, tensors)])

    def replaced(self, tensors: Sequence[Tensor], call: tuple[int, int], early: bool) -> None:
        """Says that a call of a layer gets others in the place of these, ``early`` read or not."""
        self._replaced.update((id(t), (t, call)) for t in tensors)
        if early:
            self.elsewhere.add(call)
