"""Plots of several tasks: what is written into them, and that what is missing is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graft.report.plots.continual_curves import plot_continual_curves
from graft.report.plots.task_matrix import plot_task_matrix
from tests.report.conftest import Drawn

NAMES = ["reviews", "questions", "messages"]
STAGES = {
    "sequential": [[[0.9], [0.6, 0.8], [0.5, 0.6, 0.9]], [[0.8], [0.7, 0.8], [0.6, 0.6, 0.8]]],
    "continual grafting": [[[0.8], [0.8, 0.7], [0.8, 0.7, 0.8]]] * 2,
}


def test_a_matrix_shows_its_numbers_and_names(tmp_path: Path, drawn: Drawn) -> None:
    values = np.array([[0.25, 0.125, 0.5], [0.125, np.nan, 0.0625], [0.5, 0.0625, 0.3]])
    files = plot_task_matrix(values, NAMES, NAMES, tmp_path / "m", title="Overlap", below=values * 100, note="a note")
    assert [file.name for file in files] == ["m.png"]
    text = drawn.words()
    for word in (*NAMES, "Overlap", "a note", "0.250", "25×"):
        assert word in text
    assert "nan" not in text.lower()
    assert text.count("0.062") == 2  # the mirrored cell too
    again = plot_task_matrix(values, NAMES, NAMES, tmp_path / "n", title="Overlap", below=values * 100, note="a note")
    assert again[0].read_bytes() == files[0].read_bytes()


def test_gains_of_both_signs_wear_their_signs(tmp_path: Path, drawn: Drawn) -> None:
    plot_task_matrix(np.array([[0.2, -0.1]]), ["a"], ["b", "c"], tmp_path / "m", title="Gains")
    assert "+0.200" in drawn.words()
    assert "−0.100" in drawn.words() or "-0.100" in drawn.words()


@pytest.mark.parametrize("value", [0.0, 1e-9])
def test_a_matrix_of_nearly_nothing_can_be_drawn(value: float, tmp_path: Path) -> None:
    assert plot_task_matrix(np.full((2, 2), value), ["a", "b"], ["a", "b"], tmp_path / "m", title="Nothing")


def test_stages_have_a_line_per_method(tmp_path: Path, drawn: Drawn) -> None:
    files = plot_continual_curves(STAGES, tmp_path / "stages", title="In turn")
    assert [file.name for file in files] == ["stages.png"]
    text = drawn.words()
    for word in ("sequential", "continual grafting", "tasks learned", "Average accuracy on the tasks so far"):
        assert word in text
