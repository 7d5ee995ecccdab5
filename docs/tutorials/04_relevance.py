"""
Relevance under three composites
================================

Layer-wise relevance propagation shares the value of an output out among the pixels. A composite
is a table of rules; which one is right is a choice, so it is well to look at several.
"""

import efficientnet_lite0

import funcattr as fa

model = efficientnet_lite0.load()
x = efficientnet_lite0.photograph("chelsea")
# The network takes (pixel - 127) / 128, so that inputs lie between these.
box = fa.composites.epsilon_gamma_box(-127 / 128, 1.0)

attrs = {
    "epsilon-plus": fa.lrp(model, fa.composites.epsilon_plus()),
    "epsilon-plus-flat": fa.lrp(model, fa.composites.epsilon_plus_flat()),
    "epsilon-gamma-box": fa.lrp(model, box),
}
for site in list(fa.sites(fa.with_rules(model, box), x))[:3]:
    print(site.spelling, site.path, site.rule)

# %%
# One forward pass for all three, and for all targets.

targets = {"tiger cat": 282, "Egyptian cat": 285, "espresso": 967}
swept = fa.sweep(fa.bundle(*attrs.values()), x, targets=list(targets.values()))
figure = fa.viz.grid(dict(zip(attrs, swept)), list(targets), efficientnet_lite0.crop("chelsea"))

# %%
# Espresso is not in the picture, and yet its maps under epsilon-plus have the shape of those of the
# cats, if not their sign: under z-plus a map depends little on the class (Sixt et al. 2020). The
# difference of two logits asks why the one and not the other. A target may be any function of the
# output.

why = fa.lrp(model, box)(x, target=lambda out: out[:, 282] - out[:, 967])
axes = fa.viz.overlay(why, x, title="tiger cat, and not espresso")

# %%
# Where did relevance go? Biases, here those of batch norms that are merged into convolutions,
# keep most of it. That is what the rules say, and why maps are scaled before they are shown.

book = fa.conserved(attrs["epsilon-plus"], x, target=282)
rows = sorted(book.rows, key=lambda row: -abs(float(row.taken)))[:5]
for row in rows:
    print(f"{row.operation:12} {row.path:22} {row.rule:8} kept {float(row.taken):+.3f}")
print(f"of {float(book.explained):.3f}, {float(book.arrived):.4f} arrived at the pixels")
