"""A section of the page is a function and a row."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from graft.report.page.build_page import write_report
from graft.report.page.document import section
from graft.report.page.markup import Html
from graft.report.page.run_page import RunPage
from graft.report.plots.plot import Plot
from graft.report.plots.style import in_style, new_figure, save_figure
from graft.report.registry import SECTIONS, SectionEntry
from tests.report.runs import write_run

TOY = SectionEntry(name="toy", help="a picture and a word", target=f"{__name__}:build_toy")


def build_toy(page: RunPage) -> Html | None:
    with in_style():
        picture = page.plots.add("toy picture", Plot(partial(save_figure, new_figure(2, 1)), "nothing", "nothing"))
    return section(None, "A toy", f"about {page.run.name}", picture)


@pytest.mark.parametrize("entry", SECTIONS.values(), ids=SECTIONS)
def test_each_row_names_a_function(entry: SectionEntry) -> None:
    assert entry.load().__doc__


def test_a_new_section_is_on_the_page_with_its_plot_beside_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", seeds=1, patch=False)
    assert "A toy" not in write_report([folder], tmp_path / "before.html").page.read_text()
    with SECTIONS.extended(TOY):
        written = write_report([folder], tmp_path / "after.html")
    assert "<h3>A toy</h3>about toy" in written.page.read_text()
    assert (tmp_path / "after_plots" / "toy-picture.png") in written.plots
    assert (tmp_path / "after_plots" / "toy-picture.png").is_file()
