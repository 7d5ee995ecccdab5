"""TorchRay's gradient methods, under its names and with its numbers: change one import line.

The model runs as a private copy in eval mode, so nothing of the user's is changed, by errors
neither. The contexts act on the current thread only.

The public names of ``torchray.attribution`` and ``torchray.utils.imsmooth`` are all in here.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..methods.cams import cam
from ..models.copies import Copy
from ..models.substitutes import Substitutes
from ..operations.intercept import Intercept
from ..postprocess import channel_max_abs, convolved, gaussian_smooth, gaussian_taps, reach
from ._torchray_tools import (
    DeConvNetContext,
    DeconvNetContext,
    GuidedBackpropContext,
    NullContext,
    Probe,
    ReLUContext,
)

__all__ = [
    "DeConvNetContext",
    "DeconvNetContext",
    "GuidedBackpropContext",
    "NullContext",
    "Probe",
    "ReLUContext",
    "attach_debug_probes",
    "deconvnet",
    "get_backward_gradient",
    "get_module",
    "get_pointing_gradient",
    "grad_cam",
    "gradient",
    "gradient_to_grad_cam_saliency",
    "gradient_to_linear_approx_saliency",
    "gradient_to_saliency",
    "guided_backprop",
    "imsmooth",
    "linear_approx",
    "resize_saliency",
    "saliency",
]


def attach_debug_probes(model: nn.Module, debug: bool = False) -> OrderedDict[str, Probe] | None:
    """Probes by name: of the model's input, and of the output of every module in it.

    None unless ``debug``.
    """
    if not debug:
        return None
    named = model.named_modules()
    return OrderedDict((name, Probe(m, "output" if name else "input")) for name, m in named)


def get_module(model: nn.Module, module: str | nn.Module) -> nn.Module | None:
    """The module of that name, None where there is none; a module is returned as it is."""
    assert isinstance(module, (str, nn.Module)), f"a layer is a name or a module; got {module!r}."
    return dict(model.named_modules()).get(module) if isinstance(module, str) else module


def get_backward_gradient(pred_y: Tensor, y: Any) -> Tensor:
    """The cotangent of an output: ``y`` where it has that shape, else 1 at the classes ``y``.

    Args:
        pred_y: ``[N, C, *spatial]``.
        y: what ``torch.tensor`` makes integers of: one class, or one for each example.

    Returns:
        ``[N, C, *spatial]``.
    """
    assert isinstance(pred_y, Tensor), f"the output is a tensor; got {type(pred_y).__name__}."
    if not isinstance(y, Tensor):
        y = torch.tensor(y, dtype=torch.long, device=pred_y.device)
    if y.shape == pred_y.shape:
        return y  # type: ignore[no-any-return]
    assert y.dtype == torch.long, f"classes are of dtype torch.long; got {y.dtype}."
    classes = y.reshape(-1, 1, *[1] * (pred_y.dim() - 2)).expand_as(pred_y)
    return torch.zeros_like(pred_y).scatter(1, classes, 1.0)


def get_pointing_gradient(pred_y: Tensor, y: int, normalize: bool = True) -> Tensor:
    """The cotangent for the pointing game: ``exp(pred_y)`` at class ``y``.

    Args:
        pred_y: ``[1, C]`` or ``[1, C, H, W]``.
        y: the class.
        normalize: whether it sums to 1.

    Returns:
        A tensor of the shape of ``pred_y``.
    """
    fits = isinstance(pred_y, Tensor) and pred_y.dim() in (2, 4) and len(pred_y) == 1
    assert fits, "the output is a tensor [1, C] or [1, C, H, W]."
    assert isinstance(y, int), f"a class is an int; got {y!r}."
    weights = pred_y.detach()[0, y].exp()
    cotangent = torch.zeros_like(pred_y)
    cotangent[0, y] = weights / weights.sum() if normalize else weights
    return cotangent


def gradient_to_saliency(x: Tensor) -> Tensor:
    """``channel_max_abs`` of the gradient that ``x`` carries."""
    return channel_max_abs(x.grad)  # type: ignore[arg-type]


def gradient_to_grad_cam_saliency(x: Tensor) -> Tensor:
    """Grad-CAM of an activation with its gradient."""
    return cam(x.grad, x, relu=True, channel_sum=True)  # type: ignore[arg-type]


def gradient_to_linear_approx_saliency(x: Tensor) -> Tensor:
    """An activation times its gradient, summed over the channels."""
    return (x * x.grad).sum(1, keepdim=True)  # type: ignore[operator]


def resize_saliency(tensor: Tensor, saliency: Tensor, size: Any, mode: str) -> Tensor:
    """``saliency`` resized to ``(width, height)``, or to ``tensor`` where ``size`` is True."""
    if size is False:
        return saliency
    assert size is True or isinstance(size, (tuple, list)), "resize must be True, False or a tuple."
    size = tensor.shape[2:] if size is True else size[::-1]
    # Not fa.interpolate, whose errors and modes are other ones.
    return F.interpolate(saliency, size, mode=mode, align_corners=False)


def imsmooth(
    tensor: Tensor,
    sigma: float,
    stride: int = 1,
    padding: int = 0,
    padding_mode: str = "constant",
    padding_value: float = 0,
) -> Tensor:
    """Images smoothed by a Gaussian.

    Args:
        tensor: ``[N, C, H, W]``.
        sigma: in pixels.
        stride: each how-many-eth pixel is kept.
        padding: by how much the result is larger on each side.
        padding_mode: as for ``torch.nn.functional.pad``.
        padding_value: for the mode ``"constant"``.

    Returns:
        ``[N, C, H', W']``.
    """
    assert sigma >= 0, f"sigma is a number of pixels, 0 or more; got {sigma}."
    if padding_mode == "replicate" and not padding:
        return gaussian_smooth(tensor, sigma)[..., ::stride, ::stride]
    # TorchRay pads zeros before each of its two passes, so rows and columns get unlike ones.
    twice = padding if padding_mode == "constant" and padding_value == 0 else 0
    rows = reach(sigma) + padding
    around = (rows + twice, rows + twice, rows, rows)
    value = padding_value if padding_mode == "constant" else None
    padded = F.pad(tensor, around, mode=padding_mode, value=value)
    smooth = convolved(padded, gaussian_taps(sigma, tensor))
    return F.pad(smooth[..., ::stride, ::stride], (0, 0, twice, twice))


def saliency(
    model: nn.Module,
    input: Tensor,
    target: Any,
    saliency_layer: str | nn.Module = "",
    resize: bool | tuple[int, int] = False,
    resize_mode: str = "bilinear",
    smooth: float = 0,
    context_builder: Callable[[], AbstractContextManager[Any]] = NullContext,
    gradient_to_saliency: Callable[[Tensor], Any] = gradient_to_saliency,
    get_backward_gradient: Callable[[Any, Any], Tensor] = get_backward_gradient,
    debug: bool = False,
) -> Any:
    """A map of what speaks for ``target``, at the input or at a layer, in eval mode.

    Args:
        model: a module; it is left as it is.
        input: ``[N, C, *spatial]``; it is left as it is.
        target: see `get_backward_gradient`.
        saliency_layer: the name of a layer, or the module, whose output is explained; the input of
            the model by default.
        resize: whether the map is resized to the input; or ``(width, height)``.
        resize_mode: a mode of ``torch.nn.functional.interpolate`` that is linear or cubic.
        smooth: the sigma of a Gaussian, as a part of the larger side of the map.
        context_builder: makes the context under which the model runs.
        gradient_to_saliency: from an activation, with its ``grad``, to the map.
        get_backward_gradient: from the output and ``target`` to the cotangent.
        debug: whether the probes of all modules are returned as well.

    Returns:
        ``[N, 1, *spatial]``; with ``debug`` a tuple of this and a dict from name to `Probe`.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    >>> saliency(model, torch.ones(5, 3, 4, 4), 1).shape
    torch.Size([5, 1, 4, 4])
    """
    copied = _evaluating(model)
    inside, at = copied.root, "output"
    layer: nn.Module | None = inside
    if isinstance(saliency_layer, nn.Module):
        # One that is no part of the model never runs, and stays as it is.
        layer = copied.of(saliency_layer) or nn.Identity()
    elif saliency_layer == "":
        at = "input"
    else:
        layer = get_module(inside, saliency_layer)
    assert layer is not None, f"We could not find the saliency layer {saliency_layer!r}."
    probes = attach_debug_probes(inside, debug) or OrderedDict()
    substitute = Substitutes(copied.swap, set(), detach=True)
    with (
        Intercept((), 0, substitute=substitute),
        Probe(layer, at) as probe,
        torch.enable_grad(),
        context_builder(),
    ):
        output = inside(input.detach().clone())
        output.backward(get_backward_gradient(output, target))
    for other in probes.values():
        other.remove()
    if not probe.data:
        raise IndexError(f"list index out of range: layer {saliency_layer!r} never ran.")
    map = resize_saliency(input, gradient_to_saliency(probe.data[0]), resize, resize_mode)
    if smooth > 0:
        map = imsmooth(map, smooth * max(map.shape[2:]), padding_mode="replicate")
    map = map.detach() if isinstance(map, Tensor) else map
    return (map, probes) if debug else map


def _evaluating(model: nn.Module) -> Copy:
    """A structural copy in eval mode, cut off from the model's parameters."""
    scripted = [m for m in model.modules() if isinstance(m, torch.jit.ScriptModule)]
    copied = Copy(model, {}, detach=True)
    if scripted:  # a structural copy shares them
        copied.root = _own_script(copied.root)
        for module in copied.root.modules():
            for name, child in module._modules.items():
                module._modules[name] = _own_script(child)
    copied.root.eval()
    return copied


