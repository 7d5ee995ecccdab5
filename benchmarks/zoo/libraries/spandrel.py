"""spandrel: networks that restore and enlarge pictures."""

from __future__ import annotations

import importlib
from typing import Any

from ..subject import Subject
from ._inputs import Build, image, table

SMALL = {"embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
MODELS: dict[str, tuple[str, dict[str, Any], int]] = {
    "RRDBNet": ("ESRGAN.__arch.RRDB", {"num_filters": 8, "num_blocks": 1}, 16),
    "SRVGGNetCompact": ("Compact.__arch.SRVGG", {"num_feat": 8, "num_conv": 2}, 16),
    "SRVGGNetCompact/relu": (
        "Compact.__arch.SRVGG",
        {"num_feat": 8, "num_conv": 2, "act_type": "relu"},
        16,
    ),
    "SwinIR": ("SwinIR.__arch.SwinIR", {"img_size": 16, **SMALL}, 16),
    "Swin2SR": ("Swin2SR.__arch.Swin2SR", {"img_size": 16, **SMALL}, 16),
    "HAT": (
        "HAT.__arch.HAT",
        {"img_size": 16, **SMALL, "compress_ratio": 2, "squeeze_factor": 4},
        16,
    ),
    "DRCT": ("DRCT.__arch.drct_arch", {"img_size": 16, **SMALL}, 16),
    "DAT": (
        "DAT.__arch.DAT",
        {"img_size": 16, "embed_dim": 12, "split_size": [4, 4], "depth": [1], "num_heads": [2]},
        16,
    ),
    "OmniSR": ("OmniSR.__arch.OmniSR", {"num_feat": 8, "res_num": 1}, 32),
    "SPAN": ("SPAN.__arch.span", {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 8}, 16),
    "SAFMN": ("SAFMN.__arch.safmn", {"dim": 8, "n_blocks": 2}, 16),
    "SAFMN_BCIE": ("SAFMNBCIE.__arch.safmn_bcie", {"dim": 8, "n_blocks": 2, "num_layers": 2}, 32),
    "PLKSR": ("PLKSR.__arch.PLKSR", {"dim": 16, "n_blocks": 2}, 32),
    "RealPLKSR": ("PLKSR.__arch.RealPLKSR", {"dim": 16, "n_blocks": 2}, 32),
    "DITN_Real": ("DITN.__arch.DITN_Real", {"dim": 12}, 16),
    "NAFNet": (
        "NAFNet.__arch.NAFNet_arch",
        {"width": 8, "enc_blk_nums": [1], "dec_blk_nums": [1]},
        32,
    ),
    "DnCNN": ("DnCNN.__arch.network_dncnn", {"in_nc": 3, "out_nc": 3, "nc": 8, "nb": 4}, 16),
    "DRUNet": (
        "DRUNet.__arch.network_unet",
        {"in_nc": 3, "out_nc": 3, "nc": [4, 8, 8, 8], "nb": 1},
        32,
    ),
    "UpCunet2x": ("RealCUGAN.__arch.upcunet_v3", {}, 32),
    "RCAN": ("RCAN.__arch.rcan_arch", {"n_resgroups": 1, "n_resblocks": 2, "n_feats": 16}, 16),
    "MoESR": ("MoESR.__arch.MoESR", {"dim": 8, "n_blocks": 1, "n_block": 1}, 32),
    "MoSR": ("MoSR.__arch.mosr_arch", {"dim": 8, "n_block": 2}, 32),
    "RetinexFormer": ("RetinexFormer.__arch.retinexformer_arch", {"n_feat": 8, "stage": 1}, 32),
    "Generator": ("SwiftSRGAN.__arch.SwiftSRGAN", {"num_channels": 8, "num_blocks": 2}, 16),
    "CIDNet": ("HVICIDNet.__arch.cidnet", {}, 32),
    "ResNetArcFace": (
        "GFPGAN.__arch.arcface_arch",
        {"block": "IRBlock", "layers": [1, 1, 1, 1], "use_se": True},
        128,
    ),
    "KBNet_s": ("KBNet.__arch.kbnet_s", {"width": 8}, 32),
}


def net(name: str, how: tuple[str, dict[str, Any], int]) -> Subject:
    file, options, size = how
    module = importlib.import_module(f"spandrel.architectures.{file}")
    model = getattr(module, name.split("/")[0])(**options)
    if name == "ResNetArcFace":
        return Subject(model, image(size, 1))
    return Subject(model, image(size))


def cases() -> dict[str, Build]:
    """By class."""
    return table(MODELS, net)
