"""Zennit's attributors: ``out, relevance = attributor(x, attr_output)``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from ... import rules
from ...core.levels import vmapping
from ...engine.ruled import with_rules
from ...errors import ArgumentError, check_flags, short
from ...methods.attribution import Attribution
from ...methods.gradients import gradient
from ...methods.relevance import lrp
from ...operations.composite import Composite
from .maps import ZennitComposite

AttrOutput = Tensor | Callable[[Tensor], Tensor] | None
_Self = TypeVar("_Self", bound="Attributor")


class Attributor(ABC):
    """What attributors have in common.

    Args:
        model: the model, a module. Nothing of it is changed, neither here nor when called.
        composite: which rules there are; None for the plain gradient. A `funcattr.Composite` will
            do as well. What the model has of modules is read here.
        attr_output: the relevance of the output: a tensor of its shape, a function of the output
            to such a tensor, or None for the output itself.

    Raises:
        ArgumentError: ``composite`` is none of this module, or mixes rules of relevance with those
            of gradients.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        composite: ZennitComposite | Composite | None = None,
        attr_output: AttrOutput = None,
    ) -> None:
        self.model, self.composite = model, composite
        self.attr_output_fn = _function(attr_output) or _itself
        self._attribution = _attribution(model, composite)

    def __enter__(self: _Self) -> _Self:
        return self  # there is nothing to put in place

    def __exit__(self, *exc: object) -> Literal[False]:
        return False

    def __call__(self, input: Tensor, attr_output: AttrOutput = None) -> tuple[Tensor, Tensor]:
        """The output of the model, and the attribution of its input.

        Args:
            input: what the model is called with, ``[B, ...]``.
            attr_output: as for the constructor, whose it takes the place of.

        Returns:
            ``(output, attribution)``, of the shapes of the output and of ``input``.

        Raises:
            ArgumentError: the output is no tensor, or ``attr_output`` does not fit it.
            NoSiteError: the model has no operation that the composite has a rule for.
        """
        if not isinstance(input, Tensor):
            raise ArgumentError(f"an attributor explains one tensor; got {short(input)}.")
        return self.forward(input, _function(attr_output) or self.attr_output_fn)

    @abstractmethod
    def forward(
        self, input: Tensor, attr_output_fn: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """What a call returns."""


class Gradient(Attributor):
    """The gradient, or relevance, by a composite; as functions `funcattr.gradient` and `lrp`.

    Args:
        model: as for `Attributor`, as are ``composite`` and ``attr_output``.
        create_graph: whether the attribution can be differentiated, by an input that requires grad
            (not by the parameters).
        retain_graph: None, or with ``create_graph`` True; without, there is no graph to retain.

    Raises:
        ArgumentError: as `Attributor`; or ``retain_graph`` alone.

    >>> from funcattr.compat.zennit import EpsilonPlus
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> with Gradient(model, EpsilonPlus()) as attributor:
    ...     out, relevance = attributor(torch.ones(5, 2), torch.eye(2)[[1] * 5])
    >>> out.shape, relevance.shape
    (torch.Size([5, 2]), torch.Size([5, 2]))
    """

    def __init__(
        self,
        model: Callable[..., Any],
        composite: ZennitComposite | Composite | None = None,
        attr_output: AttrOutput = None,
        create_graph: bool = False,
        retain_graph: bool | None = None,
    ) -> None:
        super().__init__(model, composite, attr_output)
        check_flags(create_graph=create_graph)
        if retain_graph and not create_graph:
            raise ArgumentError(
                "the output that an attributor returns has no graph that could be retained; pass "
                "create_graph=True, and an input that requires grad, to differentiate."
            )
        self.create_graph, self.retain_graph = create_graph, retain_graph

    def grad(
        self, input: Tensor, attr_output_fn: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The output, and the attribution of ``input`` for a function of the output."""
        method = self._attribution.method
        assert method is not None
        x = input if self.create_graph else input.detach()
        out, explain = method.linearize((x,), {}, once=not vmapping())
        if not isinstance(out, Tensor):
            raise ArgumentError(
                f"the output of the model is a tensor here; got a {type(out).__name__}. "
                "funcattr.lrp takes a callable target, which chooses one."
            )
        relevance = attr_output_fn(out)
        if not isinstance(relevance, Tensor) or relevance.shape != out.shape:
            came = tuple(relevance.shape) if isinstance(relevance, Tensor) else short(relevance)
            raise ArgumentError(
                "attr_output is a tensor of the shape of the output, or a function that returns "
                f"one: {tuple(out.shape)}; got {came}."
            )
        # Its derivative by the output is the relevance, however that is made.
        return out, explain(lambda out: (out * relevance).sum())

    def forward(
        self, input: Tensor, attr_output_fn: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        return self.grad(input, attr_output_fn)


class SmoothGrad(Gradient):
    """The mean of attributions of noisy inputs; as a function `funcattr.smooth_grad`.

    Of a seed, the noise is zennit's: the last of the ``n_iter`` inputs has none.

    Args:
        model: as for `Gradient`, as are ``composite`` to ``retain_graph``.
        noise_level: the standard deviation, as a part of the range of each example.
        n_iter: of how many inputs.

    Raises:
        ArgumentError: as `Gradient`; or ``n_iter`` is not 1 or more.

    Smilkov et al., "SmoothGrad: removing noise by adding noise" (2017).

    >>> _, smooth = SmoothGrad(torch.nn.Linear(2, 3), n_iter=5)(torch.ones(4, 2), torch.ones(4, 3))
    >>> smooth.shape
    torch.Size([4, 2])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        composite: ZennitComposite | Composite | None = None,
        attr_output: AttrOutput = None,
        create_graph: bool = False,
        retain_graph: bool | None = None,
        noise_level: float = 0.1,
        n_iter: int = 20,
    ) -> None:
        super().__init__(model, composite, attr_output, create_graph, retain_graph)
        self.noise_level, self.n_iter = noise_level, _count(n_iter)

    def forward(
        self, input: Tensor, attr_output_fn: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        dims = tuple(range(1, input.dim()))
        sigma = self.noise_level * (input.amax(dims, keepdim=True) - input.amin(dims, keepdim=True))
        total = torch.zeros_like(input)
        for i in range(self.n_iter):
            last = i == self.n_iter - 1
            noisy = input if last else input + torch.randn_like(input) * sigma
            out, one = self.grad(noisy, attr_output_fn)
            total = total + one / self.n_iter
        return out, total


class IntegratedGradients(Gradient):
    """Attributions along a path to the input; as a function `funcattr.integrated_gradients`.

    Args:
        model: as for `Gradient`, as are ``composite`` to ``retain_graph``.
        baseline_fn: from the input to where the path begins; zeros where it is None.
        n_iter: at how many places of the path, the last of which is the input.

    Raises:
        ArgumentError: as `Gradient`; or ``n_iter`` is not 1 or more.

    Sundararajan et al., "Axiomatic Attribution for Deep Networks" (2017).

    >>> x, model = torch.tensor([[1.0, 3.0]]), lambda x: x**2
    >>> IntegratedGradients(model, n_iter=100)(x, torch.ones(1, 2))[1].round(decimals=0)
    tensor([[1., 9.]])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        composite: ZennitComposite | Composite | None = None,
        attr_output: AttrOutput = None,
        create_graph: bool = False,
        retain_graph: bool | None = None,
        baseline_fn: Callable[[Tensor], Tensor] | None = None,
        n_iter: int = 20,
    ) -> None:
        super().__init__(model, composite, attr_output, create_graph, retain_graph)
        self.baseline_fn, self.n_iter = baseline_fn or torch.zeros_like, _count(n_iter)

    def forward(
        self, input: Tensor, attr_output_fn: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        baseline = self.baseline_fn(input)
        whole = input - baseline
        total = torch.zeros_like(input)
        for part in torch.linspace(1 / self.n_iter, 1, self.n_iter).to(input.device):
            out, one = self.grad(baseline + part * whole, attr_output_fn)
            total = total + one / self.n_iter
        return out, total * whole


def _attribution(model: Callable[..., Any], composite: Any) -> Attribution:
    if composite is None:
        return gradient(model)
    if isinstance(composite, ZennitComposite):
        composite = Composite(composite.rows(model))
    if not isinstance(composite, Composite):
        raise ArgumentError(
            "composite is one of funcattr.compat.zennit, which has zennit's by their names, or a "
            f"funcattr.Composite; got {short(composite)}."
        )
    pairs = {rules.is_pair(rule) for _, rule in composite.rows}
    if len(pairs) == 2:
        raise ArgumentError(
            "rules of relevance (Epsilon, Pass, ...) and of gradients (ReLUGuidedBackprop, ...) do "
            "not go together in one composite: what they pass on is not the same."
        )
    if pairs == {True}:
        return lrp(model, composite, start="one")
    return gradient(with_rules(model, composite, require_match=False))


def _function(attr_output: AttrOutput) -> Callable[[Tensor], Tensor] | None:
    if attr_output is None or (callable(attr_output) and not isinstance(attr_output, Tensor)):
        return attr_output
    if isinstance(attr_output, Tensor):
        return lambda out: attr_output
    raise ArgumentError(
        f"attr_output is a tensor, a function of the output, or None; got {short(attr_output)}."
    )


def _itself(out: Tensor) -> Tensor:
    return out


def _count(n_iter: Any) -> int:
    if not isinstance(n_iter, int) or n_iter < 1:
        raise ArgumentError(f"n_iter is a whole number, 1 or more; got {short(n_iter)}.")
    return n_iter
