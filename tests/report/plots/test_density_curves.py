"""Curves over density: every patch stands at the share of all weights that it has."""

from __future__ import annotations

from pathlib import Path

import pytest

from graft.report.plots.density_curves import build_plot
from graft.report.run_folder import read_run
from tests.report.conftest import Drawn
from tests.report.runs import read_results, write_results, write_run


def test_a_control_that_does_not_fill_the_budget_stands_where_its_entries_are(tmp_path: Path, drawn: Drawn) -> None:
    folder = write_run(tmp_path / "run", seeds=2, patch=False)  # of 4,000 weights, of which the patch has 40
    results = read_results(folder)
    for seed in results["seeds"]:
        points = [point for point in seed["curve"] if point["method"] == "learned" and point["k"] < 1600]
        more = [{**point, "method": "main_columns", "k": 9 * point["k"]} for point in points]
        seed["curve"] = points + more
    write_results(folder, results)
    plot = build_plot(read_run(folder))
    assert plot is not None
    plot.draw(tmp_path / "curves")
    for axes in drawn[-1].axes:
        lines = {str(line.get_label()): line.get_xdata() for line in axes.lines}
        assert lines["learned"] == pytest.approx([0.001, 0.01, 0.1])
        assert lines["main_columns"] == pytest.approx([0.009, 0.09, 0.9])
        (own,) = (line for line in axes.lines if line.get_linestyle() == ":")
        assert own.get_xdata() == pytest.approx([0.01, 0.01])


def test_the_run_s_own_patch_stands_at_the_mean_of_its_sizes(tmp_path: Path, drawn: Drawn) -> None:
    folder = write_run(tmp_path / "run", seeds=2)  # of 4,000 weights
    results = read_results(folder)
    results["seeds"][1]["k"] = 60  # of the first 40
    write_results(folder, results)
    plot = build_plot(read_run(folder))
    assert plot is not None
    plot.draw(tmp_path / "curves")
    for axes in drawn[-1].axes:
        (own,) = (line for line in axes.lines if line.get_linestyle() == ":")
        assert own.get_xdata() == pytest.approx([0.0125, 0.0125])


@pytest.mark.parametrize(("method", "times"), [("paper", 3), ("learned", 0.5)])  # sizes itself; fills whole columns
@pytest.mark.parametrize("patch", [True, False])
def test_a_main_method_that_has_other_sizes_than_asked_for_moves_no_line(
    method: str, times: float, patch: bool, tmp_path: Path, drawn: Drawn
) -> None:
    folder = write_run(tmp_path / "run", seeds=1, method="learned", patch=patch)  # of 4,000 weights
    results = read_results(folder)
    results["recipe"]["localize"]["method"] = method
    results["models"] |= {f"graft ({method})": {"role": "graft", "method": method}}
    (seed,) = results["seeds"]
    seed["models"][f"graft ({method})"] = seed["models"]["graft (learned)"]
    seed["curve"] = [
        {**point, "method": method, "k": int(times * point["k"])} if point["method"] == "learned" else point
        for point in seed["curve"]
    ]
    write_results(folder, results)
    if patch:
        (folder / "patches/learned-seed-0.safetensors").rename(folder / f"patches/{method}-seed-0.safetensors")
    plot = build_plot(read_run(folder))
    assert plot is not None
    plot.draw(tmp_path / "curves")
    lines = {str(line.get_label()): line.get_xdata() for line in drawn[-1].axes[0].lines}
    assert lines["magnitude"] == pytest.approx([0.001, 0.01, 0.1, 0.4])
    assert lines[method] == pytest.approx([times * share for share in (0.001, 0.01, 0.1, 0.4)])
