"""Layer-wise relevance propagation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..engine.output import Part
from ..engine.ruled import with_rules
from ..errors import ArgumentError
from ..models.arguments import Argnums, check_argnums
from ..operations.composite import Composite
from ..rules.rectified import Rectified
from .attribution import Attribution, ruled, times
from .gradients import ByGradient, by_gradient

__all__ = ["lrp", "rect_grad"]

STARTS = ("value", "one")


def lrp(
    func: Callable[..., Any],
    composite: Composite,
    argnums: Argnums = 0,
    *,
    start: str = "value",
    output: Part | None = None,
) -> Attribution:
    """Layer-wise relevance propagation: ``input_x_gradient(with_rules(func, composite), argnums)``.

    What goes backward is relevance over activation, so that what has no rule passes relevance by
    its true derivative: skip connections, concatenation, views and scaling need none. A batch norm
    of the output of a convolution or linear layer is merged into that. Functional code, shared
    modules and writes in place are followed as they run.

    Args:
        func: as for `gradient`.
        composite: which operations get which rule; `funcattr.composites` has the usual ones.
        argnums: as for `gradient`.
        start: the relevance of what is explained: ``"value"``, its value, or ``"one"``, 1 (the
            derivative of a callable target by the output).
        output: as for `gradient`.

    Returns:
        An `Attribution`. Its maps are the relevance of each number of the argument. Their sum is
        that of what is explained, but for what biases and stabilisers take. The relevance of a
        layer is ``layer_gradient_x_activation(with_rules(func, composite), layer)``.

    Raises:
        ArgumentError: ``composite`` or ``start`` is none; when called: a rule cannot act where a
            row has it.
        NoSiteError: when called: no row fits any operation.
        TargetError: when called: the target does not fit the output.

    Bach et al., "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise
    Relevance Propagation" (2015).

    >>> import torch
    >>> import funcattr as fa
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> attr = lrp(model, fa.composites.epsilon_plus())
    >>> attr(torch.ones(5, 2), target=1).shape
    torch.Size([5, 2])
    """
    if start not in STARTS:
        raise ArgumentError(f"start is one of {', '.join(map(repr, STARTS))}; got {start!r}.")
    check_argnums(argnums)
    function = ruled(with_rules(func, composite), output)
    return Attribution.by(
        ByGradient(function, argnums, finish=times(function), of_one=start == "one", name="lrp")
    )


def rect_grad(
    func: Callable[..., Any],
    q: float,
    argnums: Argnums = 0,
    *,
    require_match: bool = True,
    output: Part | None = None,
) -> Attribution:
    """Rectified gradients: ReLUs pass the cotangent where it matters most.

    That is where output times cotangent is above its q-th percentile, among all numbers of the ReLU
    for one example; where there are several as large as that, none of them passes.

    Args:
        func: as for `gradient`; its ReLUs have the batch in front.
        q: the percentile, from 0 to 100; the paper takes 98.
        argnums: as for `gradient`.
        require_match: whether it is an error that there is no ReLU.
        output: as for `gradient`.

    Returns:
        An `Attribution`, whose maps are gradients.

    Raises:
        ArgumentError: ``q`` is no number from 0 to 100, or a fraction.
        NoSiteError, TargetError: when called: as `guided_backprop`.

    Kim et al., "Why are Saliency Maps Noisy? Cause of and Solution to Noisy Saliency Maps" (2019),
    section 4.

    >>> import torch
    >>> f = lambda x: torch.relu(x).sum(1, keepdim=True)
    >>> rect_grad(f, 50)(torch.tensor([[1.0, 2.0, 3.0]]), target=0)
    tensor([[0., 0., 1.]])
    """
    if isinstance(q, bool) or not isinstance(q, (int, float)) or not 0 <= q <= 100:
        raise ArgumentError(f"q is a percentile, a number from 0 to 100; got {q!r}.")
    if 0 < q < 1:
        raise ArgumentError(f"q is a percentile, 98 and not 0.98; got {q!r}.")
    composite = Composite([("relu", Rectified(float(q)))])
    function = with_rules(func, composite, require_match=require_match)
    return by_gradient("rect_grad", function, argnums, output)
