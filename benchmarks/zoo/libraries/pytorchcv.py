"""pytorchcv: a small member of each family."""

from __future__ import annotations

from pytorchcv.model_provider import get_model
from torch import nn

from ..subject import Subject
from ._inputs import Build, image, listed, table

CIFAR = listed("""
    resnet20 preresnet20 resnext20_32x2d seresnet20 sepreresnet20 pyramidnet110_a48
    densenet40_k12 densenet40_k12_bc xdensenet40_2_k24_bc wrn16_10 wrn20_10_1bit ror3_56
    resdropresnet20 shakedropresnet20 shakeshakeresnet20_2x16d diaresnet20 diapreresnet20
    fractalnet nin rir
""")
OTHERS = listed("""
    alexnet zfnet resnet10 resnet18 resnetbc26b preresnet10 preresnetbc26b resnext14_16x4d
    seresnet10 sepreresnet10 seresnext50_32x4d senet16 bam_resnet18 cbam_resnet18
    ibn_resnet50 ibn_densenet121 regnetx002 regnety002 densenet121 sparsenet121
    condensenet74_c4_g4 peleenet vovnet27s selecsls42b hardnet39ds dla34 dla46xc dpn68
    msdnet22_cifar10 squeezenet_v1_0 sqnxt23_w1 shufflenet_g3_wd4
    shufflenetv2_wd2 shufflenetv2b_wd2 menet108_8x1_g3 mobilenet_wd4 fdmobilenet_wd4
    mobilenetv2_wd4 mobilenetv2b_wd4 mobilenetv3_small_w7d20 igcv3_wd4 mnasnet_small ghostnet
    proxylessnas_mobile fbnet_cb darknet_tiny darknet53 channelnet isqrtcovresnet18 resneta10
    resnetd50b resnestabc14 fishnet99 hrnet_w18_small_v1 resattnet56 diracnet18v2 sharesnet18
    octresnet10_ad2 sknet50 mixnet_s efficientnet_b0 bagnet9
    airnet50_1x64d_r2 airnext50_32x4d_r2 drnc26 dicenet_wd5 espnetv2_wd2 xception inceptionv3
    inceptionv4 inceptionresnetv1 inceptionresnetv2 bninception nasnet_4a1056
    darts spnasnet
""")
SCORES_PER_PIXEL = listed("""
    fcn8sd_resnetd50b_voc pspnet_resnetd50b_voc deeplabv3_resnetd50b_voc
    icnet_resnetd50b_cityscapes fastscnn_cityscapes cgnet_cityscapes
    bisenet_resnet18_celebamaskhq dabnet_cityscapes
    lednet_cityscapes unet_cityscapes lwopenpose2d_mobilenet_cmupan_coco
""")
BIG = {"inceptionv3", "inceptionv4", "inceptionresnetv1", "inceptionresnetv2", "xception"}


def adapted(model: nn.Module) -> nn.Module:
    """The last pool is written for 224 x 224."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.AvgPool2d) and child.stride == 1 and child.padding == 0:
                setattr(module, name, nn.AdaptiveAvgPool2d(1))
    return model


def small(name: str) -> Subject:
    return Subject(get_model(f"{name}_cifar10", pretrained=False), image(32))


def other(name: str) -> Subject:
    size = 32 if "cifar" in name else 96 if name in BIG else 64
    options = {"in_size": (size, size)} if name in ("alexnet", "zfnet", "resattnet56") else {}
    options = {} if "cifar" in name else {"num_classes": 10, **options}
    if name in ("alexnet", "zfnet"):
        size, options = 224, {"num_classes": 10}
    return Subject(adapted(get_model(name, pretrained=False, **options)), image(size, batch=1))


def per_pixel(name: str) -> Subject:
    size = 128 if name.startswith(("icnet", "fast", "bise", "pspnet")) else 64
    options = {"in_size": (size, size)} if "openpose" not in name else {}
    return Subject(get_model(name, pretrained=False, **options), image(size, batch=1))


def cases() -> dict[str, Build]:
    """By name."""
    return table(CIFAR, small) | table(OTHERS, other) | table(SCORES_PER_PIXEL, per_pixel)
