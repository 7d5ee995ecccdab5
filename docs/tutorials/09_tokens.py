"""
Tokens of a transformer
=======================

Why are two sentences similar? A sentence transformer turns each into a vector; their similarity is
the cosine of the two. Relevance by the rules for attention says which words it is owed to, and the
model stays as it comes.
"""

import minilm
import torch

import funcattr as fa

model, tokenizer = minilm.load(), minilm.Tokenizer()
ids, mask = tokenizer(
    "A man is playing a guitar on the street.", "Someone plays music outdoors for money."
)
with torch.no_grad():
    embeddings = model(ids, mask)
print(f"cosine {float(embeddings[0] @ embeddings[1]):.2f}")

# %%
# Token ids cannot be differentiated by; `over_embeddings` explains what is made of them, and adds
# up the numbers of each token. The target is any function of the output, here of both sentences.


def cosine(embeddings):
    return embeddings[0] @ embeddings[1]


tokens = fa.over_embeddings(model, "words")
attrs = {
    "CP-LRP": fa.lrp(tokens, fa.composites.cp_lrp()),
    "AttnLRP": fa.lrp(tokens, fa.composites.attn_lrp()),
    "input x gradient": fa.input_x_gradient(tokens),
}
maps = {name: attr(ids, mask, target=cosine) for name, attr in attrs.items()}
print({name: tuple(each.shape) for name, each in maps.items()})

# %%
# Red speaks for similarity and blue against it. Input times gradient is mostly noise here; why, and
# what relevance does not show either, is said in :doc:`/transformers`.

for name, each in maps.items():
    words = [tokenizer.words[i] for i in ids.flatten() if i]
    scores = each.flatten()[ids.flatten() != 0]
    axes = fa.viz.tokens(words, scores, title=name)

# %%
# Many targets share one forward pass: every dimension of the embedding by itself.

swept = fa.sweep(attrs["CP-LRP"], ids, mask, targets=range(64), chunk_size=16)
print(tuple(swept.shape))
