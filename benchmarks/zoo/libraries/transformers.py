"""transformers: tiny configurations of text, vision, audio and time-series models."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from ..subject import Subject
from ._inputs import Build, image, table

WIDTH, LENGTH = 32, 9
COMMON = {
    "vocab_size": 60,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DECODER = {**COMMON, "num_key_value_heads": 2, "head_dim": 8}
EXPERTS = {**DECODER, "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}
EXPERTS |= {"moe_intermediate_size": 24}
BOTH = {  # encoder and decoder
    "vocab_size": 60,
    "d_model": WIDTH,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
GPT = {"vocab_size": 60, "n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 64}
T5 = {"vocab_size": 60, "d_model": WIDTH, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 4}
RELU = {"hidden_act": "relu"}

TEXT: dict[str, dict[str, Any]] = {
    "bert": COMMON,
    "bert+relu": {**COMMON, **RELU},
    "roberta": COMMON,
    "albert": {**COMMON, "embedding_size": WIDTH},
    "electra": {**COMMON, "embedding_size": WIDTH},
    "distilbert": {"vocab_size": 60, "dim": WIDTH, "n_layers": 2, "n_heads": 4, "hidden_dim": 40},
    "distilbert+relu": {
        **{"vocab_size": 60, "dim": WIDTH, "n_layers": 2, "n_heads": 4, "hidden_dim": 40},
        "activation": "relu",
    },
    "deberta": {**COMMON, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": {**COMMON, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "mpnet": COMMON,
    "mobilebert": {**COMMON, "embedding_size": WIDTH, "intra_bottleneck_size": WIDTH},
    "squeezebert": {**COMMON, "embedding_size": WIDTH},
    "convbert": {**COMMON, "embedding_size": WIDTH},
    "xlnet": {"vocab_size": 60, "d_model": WIDTH, "n_layer": 2, "n_head": 4, "d_inner": 40},
    "fnet": COMMON,
    "nystromformer": {**COMMON, "num_landmarks": 3, "segment_means_seq_len": 9},
    "longformer": {**COMMON, "attention_window": 4},
    "roformer": {**COMMON, "embedding_size": WIDTH},
    "rembert": {**COMMON, "input_embedding_size": WIDTH},
    "megatron-bert": COMMON,
    "esm": {**COMMON, "mask_token_id": 3},
    "modernbert": {**COMMON, "cls_token_id": 1, "sep_token_id": 2, "global_rope_theta": 1e4},
    "gpt2": GPT,
    "gpt2+relu": {**GPT, "activation_function": "relu"},
    "gpt_neo": {
        **{"vocab_size": 60, "hidden_size": WIDTH, "num_layers": 2, "num_heads": 4},
        "attention_types": [[["global", "local"], 1]],
    },
    "gpt_neox": COMMON,
    "gptj": {**GPT, "rotary_dim": 4},
    "codegen": {**GPT, "rotary_dim": 4},
    "gpt_bigcode": GPT,
    "bloom": {"vocab_size": 60, "hidden_size": WIDTH, "n_layer": 2, "n_head": 4},
    "falcon": COMMON,
    "mpt": {"vocab_size": 60, "d_model": WIDTH, "n_layers": 2, "n_heads": 4},
    "opt": {**COMMON, "ffn_dim": 40, "word_embed_proj_dim": WIDTH},
    "xglm": {"vocab_size": 60, "d_model": WIDTH, "num_layers": 2, "ffn_dim": 40}
    | {"attention_heads": 4, "activation_function": "relu"},
    "biogpt": COMMON,
    "llama": DECODER,
    "mistral": DECODER,
    "mixtral": EXPERTS,
    "qwen2": DECODER,
    "qwen3": DECODER,
    "qwen3_moe": EXPERTS,
    "gemma": DECODER,
    "gemma2": DECODER,
    "gemma3_text": DECODER,
    "phi": COMMON,
    "phi3": {**DECODER, "original_max_position_embeddings": 64},
    "olmo2": DECODER,
    "stablelm": DECODER,
    "starcoder2": DECODER,
    "cohere": DECODER,
    "granite": DECODER,
    "persimmon": COMMON,
    "nemotron": DECODER,
    "mamba": {**COMMON, "state_size": 4},
    "mamba2": {**COMMON, "state_size": 4, "num_heads": 8, "head_dim": 8, "n_groups": 1}
    | {"chunk_size": 4},
    "rwkv": {"vocab_size": 60, "hidden_size": WIDTH, "num_hidden_layers": 2},
    "recurrent_gemma": {**DECODER, "lru_width": WIDTH, "attention_window_size": 8},
}
SEQUENCE: dict[str, dict[str, Any]] = {
    "bart": BOTH,
    "bart+relu": {**BOTH, "activation_function": "relu"},
    "mbart": BOTH,
    "pegasus": {**BOTH, "activation_function": "relu"},
    "marian": {**BOTH, "decoder_start_token_id": 0},
    "m2m_100": BOTH,
    "blenderbot": BOTH,
    "led": {**BOTH, "attention_window": 4},
    "t5": T5,
    "mt5": T5,
    "longt5": {**T5, "local_radius": 3},
    "switch_transformers": {**T5, "num_experts": 4, "num_sparse_encoder_layers": 1},
}
VIT = {**COMMON, "image_size": 32, "patch_size": 8}
STAGES = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2]}
PYRAMID = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 16, 16]}
VISION: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "vit+relu": {**VIT, **RELU},
    "deit": VIT,
    "beit": VIT,
    "data2vec-vision": VIT,
    "vit_msn": VIT,
    "dinov2": VIT,
    "ijepa": VIT,
    "siglip_vision_model": VIT,
    "clip_vision_model": VIT,
    "swin": {**SWIN, "window_size": 4},
    "swinv2": {**SWIN, "window_size": 4},
    "donut-swin": {**SWIN, "window_size": 4},
    "focalnet": {"image_size": 32, "embed_dim": 8, "depths": [1, 1], "focal_levels": [1, 1]}
    | {"hidden_sizes": [8, 16], "focal_windows": [3, 3], "patch_size": 2},
    "convnext": PYRAMID,
    "convnextv2": PYRAMID,
    "resnet": {**STAGES, "layer_type": "bottleneck"},
    "resnet+basic": {**STAGES, "layer_type": "basic"},
    "regnet": {**STAGES, "groups_width": 8},
    "bit": {"embedding_size": 8, "hidden_sizes": [32, 64], "depths": [1, 1], "num_groups": 2},
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.25},
    "mobilevit": {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 40]}
    | {"image_size": 64},
    "mobilevitv2": {"width_multiplier": 0.25, "image_size": 64},
    "poolformer": {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16]},
    "pvt": {**PYRAMID, "image_size": 64, "num_attention_heads": [1, 2, 2, 2]},
    "pvt_v2": {**PYRAMID, "image_size": 64, "num_attention_heads": [1, 2, 2, 2]},
    "segformer": {**PYRAMID, "num_attention_heads": [1, 2, 2, 2]},
    "glpn": {**PYRAMID, "num_attention_heads": [1, 2, 2, 2]},
    "levit": {"image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 3, 4]}
    | {"depths": [1, 1, 1], "key_dim": [8, 8, 8]},
    "hiera": {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2]}
    | {"num_query_pool": 1},
    "swiftformer": {"depths": [1, 1, 1, 1], "embed_dims": [8, 16, 16, 16]},
    "yolos": {**VIT, "image_size": [32, 32], "num_detection_tokens": 4},
}
FILM = {**VIT, "num_frames": 2, "tubelet_size": [1, 8, 8]}
VIDEO = {"timesformer": FILM, "vivit": FILM, "videomae": {**FILM, "tubelet_size": 1}}
WAVE = {**COMMON, "conv_dim": [16, 16], "conv_kernel": [10, 3], "conv_stride": [5, 2]}
WAVE |= {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
SOUND: dict[str, dict[str, Any]] = {
    "wav2vec2": WAVE,
    "wav2vec2+relu": {**WAVE, **RELU, "feat_extract_activation": "relu"},
    "hubert": WAVE,
    "wavlm": WAVE,
    "unispeech": WAVE,
    "unispeech-sat": WAVE,
    "data2vec-audio": WAVE,
    "wav2vec2-conformer": WAVE,
    "sew": {**WAVE, "squeeze_factor": 2},
}


def config(name: str, options: dict[str, Any]) -> Any:
    made = AutoConfig.for_model(name.split("+")[0], **options)
    made.return_dict = True
    return made


def uncached(model: nn.Module) -> dict[str, Any]:
    known = inspect.signature(model.forward).parameters
    return {"use_cache": False} if "use_cache" in known else {}


def text(name: str, options: dict[str, Any]) -> Subject:
    model = AutoModel.from_config(config(name, options))
    rest = uncached(model)
    return Subject(
        model,
        torch.randn(2, LENGTH, WIDTH),
        call=lambda m, x: m(inputs_embeds=x, **rest),
    )


def sequence(name: str, options: dict[str, Any]) -> Subject:
    model = AutoModel.from_config(config(name, options))
    said = torch.randn(2, 4, WIDTH)
    rest = uncached(model)
    call = lambda m, x: m(inputs_embeds=x, decoder_inputs_embeds=said, **rest).last_hidden_state
    return Subject(model, torch.randn(2, LENGTH, WIDTH), call=call)


def vision(name: str, options: dict[str, Any]) -> Subject:
    size = options.get("image_size", 64)
    size = size[0] if isinstance(size, list) else size
    return Subject(
        AutoModel.from_config(config(name, options)),
        image(size),
        call=lambda m, x: m(pixel_values=x),
    )


def video(name: str, options: dict[str, Any]) -> Subject:
    x = torch.randn(1, 2, 3, 32, 32)
    model = AutoModel.from_config(config(name, options))
    return Subject(model, x, call=lambda m, x: m(pixel_values=x))


def sound(name: str, options: dict[str, Any]) -> Subject:
    model = AutoModel.from_config(config(name, options))
    return Subject(model, torch.randn(2, 800), call=lambda m, x: m(input_values=x)[0])


def spectrogram(name: str) -> Subject:
    options = {**BOTH, "max_source_positions": 20, "max_target_positions": 20}
    options |= {"input_feat_per_channel": 8, "conv_channels": 16, "num_mel_bins": 8}
    model = AutoModel.from_config(config(name, options))
    said = torch.randn(2, 4, WIDTH)
    whisper = name == "whisper"
    x: Tensor = torch.randn(2, 8, 40) if whisper else torch.randn(2, 40, 8)
    embeds = "decoder_inputs_embeds"
    return Subject(model, x, call=lambda m, x: m(x, use_cache=False, **{embeds: said})[0])


def detr(name: str) -> Subject:
    back = AutoConfig.for_model("resnet", **STAGES, out_features=["stage2"])
    made = (
        config(name, {**BOTH, "num_queries": 5, "use_timm_backbone": False})
        if not back
        else (
            AutoConfig.for_model(
                name,
                **BOTH,
                num_queries=5,
                use_timm_backbone=False,
                backbone_config=back,
                use_pretrained_backbone=False,
                backbone=None,
            )
        )
    )
    return Subject(AutoModel.from_config(made), image(32), call=lambda m, x: m(pixel_values=x)[0])


def cases() -> dict[str, Build]:
    """By model type; what is behind a plus is an option."""
    found = table(TEXT, text) | table(SEQUENCE, sequence) | table(VISION, vision)
    found |= table(VIDEO, video) | table(SOUND, sound)
    found |= table(["whisper"], spectrogram)
    return found | table(["detr", "conditional_detr", "table-transformer"], detr)
