"""A plot is a function and a row: a run writes it, and the page shows it."""

from __future__ import annotations

import base64
import re
from functools import partial
from pathlib import Path

import pytest

from graft.recipes.registry import KINDS
from graft.recipes.run import draw_plots
from graft.report.page.build_page import write_report
from graft.report.plots.plot import Plot
from graft.report.plots.registry import PLOTS, PlotEntry
from graft.report.plots.style import in_style, new_figure, save_figure
from graft.report.registry import SECTIONS
from graft.report.run_folder import FinishedRun, open_run
from graft.results.run import load_results
from tests.report.runs import write_run

TOY = PlotEntry(name="toy", help="nothing", target=f"{__name__}:build_toy")
OF_SEVERAL = PlotEntry(name="other", help="nothing", target=f"{__name__}:build_toy", kinds=("multitask",))
EMPTY = PlotEntry(name="empty", help="nothing", target=f"{__name__}:build_none")
INSIDE = PlotEntry(name="inside", help="nothing", target=f"{__name__}:build_toy", section="layers", in_folder=False)


def build_toy(run: FinishedRun) -> Plot:
    with in_style():
        return Plot(partial(save_figure, new_figure(2, 1)), f"a toy about {run.name}", "A toy.")


def build_none(run: FinishedRun) -> Plot | None:
    return None


@pytest.mark.parametrize("entry", PLOTS.values(), ids=PLOTS)
def test_each_row_names_a_function_kinds_and_a_section(entry: PlotEntry) -> None:
    assert entry.load().__doc__
    assert set(entry.kinds) <= set(KINDS)
    assert entry.section in SECTIONS


def test_a_new_plot_is_written_by_a_run_and_shown_on_the_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", seeds=1)
    run = open_run(folder, load_results(folder))
    assert [file.name for file in draw_plots(run)] == ["reliability.png", "layers.png"]
    assert "More plots" not in write_report([folder], tmp_path / "before.html").page.read_text()
    with PLOTS.extended(TOY), PLOTS.extended(OF_SEVERAL), PLOTS.extended(EMPTY), PLOTS.extended(INSIDE):
        assert [file.name for file in draw_plots(run)] == ["reliability.png", "layers.png", "toy.png"]
        written = write_report([folder], tmp_path / "after.html")
    page = written.page.read_text()
    assert {path.name for path in written.plots} >= {"toy-toy.png", "toy-inside.png"}
    assert not {path.name for path in written.plots} & {"toy-other.png", "toy-empty.png"}
    more, layers = page.index("<h3>More plots</h3>"), page.index("<h3>Where does it live?</h3>")
    assert page.count('alt="a toy about toy"') == 2
    assert layers < page.index('alt="a toy about toy"') < more < page.rindex('alt="a toy about toy"')
    sources = [base64.b64decode(text) for text in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    assert (folder / "toy.png").read_bytes() in sources
