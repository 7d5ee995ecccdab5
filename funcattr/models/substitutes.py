"""What stands in the place of a model's own tensors, wherever they are used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ..core.trees import leaves
from ..errors import ArgumentError
from ..operations.operation import Args, Kwargs


class Substitutes:
    """Puts others in the place of some tensors, wherever these stand among the arguments of a call.

    Every use of a tensor passes the mode, whoever holds it: a module that a `Copy` did not find, or
    a function that closes over a model.

    Args:
        swap: what stands for a tensor, by its identity.
        kept: the identities of tensors that are left as they are.
        detach: whether parameters are cut off from their graph. Nobody explains them, and weight
            gradients that nobody asked for cost a multiple of a backward pass.
        given: the identities of those in whose place a caller's own parameters stand.
    """

    def __init__(
        self,
        swap: dict[int, Tensor],
        kept: set[int],
        detach: bool,
        given: frozenset[int] = frozenset(),
    ) -> None:
        self._swap, self._kept, self._given, self._detach = swap, kept, given, detach
        #: Whether a module ran that a `Copy` did not find.
        self.escaped = False
        self._alive: list[Tensor] = []  # an identity holds as long as its object

    def __call__(self, args: Args, kwargs: Kwargs, inside: bool = False) -> tuple[Args, Kwargs]:
        """The arguments to go on with; ``inside`` the ``forward`` of an autograd.Function or not.

        Raises:
            ArgumentError: an autograd.Function got a tensor itself for which another stands.
        """
        if self._touches(args) or (kwargs and self._touches(kwargs.values())):
            if inside and self._given and not self._given.isdisjoint(_identities(args, kwargs)):
                raise ArgumentError(
                    "an autograd.Function uses a parameter of the model by a reference that cannot "
                    "be followed, so that its backward would go by the model's own in the place of "
                    "the one that was given. Hold the module that calls it as an attribute of the "
                    "model."
                )
            args = tuple(map(self._replaced, args))
            kwargs = {name: self._replaced(value) for name, value in kwargs.items()}
        return args, kwargs

    def _touches(self, values: Iterable[Any]) -> bool:
        for value in values:
            if isinstance(value, Tensor):
                if id(value) in self._swap or type(value) is nn.Parameter:
                    return True
            elif isinstance(value, (list, tuple)) and self._touches(value):
                return True
        return False

    def _replaced(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            other = self._stands_for(value)
            return value if other is None else other
        if type(value) is list or type(value) is tuple:
            return type(value)(map(self._replaced, value))
        return value

    def _stands_for(self, tensor: Tensor) -> Tensor | None:
        found = self._swap.get(id(tensor))
        self.escaped = self.escaped or found is not None
        ours = self._detach and type(tensor) is nn.Parameter and tensor.requires_grad
        if found is None and ours and id(tensor) not in self._kept:
            self._alive.append(tensor)
            found = self._swap[id(tensor)] = tensor.detach()
        return found


def _identities(args: Args, kwargs: Kwargs) -> set[int]:
    return {id(leaf) for leaf in leaves((args, kwargs))}
