"""Maps of words: `tokens` and `tokens_html`."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, short
from .arrays import flat
from .colours import Scale, axes_of, bar, scale_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Html", "tokens", "tokens_html"]

# Of 1 on either side, where 0 is white: near enough to RdBu's ends, and black is legible on them.
FOR, AGAINST = (239, 138, 98), (103, 169, 207)


class Html(str):
    """A piece of HTML: a string that a notebook shows as what it says."""

    def _repr_html_(self) -> str:
        return str(self)


def tokens(
    words: Sequence[str],
    scores: Any,
    *,
    signed: bool | None = None,
    clip: float = 100,
    width: int = 72,
    font: str = "monospace",
    ax: Axes | None = None,
    title: str = "",
    label: str = "attribution",
    colorbar: bool = True,
) -> Axes:
    """Draws words on their colours, in lines.

    Red speaks for the target, and blue against it.

    Args:
        words: the tokens, as the tokeniser calls them.
        scores: a number for each, ``[N]``, with dims of size 1 around it or not: of relevance of
            embeddings ``[1, N, D]``, the sum over ``D``.
        signed: as for `overlay`, as are ``ax``, ``title``, ``label`` and ``colorbar``.
        clip: the percentile of the absolute scores at which colours end; 100 for all of them.
        width: of a line, in characters.
        font: one of fixed width; matplotlib's own has no Chinese, Japanese or Korean letters.
        ax: where to draw.
        title: of the axes.
        label: of the colour bar.
        colorbar: whether there is one.

    Returns:
        The axes, whose texts are the words.

    Raises:
        ArgumentError: as `overlay`; also: words and scores differ in number.

    >>> import torch
    >>> import funcattr as fa
    >>> ax = fa.viz.tokens(["the", "cat", "##s"], torch.tensor([0.1, 2.0, -0.5]))
    >>> [text.get_text() for text in ax.texts]
    ['the', 'cat', '##s']
    """
    words, values, scale = _checked(words, scores, signed, clip)
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise ArgumentError(f"width is a number of characters, 1 or more; got {short(width)}.")
    places, x, y = [], 0.0, 0
    for word in words:
        wide = _width(word) + 0.8
        if x and x + wide > width:
            x, y = 0.0, y + 1
        places.append((x, y, wide))
        x += wide + 0.4
    across = max(x + wide for x, _, wide in places)
    lines = y + 1
    inches = 0.105  # of a character of 12 points
    axes = axes_of(ax, (across * inches + 1.2, 0.34 * lines + (0.9 if title else 0.6)))
    from matplotlib.patches import Rectangle

    for word, value, (x, y, wide) in zip(words, values, places):
        colour = _colour(float(value), scale)
        face = tuple(part / 255 for part in colour)
        axes.add_patch(Rectangle((x, y - 0.42), wide, 0.84, facecolor=face, edgecolor="0.85"))
        axes.text(
            x + wide / 2,
            y,
            word,
            ha="center",
            va="center_baseline",
            family=font,
            fontsize=12,
            color="black",
            parse_math=False,  # a dollar is a dollar
        )
    axes.set(xlim=(-0.2, across + 0.2), ylim=(lines - 0.4, -0.6), xticks=[], yticks=[])
    axes.axis("off")
    if title:
        axes.set_title(title)
    if colorbar:
        bar(_mappable(scale), scale, axes, label)
    return axes


def tokens_html(
    words: Sequence[str], scores: Any, *, signed: bool | None = None, clip: float = 100
) -> Html:
    """The same as HTML, which a notebook shows; the number of a word is its tooltip.

    Args:
        words: as for `tokens`.
        scores: as for `tokens`.
        signed: as for `tokens`.
        clip: as for `tokens`.

    Returns:
        A string of HTML, `viz.save` writes it.

    Raises:
        ArgumentError: as `tokens`.

    >>> import funcattr as fa
    >>> print(fa.viz.tokens_html(["a", "<b>"], [0.0, 1.0])[-20:])
    &lt;b&gt;</span></p>
    """
    words, values, scale = _checked(words, scores, signed, clip)
    spans = [
        f'<span title="{value:.4g}" style="background:rgb{_colour(float(value), scale)};'
        'color:#000;padding:0 .2em;border-radius:.2em;white-space:pre-wrap">'
        f"{html.escape(word)}</span>"
        for word, value in zip(words, values)
    ]
    return Html('<p style="line-height:1.9">' + " ".join(spans) + "</p>")


def _checked(words: Any, scores: Any, signed: Any, clip: float) -> tuple[list[str], Any, Scale]:
    if isinstance(words, str) or not all(isinstance(word, str) for word in words):
        raise ArgumentError(f"words is a list of words; got {short(words)}.")
    values = flat(scores, "scores")
    words = list(words)
    if len(words) != len(values):
        raise ArgumentError(
            f"there is a score for each word; got {len(words)} words and {len(values)} scores."
        )
    return words, values, scale_of([values], signed, clip)


def _colour(value: float, scale: Scale) -> tuple[int, int, int]:
    """Red of 0..255 for a score, green and blue."""
    share = max(-1.0, min(1.0, value / scale.high))
    end = FOR if share >= 0 else AGAINST
    red, green, blue = (round(255 + (part - 255) * abs(share)) for part in end)
    return red, green, blue


def _mappable(scale: Scale) -> Any:
    """What a colour bar shows of these colours."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    ends = [AGAINST, (255, 255, 255), FOR] if scale.signed else [(255, 255, 255), FOR]
    colours = [tuple(part / 255 for part in end) for end in ends]
    cmap = LinearSegmentedColormap.from_list("tokens", colours)
    return ScalarMappable(Normalize(scale.low, scale.high), cmap)


def _width(word: str) -> int:
    """How many characters of a fixed width a word takes; Chinese ones take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in word)
