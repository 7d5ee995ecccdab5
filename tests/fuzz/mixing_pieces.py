"""Pieces that mix places: pooling, attention, recurrence; and those that change the form."""

import torch
import torch.nn.functional as F
from torch import nn

from .activations import RELUS
from .pieces import Piece, kind


@kind(1.5)
class Pool(Piece):
    """A pooling, as a module or a function."""

    forms = ("map",)

    def __init__(self, options, h, make):
        super().__init__()
        o, d = options, h.dim() - 2
        self.name = o["name"]
        size = min(o["kernel"], *h.shape[2:])
        more = dict(stride=o["stride"], ceil_mode=o["ceil"], padding=size // 2 * o["padded"])
        if self.name == "max":
            self.pool = getattr(nn, f"MaxPool{d}d")(size, **more)
        elif self.name == "F.max":
            f = getattr(F, f"max_pool{d}d")
            self.pool = lambda h: f(h, size, stride=o["stride"], ceil_mode=o["ceil"])
        elif self.name == "indices":
            pool = getattr(nn, f"MaxPool{d}d")(size, return_indices=True)
            self.inside = pool
            self.pool = lambda h: pool(h)[0]
        elif self.name == "avg":
            self.pool = getattr(nn, f"AvgPool{d}d")(size, **more)
        elif self.name == "adaptive max":
            self.pool = getattr(nn, f"AdaptiveMaxPool{d}d")(2)
        elif self.name == "adaptive avg":
            self.pool = getattr(nn, f"AdaptiveAvgPool{d}d")(o["kernel"] - 1)
        else:
            self.pool = lambda h: F.max_pool2d(h, 2, 1) if d == 2 else h.cummax(-1).values

    @staticmethod
    def draw(random, depth):
        names = ("max", "max", "F.max", "indices", "avg", "adaptive max", "adaptive avg", "other")
        return {
            "name": random.choice(names),
            "kernel": random.choice((2, 3)),
            "stride": random.choice((1, 2, None)),
            "ceil": random.random() < 0.3,
            "padded": random.random() < 0.3,
        }

    def forward(self, h):
        return self.pool(h)


@kind(1.0)
class Resize(Piece):
    """Places moved around."""

    forms = ("map",)

    def __init__(self, options, h, make):
        super().__init__()
        self.how = options["how"]

    @staticmethod
    def draw(random, depth):
        ways = ("nearest", "linear", "pad", "reflect", "roll", "flip", "permute", "stack", "unfold")
        return {"how": random.choice(ways)}

    def forward(self, h):
        if self.how == "nearest":
            return F.interpolate(h, scale_factor=2, mode="nearest")
        if self.how == "linear":
            mode = ("linear", "bilinear", "trilinear")[h.dim() - 3]
            return F.interpolate(h, size=(3,) * (h.dim() - 2), mode=mode, align_corners=False)
        if self.how == "pad":
            return F.pad(h, (1, 0), value=0.5)
        if self.how == "reflect":
            return F.pad(h, (1, 1) * (h.dim() - 2), mode="replicate")
        if self.how == "roll":
            return h.roll(1, -1)
        if self.how == "flip":
            return h.flip(2)
        if self.how == "permute":
            return h.transpose(1, -1)
        if self.how == "stack":
            return torch.stack([h, -h], 2).flatten(1, 2)
        return h.unfold(-1, 2, 1).mean(-1)


@kind(1.0)
class ToVector(Piece):
    """The end of all places."""

    forms = ("map", "sequence")
    gives = "vector"

    def __init__(self, options, h, make):
        super().__init__()
        self.how, self.form = options["how"], make.form
        self.flat = nn.Flatten()

    @staticmethod
    def draw(random, depth):
        return {"how": random.choice(("flatten", "view", "module", "mean", "amax", "last", "norm"))}

    def forward(self, h):
        places = (1,) if self.form == "sequence" else tuple(range(2, h.dim()))
        if self.how == "flatten":
            return h.flatten(1)
        if self.how == "view":
            return h.reshape(len(h), -1)
        if self.how == "module":
            return self.flat(h)
        if self.how == "mean":
            return h.mean(places)
        if self.how == "amax":
            return h.amax(places)
        if self.how == "last":
            return h[:, -1] if self.form == "sequence" else h.flatten(2)[..., 0]
        return (h**2 + 0.1).sum(places).sqrt()


@kind(1.0)
class ToSequence(Piece):
    """Maps or vectors as a sequence of tokens."""

    forms = ("map", "vector")
    gives = "sequence"

    def __init__(self, options, h, make):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, h.shape[1])) if options["token"] else None

    @staticmethod
    def draw(random, depth):
        return {"token": random.random() < 0.5}

    def forward(self, h):
        h = h.flatten(2).transpose(1, 2) if h.dim() > 2 else h.unsqueeze(1)
        if self.token is not None:
            h = torch.cat([self.token.expand(len(h), -1, -1), h], 1)
        return h


ATTENTIONS = ("softmax", "softmax", "sdpa", "causal", "mha", "encoder", "lstm", "gru", "linear")


@kind(3.0)
class Attention(Piece):
    """Attention, by hand and by torch; and what came before it."""

    forms = ("sequence",)

    def __init__(self, options, h, make):
        super().__init__()
        self.how, width = options["how"], h.shape[-1]
        if self.how == "mha":
            self.inside = nn.MultiheadAttention(width, 1, batch_first=True)
        elif self.how == "encoder":
            self.inside = nn.TransformerEncoderLayer(
                width,
                1,
                4,
                0.0,
                activation=make.relu("F.relu"),
                batch_first=True,
                norm_first=options["first"],
            )
        elif self.how in ("lstm", "gru"):
            self.inside = getattr(nn, self.how.upper())(width, width, batch_first=True)
        else:
            self.qkv = nn.Linear(width, 3 * width)
            self.act = make.relu(options["relu"])

    @staticmethod
    def draw(random, depth):
        return {
            "how": random.choice(ATTENTIONS),
            "first": random.random() < 0.5,
            "relu": random.choice(list(RELUS)),
        }

    def forward(self, h):
        if self.how == "mha":
            return self.inside(h, h, h, need_weights=False)[0]
        if self.how == "encoder":
            return self.inside(h)
        if self.how in ("lstm", "gru"):
            return self.inside(h)[0]
        q, k, v = self.qkv(h).chunk(3, -1)
        if self.how == "linear":  # as linear transformers have it: a ReLU for the softmax
            q, k = self.act(q * 1.0), self.act(k * 1.0)
            return q @ (k.mT @ v) / (1 + h.shape[1])
        if self.how in ("sdpa", "causal"):
            return F.scaled_dot_product_attention(q, k, v, is_causal=self.how == "causal")
        weights = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1)
        return weights @ v


@kind(0.7)
class Excite(Piece):
    """Squeeze and excitation: channels weighed by what all places say."""

    forms = ("map",)

    def __init__(self, options, h, make):
        super().__init__()
        width = h.shape[1]
        self.down, self.up = nn.Linear(width, 2), nn.Linear(2, width)
        self.act = make.relu(options["relu"])

    @staticmethod
    def draw(random, depth):
        return {"relu": random.choice(list(RELUS))}

    def forward(self, h):
        s = self.up(self.act(self.down(h.flatten(2).mean(2))))
        return h * s.sigmoid().reshape(*s.shape, *(1,) * (h.dim() - 2))
