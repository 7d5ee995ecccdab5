"""Maps as pictures, by matplotlib (``pip install funcattr[viz]``), which is imported at first use.

Each function draws tensors of any device and float type into axes, and returns matplotlib's own
objects, with which users can go on: `overlay`, `signal`, `spectrogram` and `tokens` the axes,
`grid` and `compare` a figure. `save` writes either to a file.
"""

from .files import save
from .maps import compare, grid, overlay
from .ranks import rank_correlation
from .signals import signal, spectrogram
from .text import tokens, tokens_html

__all__ = [
    "compare",
    "grid",
    "overlay",
    "rank_correlation",
    "save",
    "signal",
    "spectrogram",
    "tokens",
    "tokens_html",
]
