"""A run that compares methods over several tasks or domains: the tables and plots of its folder, set into a page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from graft.errors import DataError
from graft.report.json_node import Node
from graft.report.page.document import section
from graft.report.page.markup import Html, Table, element
from graft.report.page.plot_writer import embed_png, place_picture
from graft.report.run_folder import load_results

TABLES = "table.md"
_SEVERAL = ("tasks", "domains")  # what such a recipe names, where that of one skill has a task


@dataclass(frozen=True)
class TableRun:
    """A finished run whose story its own tables tell.

    Attributes:
        name: of the recipe.
        path: the folder.
        text: of its tables, Markdown.
        pictures: its plots.
    """

    name: str
    path: Path
    text: str
    pictures: tuple[Path, ...]

    @property
    def headline(self) -> str:
        """How much there is."""
        n = sum(isinstance(part, Table) for part in read_tables(self.text))
        return f"methods compared: {n} tables, {len(self.pictures)} plots"


def read_table_run(path: Path, results: Node | None = None) -> TableRun | None:
    """The run in a folder, where it is one over several tasks or domains; else None.

    Args:
        path: the folder.
        results: what `load_results` gave, where it was asked already.

    Raises:
        DataError: its results or its tables cannot be read.
    """
    recipe = (results or load_results(path)).need("recipe")
    if all(recipe.get(key) is None for key in _SEVERAL):
        return None
    try:
        text = (path / TABLES).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path / TABLES}: cannot be read ({error})") from error
    return TableRun(recipe.need("name").text(), path, text, tuple(sorted(path.glob("*.png"))))


def table_section(run: TableRun, anchor: str) -> Html:
    """The run's part of the page."""
    parts = [
        part.render(f"Table {i}") if isinstance(part, Table) else element("p", part)
        for i, part in enumerate(read_tables(run.text), 1)
    ]
    return section(anchor, run.name, *parts, *map(_picture, run.pictures), level=2)


def read_tables(text: str) -> Iterator[Table | str]:
    """Paragraphs and tables of Markdown as `format_rows` writes it; what else there may be is a paragraph."""
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.strip()]
        if len(lines) > 2 and all(line.startswith("|") for line in lines):
            head, _, *rows = (_cells(line) for line in lines)
            yield Table(head, rows)
        elif lines:
            yield " ".join(lines)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _picture(path: Path) -> Html:
    return place_picture(embed_png(path), path.stem, f"Plot: {path.stem}", path.stem.replace("_", " "))
