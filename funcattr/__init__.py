"""Attribution methods that change the backward pass of a network, as pure functions.

No hooks, no surgery on the model, no state left behind: each method is a transform, as
``torch.func.grad`` is, and composes with ``vmap``, ``grad``, ``jvp``, ``jacrev``, ``jacfwd`` and
``torch.compile``.
"""

from . import composites, rules, viz
from .dataset.run import sweep_dataset
from .engine.layer_output import layer_output
from .engine.ruled import relu_rule, with_rules
from .errors import ArgumentError, FuncattrError, LayerError, NoSiteError, TargetError
from .methods.attribution import Attribution
from .methods.bundle import bundle
from .methods.cams import grad_cam, guided_grad_cam
from .methods.compose import integrated_gradients, smooth_grad
from .methods.conservation import conserved
from .methods.deep_lift import deep_lift
from .methods.gradients import (
    deconvnet,
    gradient,
    guided_backprop,
    input_x_gradient,
    rule_backprop,
    saliency,
)
from .methods.layers import layer_gradient_x_activation
from .methods.relevance import lrp, rect_grad
from .methods.report import sites
from .methods.sweep import stream, sweep
from .models.embeddings import over_embeddings
from .models.functional import make_functional
from .operations.composite import Composite
from .operations.where import first
from .postprocess import channel_max_abs, gaussian_smooth, interpolate

__version__ = "0.2.0"
__all__ = [
    "ArgumentError",
    "Attribution",
    "Composite",
    "FuncattrError",
    "LayerError",
    "NoSiteError",
    "TargetError",
    "bundle",
    "channel_max_abs",
    "composites",
    "conserved",
    "deconvnet",
    "deep_lift",
    "first",
    "gaussian_smooth",
    "grad_cam",
    "gradient",
    "guided_backprop",
    "guided_grad_cam",
    "input_x_gradient",
    "integrated_gradients",
    "interpolate",
    "layer_gradient_x_activation",
    "layer_output",
    "lrp",
    "make_functional",
    "over_embeddings",
    "rect_grad",
    "relu_rule",
    "rule_backprop",
    "rules",
    "saliency",
    "sites",
    "smooth_grad",
    "stream",
    "sweep",
    "sweep_dataset",
    "viz",
    "with_rules",
]
