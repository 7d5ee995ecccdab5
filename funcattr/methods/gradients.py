"""The methods that are a gradient under some rule."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .. import rules
from ..core.contexts import graph_only_if
from ..engine.linearize import Linearized
from ..engine.output import Part
from ..engine.ruled import SiteChoice, relu_rule
from ..models.arguments import Argnums, Chosen, check_argnums
from ..targets import Target
from .attribution import Attribution, Explain, OnePass, ruled, times

__all__ = [
    "deconvnet",
    "gradient",
    "guided_backprop",
    "input_x_gradient",
    "rule_backprop",
    "saliency",
]


def gradient(
    func: Callable[..., Any], argnums: Argnums = 0, *, output: Part | None = None
) -> Attribution:
    """The plain gradient of what a target selects of ``func``'s output.

    Args:
        func: a pure function, an ``nn.Module``, the ``f`` of `make_functional` (whose argument 0
            is its parameters), or what `relu_rule` returned.
        argnums: which positional argument is explained, as in ``torch.func.grad``; an int, or a
            tuple of ints for a tuple of maps.
        output: where ``func`` returns several things, which of them is explained: a key or an
            attribute (``"logits"``), a place (``0``), or a function of the output. What ``target``
            says is then about that part.

    Returns:
        An `Attribution`. Its maps have the shape of the argument (a pytree where that is one, with
        None in the place of what is no float tensor). Its ``target`` selects what is explained:

        - None: the output is one number per example, ``[B]`` or ``[B, 1, ...]``;
        - an int: a column of dim 1, of all examples; summed over the dims behind;
        - a tuple of ints: an index into the dims after the batch; summed over the dims behind;
        - an integer tensor of one element: as an int, also under ``vmap``;
        - a list of ints, or a 1-D integer tensor, of batch length: one per example;
        - a list of tuples of batch length: one per example;
        - a callable ``out -> tensor``, whose sum is explained; also where ``out`` is a dict, a
          tuple or an output object.

        Negative indices count from the end. Maps do not require grad unless an argument does or
        an outer transform makes them.

    Raises:
        ArgumentError: ``func`` is not callable; when called: no such argument, or not a float one.
        TargetError: when called: the target does not fit the output.

    Simonyan et al., "Deep Inside Convolutional Networks" (2014), section 3.

    >>> import torch
    >>> attr = gradient(lambda x: x**2)
    >>> attr(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), target=1)
    tensor([[0., 4.],
            [0., 8.]])
    """
    return by_gradient("gradient", func, argnums, output)


@dataclass(frozen=True)
class ByGradient(OnePass):
    """``finish(gradient, argument)`` for each tensor that is explained."""

    finish: Callable[[Tensor, Tensor], Tensor] = operator.mul
    of_one: bool = False
    name: str = "gradient"

    @property
    def called(self) -> str:
        return self.name

    def explain(self, done: Linearized, chosen: Chosen | None) -> Explain:
        assert chosen is not None
        floats = [x.clone() for x in chosen.floats]  # explain stays what it is

        def maps(target: Target) -> Any:
            grads = done.pull(target, of_one=self.of_one).inputs
            with graph_only_if(done.tracked):
                return chosen.maps([self.finish(g, x) for g, x in zip(grads, floats)])

        return maps


def by_gradient(
    name: str,
    func: Callable[..., Any],
    argnums: Argnums,
    output: Part | None,
    finish: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Attribution:
    """The attribution by the gradient of a function, which has rules or none."""
    check_argnums(argnums)
    method = ByGradient(ruled(func, output), argnums, finish=finish or _itself, name=name)
    return Attribution.by(method)


def _itself(g: Tensor, x: Tensor) -> Tensor:
    return g


def _absolute(g: Tensor, x: Tensor) -> Tensor:
    return g.abs()


def saliency(
    func: Callable[..., Any], argnums: Argnums = 0, *, output: Part | None = None
) -> Attribution:
    """The absolute value of the gradient.

    Args, Returns and Raises as `gradient`.

    Simonyan et al., "Deep Inside Convolutional Networks" (2014), section 3.1.

    >>> import torch
    >>> saliency(lambda x: -(x**2))(torch.tensor([[1.0, 2.0]]), target=1)
    tensor([[0., 4.]])
    """
    return by_gradient("saliency", func, argnums, output, _absolute)


def input_x_gradient(
    func: Callable[..., Any], argnums: Argnums = 0, *, output: Part | None = None
) -> Attribution:
    """The gradient times the input.

    Args, Returns and Raises as `gradient`.

    Shrikumar et al., "Not Just a Black Box" (2016), section 2.

    >>> import torch
    >>> input_x_gradient(lambda x: x**2)(torch.tensor([[1.0, 3.0]]), target=1)
    tensor([[ 0., 18.]])
    """
    return by_gradient("input_x_gradient", func, argnums, output, times(ruled(func)))


def rule_backprop(
    func: Callable[..., Any],
    rule: rules.Elementwise,
    argnums: Argnums = 0,
    *,
    sites: SiteChoice = "relu",
    require_match: bool = True,
    output: Part | None = None,
) -> Attribution:
    """The gradient under any rule: ``gradient(relu_rule(func, rule), argnums)``.

    Args:
        func: as for `gradient`.
        rule: ``(x, g) -> g_in``, see `relu_rule`, as are ``sites`` and ``require_match``.
        argnums: as for `gradient`.
        sites: which activations follow the rule.
        require_match: whether it is an error that there is none.
        output: as for `gradient`.

    Returns:
        An `Attribution`, see `gradient`.

    Raises:
        NoSiteError: when called: no activation follows the rule, or one cannot be reached.
        ArgumentError, TargetError: as `gradient` and `relu_rule`.

    >>> import torch
    >>> attr = rule_backprop(torch.relu, lambda x, g: 10 * g)
    >>> attr(torch.tensor([[-1.0, 2.0]]), target=0)
    tensor([[10.,  0.]])
    """
    function = relu_rule(func, rule, sites=sites, require_match=require_match)
    return by_gradient("rule_backprop", function, argnums, output)


def guided_backprop(
    func: Callable[..., Any],
    argnums: Argnums = 0,
    *,
    sites: SiteChoice = "relu",
    require_match: bool = True,
    output: Part | None = None,
) -> Attribution:
    """Guided backpropagation: ReLUs pass positive cotangents where their input is positive.

    Args, Returns and Raises as `rule_backprop` with `rules.guided`.

    Springenberg et al., "Striving for Simplicity: The All Convolutional Net" (2015), section 3.4.

    >>> import torch
    >>> f = lambda x: torch.relu(x) @ torch.tensor([[1.0], [-1.0]])
    >>> guided_backprop(f)(torch.tensor([[2.0, 3.0]]), target=0)
    tensor([[1., 0.]])
    """
    function = relu_rule(func, rules.guided, sites=sites, require_match=require_match)
    return by_gradient("guided_backprop", function, argnums, output)


def deconvnet(
    func: Callable[..., Any],
    argnums: Argnums = 0,
    *,
    sites: SiteChoice = "relu",
    require_match: bool = True,
    output: Part | None = None,
) -> Attribution:
    """DeconvNet: ReLUs pass positive cotangents, whatever their input was.

    Args, Returns and Raises as `rule_backprop` with `rules.deconvnet`.

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (2014), section 2.1.

    >>> import torch
    >>> f = lambda x: torch.relu(x) @ torch.tensor([[1.0], [-1.0]])
    >>> deconvnet(f)(torch.tensor([[-2.0, 3.0]]), target=0)
    tensor([[1., 0.]])
    """
    function = relu_rule(func, rules.deconvnet, sites=sites, require_match=require_match)
    return by_gradient("deconvnet", function, argnums, output)
