"""The plot of how many weights a skill takes: patches alone, and the number that first keeps enough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graft.report.plots.weight_curves import build_plot, find_enough
from graft.report.run_folder import FinishedRun
from graft.results.run import Results
from graft.results.seeds import ExtractedPoint, ExtractionSeed
from tests.report.conftest import Drawn


def point(method: str, size: float, k: int | None, gain: float) -> ExtractedPoint:
    return ExtractedPoint(method, size, 5_000, {"recovered_gain": gain, "ece": 0.05}, {}, 0.0, k)


def finished(path: Path, *seeds: tuple[ExtractedPoint, ...]) -> FinishedRun:
    typed = tuple(ExtractionSeed(i, 90_000_000, {}, {"ece": 0.1}, points) for i, points in enumerate(seeds))
    return FinishedRun("tiny", path, Results("extraction", {"name": "tiny"}, {}, typed))


def test_the_fewest_weights_whose_mean_gain_is_enough() -> None:
    line = {1e-5: [point("refit", 1e-5, 227, 0.95), point("refit", 1e-5, 227, 0.83)],
            1e-4: [point("refit", 1e-4, 2271, 0.97), point("refit", 1e-4, 2271, 0.91)]}  # fmt: skip
    assert find_enough(line) == 2271  # .89 on average at 227
    assert find_enough({1e-5: line[1e-5]}) is None
    nearly = (0.59 - 0.5) / (0.6 - 0.5)
    assert nearly < 0.9  # by rounding alone
    assert find_enough({1e-5: [point("refit", 1e-5, 227, nearly)]}) == 227


def test_weights_that_differ_by_seed_are_their_mean(tmp_path: Path, drawn: Drawn) -> None:
    seeds = [
        (point("vectors_only", 1e-5, k, 0.5), point("vectors_only", 1e-4, more, 0.95)) for k, more in ((5, 5), (7, 21))
    ]  # of the first seed both have 5
    assert find_enough({size: [seed[i] for seed in seeds] for i, size in enumerate((1e-5, 1e-4))}) == 13
    plot = build_plot(finished(tmp_path, *seeds))
    assert plot is not None
    plot.draw(tmp_path / "weights")
    line, ring = (line for line in drawn[-1].axes[0].lines if line.get_marker() != "None")
    assert line.get_xdata() == pytest.approx([6, 13])
    assert ring.get_xydata() == pytest.approx(np.array([[13, 0.95]]))


def test_a_seed_whose_tuning_gained_nothing_counts_as_no_gain_nowhere(tmp_path: Path, drawn: Drawn) -> None:
    sizes = ((1e-5, 227, 1.4), (1e-4, 2271, 1.4))
    one = tuple(point("refit", size, k, gain) for size, k, gain in sizes)
    lacks = tuple(ExtractedPoint("refit", size, 5_000, {"ece": 0.05}, {}, 0.0, k) for size, k, _ in sizes)
    plot = build_plot(finished(tmp_path, one, one, lacks))  # (1.4 + 1.4 + 0) / 3 would be enough
    assert plot is not None
    plot.draw(tmp_path / "weights")
    assert "of the gain" not in drawn.words()
    assert find_enough({1e-5: [one[0], one[0], lacks[0]]}) is None


def test_patches_are_drawn_by_their_weights_and_nothing_else(tmp_path: Path, drawn: Drawn) -> None:
    seed = (point("refit", 1e-5, 227, 0.8), point("refit", 1e-4, 2271, 0.97), point("svd", 1, None, 0.6))
    plot = build_plot(finished(tmp_path, (*seed, point("svd", 4, None, 0.9)), (*seed, point("svd", 4, None, 0.9))))
    assert plot is not None
    files = plot.draw(tmp_path / "weights")
    assert [file.name for file in files] == ["weights.png"]
    words = drawn.words()
    for word in ("refit (texts)", "2,271", "weights of the patch", "recovered gain", "ECE"):
        assert word in words
    assert "svd" not in words


def test_a_single_size_is_no_curve(tmp_path: Path) -> None:
    assert build_plot(finished(tmp_path, (point("refit", 1e-4, 2271, 0.97),))) is None
