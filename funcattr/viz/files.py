"""Pictures as files: `save`."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, short
from .text import Html

__all__ = ["save"]


def save(drawn: Any, path: str | PathLike[str], *, dpi: float = 150) -> Path:
    """Writes what the functions of this module return to a file, by the suffix of its name.

    Args:
        drawn: a figure, axes (whose whole figure is written), or what `tokens_html` returned.
        path: of the file, ``.png``, ``.svg``, ``.pdf`` or what else matplotlib writes, ``.html``
            for HTML. Folders are made.
        dpi: dots per inch, of pictures made of dots.

    Returns:
        The path.

    Raises:
        ArgumentError: there is nothing to be saved, or no such format.

    >>> import tempfile
    >>> import torch
    >>> import funcattr as fa
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fa.viz.save(fa.viz.overlay(torch.rand(4, 4)), f"{folder}/maps/cat.png").name
    'cat.png'
    """
    if not isinstance(path, (str, PathLike)):
        raise ArgumentError(f"path is that of a file, 'maps/cat.png'; got {short(path)}.")
    place = Path(path)
    if isinstance(drawn, Html):
        if place.suffix.lower() not in (".html", ".htm"):
            raise ArgumentError(f"HTML goes into a file .html; got {place.name!r}.")
        place.parent.mkdir(parents=True, exist_ok=True)
        page = f'<!doctype html><meta charset="utf-8"><title>{place.stem}</title>\n{drawn}\n'
        place.write_text(page, "utf-8")
        return place
    figure = getattr(drawn, "figure", None) or drawn
    if not hasattr(figure, "savefig"):
        raise ArgumentError(
            f"save takes a figure, axes, or what viz.tokens_html returned; got {short(drawn)}."
        )
    formats = figure.canvas.get_supported_filetypes()
    if place.suffix.lower().lstrip(".") not in formats:
        raise ArgumentError(
            f"{place.name!r} has no suffix that matplotlib writes: {', '.join(sorted(formats))}."
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(place, dpi=dpi)
    return place
