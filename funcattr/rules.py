"""Backward rules: what an operation does with a cotangent on its way back.

An *elementwise* rule is a pure function ``(x, g) -> g_in``: it is told the input ``x`` of an
activation and the cotangent ``g`` of its output, both of one shape, and returns the cotangent of
the input, of that shape again. Any function of this form is a rule. `standard`, `guided`,
`deconvnet` and `guided_inclusive` also know what they mean at activations that are no ReLU (`at`).

A rule of a linear operation is a *pair* of pure functions, ``prepare`` and ``pull`` (see `Pair`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from .errors import ArgumentError

if TYPE_CHECKING:
    from typing_extensions import TypeIs

__all__ = [
    "Elementwise",
    "Pair",
    "Plain",
    "Rule",
    "deconvnet",
    "epsilon",
    "guided",
    "guided_inclusive",
    "standard",
]

Elementwise = Callable[[Tensor, Tensor], Tensor]


class Pair(Protocol):
    """A rule of two pure functions, for operations whose outputs mix their inputs.

    Both are told the operation (`funcattr.operations.operation.Operation`), with its input ``x``,
    its value and its true derivative. ``prepare`` makes, in the forward pass and once for all
    targets, the tensors that do not depend on the target; they are constants of the rule at its
    level of differentiation, and levels further out see how they are made. ``pull`` maps the
    cotangent of the output to that of ``x``. A rule whose ``pull`` does not use ``operation.x``
    has an attribute ``reads_x = False``, so that ``x`` need not be kept.
    """

    def prepare(self, operation: Any) -> Sequence[Tensor]:
        """The tensors that do not depend on the target."""

    def pull(self, operation: Any, g: Tensor, *prepared: Tensor) -> Tensor:
        """The cotangent of ``x``."""


Rule = Elementwise | Pair


class Plain:
    """A rule that is a frozen dataclass of plain values, which compiled code holds as it is."""


def is_pair(rule: Any) -> TypeIs[Pair]:
    """Whether a rule is a pair of functions rather than one."""
    return hasattr(rule, "prepare") and hasattr(rule, "pull")


def standard(x: Tensor, g: Tensor) -> Tensor:
    """The true derivative of ReLU: ``g`` where ``x > 0``, else 0.

    Args:
        x: input of the ReLU, any shape.
        g: cotangent of its output, same shape.

    Returns:
        The cotangent of the input, same shape.

    >>> standard(torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([3.0, 3.0, -3.0]))
    tensor([ 0.,  0., -3.])
    """
    # One pass, and a NaN in x lets g pass: both as autograd does it.
    g_in: Tensor = torch.ops.aten.threshold_backward(g, x, 0)
    return g_in


def guided(x: Tensor, g: Tensor) -> Tensor:
    """Guided backpropagation: ``g`` where ``x > 0`` and ``g > 0``, else 0.

    Args:
        x: input of the ReLU, any shape.
        g: cotangent of its output, same shape.

    Returns:
        The cotangent of the input, same shape.

    Springenberg et al., "Striving for Simplicity: The All Convolutional Net" (2015), section 3.4.

    >>> guided(torch.tensor([-1.0, 0.0, 2.0, 2.0]), torch.tensor([3.0, 3.0, 3.0, -3.0]))
    tensor([0., 0., 3., 0.])
    """
    return torch.relu(standard(x, g))


def deconvnet(x: Tensor, g: Tensor) -> Tensor:
    """DeconvNet: ``g`` where ``g > 0``, whatever ``x`` is.

    Args:
        x: input of the ReLU, any shape; only its shape matters.
        g: cotangent of its output, same shape.

    Returns:
        The cotangent of the input, same shape.

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (2014), section 2.1.

    >>> deconvnet(torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([3.0, -3.0, 3.0]))
    tensor([3., 0., 3.])
    """
    return torch.relu(g)


def guided_inclusive(x: Tensor, g: Tensor) -> Tensor:
    """Guided backpropagation that lets ``g`` pass at ``x == 0`` too, as TorchRay has it.

    Args:
        x: input of the ReLU, any shape.
        g: cotangent of its output, same shape.

    Returns:
        The cotangent of the input, same shape.

    >>> guided_inclusive(torch.tensor([-1.0, 0.0, 2.0, 2.0]), torch.tensor([3.0, 3.0, 3.0, -3.0]))
    tensor([0., 3., 3., 0.])
    """
    return torch.relu(g.masked_fill(x < 0, 0))


def at(rule: Elementwise, x: Tensor, g: Tensor, true: Callable[[Tensor], Tensor]) -> Tensor:
    """``rule`` at an activation that is no ReLU, whose true derivative maps ``g`` to ``true(g)``.

    ReLU is the case ``true(g) = standard(x, g)``. A rule that is not of this module says itself
    what it means.
    """
    if rule is standard:
        return true(g)
    if rule is guided or rule is guided_inclusive:
        return torch.relu(true(g))
    return rule(x, g)


@dataclass(frozen=True)
class _Epsilon(Plain):
    eps: float
    reads_x = False

    def prepare(self, operation: Any) -> Sequence[Tensor]:
        z = operation.value()
        return (z / stabilized(z, self.eps),)

    def pull(self, operation: Any, g: Tensor, *prepared: Tensor) -> Tensor:
        (factor,) = prepared
        result: Tensor = operation.pull(factor * g)
        return result


#: Elementwise rules of this module, which treat each example of a batch by itself.
BY_EXAMPLE = (standard, guided, deconvnet, guided_inclusive)


def stabilized(z: Tensor, eps: float) -> Tensor:
    """``z + eps * sign(z)``, where the sign of 0 is 1, so that one can divide by it."""
    return torch.where(z < 0, z - eps, z + eps)


def epsilon(eps: float = 1e-6) -> Pair:
    """LRP-epsilon of a linear operation, for cotangents that carry relevance over activation.

    Args:
        eps: what stabilises the division, in the units of the operation's output.

    Returns:
        A rule for convolutions and linear layers.

    Raises:
        ArgumentError: ``eps`` is no finite number, or negative.

    Bach et al., "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise
    Relevance Propagation" (2015), equation 58.

    >>> import funcattr as fa
    >>> layer = torch.nn.Linear(2, 1)
    >>> ruled = fa.with_rules(layer, fa.Composite([("linear", epsilon(0.25))]))
    >>> fa.input_x_gradient(ruled)(torch.ones(1, 2), target=0).shape
    torch.Size([1, 2])
    """
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 <= eps < math.inf:
        raise ArgumentError(f"eps is a finite number, zero or more; got {eps!r}.")
    return _Epsilon(float(eps))
