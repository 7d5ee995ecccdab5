"""Relevance carried by hand, number by number, without autograd: the formulas of the papers.

Each call makes a value and notes how its relevance ``R`` is shared among what it was made of; where
funcattr carries relevance over activation, this carries relevance.
"""

import math

import torch

from transformers_by_hand import models as M


class Node:
    def __init__(self, value):
        self.value, self.r = value, torch.zeros_like(value)


class Tape:
    """``cp`` for CP-LRP, else AttnLRP."""

    def __init__(self, cp):
        self.cp, self.back = cp, []

    def made(self, value, back):
        node = Node(value)
        self.back.append(lambda: back(node.r))
        return node

    def moved(self, x, f):
        """``f`` puts numbers elsewhere, or repeats them, or makes multiples and sums of them."""
        value, pull = torch.func.vjp(f, x.value)

        def back(r):
            x.r += x.value * pull(over(r, value))[0]

        return self.made(value, back)

    def linear(self, x, layer):
        out = x.value @ layer.weight.T
        if layer.bias is not None:
            out = out + layer.bias

        def back(r):
            x.r += x.value * (over(r, out) @ layer.weight)

        return self.made(out, back)

    def add(self, a, b):
        out = a.value + b.value

        def back(r):
            a.r += a.value * over(r, out)
            b.r += b.value * over(r, out)

        return self.made(out, back)

    def norm(self, x, m):
        """By a matrix: what it divides by is a constant."""
        n, v = M.DIM, x.value
        centre = torch.eye(n) if m.rms else torch.eye(n) - 1 / n
        centred = v @ centre
        size = (centred.square().mean(-1, keepdim=True) + M.EPS).sqrt()
        out = centred / size * m.weight
        if not m.rms:
            out = out + m.bias

        def back(r):
            x.r += v * ((over(r, out) * m.weight / size) @ centre)

        return self.made(out, back)

    def act(self, x, f):
        def back(r):
            x.r += r

        return self.made(f(x.value), back)

    def matmul(self, a, b, weights=False):
        out = a.value @ b.value
        stop = weights and self.cp

        def back(r):
            s = over(r, out) if stop else over(r, out) / 2
            a.r += 0 if stop else a.value * (s @ b.value.mT)
            b.r += b.value * (a.value.mT @ s)

        return self.made(out, back)

    def softmax(self, x, mask):
        scores = x.value.masked_fill(~mask, -math.inf)
        out = scores.softmax(-1)

        def back(r):
            x.r += x.value * (r - out * r.sum(-1, keepdim=True))

        return self.made(out, back)

    def gate(self, a, b):
        def back(r):
            if not self.cp:
                a.r += r / 2
            b.r += r if self.cp else r / 2

        return self.made(a.value * b.value, back)


def over(r, out):
    return torch.where(out == 0, 0, r / torch.where(out == 0, 1, out))


def _heads(t):
    return t.unflatten(-1, (-1, M.HEAD)).transpose(1, 2)


def _attend(tape, block, x, mask):
    config = block.config
    q, k, v = (tape.moved(tape.linear(x, f), _heads) for f in (block.q, block.k, block.v))
    if config.rotary:
        q, k = tape.moved(q, M.turned), tape.moved(k, M.turned)
    repeated = lambda t: t.repeat_interleave(M.HEADS // config.groups, 1)
    k, v = tape.moved(k, lambda t: repeated(t).mT / math.sqrt(M.HEAD)), tape.moved(v, repeated)
    weights = tape.softmax(tape.matmul(q, k), mask)
    out = tape.matmul(weights, v, weights=True)
    out = tape.moved(out, lambda t: t.transpose(1, 2).flatten(2))
    return tape.linear(out, block.o)


def _feed(tape, block, x):
    act = M.ACTIVATIONS[block.config.act]["function"]
    up = tape.linear(x, block.up)
    if block.gate is None:
        return tape.linear(tape.act(up, act), block.down)
    gate = tape.act(tape.linear(x, block.gate), act)
    return tape.linear(tape.gate(gate, up), block.down)


def _block(tape, block, x, mask):
    if block.config.post:
        x = tape.norm(tape.add(x, _attend(tape, block, x, mask)), block.norm1)
        return tape.norm(tape.add(x, _feed(tape, block, x)), block.norm2)
    x = tape.add(x, _attend(tape, block, tape.norm(x, block.norm1), mask))
    return tape.add(x, _feed(tape, block, tape.norm(x, block.norm2)))


@torch.no_grad()
def lrp(model, x, place, cp=False, padding=None):
    """The relevance of ``x`` (embeddings or pixels) for the logit at ``place``, of each example."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        tape, first = Tape(cp), Node(x)
        node = tape.moved(first, model.start)
        length = node.value.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool)
        mask = mask.tril() if model.config.causal else mask
        if padding is not None:
            mask = mask & padding[:, None, None, :]
        for block in model.blocks:
            node = _block(tape, block, node, mask)
        out = tape.linear(tape.norm(node, model.norm), model.head)
        out.r[(slice(None), *place)] = out.value[(slice(None), *place)]
        for back in reversed(tape.back):
            back()
        return first.r
    finally:
        torch.set_default_dtype(dtype)
