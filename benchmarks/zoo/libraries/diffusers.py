"""diffusers: denoisers and autoencoders."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

from ..subject import Subject
from ._inputs import Build, image, named

BLOCKS = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
STEP = torch.tensor([3])


def first(model: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Subject:
    """The tensor of an output."""
    call = lambda m, x: m(x, *args, **kwargs, return_dict=False)[0]
    return Subject(model, x, call=call)


def unet_2d() -> Subject:
    model = diffusers.UNet2DModel(
        sample_size=16, attention_head_dim=4, **BLOCKS,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return first(model, image(16), STEP)


def unet_2d_relu() -> Subject:
    model = diffusers.UNet2DModel(
        sample_size=16, act_fn="relu", **BLOCKS, down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2, attention_head_dim=4,
    )  # fmt: skip
    return first(model, image(16), STEP)


def conditional(**more: Any) -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(
        sample_size=16, cross_attention_dim=8, attention_head_dim=4, **BLOCKS,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **more,
    )  # fmt: skip


def unet_2d_condition() -> Subject:
    return first(conditional(), image(16, 4), STEP, torch.randn(2, 5, 8))


def unet_2d_condition_relu() -> Subject:
    return first(conditional(act_fn="relu"), image(16, 4), STEP, torch.randn(2, 5, 8))


def controlnet() -> Subject:
    model = diffusers.ControlNetModel(
        cross_attention_dim=8, attention_head_dim=4, conditioning_embedding_out_channels=(4, 8),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), **BLOCKS,
    )  # fmt: skip
    words, hint = torch.randn(2, 5, 8), image(32)
    call = lambda m, x: m(x, STEP, words, hint, return_dict=False)
    return Subject(model, image(16, 4), call=call)


def unet_1d() -> Subject:
    model = diffusers.UNet1DModel(
        sample_size=64, block_out_channels=(32, 32, 64), extra_in_channels=64,
    )  # fmt: skip
    return first(model, torch.randn(2, 2, 64), STEP)


def autoencoder_kl() -> Subject:
    model = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        **BLOCKS,
    )  # fmt: skip
    return first(model, image(32))


def autoencoder_tiny() -> Subject:
    model = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 2), num_decoder_blocks=(2, 1),
    )  # fmt: skip
    # Its forward rounds between the two, which no gradient passes.
    return Subject(model, image(32), call=lambda m, x: m.decoder(m.encoder(x)))


def vq_model() -> Subject:
    model = diffusers.VQModel(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        **BLOCKS,
    )  # fmt: skip
    return Subject(model, image(16), call=lambda m, x: m.encode(x, return_dict=False)[0])


def dit() -> Subject:
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, num_layers=2, sample_size=8, in_channels=4,
        out_channels=4,
    )  # fmt: skip
    return first(model, image(8, 4), timestep=STEP.repeat(2), class_labels=torch.tensor([1, 2]))


def sd3() -> Subject:
    model = diffusers.SD3Transformer2DModel(
        sample_size=8, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=8, out_channels=4,
    )  # fmt: skip
    words, pooled = torch.randn(2, 5, 16), torch.randn(2, 8)
    return first(model, image(8, 4), words, pooled, STEP.repeat(2))


def prior() -> Subject:
    model = diffusers.PriorTransformer(
        num_attention_heads=2, attention_head_dim=8, num_layers=2, embedding_dim=8,
        num_embeddings=5, additional_embeddings=4,
    )  # fmt: skip
    said = {"proj_embedding": torch.randn(2, 8), "encoder_hidden_states": torch.randn(2, 5, 8)}
    return first(model, torch.randn(2, 8), STEP, **said)


def t2i_adapter() -> Subject:
    model = diffusers.T2IAdapter(channels=[8, 16], num_res_blocks=1, downscale_factor=4)
    return Subject(model, image(32), call=lambda m, x: m(x))


def t2i_adapter_light() -> Subject:
    model = diffusers.T2IAdapter(
        channels=[8, 16], num_res_blocks=2, downscale_factor=4, adapter_type="light_adapter"
    )
    return Subject(model, image(32), call=lambda m, x: m(x))


def unet_3d_condition() -> Subject:
    model = diffusers.UNet3DConditionModel(
        cross_attention_dim=8, attention_head_dim=4, **BLOCKS,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    )  # fmt: skip
    return first(model, torch.randn(1, 4, 2, 16, 16), STEP, torch.randn(1, 5, 8))


def cases() -> dict[str, Build]:
    """By name."""
    found = named(unet_2d, unet_2d_relu, unet_2d_condition, unet_2d_condition_relu, controlnet)
    found |= named(unet_1d, autoencoder_kl, autoencoder_tiny, vq_model, dit, sd3, prior)
    return found | named(t2i_adapter, t2i_adapter_light, unet_3d_condition)
