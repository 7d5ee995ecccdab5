"""open_clip: image and text towers of CLIP and CoCa."""

from __future__ import annotations

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP

from ..subject import Subject
from ._inputs import Build, image, named

TEXT = {"context_length": 8, "vocab_size": 60, "width": 32, "heads": 4, "layers": 2}


def words() -> torch.Tensor:
    return torch.randint(1, 59, (2, 8))


def clip(quick: bool = False, **vision: object) -> CLIP:
    return CLIP(16, CLIPVisionCfg(**vision), CLIPTextCfg(**TEXT), quick_gelu=quick)


def both(model: torch.nn.Module, size: int) -> Subject:
    said = words()
    return Subject(model, image(size), call=lambda m, x: m(x, said))


def modified_resnet() -> Subject:
    return both(clip(layers=[1, 1, 1, 1], width=16, head_width=8, image_size=64), 64)


def modified_resnet_deep() -> Subject:
    return both(clip(layers=[2, 2, 2, 1], width=8, head_width=8, image_size=64), 64)


def vision_transformer() -> Subject:
    return both(clip(layers=2, width=32, head_width=8, patch_size=8, image_size=32), 32)


def quick_gelu() -> Subject:
    return both(clip(True, layers=2, width=32, head_width=8, patch_size=8, image_size=32), 32)


def timm_resnet() -> Subject:
    return both(clip(timm_model_name="resnet18", timm_pool="avg", image_size=64), 64)


def timm_convnext() -> Subject:
    return both(clip(timm_model_name="convnext_atto", timm_pool="", image_size=64), 64)


def custom_text() -> Subject:
    vision = CLIPVisionCfg(layers=[1, 1, 1, 1], width=16, head_width=8, image_size=64)
    return both(CustomTextCLIP(16, vision, CLIPTextCfg(**TEXT)), 64)


def text_tower() -> Subject:
    model = clip(layers=1, width=32, head_width=8, patch_size=8, image_size=32)
    call = lambda m, x: m.transformer(x, attn_mask=m.attn_mask)
    return Subject(model, torch.randn(2, 8, 32), call=call)


def cases() -> dict[str, Build]:
    """By tower."""
    found = named(modified_resnet, modified_resnet_deep, vision_transformer, quick_gelu)
    return found | named(timm_resnet, timm_convnext, custom_text, text_tower)
