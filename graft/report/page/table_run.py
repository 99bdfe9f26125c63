"""A run that compares methods over several tasks or domains: its tables and plots, set into a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graft.errors import DataError
from graft.report.page.document import section
from graft.report.page.markup import Html, Table, element
from graft.report.page.plot_writer import embed_png, place_picture
from graft.report.plots.registry import PLOTS
from graft.results.layout import TABLES
from graft.results.run import Results, load_results
from graft.results.tables import Block, TextTable


@dataclass(frozen=True)
class TableRun:
    """A finished run whose story its own tables tell.

    Attributes:
        name: of the recipe.
        path: the folder.
        blocks: its paragraphs and tables.
        pictures: its plots.
    """

    name: str
    path: Path
    blocks: Sequence[Block]
    pictures: tuple[Path, ...]

    @property
    def headline(self) -> str:
        """Number of tables and plots, in words."""
        n = sum(isinstance(block, TextTable) for block in self.blocks)
        return f"methods compared: {n} tables, {len(self.pictures)} plots"


def read_table_run(path: Path, results: Results | None = None) -> TableRun | None:
    """Read the run in a folder, where it is one of several tasks or domains; else None.

    Args:
        path: the folder.
        results: what `load_results` gave, where it was asked already.

    Raises:
        DataError: its results or its tables cannot be read.
    """
    results = results or load_results(path)
    if results.kind == "single":
        return None
    blocks = results.tables or (_read_text(path / TABLES),)
    return TableRun(str(results.recipe["name"]), path, blocks, tuple(sorted(path.glob("*.png"))))


def table_section(run: TableRun, anchor: str) -> Html:
    """Return the run's part of the page."""
    return section(anchor, run.name, *map(_render, run.blocks), *map(_place_plot, run.pictures), level=2)


def _render(block: Block) -> Html:
    if isinstance(block, TextTable):
        return Table(block.head, block.rows).render(f"By {block.head[0]}")
    return element("pre" if "\n" in block else "p", block)


def _read_text(file: Path) -> str:
    """Return the tables of a run whose results do not hold them, as the text that they are."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error})") from error


def _place_plot(path: Path) -> Html:
    caption = PLOTS[path.stem].help if path.stem in PLOTS else path.stem.replace("_", " ")
    return place_picture(embed_png(path), path.stem, f"Plot: {path.stem}", caption)
