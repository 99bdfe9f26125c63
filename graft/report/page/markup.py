"""HTML that cannot be forgotten to escape: a plain text is escaped wherever it enters, only `Html` is not.

Plain functions and not a template language: the page is made of typed parts that mypy sees, absent sections
are absent values, and there is no second language, dependency or file to ship.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_VOID = {"meta", "img", "br"}


@dataclass(frozen=True)
class Html:
    """A piece of a page, already escaped."""

    text: str

    def __str__(self) -> str:
        return self.text


Part = Html | str | None  # None is nothing at all


@dataclass(frozen=True)
class Table:
    """A table: names of columns, rows whose first cell names them, which rows stand out, and whether it holds words."""

    head: Sequence[Part]
    rows: Sequence[Sequence[Part]]
    strong: frozenset[int] = frozenset()
    words: bool = False

    def render(self, label: str) -> Html:
        """Return the table in a box of its own that scrolls where the screen is narrow; `label` tells what it shows."""
        head = element("tr", *(element("th", cell, scope="col") for cell in self.head))
        body = [
            element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:]), klass=klass)
            for row, klass in ((row, "strong" if i in self.strong else None) for i, row in enumerate(self.rows))
        ]
        table = element("table", element("thead", head), element("tbody", *body), klass="words" if self.words else None)
        return element("div", table, klass="scroll", role="region", aria_label=label, tabindex="0")


def element(tag: str, *children: Part, **attributes: str | None) -> Html:
    """Return an element; `klass` is its class, and underscores in names of attributes are hyphens."""
    names = {"klass": "class"}
    attributes_text = "".join(
        f' {names.get(key, key.replace("_", "-"))}="{html.escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{tag}{attributes_text}>" if tag in _VOID else f"<{tag}{attributes_text}>{join(children)}</{tag}>")


def join(parts: Iterable[Part]) -> Html:
    """Join parts one after another, texts escaped."""
    return Html("".join(piece.text if isinstance(piece, Html) else html.escape(piece or "") for piece in parts))


def bullets(sentences: Iterable[Part]) -> Html:
    """Return an unordered list."""
    return element("ul", *(element("li", sentence) for sentence in sentences))


def folded(title: str, *children: Part) -> Html:
    """Return a part that is folded up and opens at a touch, without a script."""
    return element("details", element("summary", title), *children)
