"""Intervals from few resamples, for tests that look at what is measured and not at how far it could be off."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from graft.evaluate import bootstrap, detection

DRAWS = 40


@contextlib.contextmanager
def few_draws() -> Iterator[None]:
    """Resample as always, but forty times where a thousand would take longer than the model does."""
    draw_metrics, measure_detection = bootstrap._draw_metrics, detection.measure_detection

    def draw_few(outcomes: Any, metrics: Any, draws: int, seed: int) -> Any:
        return draw_metrics(outcomes, metrics, min(draws, DRAWS), seed)

    def detect_few(*sides: Any, draws: int = DRAWS, seed: int = 0) -> Any:
        return measure_detection(*sides, draws=min(draws, DRAWS), seed=seed)

    bootstrap._draw_metrics, detection.measure_detection = draw_few, detect_few
    try:
        yield
    finally:
        bootstrap._draw_metrics, detection.measure_detection = draw_metrics, measure_detection
