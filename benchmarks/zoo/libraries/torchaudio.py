"""torchaudio: speech recognition, separation and synthesis."""

from __future__ import annotations

import torch
from torchaudio import models

from ..subject import Subject
from ._inputs import Build, named

LAYERS = [(16, 10, 5), (16, 3, 2)]


def conformer() -> Subject:
    model = models.Conformer(16, 4, 32, 2, 7)
    return Subject(model, torch.randn(2, 20, 16), (torch.tensor([20, 15]),))


def conv_tasnet() -> Subject:
    model = models.ConvTasNet(2, 16, 32, 3, 16, 24, 3, 2)
    return Subject(model, torch.randn(2, 1, 400))


def conv_tasnet_relu() -> Subject:
    model = models.ConvTasNet(2, 16, 32, 3, 16, 24, 3, 2, msk_activate="relu")
    return Subject(model, torch.randn(2, 1, 400))


def deepspeech() -> Subject:
    return Subject(models.DeepSpeech(16, 32, 7), torch.randn(2, 1, 12, 16))


def emformer() -> Subject:
    model = models.Emformer(16, 4, 32, 2, segment_length=4, right_context_length=2)
    return Subject(model, torch.randn(2, 18, 16), (torch.tensor([16, 16]),))


def emformer_silu() -> Subject:
    model = models.Emformer(16, 4, 32, 2, 4, activation="silu")
    return Subject(model, torch.randn(2, 16, 16), (torch.tensor([16, 16]),))


def wav2letter() -> Subject:
    return Subject(models.Wav2Letter(7, "power_spectrum", 8), torch.randn(2, 8, 80))


def wav2letter_waveform() -> Subject:
    return Subject(models.Wav2Letter(7), torch.randn(1, 1, 3200))


def wavernn() -> Subject:
    model = models.WaveRNN([4, 4, 4], 16, 64, 1, 16, 16, 5, 12, 32, 32)
    wave, spectrum = torch.randn(2, 1, 64 * 6), torch.randn(2, 1, 12, 10)
    return Subject(model, wave, (spectrum,))


def wav2vec2() -> Subject:
    model = models.wav2vec2_model(
        "group_norm", LAYERS, False, 32, 0.0, 8, 2, 2, 4, 0.0, 48, 0.0, 0.0, False, 0.0, 7
    )
    return Subject(model, torch.randn(2, 800))


def wavlm() -> Subject:
    model = models.wavlm_model(
        "layer_norm",
        LAYERS,
        True,
        32,
        0.0,
        8,
        2,
        2,
        4,
        32,
        16,
        0.0,
        48,
        0.0,
        0.0,
        True,
        0.0,
        7,
    )
    return Subject(model, torch.randn(2, 800))


def hdemucs() -> Subject:
    model = models.HDemucs(["a", "b"], channels=8, depth=3, nfft=256)
    return Subject(model, torch.randn(1, 2, 2048))


def rnnt() -> Subject:
    model = models.emformer_rnnt_model(
        input_dim=8, encoding_dim=16, num_symbols=7, segment_length=8, right_context_length=4,
        time_reduction_input_dim=8, time_reduction_stride=2, transformer_num_heads=4,
        transformer_ffn_dim=32, transformer_num_layers=2, transformer_dropout=0.0,
        transformer_activation="relu", transformer_left_context_length=4,
        transformer_max_memory_size=0, transformer_weight_init_scale_strategy="depthwise",
        transformer_tanh_on_mem=True, symbol_embedding_dim=16, num_lstm_layers=1,
        lstm_layer_norm=True, lstm_layer_norm_epsilon=1e-3, lstm_dropout=0.0,
    )  # fmt: skip
    said, counts = torch.tensor([[1, 2, 3]]), torch.tensor([3])
    call = lambda m, x: m(x, torch.tensor([16]), said.int(), counts.int())[0]
    return Subject(model, torch.randn(1, 20, 8), call=call)


def squim_objective() -> Subject:
    model = models.squim_objective_model(
        feat_dim=16, win_len=16, d_model=16, nhead=4, hidden_dim=16, num_blocks=2, rnn_type="LSTM",
        chunk_size=7,
    )  # fmt: skip
    return Subject(model, torch.randn(2, 400))


def tacotron2_encoder() -> Subject:
    """Its decoder draws random numbers in eval mode, too."""
    model = models.Tacotron2(encoder_embedding_dim=16, n_symbol=10)
    call = lambda m, x: m.encoder(x, torch.tensor([12, 9]))
    return Subject(model, torch.randn(2, 16, 12), call=call)


def cases() -> dict[str, Build]:
    """By name."""
    found = named(conformer, conv_tasnet, conv_tasnet_relu, deepspeech, emformer, emformer_silu)
    found |= named(wav2letter, wav2letter_waveform, wavernn, wav2vec2, wavlm, hdemucs, rnnt)
    return found | named(squim_objective, tacotron2_encoder)
