"""Code blocks of the README and the site's pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(?P<kind>[^\n]*)\n(?P<options>(?::\w+:[^\n]*\n)*)(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block as it stands in a page.

    Attributes:
        language: as the page names it, empty where it names none.
        file: the file that a caption says it is; empty where there is none.
        code: its lines.
        line: where it begins in the page.
    """

    language: str
    file: str
    code: str
    line: int


def read_blocks(page: str) -> list[Block]:
    """The blocks of a page, by its path from the root of the repository."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = []
    for found in BLOCK.finditer(text):
        language = re.fullmatch(r"(?:\{code-block\} )?(\w*)", found["kind"])
        if language is not None:  # else a directive, such as a table of contents
            caption = re.search(r":caption: (.*)", found["options"])
            line = text[: found.start()].count("\n") + 1
            blocks.append(Block(language[1], caption[1] if caption else "", found["code"], line))
    return blocks


def find_pages() -> list[str]:
    """README, and every page of the site that is written there."""
    pages = sorted((ROOT / "docs").rglob("*.md"))
    return ["README.md", *(page.relative_to(ROOT).as_posix() for page in pages if "_build" not in page.parts)]
