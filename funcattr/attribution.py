"""`Attribution`, and the methods that are a gradient under some rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from . import rules
from ._arguments import Argnums, Chosen, check_argnums
from ._contexts import graph_only_if
from ._intercept import Plan
from ._linearize import Forward, forward_pass
from ._scope import Replay
from ._taps import Layer, tapped
from .errors import ArgumentError
from .targets import Target
from .transforms import Ruled, SiteChoice, check_func, relu_rule

__all__ = [
    "Attribution",
    "deconvnet",
    "gradient",
    "guided_backprop",
    "input_x_gradient",
    "rule_backprop",
    "saliency",
]

Explain = Callable[..., Any]


@dataclass(frozen=True)
class Method:
    """What an attribution asks of a forward pass, and what it makes of it.

    ``explain`` takes the forward pass and the arguments that are explained, and returns a function
    from a target to maps.
    """

    ruled: Ruled
    explain: Callable[[Forward, Chosen | None], Explain]
    argnums: Argnums | None = None
    layers: tuple[Layer, ...] = ()
    at_input: bool = False

    def linearize(self, *args: Any, **kwargs: Any) -> tuple[Any, Explain]:
        """For `Attribution`."""
        return self.run(args, kwargs)

    def run(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        record: list[Tensor] | None = None,
        replay: Replay | None = None,
    ) -> tuple[Any, Explain]:
        """`linearize`; ``record`` collects what sites save, and ``replay`` has that for them."""
        chosen = None if self.argnums is None else Chosen(args, self.argnums)
        taps = [tapped(self.ruled.func, layer) for layer in self.layers]
        done = forward_pass(
            self.ruled,
            args,
            kwargs,
            chosen,
            taps,
            at_input=self.at_input,
            record=record,
            replay=replay,
        )
        return done.out, self.explain(done, chosen)


@dataclass(frozen=True)
class Attribution:
    """A method of attribution, bound to a model: ``attr(*args, target=None, **kwargs)``.

    It is pure, and composes with ``torch.func`` and ``torch.compile`` in any order. ``linearize``
    does its forward pass once and for all targets:

    >>> import torch
    >>> attr = gradient(torch.nn.Linear(4, 10))
    >>> out, explain = attr.linearize(torch.ones(2, 4))
    >>> out.shape, torch.vmap(explain)(torch.arange(10)).shape
    (torch.Size([2, 10]), torch.Size([10, 2, 4]))

    Args:
        linearize: ``(*args, **kwargs) -> (out, explain)``: the output of the model, and a pure
            function from a target to the maps.
        method: for attributions of this library, what they are made of.
    """

    linearize: Callable[..., tuple[Any, Explain]] = field(repr=False)
    method: Method | None = field(default=None, repr=False)
    compiled: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def by(cls, method: Method) -> Attribution:
        """What is made of a single forward pass, which `bundle` can share."""
        return cls(method.linearize, method)

    def __call__(self, *args: Any, target: Target = None, **kwargs: Any) -> Any:
        """The maps for ``target``: ``self.linearize(*args, **kwargs)[1](target)``.

        Raises:
            ArgumentError: the target is among the positional arguments.
        """
        try:
            explain = self.linearize(*args, **kwargs)[1]
        except TypeError as error:
            if target is None and args and isinstance(args[-1], (int, list, tuple)):
                raise ArgumentError(
                    f"a target goes by its keyword, attr(x, target={args[-1]!r}), and several go "
                    f"in funcattr.sweep; what is positional is the function's own. {error}"
                ) from error
            raise
        return explain(target)


def gradient(func: Callable[..., Any], argnums: Argnums = 0) -> Attribution:
    """The plain gradient of what a target selects of ``func``'s output.

    Args:
        func: a pure function, an ``nn.Module``, the ``f`` of `make_functional` (whose argument 0
            is its parameters), or what `relu_rule` returned.
        argnums: which positional argument is explained, as in ``torch.func.grad``; an int, or a
            tuple of ints for a tuple of maps.

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
    return _by_gradient(func, argnums, lambda g, x: g)


