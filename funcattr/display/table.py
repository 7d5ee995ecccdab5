"""Tables, in print and in a notebook."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar


class Table(ABC):
    """What is shown as a table with a line below it."""

    head: ClassVar[Sequence[str]]

    @abstractmethod
    def _cells(self) -> Sequence[Sequence[str]]: ...

    @abstractmethod
    def _summary(self) -> str: ...

    def __str__(self) -> str:
        rows = (self.head, *self._cells())
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, self._summary()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        body = "".join(f"<tr>{_row('td', cells)}</tr>" for cells in self._cells())
        return (
            f"<table><thead><tr>{_row('th', self.head)}</tr></thead><tbody>{body}</tbody></table>"
            f"<p>{html.escape(self._summary())}</p>"
        )


def _row(tag: str, cells: Sequence[str]) -> str:
    style = ' style="text-align:left"'
    return "".join(f"<{tag}{style}>{html.escape(cell)}</{tag}>" for cell in cells)
