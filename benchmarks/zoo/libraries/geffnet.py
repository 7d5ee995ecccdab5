"""geffnet: mobile networks, with activations of their own that save memory."""

from __future__ import annotations

import geffnet

from ..subject import Subject
from ._inputs import Build, image, listed, table

NAMES = listed("""
    mnasnet_050 mnasnet_a1 mnasnet_small mobilenetv2_100 mobilenetv2_110d fbnetc_100 spnasnet_100
    efficientnet_b0 efficientnet_es efficientnet_lite0 mixnet_s mobilenetv3_rw
    mobilenetv3_small_075 mobilenetv3_large_minimal_100 semnasnet_075
""")


def net(name: str) -> Subject:
    return Subject(geffnet.create_model(name, pretrained=False, num_classes=10), image(64))


def cases() -> dict[str, Build]:
    """By name."""
    return table(NAMES, net)
