"""Sweeps in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from scipy.stats import spearmanr
from torch import Tensor

import funcattr as fa

from . import rivals
from .harness import Case, Record, Setting, check, interleaved, ratios, seconds, statistics
from .networks import inputs, model_of, network
from .sweeps import CHECKED, TOLERANCE


def precision(name: str, setting: Setting) -> Record:
    """Sweeps in bfloat16 by autocast and by weights: time, and how well the maps agree."""
    targets = range(8 if setting.quick else 16)
    model, x = model_of(name, setting.device), inputs(name).to(setting.device)
    low = network(name).to(setting.device, torch.bfloat16)
    full, cast = fa.guided_backprop(model), fa.guided_backprop(low)

    def autocast() -> Tensor:
        with torch.autocast(setting.device, torch.bfloat16):
            return fa.sweep(full, x, targets=targets, chunk_size="auto")

    runs: dict[str, Callable[[], Tensor]] = {
        "float32": partial(fa.sweep, full, x, targets=targets, chunk_size="auto"),
        "bf16 autocast": autocast,
        "bf16 weights": partial(fa.sweep, cast, x.bfloat16(), targets=targets, chunk_size="auto"),
    }
    maps = {label: run() for label, run in runs.items()}
    first = targets[:CHECKED]
    expected = rivals.reference(model, x, first)
    checked = check({"float32": maps["float32"][:CHECKED]}, expected, TOLERANCE)
    agreement = {
        label: agreement_of(maps[label][:CHECKED].float(), maps["float32"][:CHECKED])
        for label in ("bf16 autocast", "bf16 weights")
    }
    samples = interleaved(
        {label: partial(seconds, run) for label, run in runs.items()}, setting, allowed=10.0
    )
    return {
        "network": name,
        "targets": len(targets),
        "batch": 1,
        "checked": checked,
        "agreement": agreement,
        "seconds": statistics(samples, setting),
        "ratios": ratios(samples, [("float32", "bf16 autocast"), ("float32", "bf16 weights")]),
    }


def agreement_of(maps: Tensor, expected: Tensor) -> dict[str, float]:
    """Spearman's rank correlation and the share of equal signs, the mean over maps."""
    pairs = [(a.flatten().cpu(), b.flatten().cpu()) for a, b in zip(maps, expected, strict=True)]
    return {
        "rank correlation": sum(float(spearmanr(a, b).statistic) for a, b in pairs) / len(pairs),
        "equal signs": sum((a.sign() == b.sign()).float().mean().item() for a, b in pairs)
        / len(pairs),
    }


def cases() -> dict[str, Case]:
    """By name."""
    names = ("resnet18", "efficientnet_lite0")
    return {f"precision/bf16-{name}": Case(partial(precision, name), gpu=True) for name in names}
