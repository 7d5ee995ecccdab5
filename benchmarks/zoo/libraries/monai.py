"""MONAI: networks of medical imaging, in two and three dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.networks import nets

from ..subject import Subject
from ._inputs import Build, table

FLAT, SOLID = (2, 1, 32, 32), (1, 1, 16, 16, 16)
DEEP = {"spatial_dims": 3, "in_channels": 1}
WIDE = {"spatial_dims": 2, "in_channels": 1}
STEPS = {"channels": (4, 8, 16), "strides": (2, 2)}
KERNELS = {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2]}
VIT = {"in_channels": 1, "img_size": (32, 32), "hidden_size": 24, "num_heads": 3, "mlp_dim": 32}

Make = tuple[Callable[..., Any], dict[str, Any], tuple[int, ...]]

NETS: dict[str, Make] = {
    "UNet": (nets.UNet, {**WIDE, **STEPS, "out_channels": 3, "num_res_units": 2}, FLAT),
    "UNet/relu": (nets.UNet, {**DEEP, **STEPS, "out_channels": 3, "act": "RELU"}, SOLID),
    "BasicUNet": (nets.BasicUNet, {**WIDE, "out_channels": 3, "features": (4,) * 6}, FLAT),
    "BasicUNetPlusPlus": (
        nets.BasicUNetPlusPlus,
        {**WIDE, "out_channels": 3, "features": (4,) * 6},
        FLAT,
    ),
    "AttentionUnet": (nets.AttentionUnet, {**WIDE, **STEPS, "out_channels": 3}, FLAT),
    "DynUNet": (nets.DynUNet, {**WIDE, **KERNELS, "out_channels": 3}, FLAT),
    "DynUNet/relu": (
        nets.DynUNet,
        {**DEEP, **KERNELS, "out_channels": 3, "act_name": "relu", "res_block": True},
        (1, 1, 16, 16, 16),
    ),
    "SegResNet": (nets.SegResNet, {**DEEP, "init_filters": 8}, SOLID),
    "SegResNetDS": (nets.SegResNetDS, {**WIDE, "init_filters": 8, "blocks_down": (1, 2, 2)}, FLAT),
    "VNet": (nets.VNet, {"spatial_dims": 2}, FLAT),
    "VNet/relu": (nets.VNet, {"spatial_dims": 2, "act": ("relu", {"inplace": True})}, FLAT),
    "DenseNet": (
        nets.DenseNet,
        {**DEEP, "out_channels": 4, "init_features": 8, "growth_rate": 4, "block_config": (2, 2)},
        SOLID,
    ),
    "DenseNet121": (nets.DenseNet121, {**WIDE, "out_channels": 4}, (2, 1, 64, 64)),
    "SEResNet50": (nets.SEResNet50, {**WIDE, "num_classes": 4}, (2, 1, 64, 64)),
    "SEResNext50": (nets.SEResNext50, {**WIDE, "num_classes": 4}, (2, 1, 64, 64)),
    "ResNet": (
        nets.ResNet,
        {
            "block": "basic",
            "layers": [1] * 4,
            "block_inplanes": [4, 8, 8, 16],
            "n_input_channels": 1,
            "num_classes": 5,
        },
        SOLID,
    ),
    "resnet50": (nets.resnet50, {"spatial_dims": 2, "n_input_channels": 1}, (2, 1, 64, 64)),
    "EfficientNetBN": (
        nets.EfficientNetBN,
        {"model_name": "efficientnet-b0", "spatial_dims": 2, "in_channels": 1, "num_classes": 4}
        | {"pretrained": False},
        (2, 1, 64, 64),
    ),
    "HighResNet": (nets.HighResNet, {**DEEP, "out_channels": 3}, (1, 1, 8, 8, 8)),
    "AHNet": (nets.AHNet, {"spatial_dims": 2, "out_channels": 3}, (1, 1, 128, 128)),
    "AutoEncoder": (
        nets.AutoEncoder,
        {**WIDE, "channels": (4, 8), "strides": (2, 2), "out_channels": 1},
        FLAT,
    ),
    "UNETR": (
        nets.UNETR,
        {"in_channels": 1, "out_channels": 3, "img_size": (32, 32), "feature_size": 8}
        | {"hidden_size": 24, "mlp_dim": 32, "num_heads": 3, "spatial_dims": 2},
        FLAT,
    ),
    "SwinUNETR": (
        nets.SwinUNETR,
        {"in_channels": 1, "out_channels": 3, "feature_size": 12, "spatial_dims": 2},
        (1, 1, 64, 64),
    ),
    "ViT": (
        nets.ViT,
        {**VIT, "patch_size": (8, 8), "num_layers": 2, "classification": True, "spatial_dims": 2}
        | {"num_classes": 4},
        FLAT,
    ),
    "ViTAutoEnc": (
        nets.ViTAutoEnc,
        {**VIT, "patch_size": (4, 4), "num_layers": 2, "spatial_dims": 2},
        FLAT,
    ),
    "FlexibleUNet": (
        nets.FlexibleUNet,
        {"in_channels": 3, "out_channels": 3, "backbone": "resnet18", "pretrained": False},
        (2, 3, 64, 64),
    ),
    "FlexibleUNet/efficientnet": (
        nets.FlexibleUNet,
        {"in_channels": 3, "out_channels": 3, "backbone": "efficientnet-b0", "pretrained": False},
        (2, 3, 64, 64),
    ),
    "Classifier": (
        nets.Classifier,
        {"in_shape": (1, 32, 32), "classes": 4, "channels": (4, 8), "strides": (2, 2)},
        FLAT,
    ),
    "Classifier/relu": (
        nets.Classifier,
        {"in_shape": (1, 32, 32), "classes": 4, "channels": (4, 8), "strides": (2, 2)}
        | {"act": "relu"},
        FLAT,
    ),
    "Regressor": (
        nets.Regressor,
        {"in_shape": (1, 32, 32), "out_shape": (4,), "channels": (4, 8), "strides": (2, 2)},
        FLAT,
    ),
    "Discriminator": (
        nets.Discriminator,
        {"in_shape": (1, 32, 32), "channels": (4, 8), "strides": (2, 2)},
        FLAT,
    ),
    "Generator": (
        nets.Generator,
        {"latent_shape": (16,), "start_shape": (4, 8, 8), "channels": (4, 1), "strides": (2, 1)},
        (2, 16),
    ),
    "FullyConnectedNet": (
        nets.FullyConnectedNet,
        {"in_channels": 16, "out_channels": 4, "hidden_channels": (16, 16)},
        (3, 16),
    ),
    "RegUNet": (
        nets.RegUNet,
        {"spatial_dims": 3, "in_channels": 1, "num_channel_initial": 4, "depth": 2},
        (1, 1, 16, 16, 16),
    ),
    "LocalNet": (
        nets.LocalNet,
        {"spatial_dims": 3, "in_channels": 1, "num_channel_initial": 4}
        | {"extract_levels": (0, 1, 2), "out_channels": 3},
        (1, 1, 16, 16, 16),
    ),
    "VoxelMorphUNet": (
        nets.VoxelMorphUNet,
        {"spatial_dims": 3, "in_channels": 2, "unet_out_channels": 8, "channels": (4, 8, 8, 8)}
        | {"final_conv_channels": (4, 8)},
        (1, 2, 16, 16, 16),
    ),
    "VQVAE": (
        nets.VQVAE,
        {**WIDE, "out_channels": 1, "channels": (8, 8), "num_res_channels": (8, 8)}
        | {"num_embeddings": 8, "embedding_dim": 4, "num_res_layers": 1}
        | {
            "downsample_parameters": ((2, 4, 1, 1),) * 2,
            "upsample_parameters": ((2, 4, 1, 1, 0),) * 2,
        },
        FLAT,
    ),
    "PatchDiscriminator": (
        nets.PatchDiscriminator,
        {**WIDE, "num_layers_d": 2, "channels": 8},
        FLAT,
    ),
    "MILModel": (
        nets.MILModel,
        {"num_classes": 4, "pretrained": False, "mil_mode": "att"},
        (1, 2, 3, 64, 64),
    ),
    "DiffusionModelUNet": (
        nets.DiffusionModelUNet,
        {**WIDE, "out_channels": 1, "channels": (8, 16), "attention_levels": (False, True)}
        | {"num_res_blocks": 1, "num_head_channels": 8, "norm_num_groups": 4},
        FLAT,
    ),
}


def net(name: str, make: Make) -> Subject:
    build, options, shape = make
    model = build(**options)
    x = torch.randn(shape)
    if name == "DiffusionModelUNet":
        return Subject(model, x, (torch.tensor([3, 7]),))
    return Subject(model, x)


def cases() -> dict[str, Build]:
    """By class."""
    return table(NETS, net)
