"""Packages of one or a few models: the name says which package."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import torch
from torch import nn

from ..subject import Subject
from ._inputs import Build, image


def efficientnet_pytorch() -> Subject:
    from efficientnet_pytorch import EfficientNet

    return Subject(EfficientNet.from_name("efficientnet-b0", num_classes=10), image(64))


def resnest() -> Subject:
    from resnest.torch.resnet import Bottleneck, ResNet

    model = ResNet(Bottleneck, [1, 1, 1, 1], radix=2, groups=1, bottleneck_width=32, deep_stem=True,
                   stem_width=16, avg_down=True, avd=True, num_classes=10)  # fmt: skip
    return Subject(model, image(64))


def facenet(name: str) -> Subject:
    import facenet_pytorch.models.inception_resnet_v1 as resnet
    import facenet_pytorch.models.mtcnn as mtcnn

    if name == "InceptionResnetV1":
        return Subject(resnet.InceptionResnetV1(classify=True, num_classes=10), image(96))
    size = {"PNet": 24, "RNet": 24, "ONet": 48}[name]
    return Subject(getattr(mtcnn, name)(pretrained=False), image(size))


def xray(name: str) -> Subject:
    import torchxrayvision as xrv

    return Subject(xrv.models.DenseNet(weights=None, num_classes=10), image(64, 1))


def lpips() -> Subject:
    with contextlib.redirect_stdout(io.StringIO()):
        from lpips import LPIPS

        model = LPIPS(pretrained=False, net="squeeze", pnet_rand=True, verbose=False)
    other = image(64)
    return Subject(model, image(64), call=lambda m, x: m(x, other))


def segment_anything(name: str) -> Subject:
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, TwoWayTransformer

    if name == "image_encoder":
        model = ImageEncoderViT(
            img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, out_chans=8,
            use_rel_pos=True, window_size=2, global_attn_indexes=(1,),
        )  # fmt: skip
        return Subject(model, image(32))
    inner = TwoWayTransformer(depth=2, embedding_dim=16, num_heads=2, mlp_dim=24)
    decoder = MaskDecoder(transformer_dim=16, transformer=inner, iou_head_hidden_dim=16)
    place, points, rest = torch.randn(1, 16, 4, 4), torch.randn(1, 3, 16), torch.randn(1, 16, 4, 4)
    call = lambda m, x: m(x, place, points, rest, multimask_output=True)
    return Subject(decoder, torch.randn(1, 16, 4, 4), call=call)


def tabnet() -> Subject:
    from pytorch_tabnet.tab_network import TabNet

    matrix = torch.eye(12)
    return Subject(TabNet(12, 5, group_attention_matrix=matrix), torch.randn(4, 12))


def tabular(name: str) -> Subject:
    from rtdl_revisiting_models import MLP, FTTransformer, ResNet

    x = torch.randn(4, 12)
    if name == "MLP":
        return Subject(MLP(d_in=12, d_out=5, n_blocks=3, d_block=16, dropout=0.1), x)
    if name == "ResNet":
        model = ResNet(d_in=12, d_out=5, n_blocks=2, d_block=16, d_hidden=None,
                       d_hidden_multiplier=2.0, dropout1=0.1, dropout2=0.0)  # fmt: skip
        return Subject(model, x)
    options = FTTransformer.get_default_kwargs(1)
    model = FTTransformer(n_cont_features=12, cat_cardinalities=[], d_out=5, **options)
    return Subject(model, x, call=lambda m, x: m(x, None))


def x_transformer(name: str) -> Subject:
    from x_transformers import ContinuousTransformerWrapper, Encoder, ViTransformerWrapper

    options: dict[str, Any] = {
        "plain": {},
        "relu_squared": {"ff_relu_squared": True},
        "glu": {"ff_glu": True, "ff_swish": True},
        "vit": {"ff_relu_squared": True},
    }[name]
    layers = Encoder(dim=32, depth=2, heads=4, attn_dim_head=8, **options)
    if name == "vit":
        model = ViTransformerWrapper(
            image_size=32, patch_size=8, num_classes=10, attn_layers=layers
        )
        return Subject(model, image(32))
    model = ContinuousTransformerWrapper(dim_in=8, dim_out=5, max_seq_len=16, attn_layers=layers)
    return Subject(model, torch.randn(2, 9, 8))


def tcn(name: str) -> Subject:
    from pytorch_tcn import TCN

    return Subject(TCN(6, [8, 8], kernel_size=3, activation=name), torch.randn(2, 6, 20))


def nnunet(name: str) -> Subject:
    from dynamic_network_architectures.architectures import unet

    options = dict(
        input_channels=1, n_stages=3, features_per_stage=[4, 8, 8], kernel_sizes=3,
        strides=[1, 2, 2], num_classes=3, n_conv_per_stage_decoder=1, conv_bias=True,
        norm_op=nn.InstanceNorm2d, norm_op_kwargs={"affine": True}, nonlin=nn.ReLU,
        nonlin_kwargs={"inplace": True}, conv_op=nn.Conv2d, deep_supervision=False,
    )  # fmt: skip
    if name == "PlainConvUNet":
        return Subject(unet.PlainConvUNet(n_conv_per_stage=2, **options), image(32, 1))
    return Subject(unet.ResidualEncoderUNet(n_blocks_per_stage=1, **options), image(32, 1))


def demucs(name: str) -> Subject:
    from demucs.demucs import Demucs

    model = Demucs(["a", "b"], audio_channels=1, channels=8, depth=2, dconv_depth=1, resample=False)
    return Subject(model, torch.randn(1, 1, 1024))


def open_unmix() -> Subject:
    from openunmix.model import OpenUnmix

    model = OpenUnmix(nb_bins=32, nb_channels=1, hidden_size=16, nb_layers=1, max_bin=20)
    return Subject(model, torch.rand(2, 1, 32, 10))


def yolo(name: str) -> Subject:
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel(f"{name}.yaml", verbose=False)
    return Subject(model, image(64), call=lambda m, x: m(x))


def flow(name: str) -> Subject:
    from nflows.nn.nets import MLP, ResidualNet

    if name == "ResidualNet":
        return Subject(
            ResidualNet(12, 5, hidden_features=16, use_batch_norm=True), torch.randn(4, 12)
        )
    return Subject(MLP((12,), (5,), [16, 16]), torch.randn(4, 12))


def cases() -> dict[str, Build]:
    """By package and name."""
    alone = (efficientnet_pytorch, resnest, lpips, tabnet, open_unmix)
    found: dict[str, Build] = {build.__name__: build for build in alone}
    groups = {
        facenet: "InceptionResnetV1 PNet RNet ONet",
        xray: "DenseNet",
        segment_anything: "image_encoder mask_decoder",
        tabular: "MLP ResNet FTTransformer",
        x_transformer: "plain relu_squared glu vit",
        tcn: "relu gelu",
        nnunet: "PlainConvUNet ResidualEncoderUNet",
        demucs: "Demucs",
        yolo: "yolov8n yolo11n",
        flow: "MLP ResidualNet",
    }
    for make, names in groups.items():
        for name in names.split():
            found[f"{make.__name__}/{name}"] = lambda make=make, name=name: make(name)
    return found
