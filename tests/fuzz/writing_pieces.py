"""Pieces that write to tensors: in place, through views, into buffers, before and after a ReLU."""

import torch

from .activations import RELUS
from .pieces import Piece, kind


def _half(h):
    """The first half of the channels: a view."""
    return h[:, : max(1, h.shape[1] // 2)]


def add_to_itself(h, act, act_, lin):
    h += act(h)
    return h


def write_after(h, act, act_, lin):
    a = act(h)
    h.mul_(0.5)
    return h + a


def zero_after(h, act, act_, lin):
    a = act(h)
    h.zero_()
    return a + h


def fill_after(h, act, act_, lin):
    before, a = h * 1.5, act(h)
    h[:] = 0.25
    return before + a * h


def write_before(h, act, act_, lin):
    h.add_(0.1)
    h *= 1.25
    return act(h)


def rectify_a_view(h, act, act_, lin):
    act_(_half(h))
    return h * 1.5


def rectify_a_late_view(h, act, act_, lin):
    view = _half(h)
    h.add_(0.2)
    act_(view)
    return view.sum(1, keepdim=True) + h


def assign_a_view(h, act, act_, lin):
    half = _half(h)
    h[:, : half.shape[1]] = act(half * 1.0)
    return h


def write_a_view_after(h, act, act_, lin):
    view = _half(h)
    a = act(view)
    view.mul_(0.5)
    return h + a.mean(1, keepdim=True)


def rectify_transposed(h, act, act_, lin):
    act_(h.transpose(1, -1))
    return h


def rectify_flat(h, act, act_, lin):
    act_(h.view(len(h), -1)) if h.is_contiguous() else act_(h)
    return h


def rectify_detached_view(h, act, act_, lin):
    with torch.no_grad():
        mean = act(h).mean()
    return h * mean + act(h)


def skip_reads_the_rectified(h, act, act_, lin):
    r = act_(h)
    return h + lin(r)


def skip_read_before(h, act, act_, lin):
    before = h * 2
    act_(h)
    return before + lin(h)


def view_read_after(h, act, act_, lin):
    view = _half(h)
    act_(h)
    return h + view.sum(1, keepdim=True)


def into_a_new_tensor(h, act, act_, lin):
    out = torch.zeros_like(h)
    n = max(1, h.shape[1] // 2)
    out[:, :n] = act(h[:, :n] * 1.0)
    out[:, n:].copy_(h[:, n:])
    return out


def copied_over(h, act, act_, lin):
    out = torch.empty_like(h)
    out.copy_(act(h))
    return out + h


def rectify_twice_in_place(h, act, act_, lin):
    act_(h)
    h = h.mul(1.0).sub_(0.2)
    act_(h)
    return h


def one_input_of_several(h, act, act_, lin):
    return act(h) + 0.5 * act(h) - act(-h) + act_(h * 1.0)


def data_read_late(h, act, act_, lin):
    alias = h.view_as(h)
    a = act(lin(h))
    alias.mul_(0.7)
    return a + h


def masked_write(h, act, act_, lin):
    a = act(h)
    h.masked_fill_(h < 0.1, -0.3)
    return a + lin(h)


def swapped(h, act, act_, lin):
    first, rest = h[:, :1], h[:, 1:]
    return torch.cat([act(rest), act_(first * 1.0)], 1) + h


PATTERNS = {f.__name__: f for f in (
    add_to_itself, write_after, zero_after, fill_after, write_before, rectify_a_view,
    rectify_a_late_view, assign_a_view, write_a_view_after, rectify_transposed, rectify_flat,
    rectify_detached_view, skip_reads_the_rectified, skip_read_before, view_read_after,
    into_a_new_tensor, copied_over, rectify_twice_in_place, one_input_of_several, data_read_late,
    masked_write, swapped,
)}  # fmt: skip


@kind(5.0)
class Write(Piece):
    """A pattern of writes, to a tensor of its own or straight to what comes in."""

    def __init__(self, options, h, make):
        super().__init__()
        self.pattern = PATTERNS[options["pattern"]]
        self.twisted = self.pattern is rectify_detached_view
        self.own = make.mix(h) if options["own"] else None
        self.lin = make.mix(h)
        self.act_ = make.relu(options["in place"])
        self.act = self.act_ if options["reuse"] else make.relu(options["relu"])

    @staticmethod
    def draw(random, depth):
        in_place = [name for name, spelling in RELUS.items() if spelling.in_place]
        out_of_place = [name for name, spelling in RELUS.items() if not spelling.in_place]
        return {
            "pattern": random.choice(list(PATTERNS)),
            "own": random.random() < 0.8,
            "relu": random.choice(out_of_place),
            "in place": random.choice(in_place),
            "reuse": random.random() < 0.2,
        }

    def forward(self, h):
        if self.own is not None:
            h = self.own(h)
        return self.pattern(h, self.act, self.act_, self.lin)


@kind(0.7)
class Diary(Piece):
    """Writes to itself: attributes, lists, dicts, buffers."""

    def __init__(self, options, h, make):
        super().__init__()
        self.lin, self.act = make.mix(h), make.relu(options["relu"])
        self.seen, self.named, self.calls, self.last = [], {}, 0, None
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("average", torch.zeros(h.shape[1:]))
        self.reads = self.twisted = options["reads"]

    @staticmethod
    def draw(random, depth):
        return {"relu": random.choice(list(RELUS)), "reads": random.random() < 0.5}

    def forward(self, h):
        self.calls += 1
        self.seen.append(h.shape)
        self.last = h
        self.named["last"] = h
        self.count += 1
        with torch.no_grad():
            self.average.mul_(0.9).add_(h.detach().mean(0) * 0.1)
        a = self.act(self.lin(h))
        return a + self.average * 0.5 + self.last if self.reads else a
