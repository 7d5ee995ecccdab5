"""speechbrain: speakers, recognition and separation."""

from __future__ import annotations

import torch
from torch import nn

from ..subject import Subject
from ._inputs import Build, named

SOUND = (2, 24, 20)  # example, time, feature


def sound() -> torch.Tensor:
    return torch.randn(SOUND)


def ecapa_tdnn() -> Subject:
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    model = ECAPA_TDNN(20, lin_neurons=8, channels=[16] * 4 + [48], attention_channels=8,
                       res2net_scale=4, se_channels=8)  # fmt: skip
    return Subject(model, sound())


def ecapa_classifier() -> Subject:
    from speechbrain.lobes.models.ECAPA_TDNN import Classifier

    return Subject(Classifier(20, lin_blocks=2, lin_neurons=16, out_neurons=5), sound())


def xvector() -> Subject:
    from speechbrain.lobes.models.Xvector import Xvector

    model = Xvector(tdnn_blocks=3, tdnn_channels=[16, 16, 16], tdnn_kernel_sizes=[5, 3, 1],
                    tdnn_dilations=[1, 2, 1], lin_neurons=8, in_channels=20)  # fmt: skip
    return Subject(model, sound(), call=lambda m, x: m(x, torch.ones(2)))


def crdnn() -> Subject:
    from speechbrain.lobes.models.CRDNN import CRDNN

    model = CRDNN(input_shape=[None, None, 20], cnn_blocks=2, cnn_channels=(8, 8), rnn_layers=1,
                  rnn_neurons=8, dnn_blocks=1, dnn_neurons=8)  # fmt: skip
    return Subject(model, sound())


def crdnn_relu() -> Subject:
    from speechbrain.lobes.models.CRDNN import CRDNN

    model = CRDNN(input_shape=[None, None, 20], activation=nn.ReLU, cnn_blocks=1,
                  cnn_channels=(8,), rnn_layers=1, rnn_neurons=8, dnn_blocks=2,
                  dnn_neurons=8)  # fmt: skip
    return Subject(model, sound())


def ligru() -> Subject:
    from speechbrain.nnet.RNN import LiGRU

    return Subject(LiGRU(8, input_shape=[2, 24, 20], nonlinearity="relu"), sound())


def contextnet() -> Subject:
    from speechbrain.lobes.models.ContextNet import ContextNet

    model = ContextNet(input_shape=(2, 24, 20), out_channels=16, conv_channels=[16] * 3,
                       kernel_size=3, strides=[1, 2, 1], num_blocks=3, num_layers=2,
                       inner_dim=4)  # fmt: skip
    return Subject(model, sound())


def conformer() -> Subject:
    from speechbrain.lobes.models.transformer.Conformer import ConformerEncoder

    model = ConformerEncoder(num_layers=2, d_model=16, d_ffn=32, nhead=4, kernel_size=7,
                             attention_type="regularMHA")  # fmt: skip
    return Subject(model, torch.randn(2, 12, 16))


def transformer_encoder() -> Subject:
    from speechbrain.lobes.models.transformer.Transformer import TransformerEncoder

    return Subject(TransformerEncoder(2, 4, 32, d_model=16), torch.randn(2, 12, 16))


def transformer_asr() -> Subject:
    from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR

    model = TransformerASR(tgt_vocab=11, input_size=20, d_model=16, nhead=4, num_encoder_layers=1,
                           num_decoder_layers=1, d_ffn=32)  # fmt: skip
    said = torch.randint(1, 10, (2, 5))
    return Subject(model, sound(), call=lambda m, x: m(x, said, torch.ones(2)))


def branchformer() -> Subject:
    from speechbrain.lobes.models.transformer.Branchformer import BranchformerEncoder

    model = BranchformerEncoder(num_layers=1, d_model=16, nhead=4, kernel_size=7,
                                csgu_linear_units=32, attention_type="regularMHA")  # fmt: skip
    return Subject(model, torch.randn(2, 12, 16))


def resnet() -> Subject:
    from speechbrain.lobes.models.ResNet import ResNet

    model = ResNet(input_size=20, channels=[8, 8, 16, 16], block_sizes=[1, 1, 1, 1],
                   lin_neurons=8)  # fmt: skip
    return Subject(model, sound())


def masknet() -> Subject:
    from speechbrain.lobes.models.conv_tasnet import MaskNet

    model = MaskNet(16, 12, 16, 3, 2, 2, 2, mask_nonlinear="relu")
    return Subject(model, torch.randn(2, 16, 30))


def dual_path_rnn() -> Subject:
    from speechbrain.lobes.models.dual_path import Dual_Path_Model, SBRNNBlock

    blocks = [SBRNNBlock(16, 8, 1, bidirectional=True) for _ in range(2)]
    model = Dual_Path_Model(16, 16, *blocks, num_layers=1, K=8)
    return Subject(model, torch.randn(2, 16, 30))


def sepformer() -> Subject:
    from speechbrain.lobes.models.dual_path import Dual_Path_Model, SBTransformerBlock

    blocks = [SBTransformerBlock(1, 16, 4, d_ffn=32) for _ in range(2)]
    model = Dual_Path_Model(16, 16, *blocks, num_layers=1, K=8)
    return Subject(model, torch.randn(2, 16, 30))


def cnn14() -> Subject:
    from speechbrain.lobes.models.Cnn14 import Cnn14

    return Subject(Cnn14(mel_bins=64, emb_dim=32), torch.randn(1, 64, 64))


def enhance_resnet() -> Subject:
    from speechbrain.lobes.models.EnhanceResnet import EnhanceResnet

    model = EnhanceResnet(n_fft=64, win_length=8, hop_length=4, sample_rate=4000,
                          channel_counts=[8, 8], dense_count=1, dense_nodes=16)  # fmt: skip
    return Subject(model, torch.randn(2, 400))


def hifigan() -> Subject:
    from speechbrain.lobes.models.HifiGAN import HifiganGenerator

    model = HifiganGenerator(16, 1, "1", [[1, 3, 5], [1, 3, 5]], [3, 5], [4, 4], 16, [2, 2])
    return Subject(model, torch.randn(2, 16, 10))


def metricgan_discriminator() -> Subject:
    from speechbrain.lobes.models.MetricGAN import MetricDiscriminator

    return Subject(MetricDiscriminator(), torch.randn(2, 2, 40, 40))


def vanilla_nn() -> Subject:
    from speechbrain.lobes.models.VanillaNN import VanillaNN

    return Subject(VanillaNN([None, None, 20], nn.ReLU, 2, 16), sound())


def cases() -> dict[str, Build]:
    """By name; each is imported by itself."""
    found = named(ecapa_tdnn, ecapa_classifier, xvector, crdnn, crdnn_relu, ligru, contextnet)
    found |= named(conformer, transformer_encoder, transformer_asr, branchformer, resnet, masknet)
    found |= named(dual_path_rnn, sepformer, cnn14, enhance_resnet, hifigan)
    return found | named(metricgan_discriminator, vanilla_nn)
