"""Attributions made of others (`bundle`, `smooth_grad`) or of a path (`integrated_gradients`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..core.contexts import graph_only_if, tracked
from ..core.levels import vmapping
from ..core.noise import normal
from ..engine.output import Part
from ..errors import ArgumentError, by_keyword
from ..models.arguments import Argnums, Chosen, check_argnums
from ..operations.operation import Args, Kwargs
from ..targets import Target
from .attribution import Attribution, Explain, Method, Tokens
from .gradients import gradient

__all__ = ["integrated_gradients", "smooth_grad"]


@by_keyword
def smooth_grad(
    attr: Attribution,
    *,
    samples: int,
    sigma: float,
    generator: torch.Generator | int | None = None,
    argnums: Argnums = 0,
    chunk_size: int | None = None,
) -> Attribution:
    """The mean of an attribution over noisy copies of its input.

    Args:
        attr: any `Attribution`.
        samples: how many copies.
        sigma: the standard deviation of the noise, in the units of the input.
        generator: an int is a seed: the same noise at every call and for every example, so that
            maps do not depend on what else is in the batch. A ``torch.Generator``, or None for
            torch's own, is drawn from in each call, under ``vmap`` by its ``randomness``. Compiled
            code takes a seed or None.
        argnums: which arguments get noise, as for `gradient`.
        chunk_size: how many copies are held at once. With fewer than ``samples`` they are done
            anew for each call of ``explain``, by a forward pass each; None holds all of them.

    Returns:
        An `Attribution` with the maps of ``attr``; the output of its ``linearize`` is the one for
        the input without noise.

    Raises:
        ArgumentError: ``samples`` or ``chunk_size`` is no positive int, ``sigma`` is negative,
            ``generator`` is none of the above, ``attr`` is no `Attribution`.

    Smilkov et al., "SmoothGrad: removing noise by adding noise" (2017), section 3.

    >>> attr = smooth_grad(gradient(lambda x: x**2), samples=4, sigma=0.1, generator=0)
    >>> attr(torch.ones(2, 3), target=1).shape
    torch.Size([2, 3])
    """
    if not isinstance(attr, Attribution):
        raise ArgumentError(f"attr is an Attribution; got a {type(attr).__name__}.")
    _check_count("samples", samples)
    _check_count("chunk_size", samples if chunk_size is None else chunk_size)
    number = isinstance(sigma, (int, float)) and not isinstance(sigma, bool)
    if not (number and math.isfinite(sigma) and sigma >= 0):
        raise ArgumentError(
            f"sigma is a standard deviation, a finite number, zero or more; got {sigma!r}."
        )
    seed = isinstance(generator, int) and not isinstance(generator, bool)
    if not (seed or generator is None or isinstance(generator, torch.Generator)):
        raise ArgumentError(f"generator is a torch.Generator, a seed or None; got {generator!r}.")
    if isinstance(generator, int) and not 0 <= generator < 2**63:
        raise ArgumentError(f"a seed as generator is an int in 0..2**63 - 1; got {generator}.")
    check_argnums(argnums)

    return Attribution.by(SmoothGrad(attr, samples, sigma, generator, argnums, chunk_size))


@dataclass(frozen=True)
class SmoothGrad(Method):
    """See `smooth_grad`."""

    attr: Attribution
    samples: int
    sigma: float
    generator: torch.Generator | int | None
    argnums: Argnums
    chunk_size: int | None

    def described(self) -> str:
        return f"{self.attr}; {self.samples} samples, sigma {self.sigma:g}"

    @property
    def tokens(self) -> Tokens | None:
        return None if self.attr.method is None else self.attr.method.tokens

    def linearize(self, args: Args, kwargs: Kwargs, once: bool = False) -> tuple[Any, Explain]:
        chosen = Chosen(args, self.argnums)
        # Drawn once, so that explain gives the same for the same target.
        noise = [
            [self.sigma * _noise(x, self.generator, [i, n]) for n, x in enumerate(chosen.floats)]
            for i in range(self.samples)
        ]

        def point(i: int) -> list[Tensor]:
            return [x + e for x, e in zip(chosen.floats, noise[i])]

        shares = [1 / self.samples] * self.samples
        return _weighted(self.attr, chosen, kwargs, point, shares, self.chunk_size, once)


def _noise(x: Tensor, generator: torch.Generator | int | None, place: list[int]) -> Tensor:
    try:
        if generator is None:
            return torch.randn_like(x)
        if isinstance(generator, torch.Generator):
            device = generator.device
            drawn = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=device)
            return drawn.to(x.device)
    except RuntimeError as error:
        if not vmapping():
            raise
        raise ArgumentError(
            "under torch.vmap smooth_grad draws its noise only where it is said how: pass "
            "randomness='different' (or 'same') to torch.vmap, or a seed as generator, which is "
            "the same noise for all."
        ) from error
    return normal(generator, place, [1, *x.shape[1:]] if x.dim() else []).to(x)


@by_keyword
def integrated_gradients(
    func: Callable[..., Any],
    *,
    steps: int,
    baseline: Any = None,
    argnums: Argnums = 0,
    chunk_size: int | None = None,
    output: Part | None = None,
) -> Attribution:
    """The gradient, integrated from a baseline to the input, times the way from there.

    The integral is a Gauss-Legendre sum, as Captum's. The maps of an example sum up to what the
    explained output has more at the input than at the baseline.

    Args:
        func: as for `gradient`.
        steps: how many points of the path are evaluated.
        baseline: where the path begins: None for zeros; a number; or what the argument is (a tensor
            that broadcasts to it, a pytree; a tuple of such where ``argnums`` is one).
        argnums: as for `gradient`.
        chunk_size: how many points are held at once, as for `smooth_grad`.
        output: as for `gradient`.

    Returns:
        An `Attribution`, see `gradient`.

    Raises:
        ArgumentError: ``steps`` or ``chunk_size`` is no positive int, or ``baseline`` does not fit.
        TargetError: when called: as `gradient`.

    Sundararajan et al., "Axiomatic Attribution for Deep Networks" (2017), equation 1.

    >>> integrated_gradients(lambda x: x**2, steps=3)(torch.tensor([[1.0, 3.0]]), target=1)
    tensor([[0., 9.]])
    """
    _check_count("steps", steps)
    _check_count("chunk_size", steps if chunk_size is None else chunk_size)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    places = tuple(float(p) for p in (nodes + 1) / 2)
    shares = tuple(float(w) for w in weights / 2)
    attr = gradient(func, argnums, output=output)
    return Attribution.by(IntegratedGradients(attr, places, shares, baseline, argnums, chunk_size))


@dataclass(frozen=True)
class IntegratedGradients(Method):
    """See `integrated_gradients`; ``attr`` is the gradient, at places on the way, with shares."""

    attr: Attribution
    places: tuple[float, ...]
    shares: tuple[float, ...]
    baseline: Any
    argnums: Argnums
    chunk_size: int | None

    def described(self) -> str:
        return f"{self.attr}; {len(self.places)} steps"

    @property
    def tokens(self) -> Tokens | None:
        return None if self.attr.method is None else self.attr.method.tokens

    def linearize(self, args: Args, kwargs: Kwargs, once: bool = False) -> tuple[Any, Explain]:
        chosen = Chosen(args, self.argnums)
        starts = chosen.baselines(self.baseline)
        ways = [x - start for x, start in zip(chosen.floats, starts)]

        def point(i: int) -> list[Tensor]:
            return [start + self.places[i] * way for start, way in zip(starts, ways)]

        out, integral = _weighted(
            self.attr, chosen, kwargs, point, self.shares, self.chunk_size, once
        )

        def explain(target: Target) -> Any:
            maps = [m for m in tree_flatten(integral(target))[0] if m is not None]
            with graph_only_if(tracked((args, kwargs))):
                return chosen.maps([m * way for m, way in zip(maps, ways)])

        return out, explain


def _weighted(
    attr: Attribution,
    chosen: Chosen,
    kwargs: dict[str, Any],
    point: Callable[[int], Sequence[Tensor]],
    weights: Sequence[float],
    chunk_size: int | None,
    once: bool,
) -> tuple[Any, Explain]:
    """The weighted sum of an attribution over points in the place of its arguments."""
    count = len(weights)
    size = count if chunk_size is None else min(chunk_size, count)

    def linearized(start: int) -> list[Explain]:
        run = attr.once if once else _explain_of(attr)
        return [
            run(chosen.args_with(point(i)), kwargs) for i in range(start, min(start + size, count))
        ]

    held = linearized(0) if size == count else None
    out, _ = attr.linearize(*chosen.args, **kwargs)

    def explain(target: Target) -> Any:
        sums: list[Any] = []
        spec = None
        for start in range(0, count, size):
            parts = linearized(start) if held is None else held
            for weight, one in zip(weights[start:], parts):
                leaves, spec = tree_flatten(one(target))
                terms = [leaf if leaf is None else weight * leaf for leaf in leaves]
                sums = [t if t is None else s + t for s, t in zip(sums, terms)] if sums else terms
        return tree_unflatten(sums, spec)  # type: ignore[arg-type]

    return out, explain


def _explain_of(attr: Attribution) -> Callable[[Args, Kwargs], Explain]:
    return lambda args, kwargs: attr.linearize(*args, **kwargs)[1]


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ArgumentError(f"{name} is a positive int; got {value!r}.")
