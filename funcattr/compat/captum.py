"""Captum's classes on funcattr: change the import, keep the rest.

Same names, arguments, numbers and errors as Captum 0.9. Nothing is hooked and nothing of the
user's is changed, so there are no warnings about hooks or ``requires_grad``, and every spelling of
ReLU counts. Maps never require grad, but with ``grad_kwargs={"create_graph": True}``. Where
Captum is installed these are its ``GradientAttribution``s, for its ``NoiseTunnel`` and metrics.
"""

from ._captum_inputs import (
    Deconvolution,
    GuidedBackprop,
    InputXGradient,
    NeuronDeconvolution,
    NeuronGuidedBackprop,
    Saliency,
)
from ._captum_layers import (
    GuidedGradCam,
    LayerAttribution,
    LayerGradCam,
    LayerGradientXActivation,
)
from ._captum_relevance import LRP, DeepLift
from ._captum_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule, IdentityRule

__all__ = [
    "LRP",
    "Alpha1_Beta0_Rule",
    "Deconvolution",
    "DeepLift",
    "EpsilonRule",
    "GammaRule",
    "GuidedBackprop",
    "GuidedGradCam",
    "IdentityRule",
    "InputXGradient",
    "LayerAttribution",
    "LayerGradCam",
    "LayerGradientXActivation",
    "NeuronDeconvolution",
    "NeuronGuidedBackprop",
    "Saliency",
]
