"""Linear pieces: convolutions, dense layers, products; and how their weights are held."""

import warnings

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from .activations import RELUS
from .pieces import Piece, Unfit, convolution, kind, scaled

WEIGHTS = ("plain",) * 5 + ("weight_norm", "old_weight_norm", "spectral_norm", "doubled")


class Doubled(nn.Module):
    """A parametrisation of a user's."""

    def forward(self, w):
        return 2 * torch.tanh(w)


def weighed(module, how):
    """``module`` with its weight made of other parameters."""
    if how == "weight_norm":
        return parametrizations.weight_norm(module)
    if how == "old_weight_norm":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it is deprecated, and everywhere
            return nn.utils.weight_norm(module)
    if how == "spectral_norm":
        return parametrizations.spectral_norm(module)
    if how == "doubled":
        nn.utils.parametrize.register_parametrization(module, "weight", Doubled())
    return module


class Weighed(Piece):
    """A piece whose weight may be made of other parameters."""

    powers = False

    @property
    def twisted(self):
        """In train mode spectral norm iterates under no_grad."""
        return self.powers and self.training


@kind(3.0)
class Convolve(Weighed):
    """A convolution with its options."""

    forms = ("map",)

    def __init__(self, options, h, make):
        super().__init__()
        o = options
        width = h.shape[1]
        groups = width if o["depthwise"] else 1
        out = groups * max(1, o["out"] // groups)
        more = dict(stride=o["stride"], dilation=o["dilation"], bias=o["bias"], groups=groups)
        if o["transposed"]:
            self.conv = convolution(h, True)(
                width, out, o["kernel"], output_padding=o["stride"] - 1, **more
            )
        else:
            if o["padding"] == "same" and o["stride"] > 1:
                raise Unfit
            more.update(padding=o["padding"], padding_mode=o["mode"])
            self.conv = convolution(h)(width, out, o["kernel"], **more)
        self.conv = weighed(self.conv, o["weights"])
        self.powers = o["weights"] == "spectral_norm"

    @staticmethod
    def draw(random, depth):
        return {
            "out": random.choice((2, 3, 4)),
            "kernel": random.choice((1, 2, 3)),
            "stride": random.choice((1, 1, 2)),
            "dilation": random.choice((1, 1, 1, 2)),
            "padding": random.choice((0, 1, 1, 2, "same")),
            "mode": random.choice(("zeros",) * 4 + ("reflect", "circular", "replicate")),
            "depthwise": random.random() < 0.2,
            "transposed": random.random() < 0.15,
            "bias": random.random() < 0.7,
            "weights": random.choice(WEIGHTS),
        }

    def forward(self, h):
        return self.conv(h)


STYLES = ("module", "module", "F.linear", "matmul", "addmm", "einsum", "bilinear", "baddbmm")


@kind(2.0)
class Dense(Weighed):
    """A dense layer, in many ways to write one."""

    forms = ("vector", "sequence")

    def __init__(self, options, h, make):
        super().__init__()
        width = h.shape[-1]
        self.style = options["style"]
        if self.style == "bilinear":
            self.lin = nn.Bilinear(width, width, options["out"])
            return
        self.lin = weighed(nn.Linear(width, options["out"]), options["weights"])
        self.powers = options["weights"] == "spectral_norm"

    @staticmethod
    def draw(random, depth):
        return {
            "out": random.randint(2, 5),
            "style": random.choice(STYLES),
            "weights": random.choice(WEIGHTS),
        }

    def forward(self, h):
        if self.style == "bilinear":
            return self.lin(h, torch.tanh(h))
        if self.style == "module":
            return self.lin(h)
        # The hook of an old weight norm runs with the module, and its weight is as it last was.
        if hasattr(self.lin, "weight_g"):
            return self.lin(h)
        w, b = self.lin.weight, self.lin.bias
        if self.style == "F.linear":
            return F.linear(h, w, bias=b)
        if self.style == "einsum":
            return torch.einsum("...i,oi->...o", h, w) + b
        if self.style == "addmm" and h.dim() == 2:
            return torch.addmm(b, h, w.T)
        if self.style == "baddbmm" and h.dim() == 3:
            return torch.baddbmm(b, h, w.T.expand(len(h), -1, -1))
        return h @ w.T + b


@kind(1.0)
class Einsum(Piece):
    """A product over channels, or over places."""

    forms = ("map", "sequence")

    def __init__(self, options, h, make):
        super().__init__()
        self.over = options["over"]
        size = h.shape[-1] if self.over == "places" else h.shape[1]
        self.weight = nn.Parameter(torch.randn(size, size) / size**0.5)

    @staticmethod
    def draw(random, depth):
        return {"over": random.choice(("channels", "places", "matmul"))}

    def forward(self, h):
        if self.over == "channels":
            return torch.einsum("bc...,cd->bd...", h, self.weight)
        if self.over == "places":
            return torch.einsum("b...w,wv->b...v", h, self.weight)
        return torch.tensordot(h, self.weight, dims=([1], [0])).movedim(-1, 1)


@kind(1.0)
class Scale(Piece):
    """Parameters and buffers of the network's own, without a layer around them."""

    def __init__(self, options, h, make):
        super().__init__()
        self.scale = nn.ParameterList([nn.Parameter(torch.rand(1) + 0.5) for _ in range(2)])
        self.register_buffer("shift", torch.randn(h.shape[1:]) * 0.3)
        self.register_buffer("fixed", torch.rand(1), persistent=False)
        self.plain = torch.rand(1)  # a tensor that is neither

    def forward(self, h):
        return h * self.scale[0] + self.shift * self.scale[1] + self.fixed * self.plain


@kind(2.0)
class Norm(Piece):
    """A normalisation."""

    def __init__(self, options, h, make):
        super().__init__()
        name, affine = options["name"], options["affine"]
        form, width = make.form, make.width(h)
        at = h.dim() - 3 if form == "map" else 0
        if name == "layer" or form == "sequence":
            shape = h.shape[1:] if form == "map" and options["whole"] else h.shape[-1:]
            self.norm = nn.LayerNorm(shape, elementwise_affine=affine)
        elif name == "group":
            self.norm = nn.GroupNorm(2 if width % 2 == 0 else 1, width, affine=affine)
        elif name == "instance" and form == "map":
            cls = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[at]
            self.norm = cls(width, affine=affine, track_running_stats=options["track"])
        elif name == "response" and form == "map":
            self.norm = nn.LocalResponseNorm(2)
        else:
            cls = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[at]
            self.norm = cls(width, affine=affine, track_running_stats=options["track"])
        if hasattr(self.norm, "eps"):
            self.norm.eps = 1e-2  # derivatives of finite size, also where few numbers are normed
        scaled(self.norm)

    @staticmethod
    def draw(random, depth):
        return {
            "name": random.choice(("batch",) * 4 + ("group", "layer", "instance", "response")),
            "affine": random.random() < 0.8,
            "track": random.random() < 0.8,
            "whole": random.random() < 0.5,
        }

    def forward(self, h):
        return self.norm(h)


@kind(0.7)
class Folded(Piece):
    """A convolution, a batch norm and a ReLU, as most of the world has them."""

    forms = ("map",)

    def __init__(self, options, h, make):
        super().__init__()
        norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[h.dim() - 3]
        conv = make.mix(h) if options["conv"] is None else Convolve(options["conv"], h, make)
        width = conv(h).shape[1]
        self.body = nn.Sequential(conv, scaled(norm(width)))
        self.act = make.relu(options["relu"])
        self.skip = options["skip"]

    @staticmethod
    def draw(random, depth):
        return {
            "relu": random.choice(list(RELUS)),
            "skip": random.random() < 0.5,
            "conv": Convolve.draw(random, depth) if random.random() < 0.7 else None,
        }

    def forward(self, h):
        out = self.body(h)
        if self.skip and out.shape == h.shape:
            out += h
        return self.act(out)