def _own_script(module: Any) -> Any:
    return copy.deepcopy(module) if isinstance(module, torch.jit.ScriptModule) else module


def gradient(*args: Any, context_builder: None = None, **kwargs: Any) -> Any:
    """`saliency` by the plain gradient."""
    assert context_builder is None, "gradient takes no context_builder; saliency does."
    return saliency(*args, **kwargs)


def guided_backprop(*args: Any, context_builder: Any = GuidedBackpropContext, **kwargs: Any) -> Any:
    """`saliency` by guided backpropagation."""
    return saliency(*args, **{**kwargs, "context_builder": context_builder})


def deconvnet(*args: Any, context_builder: Any = DeConvNetContext, **kwargs: Any) -> Any:
    """`saliency` by DeconvNet."""
    return saliency(*args, **{**kwargs, "context_builder": context_builder})


def grad_cam(
    *args: Any,
    saliency_layer: str | nn.Module,
    gradient_to_saliency: Any = gradient_to_grad_cam_saliency,
    **kwargs: Any,
) -> Any:
    """`saliency` by Grad-CAM at a layer."""
    kwargs.update(saliency_layer=saliency_layer, gradient_to_saliency=gradient_to_saliency)
    return saliency(*args, **kwargs)


def linear_approx(
    *args: Any, gradient_to_saliency: Any = gradient_to_linear_approx_saliency, **kwargs: Any
) -> Any:
    """`saliency` by the activation times its gradient."""
    return saliency(*args, **{**kwargs, "gradient_to_saliency": gradient_to_saliency})
