"""The ways to ``K`` guided maps of one batch: Captum, zennit, TorchRay, and funcattr.

A `Method` of a library maps inputs ``[N, ...]`` with one class each to maps ``[N, ...]``. `loop`
and `repeated` make of it what its users do for many targets. Each works on a copy of the model, for
all of them attach to it.
"""

from __future__ import annotations

import copy
import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from types import ModuleType

import torch
from torch import Tensor, nn

import funcattr as fa

from .harness import chunks, seconds

Method = Callable[[Tensor, Tensor], Tensor]
Maps = Callable[[Sequence[int]], Tensor]  # targets -> [T, B, ...]

# Images per call of a repeated input: what is tried, for the faster one is the rival.
REPEATED_IMAGES = (4, 16)
MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def captum(model: nn.Module) -> Method:
    """Captum's ``GuidedBackprop``."""
    from captum.attr import GuidedBackprop

    method = GuidedBackprop(copy.deepcopy(model))

    def maps(inputs: Tensor, targets: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one on every call
            return method.attribute(inputs, target=targets).detach()

    return maps


def zennit(model: nn.Module) -> Method:
    """Zennit's ``GuidedBackprop`` composite."""
    with torchvision():
        composites = importlib.import_module("zennit.composites")
    model = copy.deepcopy(model)

    def maps(inputs: Tensor, targets: Tensor) -> Tensor:
        leaf = inputs.detach().requires_grad_()
        with composites.GuidedBackprop().context(model) as modified:
            out = modified(leaf)
            (grad,) = torch.autograd.grad(out.gather(1, targets[:, None]).sum(), leaf)
        return grad

    return maps


def torchray(model: nn.Module) -> Method:
    """TorchRay's ``guided_backprop``, without its sum over channels."""
    module = importlib.import_module("torchray.attribution.guided_backprop")
    model = copy.deepcopy(model)

    def maps(inputs: Tensor, targets: Tensor) -> Tensor:
        leaf = inputs.detach().clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return module.guided_backprop(
                model, leaf, targets, gradient_to_saliency=lambda probe: probe.grad.clone()
            )

    return maps


@contextmanager
def torchvision():
    """Zennit imports two blocks of torchvision, for canonizers not used here: empty ones do."""
    names = ["torchvision", *(f"torchvision.models{end}" for end in ("", ".resnet", ".vgg"))]
    try:
        importlib.import_module("torchvision")
        names = []
    except ImportError:
        sys.modules.update({name: ModuleType(name) for name in names})
        for block in "Bottleneck", "BasicBlock":
            setattr(sys.modules["torchvision.models.resnet"], block, type(block, (nn.Module,), {}))
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def loop(method: Method, x: Tensor) -> Maps:
    """One call per target, as the documentation of Captum shows."""

    def maps(targets: Sequence[int]) -> Tensor:
        each = [torch.full((len(x),), t, device=x.device) for t in targets]
        return torch.stack([method(x.clone(), target) for target in each])

    return maps


def repeated(method: Method, x: Tensor, images: int, memory_format: torch.memory_format) -> Maps:
    """The input repeated once per target, ``images`` of them in a call."""

    def maps(targets: Sequence[int]) -> Tensor:
        parts = []
        for chunk in chunks(targets, max(1, images // len(x))):
            many = x.repeat(len(chunk), *[1] * (x.dim() - 1)).to(memory_format=memory_format)
            each = torch.tensor(chunk, device=x.device).repeat_interleave(len(x))
            parts.append(method(many, each).reshape(len(chunk), *x.shape))
        return torch.cat(parts)

    return maps


def best_repeated(
    make: Callable[[nn.Module], Method], model: nn.Module, x: Tensor
) -> tuple[Callable[[Tensor], Maps], str]:
    """`repeated` in the memory format and batch in which it is fastest, and what these are."""
    tried: list[tuple[float, str, Callable[[Tensor], Maps]]] = []
    for name, memory_format in MEMORY_FORMATS.items():
        method = make(copy.deepcopy(model).to(memory_format=memory_format))
        for images in REPEATED_IMAGES:
            fixed = partial(repeated, method, images=images, memory_format=memory_format)
            fixed(x)(range(2))
            time = seconds(partial(fixed(x), range(images // len(x))))
            tried.append((time / images, f"{name}, {images} images a call", fixed))
    _, name, fixed = min(tried, key=lambda t: t[0])
    return fixed, name


def ours(attr: fa.Attribution, x: Tensor) -> Maps:
    """Funcattr's sweep."""
    return lambda targets: fa.sweep(attr, x, targets=targets, chunk_size="auto")


def ours_compiled(attr: fa.Attribution, x: Tensor, compile: bool | str = True) -> Maps:
    """Funcattr's sweep, compiled; the same chunk for any number of targets."""
    return lambda targets: fa.sweep(attr, x, targets=targets, chunk_size="auto", compile=compile)


class _GuidedClamp(torch.autograd.Function):
    """``clamp(x, 0, top)`` under the guided rule."""

    @staticmethod
    def forward(ctx, x: Tensor, top: float) -> Tensor:
        ctx.save_for_backward((x > 0) & (x < top))
        return x.clamp(0, top)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return g.clamp(min=0) * inside, None


def guided_relu(x: Tensor, top: float = float("inf")) -> Tensor:
    """A ReLU, clipped or not, under the guided rule."""
    return _GuidedClamp.apply(x, top)


class _GuidedReLU(nn.Module):
    def __init__(self, top: float) -> None:
        super().__init__()
        self.top = top

    def forward(self, x: Tensor) -> Tensor:
        return guided_relu(x, self.top)


def reference(model: nn.Module, x: Tensor, targets: Sequence[int]) -> Tensor:
    """Guided maps ``[T, B, ...]`` by `surgery`: what every way is checked against."""
    return gradients(surgery(model), x, targets)


def surgery(model: nn.Module) -> nn.Module:
    """A copy whose rectifiers follow the guided rule, as one writes it by hand.

    Right for networks whose rectifiers are all ``nn.ReLU`` or ``nn.ReLU6`` and whose in-place
    results nothing else reads, as those here.
    """
    model = copy.deepcopy(model).requires_grad_(False)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU6):
                setattr(module, name, _GuidedReLU(6.0))
            elif isinstance(child, nn.ReLU):
                setattr(module, name, _GuidedReLU(float("inf")))
    return model


def gradients(model: nn.Module, x: Tensor, targets: Sequence[int]) -> Tensor:
    """Plain gradients ``[T, B, ...]``, by autograd."""
    leaf = x.clone().requires_grad_()
    out = model(leaf)
    return torch.stack(
        [torch.autograd.grad(out[:, t].sum(), leaf, retain_graph=True)[0] for t in targets]
    )
