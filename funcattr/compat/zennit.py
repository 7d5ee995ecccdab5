"""Zennit's attributors, composites and rules on funcattr: change the import, keep the rest.

Same names, arguments and numbers as zennit 0.5.1, for what its users call most. The names of its
modules ``attribution``, ``composites``, ``rules``, ``types`` and ``layer`` are all here. Nothing is
hooked and nothing of the model is changed: ``with`` does no more than to check its arguments.

``canonizers`` are accepted and ignored, for they are not needed: batch norms merge by themselves,
and sums are seen as they run. Canonizers other than those of zennit that do just this are refused.
Where zennit is wrong (merged norms, functional code, sums, shared layers), or means something else
(the first layer, layers without a rule), is in docs/zennit.md.

>>> import torch
>>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
>>> with Gradient(model=model, composite=EpsilonPlus()) as attributor:
...     out, relevance = attributor(torch.ones(1, 2), torch.eye(2)[[1]])
>>> relevance.shape
torch.Size([1, 2])
"""

from ._zennit.attributors import Attributor, Gradient, IntegratedGradients, SmoothGrad
from ._zennit.composites import (
    COMPOSITES,
    BetaSmooth,
    DeconvNet,
    EpsilonAlpha2Beta1,
    EpsilonAlpha2Beta1Flat,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
    ExcitationBackprop,
    GuidedBackprop,
    layer_map_base,
)
from ._zennit.maps import (
    LayerMapComposite,
    MixedComposite,
    NameLayerMapComposite,
    NameMapComposite,
    SpecialFirstLayerMapComposite,
)
from ._zennit.rows import (
    Activation,
    AvgPool,
    BatchNorm,
    Convolution,
    ConvolutionStandard,
    ConvolutionTranspose,
    Linear,
    MaxPool,
    Sum,
)
from ._zennit.rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    Norm,
    Pass,
    ReLUBetaSmooth,
    ReLUDeconvNet,
    ReLUGuidedBackprop,
    WSquare,
    ZBox,
    ZPlus,
)

__all__ = [
    "COMPOSITES",
    "Activation",
    "AlphaBeta",
    "Attributor",
    "AvgPool",
    "BatchNorm",
    "BetaSmooth",
    "Convolution",
    "ConvolutionStandard",
    "ConvolutionTranspose",
    "DeconvNet",
    "Epsilon",
    "EpsilonAlpha2Beta1",
    "EpsilonAlpha2Beta1Flat",
    "EpsilonGammaBox",
    "EpsilonPlus",
    "EpsilonPlusFlat",
    "ExcitationBackprop",
    "Flat",
    "Gamma",
    "Gradient",
    "GuidedBackprop",
    "IntegratedGradients",
    "LayerMapComposite",
    "Linear",
    "MaxPool",
    "MixedComposite",
    "NameLayerMapComposite",
    "NameMapComposite",
    "Norm",
    "Pass",
    "ReLUBetaSmooth",
    "ReLUDeconvNet",
    "ReLUGuidedBackprop",
    "SmoothGrad",
    "SpecialFirstLayerMapComposite",
    "Sum",
    "WSquare",
    "ZBox",
    "ZPlus",
    "layer_map_base",
]
