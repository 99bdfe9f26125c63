"""The plot of extraction: a line a method, with what it needs, and nothing where nothing was measured."""

from __future__ import annotations

from pathlib import Path

from graft.extraction.registry import EXTRACTION_METHODS
from graft.report.plots.extraction_curves import OTHER_STYLE, STYLES, build_plot, list_lines
from graft.report.run_folder import FinishedRun
from graft.results.run import Results
from graft.results.seeds import ExtractedPoint, ExtractionSeed
from tests.report.conftest import Drawn


def point(method: str, size: float, n_bytes: int, **numbers: float) -> ExtractedPoint:
    return ExtractedPoint(method, size, n_bytes, numbers, {}, 0.0)


def finished(path: Path, *seeds: tuple[ExtractedPoint, ...]) -> FinishedRun:
    typed = tuple(ExtractionSeed(i, 90_000_000, {}, {}, points) for i, points in enumerate(seeds))
    return FinishedRun("tiny", path, Results("extraction", {"name": "tiny"}, {}, typed))


def test_lines_are_named_with_what_they_need(tmp_path: Path, drawn: Drawn) -> None:
    own = point("svd", 8, 700_000, recovered_gain=0.9, kl=0.01)
    both = (point("svd", 1, 90_000, recovered_gain=0.2, kl=0.4), point("odd", 3, 5_000, recovered_gain=7, kl=0.1))
    run = finished(tmp_path, (own, *both), both)
    assert {method: list(line) for method, line in list_lines(run.results.seeds).items()} == {"svd": [1], "odd": [3]}
    plot = build_plot(run)
    assert plot is not None
    files = plot.draw(tmp_path / "bytes")
    assert [file.name for file in files] == ["bytes.png"]
    text = drawn.words()
    for word in ("svd (nothing)", "odd", "tiny", "recovered gain", "KL to the tuned model, nats", "kB"):
        assert word in text
    assert plot.draw(tmp_path / "again")[0].read_bytes() == files[0].read_bytes()


def test_without_a_gain_the_divergence_is_drawn(tmp_path: Path, drawn: Drawn) -> None:
    plot = build_plot(finished(tmp_path, (point("svd", 1, 90_000, kl=0.0),)))
    assert plot is not None
    assert plot.draw(tmp_path / "bytes")
    assert "svd (nothing)" in drawn.words()


def test_nothing_measured_is_no_plot(tmp_path: Path) -> None:
    assert build_plot(finished(tmp_path, ())) is None


def test_no_two_methods_look_alike() -> None:
    styles = [STYLES.get(method, OTHER_STYLE) for method in EXTRACTION_METHODS]
    assert len(set(styles)) == len(styles) > 20
