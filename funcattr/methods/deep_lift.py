"""DeepLIFT by the rescale rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from ..core.contexts import graph_only_if
from ..engine.linearize import Linearized
from ..engine.output import Part
from ..engine.ruled import Ruled, with_rules
from ..errors import ArgumentError, by_keyword
from ..models.arguments import Argnums, Chosen, check_argnums
from ..operations.composite import Composite, Row
from ..operations.operation import Args
from ..rules import is_pair
from ..rules.comparison import Rescale, RescaleMax
from ..targets import Target
from .attribution import Attribution, Explain, OnePass, ruled

__all__ = ["deep_lift"]

_NAMES = (
    *("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal"),
    *("square", "pow", "float_power", "__pow__", "__rpow__", "abs", "absolute"),
    *("div", "divide", "true_divide", "__rdiv__", "xlogy", "xlog1py", "entr", "polygamma"),
    *("gammaln", "psi", "mvlgamma", "multigammaln", "erfcx", "ndtri", "i0", "i0e", "i1", "i1e"),
    *("sin", "cos", "tan", "sinh", "cosh", "sign", "sgn", "erf", "erfc", "erfinv", "expit"),
    *("asin", "acos", "atan", "asinh", "acosh", "atanh", "sinc", "logit", "lgamma", "digamma"),
    *("arcsin", "arccos", "arctan", "arcsinh", "arccosh", "arctanh", "log_ndtr", "ndtr"),
    # These have a derivative since torch 2.15.
    *("airy_ai", "spherical_bessel_j0", *(f"bessel_{name}" for name in ("j0", "j1", "y0", "y1"))),
    *(f"modified_bessel_{name}" for name in ("i0", "i1", "k0", "k1")),
    *("scaled_modified_bessel_k0", "scaled_modified_bessel_k1"),
)
_ACTIVATIONS = ("softsign", "logsigmoid", "hardshrink", "softshrink", "tanhshrink")
_FUNCTIONS = [
    getattr(space, name)
    for in_place in ("", "_")
    for name in [name + in_place for name in _NAMES]
    for space in (torch, torch.Tensor, torch.special)
    if hasattr(space, name)
] + [torch.Tensor.__ipow__, *(getattr(F, name) for name in _ACTIVATIONS)]


_ROWS: list[Row] = [("max_pool", RescaleMax()), ("activation", Rescale())]
_COMPOSITE = Composite([*_ROWS, *((function, Rescale()) for function in _FUNCTIONS)])


@by_keyword
def deep_lift(
    func: Callable[..., Any],
    *,
    baseline: Any = None,
    argnums: Argnums = 0,
    output: Part | None = None,
) -> Attribution:
    """DeepLIFT by the rescale rule: what the output has more than for a baseline, shared out.

    At every elementwise function the derivative is replaced by ``(y - y0) / (x - x0)``, the
    differences to a second forward pass, of the baseline; where ``|x - x0| < 1e-10`` the derivative
    itself is taken. Max pooling gives its difference to the winners of both. What else there is
    has its true derivative at the input, which is exact for what is linear; products of two tensors
    that depend on the input, norms by the statistics of their input and softmax are not, and there
    the maps do not add up.

    Args:
        func: as for `gradient`; one that calls the same operations for input and baseline.
        baseline: None for zeros; a number; or what the argument is (a tensor that broadcasts to it,
            a tuple for several ``argnums``).
        argnums: as for `gradient`.
        output: as for `gradient`.

    Returns:
        An `Attribution`. The sum of its maps is what the output has more than for the baseline.

    Raises:
        ArgumentError: when called: ``baseline`` does not fit.
        FuncattrError: when called: the function calls other operations for the baseline.
        NoSiteError: when called: an activation is where no rule can reach.
        TargetError: when called: the target does not fit the output.

    Shrikumar et al., "Learning Important Features Through Propagating Activation Differences"
    (2017), sections 3.2 and 3.5.1.

    >>> f = lambda x: torch.relu(x.sum(1, keepdim=True) - 1)
    >>> deep_lift(f)(torch.tensor([[2.0, 1.0]]), target=0)
    tensor([[1.3333, 0.6667]])
    """
    check_argnums(argnums)
    if isinstance(func, Ruled) and any([is_pair(rule) for _, rule in func.plan.composite.rows]):
        raise ArgumentError(
            "DeepLIFT shares differences by rules of its own, and func has others, of relevance "
            f"({func.plan.composite}); pass the function that with_rules was called with."
        )
    function = with_rules(func, _COMPOSITE)
    assert isinstance(function, Ruled)

    compared = Ruled(function.func, replace(function.plan, baseline=Others(argnums, baseline)))
    return Attribution.by(DeepLift(ruled(compared, output), argnums, baseline=baseline))


@dataclass(eq=False)  # not frozen: the compiler cannot make frozen ones after a graph break
class Others:
    """The arguments, with the baseline in the place of what is explained."""

    argnums: Argnums
    baseline: Any

    def __call__(self, args: Args) -> Args:
        chosen = Chosen(args, self.argnums)
        return chosen.args_with(chosen.baselines(self.baseline))


@dataclass(frozen=True)
class DeepLift(OnePass):
    """The multipliers, times the difference to the baseline."""

    baseline: Any = None

    def described(self) -> str:
        return super().described().partition(";")[0]  # its rules are always the same

    def explain(self, done: Linearized, chosen: Chosen | None) -> Explain:
        assert chosen is not None
        starts = chosen.baselines(self.baseline)
        ways = [x - start for x, start in zip(chosen.floats, starts)]

        def maps(target: Target) -> Any:
            grads = done.pull(target).inputs
            with graph_only_if(done.tracked):
                return chosen.maps([g * way for g, way in zip(grads, ways)])

        return maps
