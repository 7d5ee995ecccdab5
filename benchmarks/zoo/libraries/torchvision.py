"""torchvision: classifiers, segmentation, video, and detectors up to their heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import detection, optical_flow, quantization, segmentation, video

from ..subject import Subject
from ._inputs import Build, image, listed, table

CLASSIFIERS = listed("""
    alexnet resnet18 resnet50 densenet121 mnasnet0_5 mobilenet_v2
    mobilenet_v3_small mobilenet_v3_large shufflenet_v2_x0_5 shufflenet_v2_x1_0 squeezenet1_0
    squeezenet1_1 regnet_x_400mf regnet_y_400mf efficientnet_b0 efficientnet_v2_s convnext_tiny
    swin_t swin_v2_t
""")
WITH_AUX = {"googlenet": 64, "inception_v3": 96}
SEGMENTATION = ["fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large"]
SEGMENTATION += ["lraspp_mobilenet_v3_large"]
VIDEO = ["r3d_18", "mc3_18", "r2plus1d_18", "swin3d_t"]
DETECTION = listed("""
    retinanet_resnet50_fpn retinanet_resnet50_fpn_v2 fcos_resnet50_fpn
    ssdlite320_mobilenet_v3_large
""")
QUANTIZABLE = ["resnet18", "mobilenet_v2", "mobilenet_v3_large", "shufflenet_v2_x0_5", "googlenet"]


def classifier(name: str) -> Subject:
    size = 96 if name.startswith("alex") else 64
    return Subject(getattr(models, name)(num_classes=10), image(size))


def with_aux(name: str, size: int) -> Subject:
    model = getattr(models, name)(num_classes=10, aux_logits=False, init_weights=False)
    return Subject(model, image(size))


def segmented(name: str) -> Subject:
    model = getattr(segmentation, name)(num_classes=4, weights_backbone=None)
    return Subject(model, image(64))


def filmed(name: str) -> Subject:
    return Subject(getattr(video, name)(num_classes=10), torch.randn(2, 3, 4, 32, 32))


def heads(model: nn.Module, x: Tensor) -> object:
    """Of a detector all but the choice of boxes, which is no function with a derivative."""
    features = model.backbone(x)
    return model.head(list(features.values()))


def detector(name: str) -> Subject:
    model = getattr(detection, name)(num_classes=4, weights=None, weights_backbone=None)
    return Subject(model, image(320 if "ssd" in name else 64, batch=1), call=heads)


def proposals(name: str) -> Subject:
    model = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    call = lambda m, x: m.rpn.head(list(m.backbone(x).values()))
    return Subject(model, image(), call=call)


def quantizable(name: str) -> Subject:
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    return Subject(getattr(quantization, name.split("/")[1])(num_classes=10, **options), image())


def transformer(name: str) -> Subject:
    model = models.VisionTransformer(32, 16, 2, 4, 32, 64, num_classes=10)
    return Subject(model, image(32))


def maxvit(name: str) -> Subject:
    model = models.maxvit.MaxVit((64, 64), 16, 2, [16, 32], [1, 1], 16, 0.0, num_classes=10)
    return Subject(model, image(64))


def raft(name: str) -> Subject:
    model = optical_flow.raft_small()
    other = torch.randn(1, 3, 128, 128)
    call = lambda m, x: m(x, other, num_flow_updates=2)
    return Subject(model, torch.randn(1, 3, 128, 128), call=call)


def cases() -> dict[str, Build]:
    """By name."""
    found = table(CLASSIFIERS, classifier) | table(WITH_AUX, with_aux)
    found |= table(SEGMENTATION, segmented) | table(VIDEO, filmed) | table(DETECTION, detector)
    found |= table([f"quantizable/{name}" for name in QUANTIZABLE], quantizable)
    found |= table(["vision_transformer"], transformer) | table(["maxvit"], maxvit)
    return found | table(["raft_small"], raft) | table(["fasterrcnn_rpn"], proposals)
