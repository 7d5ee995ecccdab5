"""timm: one or two small members of each family."""

from __future__ import annotations

import timm

from ..subject import Subject
from ._inputs import Build, image, listed, table

# By the input that they take; those in SIZED are told.
AT_64 = listed("""
    resnet18 resnet26d resnet50 seresnet50 ecaresnet26t resnet50_gn resnetv2_50
    legacy_seresnet18 densenet121 dpn68 dla34 dla60_res2net res2net50_26w_4s res2next50
    resnest14d regnetx_002 regnety_002 regnetv_040 rexnet_100 selecsls42b skresnet18
    hrnet_w18_small ese_vovnet19b_dw repvgg_a0 mobilenetv1_100 mobilenetv2_050
    mobilenetv3_small_050 tf_mobilenetv3_small_minimal_100 mobilenetv4_conv_small mnasnet_small
    fbnetc_100 spnasnet_100 ghostnet_050 ghostnetv2_100 ghostnetv3_050 hardcorenas_a lcnet_035
    tinynet_e efficientnet_lite0 efficientnet_b0 efficientnetv2_rw_t mixnet_s cspresnet50
    cspdarknet53 darknet53 gernet_s nf_resnet26 nf_regnet_b0 gcresnet33ts
    lambda_resnet26t convnext_atto
    convnextv2_atto edgenext_xx_small fasternet_t0 fastvit_t8 hgnet_tiny hgnetv2_b0
    inception_next_atto mambaout_femto poolformer_s12 poolformerv2_s12 convformer_s18
    caformer_s18 mobileone_s0 mobilevit_xxs mobilevitv2_050 nextvit_small pvt_v2_b0 rdnet_tiny
    repghostnet_050 repvit_m0_9 shvit_s1 starnet_s1 swiftformer_xs tresnet_m twins_svt_small
    efficientvit_b0 xcit_nano_12_p8_224 resnet18d cs3darknet_s regnetz_b16 semnasnet_075
    efficientnet_es test_resnet test_efficientnet test_convnext
""")
AT_96 = listed("""
    inception_v3 inception_v4 inception_resnet_v2 legacy_xception xception41
""")
SIZED = {
    "visformer_tiny": 64,
    "eca_botnext26ts_256": 64,
    "vit_tiny_patch16_224": 64,
    "deit_tiny_distilled_patch16_224": 64,
    "vit_relpos_small_patch16_224": 64,
    "cait_xxs24_224": 64,
    "convit_tiny": 64,
    "coat_lite_tiny": 64,
    "davit_tiny": 64,
    "efficientformerv2_s0": 64,
    "focalnet_tiny_srf": 64,
    "gmlp_ti16_224": 64,
    "mixer_s32_224": 64,
    "resmlp_12_224": 64,
    "levit_128s": 64,
    "mvitv2_tiny": 64,
    "nest_tiny": 64,
    "pit_ti_224": 64,
    "sequencer2d_s": 64,
    "swin_tiny_patch4_window7_224": 64,
    "swinv2_tiny_window8_256": 64,
    "tiny_vit_5m_224": 64,
    "tnt_s_patch16_224": 64,
    "volo_d1_224": 64,
    "eva02_tiny_patch14_224": 56,
    "beit_base_patch16_224": 32,
    "efficientvit_m0": 64,
    "maxvit_rmlp_pico_rw_256": 64,
    "coatnet_pico_rw_224": 64,
    "hiera_tiny_224": 64,
}


def plain(name: str, size: int = 64) -> Subject:
    return Subject(timm.create_model(name, num_classes=10), image(size))


def sized(name: str, size: int) -> Subject:
    try:
        model = timm.create_model(name, num_classes=10, img_size=size)
    except TypeError:
        model = timm.create_model(name, num_classes=10)
    return Subject(model, image(size))


def cases() -> dict[str, Build]:
    """By name."""
    found = table(AT_64, plain) | table(dict.fromkeys(AT_96, 96), plain)
    return found | table(SIZED, sized)
