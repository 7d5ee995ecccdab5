"""What single parts of a sweep bring: layout, forms of convolutions, sites, folded norms."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

import funcattr as fa
from funcattr.operations import fold, intercept
from funcattr.operations.kinds.convolution import Convolution

from . import rivals
from .harness import Case, Record, Setting, check, interleaved, ratios, seconds, statistics
from .limit import dense_limit
from .networks import inputs, model_of
from .replay import replayed
from .sweeps import CHECKED, TOLERANCE

aten = torch.ops.aten


def _measured(runs: dict[str, Callable[[], Tensor]], setting: Setting, number: int) -> Record:
    """Times, each as a multiple of the first one's; all have its answer."""
    answers = {label: run() for label, run in runs.items()}
    first = next(iter(runs))
    checked = check(answers, answers[first], 1e-4)
    ways = {label: partial(seconds, run, number) for label, run in runs.items()}
    samples = interleaved(ways, setting, allowed=6.0, most=15)
    return {
        "checked": checked,
        "seconds": statistics(samples, setting),
        "ratios": ratios(samples, [(label, first) for label in runs if label != first]),
    }


def layout(setting: Setting) -> Record:
    """The derivative of a ReLU, of 8 images of ResNet's first layer, in one layout and in two."""
    x = torch.randn(8, 64, 112, 112, device=setting.device)
    last = x.contiguous(memory_format=torch.channels_last)
    runs = {
        "one layout": lambda: aten.threshold_backward(last, last, 0.0),
        "two layouts": lambda: aten.threshold_backward(last, x, 0.0),
    }
    return _measured(runs, setting, number=5)


def convolution(
    channels: tuple[int, int],
    sizes: tuple[int, int],
    kernel: int,
    stride: int,
    groups: int,
    setting: Setting,
) -> Record:
    """The input gradient of a convolution of pictures, for 8 of them: ours, and torch's forms."""
    (ins, outs), padding, last = channels, kernel // 2, {"memory_format": torch.channels_last}
    kind = Convolution((stride,) * 2, (padding,) * 2, (1, 1), groups)
    w = torch.randn(outs, ins // groups, kernel, kernel, device=setting.device)
    shapes = [(8, many, size, size) for many, size in zip(channels, sizes)]
    x, g = (torch.randn(s, device=setting.device).contiguous(**last) for s in shapes)
    prepared, w_last = kind.prepared(True, w), w.contiguous(**last)
    rest = sizes[0] - (sizes[1] - 1) * stride + 2 * padding - kernel
    options = (kind.stride, kind.padding, kind.dilation, False, (0, 0), groups)
    needed = (True, False, False)
    runs = {
        "ours": lambda: kind.transpose(g, shapes[0], prepared, w),
        "transposed convolution": lambda: F.conv_transpose2d(
            g, w_last, None, stride, padding, rest, groups
        ),
        "convolution_backward": lambda: aten.convolution_backward(
            g, x, w_last, None, *options, needed
        )[0],
    }
    return _measured(runs, setting, number=2)


def sites(name: str, setting: Setting) -> Record:
    """A sweep, and the same without one of its parts."""
    model, x = model_of(name, setting.device), inputs(name).to(setting.device)
    attr, targets = fa.guided_backprop(model), range(16)
    expected = rivals.reference(model, x, targets[:CHECKED])

    def run() -> Tensor:
        return fa.sweep(attr, x, targets=targets, chunk_size="auto")

    def without(group: str) -> Tensor:
        with mock.patch.object(intercept, "QUICK", intercept.QUICK - {group}):
            return run()

    def unfolded() -> Tensor:
        with mock.patch.object(fold.Convolved, "of", lambda *_: None):
            return run()

    runs = {
        "ours": run,
        "without folded norms": unfolded,
        "without convolutions' site": lambda: without("convolution"),
    }
    checked = check({label: run()[:CHECKED] for label, run in runs.items()}, expected, TOLERANCE)
    record = _measured(runs, setting, number=1)
    return record | {"network": name, "targets": len(targets), "batch": 1, "checked": checked}


def kernels(name: str, setting: Setting) -> Record:
    """A sweep beside its convolutions alone, and beside all of its kernels, in its order."""
    model, x = model_of(name, setting.device), inputs(name).to(setting.device)
    attr, targets = fa.guided_backprop(model), range(32)
    runs = {"ours": lambda: fa.sweep(attr, x, targets=targets, chunk_size="auto")}
    expected = runs["ours"]()
    runs["its kernels"] = replayed(runs["ours"])
    ways = {label: partial(seconds, run) for label, run in runs.items()}
    ways["convolutions"] = dense_limit(model, x, len(targets))
    samples = interleaved(ways, setting, allowed=40.0, least=3, most=15)
    pairs = [("ours", "convolutions"), ("its kernels", "convolutions"), ("ours", "its kernels")]
    return {
        "network": name,
        "targets": len(targets),
        "batch": 1,
        "checked": check({label: run() for label, run in runs.items()}, expected, TOLERANCE),
        "seconds": statistics(samples, setting),
        "ratios": ratios(samples, pairs),
    }


def cases() -> dict[str, Case]:
    """By name."""
    return {
        "parts/layout": Case(layout),
        "parts/first-layer": Case(partial(convolution, (3, 64), (224, 112), 7, 2, 1)),
        "parts/depthwise": Case(partial(convolution, (672, 672), (14, 14), 5, 1, 672)),
        "parts/efficientnet_lite0": Case(partial(sites, "efficientnet_lite0")),
        "parts/kernels": Case(partial(kernels, "efficientnet_lite0")),
    }
