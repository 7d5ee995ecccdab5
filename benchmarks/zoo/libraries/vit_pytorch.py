"""vit-pytorch: transformers for images in many forms."""

from __future__ import annotations

import importlib
from typing import Any

from ..subject import Subject
from ._inputs import Build, image, table

SIZE = {"image_size": 32, "patch_size": 8, "num_classes": 10, "dim": 32}
HEADS = {"depth": 2, "heads": 4, "mlp_dim": 40}
MODELS: dict[str, tuple[str, dict[str, Any], int]] = {
    "ViT": ("vit", {**SIZE, **HEADS}, 32),
    "SimpleViT": ("simple_vit", {**SIZE, **HEADS}, 32),
    "DeepViT": ("deepvit", {**SIZE, **HEADS}, 32),
    "CaiT": ("cait", {**SIZE, **HEADS, "cls_depth": 1}, 32),
    "PiT": ("pit", {**SIZE, "depth": (1, 1), "heads": 2, "mlp_dim": 40}, 32),
    "LeViT": (
        "levit",
        {"image_size": 64, "num_classes": 10, "dim": (16, 24), "depth": 1, "heads": (2, 3)}
        | {"mlp_mult": 2, "stages": 2},
        64,
    ),
    "CvT": ("cvt", {"num_classes": 10}, 64),
    "MaxViT": (
        "max_vit",
        {"num_classes": 10, "dim_conv_stem": 8, "dim": 16, "dim_head": 8, "depth": (1, 1)}
        | {"window_size": 4},
        64,
    ),
    "NesT": (
        "nest",
        {"image_size": 32, "patch_size": 4, "dim": 16, "heads": 2, "num_hierarchies": 2}
        | {"block_repeats": (1, 1), "num_classes": 10},
        32,
    ),
    "MobileViT": (
        "mobile_vit",
        {"image_size": (64, 64), "dims": [16, 24, 32], "num_classes": 10}
        | {"channels": [8, 8, 12, 12, 16, 16, 24, 24, 32, 32, 40]},
        64,
    ),
    "XCiT": ("xcit", {**SIZE, **HEADS, "cls_depth": 1}, 32),
    "CCT": (
        "cct",
        {"img_size": 32, "embedding_dim": 32, "num_layers": 2, "num_heads": 4, "num_classes": 10},
        32,
    ),
    "ViT_small": ("vit_for_small_dataset:ViT", {**SIZE, **HEADS}, 32),
    "ViT_learnable_memory": ("learnable_memory_vit:ViT", {**SIZE, **HEADS}, 32),
    "ScalableViT": (
        "scalable_vit",
        {"num_classes": 10, "dim": 16, "heads": (1, 2), "depth": (1, 1)}
        | {"ssa_dim_key": (8, 8), "reduction_factor": (4, 2), "window_size": (8, None)},
        64,
    ),
}


def model(name: str, how: tuple[str, dict[str, Any], int]) -> Subject:
    file, _, other = how[0].partition(":")
    made = getattr(importlib.import_module(f"vit_pytorch.{file}"), other or name)(**how[1])
    return Subject(made, image(how[2]))


def cases() -> dict[str, Build]:
    """By class."""
    return table(MODELS, model)
