"""Puts references that are read from the code into the pages that ask for them.

A page that holds the line `<!-- generated: config-blocks -->` gets, in its place, Markdown that a function of this
module renders. Nothing generated is committed, so that it cannot fall behind the code.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import graft
from graft.registry import Registry
from graft.specs.reference import describe_blocks

MARKER = re.compile(r"<!-- generated: ([\w-]+) -->")


def render_table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table; a cell keeps its own Markdown, except for what would end it."""
    lines = [list(heads), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", r"\|")


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _default(text: str) -> str:
    return "*required*" if text == "required" else _code(text)


def render_blocks(blocks: Mapping[str, Iterable[Any]]) -> str:
    """Return a section for every block of keys, each with its table of key, type, default, range and meaning."""
    parts = []
    for title, rows in blocks.items():
        cells = (
            (_code(row.key), _link_blocks(row.type, blocks), _default(row.default), row.range, row.meaning)
            for row in rows
        )
        table = render_table(("key", "type", "default", "range", "meaning"), cells)
        parts.append(f"## {title}\n\n{{.keys}}\n{table}\n")
    return "\n".join(parts)


def _link_blocks(text: str, titles: Iterable[str]) -> str:
    """Return a type in which the block that it ends with is a link to that block's section."""
    before, found, title = text.rpartition("block ")
    if not found or title not in titles:
        return text
    anchor = re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
    return f"{before}[block {title}](#{anchor})"


def find_registries() -> Iterator[tuple[str, Registry[Any]]]:
    """Yield every registry of the package with the module that holds it: those in modules called `registry`."""
    for module in pkgutil.walk_packages(graft.__path__, "graft."):
        if module.name.endswith(".registry") and module.name != "graft.registry":
            for value in vars(importlib.import_module(module.name)).values():
                if isinstance(value, Registry):
                    yield module.name, value


def render_registry(registry: Registry[Any], module: str) -> str:
    """Return the section of one registry: a row for each thing in it, with what it does and where it comes from."""
    rows = [(_code(entry.name), f"{entry.help}.", _source(entry.source)) for entry in registry.values()]
    title = re.sub(r"^(.*?)(?= (?:to|of|for) |$)", r"\1s", registry.noun, count=1)  # kind of recipe -> kinds of recipe
    where = f"Add one with a row in `{module}`."
    return f"## {title[:1].upper()}{title[1:]}\n\n{where}\n\n{render_table(('name', 'what it does', 'source'), rows)}\n"


def _source(source: str | None) -> str:
    if paper := re.fullmatch(r"(?:arXiv |https://arxiv.org/abs/)([\d.]+)", source or ""):
        return f"[arXiv {paper[1]}](https://arxiv.org/abs/{paper[1]})"
    return "" if not source else f"<{source}>" if source.startswith("http") else source


def render_registries(registries: Iterable[tuple[str, Registry[Any]]]) -> str:
    """Return the sections of all registries, each once, by what their rows are."""
    once = {id(registry): (module, registry) for module, registry in registries}
    listed = sorted(once.values(), key=lambda item: item[1].noun)
    return "\n".join(render_registry(registry, module) for module, registry in listed)


def render_python_api() -> str:
    """Return an autodoc directive for every public name of `graft`, functions first."""
    functions = [name for name in graft.__all__ if not isinstance(getattr(graft, name), type)]
    classes = [name for name in graft.__all__ if name not in functions]
    parts = ["## Functions", *(_documented("autofunction", name) for name in functions)]
    parts += ["## Classes", *(_documented("autoclass", name, "   :members:\n") for name in classes)]
    return "\n\n".join(parts)


def _documented(directive: str, name: str, options: str = "") -> str:
    return f"### {name}\n\n```{{eval-rst}}\n.. {directive}:: graft.{name}\n{options}```"


GENERATED = {
    "config-blocks": lambda: render_blocks(describe_blocks()),
    "registries": lambda: render_registries(find_registries()),
    "python-api": render_python_api,
}


def _fill(app: Any, name: str, source: list[str]) -> None:
    source[0] = MARKER.sub(lambda marker: GENERATED[marker[1]](), source[0])


def setup(app: Any) -> dict[str, Any]:
    """Fill the pages as Sphinx reads them."""
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