def _by_gradient(
    func: Callable[..., Any], argnums: Argnums, f: Callable[[Tensor, Tensor], Tensor]
) -> Attribution:
    """An attribution with ``f(gradient, argument)`` for each tensor that is explained."""
    check_func(func)
    check_argnums(argnums)

    def explain(done: Forward, chosen: Chosen | None) -> Explain:
        assert chosen is not None
        floats = [x.clone() for x in chosen.floats]  # explain stays what it is

        def maps(target: Target) -> Any:
            grads = done.pull(target).inputs
            with graph_only_if(done.tracked):
                return chosen.maps([f(g, x) for g, x in zip(grads, floats)])

        return maps

    ruled = func if isinstance(func, Ruled) else Ruled(func, Plan())
    return Attribution.by(Method(ruled, explain, argnums))


def saliency(func: Callable[..., Any], argnums: Argnums = 0) -> Attribution:
    """The absolute value of the gradient.

    Args, Returns and Raises as `gradient`.

    Simonyan et al., "Deep Inside Convolutional Networks" (2014), section 3.1.

    >>> import torch
    >>> saliency(lambda x: -(x**2))(torch.tensor([[1.0, 2.0]]), target=1)
    tensor([[0., 4.]])
    """
    return _by_gradient(func, argnums, lambda g, x: g.abs())


def input_x_gradient(func: Callable[..., Any], argnums: Argnums = 0) -> Attribution:
    """The gradient times the input.

    Args, Returns and Raises as `gradient`.

    Shrikumar et al., "Not Just a Black Box" (2016), section 2.

    >>> import torch
    >>> input_x_gradient(lambda x: x**2)(torch.tensor([[1.0, 3.0]]), target=1)
    tensor([[ 0., 18.]])
    """
    return _by_gradient(func, argnums, lambda g, x: g * x)


def rule_backprop(
    func: Callable[..., Any],
    rule: rules.Rule,
    argnums: Argnums = 0,
    *,
    sites: SiteChoice = "relu",
    require_match: bool = True,
) -> Attribution:
    """The gradient under any rule: ``gradient(relu_rule(func, rule), argnums)``.

    Args:
        func: as for `gradient`.
        rule: ``(x, g) -> g_in``, see `relu_rule`, as are ``sites`` and ``require_match``.
        argnums: as for `gradient`.
        sites: which activations follow the rule.
        require_match: whether it is an error that there is none.

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
    return gradient(relu_rule(func, rule, sites=sites, require_match=require_match), argnums)


def guided_backprop(
    func: Callable[..., Any],
    argnums: Argnums = 0,
    *,
    sites: SiteChoice = "relu",
    require_match: bool = True,
) -> Attribution:
    """Guided backpropagation: ReLUs pass positive cotangents where their input is positive.

    Args, Returns and Raises as `rule_backprop` with `rules.guided`.

    Springenberg et al., "Striving for Simplicity: The All Convolutional Net" (2015), section 3.4.

    >>> import torch
    >>> f = lambda x: torch.relu(x) @ torch.tensor([[1.0], [-1.0]])
    >>> guided_backprop(f)(torch.tensor([[2.0, 3.0]]), target=0)
    tensor([[1., 0.]])
    """
    return rule_backprop(func, rules.guided, argnums, sites=sites, require_match=require_match)


def deconvnet(
    func: Callable[..., Any],
    argnums: Argnums = 0,
    *,
    sites: SiteChoice = "relu",
    require_match: bool = True,
) -> Attribution:
    """DeconvNet: ReLUs pass positive cotangents, whatever their input was.

    Args, Returns and Raises as `rule_backprop` with `rules.deconvnet`.

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (2014), section 2.1.

    >>> import torch
    >>> f = lambda x: torch.relu(x) @ torch.tensor([[1.0], [-1.0]])
    >>> deconvnet(f)(torch.tensor([[-2.0, 3.0]]), target=0)
    tensor([[1., 0.]])
    """
    return rule_backprop(func, rules.deconvnet, argnums, sites=sites, require_match=require_match)
