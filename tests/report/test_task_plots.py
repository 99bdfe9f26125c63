"""Plots of several tasks: what is written into them, and that what is missing is left out."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from graft.report.stages import plot_stages
from graft.report.task_matrix import plot_task_matrix

NAMES = ["reviews", "questions", "messages"]
STAGES = {
    "sequential": [[[0.9], [0.6, 0.8], [0.5, 0.6, 0.9]], [[0.8], [0.7, 0.8], [0.6, 0.6, 0.8]]],
    "continual grafting": [[[0.8], [0.8, 0.7], [0.8, 0.7, 0.8]]] * 2,
}


def words(file: Path) -> str:
    """The texts of an SVG, which stand in comments beside the glyphs."""
    return " ".join(re.findall(r"<!-- (.*?) -->", file.read_text(encoding="utf-8")))


def test_a_matrix_shows_its_numbers_and_names(tmp_path: Path) -> None:
    values = np.array([[0.25, 0.125, 0.5], [0.125, np.nan, 0.0625], [0.5, 0.0625, 0.3]])
    files = plot_task_matrix(values, NAMES, NAMES, tmp_path / "m", title="Overlap", below=values * 100, note="a note")
    assert [file.name for file in files] == ["m.png", "m.svg"]
    text = words(files[1])
    for word in (*NAMES, "Overlap", "a note", "0.250", "25×"):
        assert word in text
    assert "nan" not in text.lower()
    assert text.count("0.062") == 2  # the mirrored cell too
    again = plot_task_matrix(values, NAMES, NAMES, tmp_path / "n", title="Overlap", below=values * 100, note="a note")
    assert again[1].read_bytes() == files[1].read_bytes()


def test_gains_of_both_signs_wear_their_signs(tmp_path: Path) -> None:
    files = plot_task_matrix(np.array([[0.2, -0.1]]), ["a"], ["b", "c"], tmp_path / "m", title="Gains")
    assert "+0.200" in words(files[1])
    assert "−0.100" in words(files[1]) or "-0.100" in words(files[1])


@pytest.mark.parametrize("value", [0.0, 1e-9])
def test_a_matrix_of_nearly_nothing_can_be_drawn(value: float, tmp_path: Path) -> None:
    assert plot_task_matrix(np.full((2, 2), value), ["a", "b"], ["a", "b"], tmp_path / "m", title="Nothing")


def test_stages_have_a_line_per_method(tmp_path: Path) -> None:
    files = plot_stages(STAGES, tmp_path / "stages", title="In turn")
    assert [file.name for file in files] == ["stages.png", "stages.svg"]
    text = words(files[1])
    for word in ("sequential", "continual grafting", "tasks learned", "Average accuracy on the tasks so far"):
        assert word in text
