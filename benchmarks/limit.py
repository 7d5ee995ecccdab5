"""The dense limit of a sweep: its convolutions and matrix products, and nothing else.

For every convolution and linear layer: its forward at batch B, and its input gradient for K x B
images; no bias, no batch norm, no activation. Each is timed alone, in the fastest of these forms:
contiguous or channels-last; the backward of the convolution or the transposed convolution; the
whole batch at once or in chunks. A dense backward pass cannot be faster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from math import prod

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .harness import Seconds, seconds

aten = torch.ops.aten

Run = Callable[[], Tensor]
FORMATS = (torch.contiguous_format, torch.channels_last)
CHUNKS = (4, 16)  # images at once that are tried besides the whole batch
WHOLE_BYTES = 2**28  # the whole batch is tried where its largest tensor is no larger, on a CPU
TIMED = 0.01  # seconds, for which an operation is repeated
WARM = 0.1  # seconds, from which on an operation needs no warm-up
SLOW = 1.5  # a form that takes so many times the best one's time is not tried again


@dataclass(frozen=True)
class Convolution:
    """One convolution: shapes of one image, of the weight, and its options."""

    input: tuple[int, ...]
    output: tuple[int, ...]
    weight: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def forwards(self, images: int, device: str) -> Iterator[Callable[[], Run]]:
        """The forms of its forward; each, when called, makes its operands and what is timed."""
        options = (self.stride, self.padding, self.dilation, False, (0, 0), self.groups)
        for memory_format in FORMATS:

            def make(memory_format: torch.memory_format = memory_format) -> Run:
                x, w = self._operands(self.input, images, device, memory_format)
                return lambda: aten.convolution(x, w, None, *options)

            yield make

    def gradients(self, images: int, device: str) -> Iterator[Callable[[], Run]]:
        """The forms of its input gradient, likewise."""
        rest = [
            i - ((o - 1) * s - 2 * p + d * (k - 1) + 1)
            for i, o, s, p, d, k in zip(
                self.input[1:],
                self.output[1:],
                self.stride,
                self.padding,
                self.dilation,
                self.weight[2:],
                strict=True,
            )
        ]
        same = (self.stride, self.padding, self.dilation)
        for memory_format, transposed in product(FORMATS, (False, True)):

            def make(
                memory_format: torch.memory_format = memory_format, transposed: bool = transposed
            ) -> Run:
                g, w = self._operands(self.output, images, device, memory_format)
                if transposed:
                    return lambda: aten.convolution(g, w, None, *same, True, rest, self.groups)
                x = _operand((images, *self.input), device, memory_format)
                backward = (False, (0, 0), self.groups, (True, False, False))
                return lambda: aten.convolution_backward(g, x, w, None, *same, *backward)[0]

            yield make

    def _operands(
        self, shape: tuple[int, ...], images: int, device: str, memory_format: torch.memory_format
    ) -> tuple[Tensor, Tensor]:
        return (
            _operand((images, *shape), device, memory_format),
            _operand(self.weight, device, memory_format),
        )


@dataclass(frozen=True)
class Linear:
    """One matrix product with a weight ``[output, input]``."""

    input: tuple[int]
    output: tuple[int]

    def forwards(self, images: int, device: str) -> Iterator[Callable[[], Run]]:
        """The forms of its forward: one."""
        yield lambda: self._product(self.input, self.output, images, device, transposed=True)

    def gradients(self, images: int, device: str) -> Iterator[Callable[[], Run]]:
        """The forms of its input gradient: one."""
        yield lambda: self._product(self.output, self.input, images, device, transposed=False)

    def _product(
        self, rows: tuple[int], columns: tuple[int], images: int, device: str, transposed: bool
    ) -> Run:
        x = _operand((images, *rows), device)
        w = _operand((*columns, *rows) if transposed else (*rows, *columns), device)
        return (lambda: x @ w.T) if transposed else (lambda: x @ w)


Layer = Convolution | Linear


def _operand(
    shape: tuple[int, ...],
    device: str,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    one = torch.randn(1, *shape[1:], device=device)  # one image of noise, repeated, is soon made
    return one.expand(shape).clone(memory_format=memory_format)


@dataclass
class _Recorder(TorchDispatchMode):
    """Counts the convolutions and matrix products that a forward pass does."""

    layers: Counter[Layer] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is aten.convolution.default:
            x, w, _, stride, padding, dilation, _, _, groups = args
            options = (tuple(stride), tuple(padding), tuple(dilation), groups)
            shapes = (tuple(x.shape[1:]), tuple(out.shape[1:]), tuple(w.shape))
            self.layers[Convolution(*shapes, *options)] += 1
        elif func in (aten.addmm.default, aten.mm.default):
            x, w = args[-2:]
            self.layers[Linear((x.shape[1],), (w.shape[1],))] += 1
        return out


def dense_layers(model: nn.Module, x: Tensor) -> Counter[Layer]:
    """The convolutions and linear layers of a forward pass, and how often each occurs."""
    with torch.no_grad(), _Recorder() as recorder:
        model(x)
    return recorder.layers


@cache
def _fastest(
    layer: Layer, direction: str, images: int, device: str, forms: tuple[int, ...] = ()
) -> dict[int, float]:
    """The time per image of each form (of ``forms``, where given), fastest first."""
    times = {}
    for i, make in enumerate(getattr(layer, direction)(images, device)):
        if not forms or i in forms:
            run = make()
            once = seconds(run)
            if not times or once < SLOW * images * min(times.values()):
                once = min(once, seconds(run, _number(once)))
            times[i] = once / images
    return dict(sorted(times.items(), key=lambda item: item[1]))


def _number(once: float) -> int:
    return max(1, min(100, int(TIMED / once)))


def _fastest_gradient(layer: Layer, total: int, device: str) -> tuple[int, int]:
    """How many images at once, and in which form, make its input gradients fastest."""
    whole = 4 * total * max(prod(layer.input), prod(layer.output))
    sizes = [n for n in CHUNKS if n < total]
    if not sizes or device != "cpu" or whole <= WHOLE_BYTES:
        sizes.append(total)
    first = _fastest(layer, "gradients", sizes[0], device)
    best = next(iter(first.values()))
    close = tuple(sorted(i for i, time in first.items() if time < SLOW * best))
    tried = []
    for n in sizes:
        which, time = next(iter(_fastest(layer, "gradients", n, device, close).items()))
        tried.append((time, n, which))
    return min(tried)[1:]


def dense_limit(model: nn.Module, x: Tensor, targets: int, backwards: int = 1) -> Seconds:
    """A way to time the limit of a sweep over ``targets``, with that many backward passes each."""
    device = str(x.device)
    batch, total = len(x), len(x) * targets
    plan = []  # how often it counts, and what is timed
    for layer, count in dense_layers(model, x).items():
        which = next(iter(_fastest(layer, "forwards", batch, device)))
        plan.append((count, layer, "forwards", batch, which))
        images, which = _fastest_gradient(layer, total, device)
        plan.append((backwards * count * total / images, layer, "gradients", images, which))

    def limit() -> float:
        time = 0.0
        for count, layer, direction, images, which in plan:
            run = list(getattr(layer, direction)(images, device))[which]()
            once = seconds(run)
            time += count * (once if once > WARM else seconds(run, _number(once)))
        return time

    return limit
