"""The networks that are explained, and their inputs. Nothing is downloaded."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "efficientnet_lite0.py"
PICTURES = ("chelsea", "coffee", "motorcycle_left", "astronaut")


@cache
def _example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("efficientnet_lite0", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where the compiler looks for it
    spec.loader.exec_module(module)
    return module


def _pytorchcv(module: str, builder: str) -> nn.Module:
    """Random weights; batch norms that have seen noise, so that activations keep their scale."""
    model = getattr(importlib.import_module(f"pytorchcv.models.{module}"), builder)()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean over all batches
    if norms:
        model.train()
        with torch.no_grad():
            for _ in range(2):
                model(torch.randn(8, 3, 224, 224))
    return model


def _vgg(name: str) -> nn.Module:
    """With a Flatten in place of its ``view``, which refuses channels-last tensors."""
    model = _pytorchcv("vgg", name)
    return nn.Sequential(model.features, nn.Flatten(), model.output)


class UNet(nn.Module):
    """Three steps down and up again, with skips: pictures to 5 scores a pixel."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (3, 32, 64, 128)
        self.down = nn.ModuleList(_double(a, b) for a, b in itertools.pairwise(sizes))
        self.deepest = _double(128, 256)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in ((256, 128), (128, 64), (64, 32))
        )
        self.joined = nn.ModuleList(_double(2 * a, a) for a in (128, 64, 32))
        self.last = nn.Conv2d(32, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.deepest(x)
        for up, joined, skip in zip(self.up, self.joined, reversed(skips), strict=True):
            x = joined(torch.cat([up(x), skip], 1))
        return self.last(x)


def _double(ins: int, outs: int) -> nn.Sequential:
    layers = []
    for n in (ins, outs):
        layers += [nn.Conv2d(n, outs, 3, padding=1), nn.BatchNorm2d(outs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: _pytorchcv("resnet", "resnet18"),
    "resnet50": lambda: _pytorchcv("resnet", "resnet50"),
    "mobilenetv2": lambda: _pytorchcv("mobilenetv2", "mobilenetv2_w1"),
    "densenet121": lambda: _pytorchcv("densenet", "densenet121"),
    "unet": UNet,
    "vgg11": lambda: _vgg("vgg11"),
    "vgg16": lambda: _vgg("vgg16"),
    "efficientnet_lite0": lambda: _example().load(),
    "perceptron": lambda: nn.Sequential(
        nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    ),
}


def network(name: str) -> nn.Module:
    """A network in eval mode on the CPU, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NETWORKS[name]().eval()


def inputs(name: str, batch: int = 1) -> Tensor:
    """Photographs for EfficientNet-Lite0, ``[B, 3, 224, 224]``; else noise of a fixed seed."""
    if name == "efficientnet_lite0":
        names = (PICTURES[i % len(PICTURES)] for i in range(batch))
        return torch.cat([_example().photograph(picture) for picture in names])
    shape = (784,) if name == "perceptron" else (3, 224, 224)
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1))


@cache
def model_of(name: str, device: str) -> nn.Module:
    """A network on a device, built once."""
    return network(name).to(device)
