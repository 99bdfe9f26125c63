"""The frame of the page: its head, its style, and the policy that keeps it from ever asking a network."""

from __future__ import annotations

import importlib.resources

from graft.report.page.markup import Html, Part, element, join

# nothing is fetched, nothing runs; pictures are data inside the page
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render_page(title: str, *children: Part) -> str:
    """Return a whole document, ready to be written."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(read_style())),
    )
    body = element("body", element("main", *children))
    return f"<!doctype html>\n{element('html', join([head, body]), lang='en')}\n"


def read_style() -> str:
    """Return the page's CSS, which is shipped beside this module."""
    return importlib.resources.files("graft.report.page").joinpath("style.css").read_text(encoding="utf-8")


def section(anchor: str | None, title: str, *children: Part, level: int = 3) -> Html:
    """Return a titled part of the page."""
    return element("section", element(f"h{level}", title, id=anchor), *children)


def note(*children: Part) -> Html:
    """Return a small remark: units, what was measured on what."""
    return element("p", *children, klass="note")
