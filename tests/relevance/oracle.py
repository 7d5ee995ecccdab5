"""The slow reference: relevance carried by hand, layer after layer, in float64.

Each rule is its formula in terms of relevance, as in the papers: Bach et al. 2015 (epsilon,
alpha-beta), Montavon et al. 2017 (z-plus, w-square, z-box) and 2019 (gamma), Lapuschkin et al. 2019
(flat). `layers` has the networks; funcattr, torch.func and autograd have no part in either.
"""

import torch
import torch.nn.functional as F

from relevance.layers import Chain

# Each takes a layer, its input and the relevance of its output, and gives that of its input.


def stab(z, eps):
    return z + eps * torch.where(z < 0, -1.0, 1.0).to(z)


def split(t):
    return t.clamp(min=0), t.clamp(max=0)


def epsilon(eps=1e-6, *, zero_bias=False):
    def rule(layer, x, r):
        z = layer.call(x, layer.weight) + layer.bias * (not zero_bias)
        return x * layer.transposed(x, r / stab(z, eps), layer.weight)

    return rule


def z_plus(*, eps=1e-6, zero_bias=False):
    def rule(layer, x, r):
        (xp, xn), (wp, wn) = split(x), split(layer.weight)
        bp = layer.bias.clamp(min=0) * (not zero_bias)
        s = r / stab(layer.call(xp, wp) + layer.call(xn, wn) + bp, eps)
        return xp * layer.transposed(x, s, wp) + xn * layer.transposed(x, s, wn)

    return rule


def alpha_beta(alpha=2.0, beta=1.0, *, eps=1e-6, zero_bias=False):
    def rule(layer, x, r):
        (xp, xn), (wp, wn) = split(x), split(layer.weight)
        bp, bn = split(layer.bias * (not zero_bias))
        sp = r / stab(layer.call(xp, wp) + layer.call(xn, wn) + bp, eps)
        sn = r / stab(layer.call(xp, wn) + layer.call(xn, wp) + bn, eps)
        for_it = xp * layer.transposed(x, sp, wp) + xn * layer.transposed(x, sp, wn)
        against = xp * layer.transposed(x, sn, wn) + xn * layer.transposed(x, sn, wp)
        return alpha * for_it - beta * against

    return rule


def gamma(g=0.25, *, eps=1e-6, zero_bias=False):
    def rule(layer, x, r):
        (xp, xn), (wp, wn) = split(x), split(layer.weight)
        bias = layer.bias * (not zero_bias)
        bp, bn = split(bias)
        up, down = layer.weight + g * wp, layer.weight + g * wn
        z1 = layer.call(xp, up) + layer.call(xn, down) + bias + g * bp
        z2 = layer.call(xp, down) + layer.call(xn, up) + bias + g * bn
        out = layer(x)  # the gate is the layer's true sign, also where the rule leaves out the bias
        s1, s2 = r * (out > 0) / stab(z1, eps), r * (out < 0) / stab(z2, eps)
        return (
            xp * (layer.transposed(x, s1, up) + layer.transposed(x, s2, down))
            + xn * (layer.transposed(x, s1, down) + layer.transposed(x, s2, up))
        )  # fmt: skip

    return rule


def z_box(low, high, *, eps=1e-6, zero_bias=False):
    def rule(layer, x, r):
        wp, wn = split(layer.weight)
        low_, high_ = (torch.as_tensor(t).to(x).expand(x.shape) for t in (low, high))
        # The bias stands in all three terms, positive and negative parts, and cancels.
        z = layer.call(x, layer.weight) - layer.call(low_, wp) - layer.call(high_, wn)
        s = r / stab(z, eps)
        return (
            x * layer.transposed(x, s, layer.weight)
            - low_ * layer.transposed(x, s, wp)
            - high_ * layer.transposed(x, s, wn)
        )

    return rule


def w_square(*, eps=1e-6, zero_bias=False):
    def rule(layer, x, r):
        square = layer.weight**2
        z = layer.call(torch.ones_like(x), square) + layer.bias**2 * (not zero_bias)
        return layer.transposed(x, r / stab(z, eps), square)

    return rule


def flat(*, eps=1e-6, zero_bias=True):
    def rule(layer, x, r):
        ones = torch.ones_like(layer.weight)
        s = r / stab(layer.call(torch.ones_like(x), ones), eps)
        return layer.transposed(x, s, ones)

    return rule


def pass_through(layer, x, r):
    return r


def gradient(layer, x, r):
    return layer.transposed(x, r, layer.weight)


def stop(layer, x, r):
    return torch.zeros_like(x)


def lrp_0(layer, x, r):
    """What an operation without a rule does: its true derivative, of relevance over activation."""
    z = layer(x)
    return x * layer.transposed(x, torch.where(z == 0, 0.0, r / z), layer.weight)


# -------------------------------------------------------------------------------------- composites


def table(convolution, linear, *, eps=1e-6, first=None):
    """Rules by kind of layer; ``first``: kinds, and a rule for the first of them that runs."""
    rules = {"convolution": convolution, "linear": linear}
    rules |= {"activation": pass_through, "norm": pass_through}
    return rules | {"sum": epsilon(eps), "mean": epsilon(eps), "first": first}


def epsilon_plus(eps=1e-6):
    return table(z_plus(eps=eps), epsilon(eps), eps=eps)


def epsilon_plus_flat(eps=1e-6):
    return epsilon_plus(eps) | {"first": (("convolution", "linear"), flat(eps=eps))}


def epsilon_alpha2_beta1(eps=1e-6):
    return table(alpha_beta(eps=eps), epsilon(eps), eps=eps)


def epsilon_alpha2_beta1_flat(eps=1e-6):
    return epsilon_alpha2_beta1(eps) | {"first": (("convolution", "linear"), flat(eps=eps))}


def epsilon_gamma_box(low, high, eps=1e-6, g=0.25):
    first = (("convolution",), z_box(low, high, eps=eps))
    return table(gamma(g, eps=eps), epsilon(eps), eps=eps, first=first)


def excitation_backprop(eps=1e-6):
    """Its activations keep their derivative; at a ReLU that is the same as passing relevance on."""
    rules = table(z_plus(eps=eps), z_plus(eps=eps), eps=eps)
    return rules | {"activation": gradient, "norm": gradient}


def lrp(chain, rules, x, target, *, start="value", layer=0):
    """Relevance of what goes into the ``layer``-th layer; one target, or one per example."""
    x = x.detach()
    kinds, rule = rules.get("first") or ((), None)
    first = next((part for part in chain.walk() if part.kind in kinds), None)
    # The winners of a pooling and what only moves hand relevance on as it is, of zeros too.
    rules = {"max_pool": gradient, "routed": gradient} | rules
    rule_of = lambda part: rule if part is first and rule else rules.get(part.kind, lrp_0)
    out = chain(x)
    at = F.one_hot(torch.as_tensor(target).expand(len(x)), out.shape[1]).to(x)
    acts = Chain(*chain.layers[:layer])(x)
    return Chain(*chain.layers[layer:]).relevance(
        acts, at * out if start == "value" else at, rule_of
    )
