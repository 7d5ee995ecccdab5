"""Elementwise rules: pure functions ``(x, g) -> g_in``, for activations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .pair import Elementwise


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

    Args:
        rule: an elementwise rule.
        x: the input of the activation, of any shape.
        g: the cotangent of its output.
        true: its true derivative.

    Returns:
        The cotangent of ``x``, of its shape.

    >>> x, g = torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 1.0])
    >>> at(guided, x, g, lambda g: 2 * g)
    tensor([0., 2.])
    """
    if rule is standard:
        return true(g)
    if rule is guided or rule is guided_inclusive:
        return torch.relu(true(g))
    return rule(x, g)


#: Elementwise rules of this module, which treat each example of a batch by itself.
BY_EXAMPLE = (standard, guided, deconvnet, guided_inclusive)
