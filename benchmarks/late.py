"""Maps at a late layer, of all classes; and several rules at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import captum.attr
import torch
from torch import Tensor

import funcattr as fa

from . import rivals
from .harness import Case, Record, Seconds, Setting, check, interleaved, ratios, seconds, statistics
from .limit import dense_limit
from .networks import inputs, model_of
from .sweeps import CHECKED, TOLERANCE, sweep_seconds

LAST_BLOCK = "features.stage4"  # of pytorchcv's ResNets


def late(method: str, setting: Setting) -> Record:
    """All 1000 maps of one image at the last block of ResNet-50, against forward passes."""
    model, x = model_of("resnet50", setting.device), inputs("resnet50").to(setting.device)
    layer = model.get_submodule(LAST_BLOCK)
    if method == "gradcam":
        attr, theirs = fa.grad_cam(model, LAST_BLOCK), captum.attr.LayerGradCam(model, layer)
        options: dict[str, Any] = {"relu_attributions": True}
        reduce = None
    else:
        attr = fa.layer_gradient_x_activation(model, LAST_BLOCK)
        theirs = captum.attr.LayerGradientXActivation(model, layer)
        options = {}
        reduce = _channel_sum

    def ours(targets: Sequence[int]) -> Tensor:
        return fa.sweep(attr, x, targets=targets, chunk_size="auto", reduce=reduce)

    def captum_loop(targets: Sequence[int]) -> Tensor:
        maps = [theirs.attribute(x, target=t, **options).detach() for t in targets]
        return torch.stack([reduce(m) if reduce else m for m in maps])

    checked = check({"ours": ours(range(CHECKED))}, captum_loop(range(CHECKED)), TOLERANCE)
    classes = 1000
    ours(range(classes))
    ways: dict[str, Seconds] = {
        "forward pass": partial(seconds, torch.no_grad()(partial(model, x)), 2),
        "ours": partial(seconds, partial(ours, range(classes))),
        "Captum loop": sweep_seconds(captum_loop, classes, CHECKED),
    }
    samples = interleaved(ways, setting, allowed=6.0, least=3, most=9)
    return {
        "network": "resnet50",
        "targets": classes,
        "batch": 1,
        "checked": checked,
        "timed_targets": {"ours": classes, "Captum loop": CHECKED},
        "seconds": statistics(samples, setting),
        "ratios": ratios(samples, [("ours", "forward pass"), ("Captum loop", "ours")]),
    }


def _channel_sum(map: Tensor) -> Tensor:
    return map.sum(1)


def bundle(setting: Setting) -> Record:
    """Plain, DeconvNet, guided and Grad-CAM maps of the same targets, from one forward pass."""
    name, targets = "resnet18", 8 if setting.quick else 32
    model, x = model_of(name, setting.device), inputs(name).to(setting.device)
    attrs = [
        fa.gradient(model),
        fa.deconvnet(model),
        fa.guided_backprop(model),
        fa.grad_cam(model, LAST_BLOCK),
    ]
    both = fa.bundle(*attrs)

    def at_once(targets: Sequence[int]) -> tuple[Tensor, ...]:
        return fa.sweep(both, x, targets=targets, chunk_size="auto")

    def one_by_one(targets: Sequence[int]) -> list[Tensor]:
        return [fa.sweep(attr, x, targets=targets, chunk_size="auto") for attr in attrs]

    labels = ("gradient", "deconvnet", "guided", "Grad-CAM")
    pairs = zip(labels, at_once(range(CHECKED)), one_by_one(range(CHECKED)), strict=True)
    checked = {}
    for label, got, expected in pairs:
        checked |= check({label: got}, expected, TOLERANCE)
    plain = rivals.gradients(model, x, range(CHECKED))
    check({"gradient": at_once(range(CHECKED))[0]}, plain, TOLERANCE)
    ways: dict[str, Seconds] = {
        "limit": dense_limit(model, x, targets, backwards=3),
        "bundle": partial(seconds, partial(at_once, range(targets))),
        "separate sweeps": partial(seconds, partial(one_by_one, range(targets))),
    }
    samples = interleaved(ways, setting, allowed=12.0)
    return {
        "network": name,
        "targets": targets,
        "batch": 1,
        "checked": checked,
        "seconds": statistics(samples, setting),
        "ratios": ratios(samples, [("bundle", "limit"), ("separate sweeps", "bundle")]),
    }


def cases() -> dict[str, Case]:
    """By name."""
    methods = ("gradcam", "layer_gxa")
    found = {f"late/{method}": Case(partial(late, method), quick=True) for method in methods}
    return found | {"rules/bundle": Case(bundle, quick=True)}
