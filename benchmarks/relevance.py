"""Sweeps of relevance: composites against the plain gradient's sweep, and against zennit."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import funcattr as fa

from . import rivals
from .harness import Case, Record, Seconds, Setting, check, interleaved, ratios, statistics
from .memory import memory
from .networks import inputs, model_of
from .sweeps import CHECKED, LOOPED, sweep_seconds, timed_targets

NETWORKS = ("resnet18", "vgg11", "efficientnet_lite0")
BOX = (-3.0, 3.0)
TOLERANCE = 2e-2  # of the norm: gamma switches where an output changes its sign, as rounding can
# What is timed, by zennit's name for it, and what both are called with.
COMPOSITES = {
    "epsilon-plus": ("epsilon_plus", "EpsilonPlus", ()),
    "alpha-beta": ("epsilon_alpha2_beta1", "EpsilonAlpha2Beta1", ()),
    "gamma": ("epsilon_gamma_box", "EpsilonGammaBox", BOX),
}


def zennit(model: nn.Module, x: Tensor, name: str, once: bool) -> rivals.Maps:
    """Zennit's relevance: a forward and backward pass per target, or one forward pass for all.

    Its canonizers merge the batch norms and show it the sums of branches. A merged norm's eps goes,
    which it forgets.
    """
    with rivals.torchvision():
        composites, canonizers, layer = (
            importlib.import_module(f"zennit.{part}")
            for part in ("composites", "canonizers", "layer")
        )

    class Merge(canonizers.SequentialMergeBatchNorm):
        @staticmethod
        def merge_batch_norm(modules: Sequence[nn.Module], norm: nn.Module) -> None:
            canonizers.SequentialMergeBatchNorm.merge_batch_norm(modules, norm)
            norm.eps = 0.0

    merge, skips = Merge(), canonizers.AttributeCanonizer(partial(_with_a_sum, layer.Sum))
    composite = getattr(composites, COMPOSITES[name][1])(
        *COMPOSITES[name][2], canonizers=[merge, skips]
    )
    model = copy.deepcopy(model).requires_grad_(False)

    def one(out: Tensor, leaf: Tensor, target: int, keep: bool) -> Tensor:
        start = torch.zeros_like(out)
        start[:, target] = out.detach()[:, target]
        return torch.autograd.grad(out, leaf, start, retain_graph=keep)[0]

    def maps(targets: Sequence[int]) -> Tensor:
        leaf = x.clone().requires_grad_()
        with composite.context(model) as modified:
            if once:
                out = modified(leaf)
                each = [one(out, leaf, t, True) for t in targets]
                return torch.stack(each) if each else out  # without targets the forward pass alone
            return torch.stack([one(modified(leaf), leaf, t, False) for t in targets])

    return maps


def _with_a_sum(make: type[nn.Module], name: str, module: nn.Module) -> dict[str, Any] | None:
    """What zennit cannot see in the networks here, where a hook can see it: sums and a mean."""
    kind = type(module).__name__
    if kind == "ResUnit":

        def unit(x: Tensor) -> Tensor:
            identity = module.identity_conv(x) if module.resize_identity else x
            return module.activ(module.sum(torch.stack([module.body(x), identity], -1)))

        return {"forward": unit, "sum": make()}
    if kind == "Block" and module.skip:
        branch = _branch(module)
        return {"forward": lambda x: module.sum(torch.stack([x, branch(x)], -1)), "sum": make()}
    if kind == "EfficientNetLite0":

        def whole(x: Tensor) -> Tensor:
            x = module._blocks(module._relu0(module._bn0(module._conv_stem(x))))
            x = module._relu1(module._bn1(module._conv_head(x)))
            return module._fc(module.mean(x).flatten(1))

        return {"forward": whole, "mean": nn.AdaptiveAvgPool2d(1)}
    return None


def _branch(block: Any) -> Callable[[Tensor], Tensor]:
    """What a block of EfficientNet-Lite0 adds to its input."""

    def branch(x: Tensor) -> Tensor:
        h = block._relu0(block._bn0(block._expand_conv(x))) if block.expand else x
        h = block._relu1(block._bn1(block._depthwise_conv(h)))
        return block._bn2(block._project_conv(h))

    return branch


def sweep(name: str, targets: int, setting: Setting) -> Record:
    """Times our sweeps of the gradient and of each composite, and zennit's two loops of each."""
    model, x = model_of(name, setting.device), inputs(name).to(setting.device)
    gradient, timed = fa.gradient(model), timed_targets(name, targets, 1, setting)
    maps = {"gradient": rivals.ours(gradient, x)}
    shared: dict[str, Callable[[], object]] = {"gradient": partial(gradient.linearize, x)}
    pairs, checked = [], {}
    for label, (ours, _, args) in COMPOSITES.items():
        attr = fa.lrp(model, getattr(fa.composites, ours)(*args))
        loop, once = (zennit(model, x, label, once) for once in (False, True))
        maps |= {label: rivals.ours(attr, x)}
        maps |= {f"{label}, zennit loop": loop, f"{label}, zennit once": once}
        shared[label] = partial(attr.linearize, x)
        shared[f"{label}, zennit once"] = partial(once, [])
        answers = {way: maps[way](range(CHECKED)) for way in maps if way.startswith(label)}
        checked |= check(answers, answers[f"{label}, zennit loop"], TOLERANCE)
        pairs.append((label, "gradient"))
        pairs += [(f"{label}, zennit {how}", label) for how in ("loop", "once")]
    few = min(targets, LOOPED)
    counts = {way: few if "zennit" in way else timed for way in maps}
    ways: dict[str, Seconds] = {
        way: sweep_seconds(maps[way], targets, counts[way], shared.get(way)) for way in maps
    }
    samples = interleaved(ways, setting, allowed=40.0)
    return {
        "network": name,
        "targets": targets,
        "batch": 1,
        "checked": checked,
        "timed_targets": counts,
        "seconds": statistics(samples, setting),
        "ratios": ratios(samples, pairs),
    }


def cases() -> dict[str, Case]:
    """By name; those of one network next to each other."""
    found = {
        f"relevance/{name}-K{targets}": Case(partial(sweep, name, targets))
        for name in NETWORKS
        for targets in (32, 100)
    }
    ways = ("relevance reduced", "relevance streamed", "zennit loop")
    found["relevance/memory"] = Case(partial(memory, ways))
    return found


@torch.no_grad()
def signed(name: str) -> float:
    """The share of a network's products (multiply-adds) that are convolutions of signed inputs."""
    counts = {True: 0, False: 0}

    def count(module: nn.Conv2d, args: tuple[Tensor], out: Tensor) -> None:
        counts[bool(args[0].amin() < 0)] += out.numel() * module.weight[0].numel()

    model = model_of(name, "cpu")
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    model(inputs(name))
    return counts[True] / sum(counts.values())


if __name__ == "__main__":  # what a sweep of relevance costs at the least, of the gradient's
    for network in NETWORKS:
        share = signed(network)
        print(f"{network:18} z+ {1 + share:.2f}, alpha-beta and gamma {2 + 2 * share:.2f}")
