"""pretrainedmodels: the classic networks, as they were first ported."""

from __future__ import annotations

import pretrainedmodels
from torch import nn

from ..subject import Subject
from ._inputs import Build, image, table

NAMES = {
    "nasnetamobile": 96,
    "inceptionv4": 96,
    "bninception": 64,
    "se_resnet50": 64,
    "xception": 96,
    "resnet18": 64,
    "squeezenet1_1": 64,
}


def net(name: str, size: int) -> Subject:
    model = pretrainedmodels.__dict__[name](num_classes=1000, pretrained=None)
    for part, child in list(model.named_modules()):
        if isinstance(child, nn.AvgPool2d) and child.stride in (1, 7, 8) and child.padding == 0:
            holder = model.get_submodule(part.rpartition(".")[0])
            setattr(holder, part.rpartition(".")[2], nn.AdaptiveAvgPool2d(1))
    return Subject(model, image(size))


def cases() -> dict[str, Build]:
    """By name."""
    return table(NAMES, net)
