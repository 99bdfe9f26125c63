"""Makes pages of the site out of files that live elsewhere in the repository, and draws its pictures into the page.

- `<!-- repository: SECURITY.md -->` becomes that file, and any page's link to the file becomes a link to the page;
- a picture under docs/pictures/ becomes part of the page, so that it takes the page's own text color, light or dark;
- a number stays on one line with its percent sign and, in a table, with its interval.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BORROWED = re.compile(r"\A<!-- repository: (\S+) -->\s*\Z")
NO_BREAK = "\N{NO-BREAK SPACE}"
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)((?:#[^)\s]*)?)\)")


def find_borrowed() -> dict[str, str]:
    """Return the page of each file of the repository that is shown as one: path from the root -> page."""
    pages = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in sorted(DOCS.rglob("*.md"))}
    return {found[1]: page for page, text in pages.items() if (found := BORROWED.match(text))}


def relink(text: str, folder: str, page: str, borrowed: dict[str, str]) -> str:
    """Return Markdown in which links hold from `page`, though it was written for `folder`; both from the root."""

    def replace(link: re.Match[str]) -> str:
        bang, label, target, anchor = link.groups()
        if "://" in target or target.startswith("mailto:"):
            return link[0]
        place = posixpath.normpath(posixpath.join(folder, target))
        if (ROOT / place).is_dir():
            return f"{label} (`{place}/`)"
        place = borrowed.get(place, place)
        return f"{bang}[{label}]({posixpath.relpath(place, posixpath.dirname(page))}{anchor})"

    return LINK.sub(replace, text)


def inline_pictures(text: str, page: Path) -> str:
    """Return Markdown in which each picture of docs/pictures is drawn by the page itself."""

    def replace(link: re.Match[str]) -> str:
        picture = page.parent / link[3]
        if link[1] != "!" or picture.suffix != ".svg" or not picture.is_file():
            return link[0]
        drawing = re.sub(r"<style>.*?</style>\s*", "", picture.read_text(encoding="utf-8"), flags=re.DOTALL)
        drawing = drawing.replace("<svg ", f'<svg class="drawing" role="img" aria-label="{link[2]}" ', 1)
        return f'```{{raw}} html\n<div class="drawing">\n{drawing}</div>\n```'

    return LINK.sub(replace, text)


def bind_numbers(text: str) -> str:
    """Return Markdown with no-break spaces in `1 %` and, in tables, in `.8 ± .1` and `[.1, .2]`; code keeps its own."""
    lines, fence = text.splitlines(keepends=True), ""
    for number, line in enumerate(lines):
        marker = re.match(r"\s*(`{3,}|:{3,})", line)
        if marker and marker[1][0] == "`":
            fence = "" if fence else marker[1]
        elif not fence:
            lines[number] = line = re.sub(r"(?<=\d) (?=%)", NO_BREAK, line)
            if line.startswith("|"):
                line = re.sub(r" (?=± )|(?<=±) (?=[\d.])", NO_BREAK, line)
                lines[number] = re.sub(r"\[[−.\d]+, [−.\d]+\]", lambda pair: pair[0].replace(" ", NO_BREAK), line)
    return "".join(lines)


def _fill(app: Any, name: str, source: list[str]) -> None:
    page, text = f"docs/{name}.md", source[0]
    folder = posixpath.dirname(page)
    if found := BORROWED.match(text):
        folder, text = posixpath.dirname(found[1]), (ROOT / found[1]).read_text(encoding="utf-8")
    source[0] = inline_pictures(relink(bind_numbers(text), folder, page, app.config.borrowed), ROOT / page)


def setup(app: Any) -> dict[str, Any]:
    """Fill the pages as Sphinx reads them, before anything that is generated is put in."""
    app.add_config_value("borrowed", find_borrowed(), "env")
    app.connect("source-read", _fill, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
