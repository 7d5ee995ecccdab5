"""What a rule is: a pure function of an elementwise operation, or a pair of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import TypeIs

Elementwise = Callable[[Tensor, Tensor], Tensor]


class Pair(Protocol):
    """A rule of two pure functions, for operations whose outputs mix their inputs.

    Both are told the operation (`funcattr.operations.operation.Operation`), with its input ``x``,
    its value and its true derivative. ``prepare`` makes, in the forward pass and once for all
    targets, the tensors that do not depend on the target; they are constants of the rule at its
    level of differentiation, and levels further out see how they are made. ``pull`` maps the
    cotangent of the output to that of ``x``. A rule whose ``pull`` does not use ``operation.x``
    has an attribute ``reads_x = False``, so that ``x`` need not be kept; one with ``merges = True``
    is given a convolution or linear layer together with the batch norm of its output, as one
    operation with one weight and one bias; and one with ``scales = True`` says that ``pull`` is the
    operation's own of a scaled ``g``, and so good for whole modules.

    >>> import torch
    >>> import funcattr as fa
    >>> class Halved:
    ...     def prepare(self, operation):
    ...         return ()
    ...
    ...     def pull(self, operation, g):
    ...         return 0.5 * operation.pull(g)
    >>> layer = torch.nn.Linear(3, 2)
    >>> halved = fa.gradient(fa.with_rules(layer, fa.Composite([("linear", Halved())])))
    >>> torch.equal(2 * halved(torch.ones(1, 3), target=0)[0], layer.weight[0])
    True
    """

    def prepare(self, operation: Any) -> Sequence[Tensor]:
        """The tensors that do not depend on the target."""

    def pull(self, operation: Any, g: Tensor, *prepared: Tensor) -> Tensor | None:
        """The cotangent of ``x``; None where nothing passes."""


Rule = Elementwise | Pair


class Plain:
    """A rule that is a frozen dataclass of plain values, which compiled code holds as it is."""


def is_pair(rule: Any) -> TypeIs[Pair]:
    """Whether a rule is a pair of functions rather than one.

    Args:
        rule: any object.

    Returns:
        Whether it has ``prepare`` and ``pull``.

    >>> import funcattr as fa
    >>> is_pair(fa.rules.epsilon()), is_pair(fa.rules.guided)
    (True, False)
    """
    return hasattr(rule, "prepare") and hasattr(rule, "pull")


def makes_rules(value: Any) -> bool:
    """Whether it is a function of this package's that makes a rule, and is none."""
    ours = getattr(value, "__module__", "") == f"{__package__}.relevance"
    return ours and isinstance(value, FunctionType)
