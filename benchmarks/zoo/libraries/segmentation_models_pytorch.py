"""segmentation-models-pytorch: every decoder, and every kind of encoder."""

from __future__ import annotations

import segmentation_models_pytorch as smp

from ..subject import Subject
from ._inputs import Build, image, listed, table

DECODERS = listed("""
    Unet UnetPlusPlus MAnet Linknet FPN PSPNet DeepLabV3 DeepLabV3Plus UPerNet Segformer
""")
ENCODERS = listed("""
    resnet50 se_resnet50 densenet121 vgg11_bn mobilenet_v2 efficientnet-b0
    timm-efficientnet-b0 xception dpn68 mobileone_s0 mit_b0
    timm-resnest14d timm-regnetx_002 timm-skresnet18 timm-gernet_s
    timm-mobilenetv3_small_minimal_100 tu-convnext_atto tu-hrnet_w18_small
""")


def decoder(name: str) -> Subject:
    model = getattr(smp, name)("resnet18", encoder_weights=None, classes=3)
    return Subject(model, image(64, batch=1))


def encoder(name: str) -> Subject:
    kind = name.split("/")[1]
    size = 128 if "incep" in kind else 64
    depth = {"encoder_depth": 4, "decoder_channels": (64, 32, 16, 8)} if "convnext" in kind else {}
    return Subject(smp.Unet(kind, encoder_weights=None, classes=3, **depth), image(size, batch=1))


def cases() -> dict[str, Build]:
    """By decoder, and by encoder of the Unet."""
    return table(DECODERS, decoder) | table([f"Unet/{name}" for name in ENCODERS], encoder)
