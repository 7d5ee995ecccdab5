"""kornia: local features, edges, and its transformers."""

from __future__ import annotations

import torch
from kornia import feature
from kornia.models import dexined as edges
from kornia.models import rrdbnet, small_sr, tiny_vit, vit, vit_mobile, yunet

from ..subject import Subject
from ._inputs import Build, image, named


def hardnet() -> Subject:
    return Subject(feature.HardNet(False), image(32, 1))


def hardnet8() -> Subject:
    return Subject(feature.HardNet8(False), image(32, 1))


def sosnet() -> Subject:
    return Subject(feature.SOSNet(False), image(32, 1))


def hynet() -> Subject:
    return Subject(feature.HyNet(False), image(32, 1))


def tfeat() -> Subject:
    return Subject(feature.TFeat(False), image(32, 1))


def disk() -> Subject:
    return Subject(feature.DISK(), image(64), call=lambda m, x: m.heatmap_and_dense_descriptors(x))


def keynet() -> Subject:
    return Subject(feature.KeyNet(False), image(64, 1))


def affnet() -> Subject:
    return Subject(feature.LAFAffNetShapeEstimator(False).features, image(32, 1))


def orinet() -> Subject:
    return Subject(feature.OriNet(False), image(32, 1))


def loftr() -> Subject:
    model = feature.LoFTR(pretrained=None)
    return Subject(model, image(64, 1), call=lambda m, x: m.backbone(x))


def loftr_coarse() -> Subject:
    model = feature.LoFTR(pretrained=None).loftr_coarse
    other = torch.randn(1, 12, 256)
    return Subject(model, torch.randn(1, 12, 256), call=lambda m, x: m(x, other))


def dexined() -> Subject:
    return Subject(edges.DexiNed(False), image(64, batch=1))


def vision_transformer() -> Subject:
    model = vit.VisionTransformer(32, 8, embed_dim=32, depth=2, num_heads=4)
    return Subject(model, image(32))


def mobile_vit() -> Subject:
    return Subject(vit_mobile.MobileViT("xxs"), image(256, batch=1))


def tiny_transformer() -> Subject:
    model = tiny_vit.TinyViT(
        64, num_classes=10, embed_dims=[16, 24, 32, 40], depths=[1, 1, 2, 1],
        num_heads=[1, 2, 4, 4], window_sizes=[4, 4, 4, 2],
    )  # fmt: skip
    return Subject(model, image(64))


def rrdb() -> Subject:
    return Subject(rrdbnet.RRDBNet(3, 3, 2, 8, 1, 4), image(16))


def small_super_resolution() -> Subject:
    return Subject(small_sr.SmallSRNet(2, pretrained=False), image(16, 1))


def small_super_resolution_in_place() -> Subject:
    return Subject(small_sr.SmallSRNet(2, inplace=True, pretrained=False), image(16, 1))


def faces() -> Subject:
    return Subject(yunet.YuNet("train", False), image(64))


def cases() -> dict[str, Build]:
    """By name."""
    found = named(hardnet, hardnet8, sosnet, hynet, tfeat, disk, keynet, affnet, orinet, loftr)
    found |= named(loftr_coarse, dexined, vision_transformer, mobile_vit, tiny_transformer)
    return found | named(rrdb, small_super_resolution, small_super_resolution_in_place, faces)
