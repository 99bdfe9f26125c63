"""Accuracy against calibration error: is the graft better calibrated than models that merely moved less?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from graft.report.estimates import Estimate, controls_of, estimate_of
from graft.report.plots.plot import Plot
from graft.report.plots.style import SOFT, in_style, model_color, new_figure, save_figure, short_label
from graft.report.run_folder import RunFolder

_MARKERS = {"tuned, temperature-scaled": "s", "interpolation": "D", "early-stopped": "^", "random, larger": "v"}


def build_plot(run: RunFolder) -> Plot | None:
    """Draw base, tuned, the main graft and the controls; None without controls."""
    names = controls_of(run)
    if not names:
        return None
    points = {name: pair for name in ("base", "tuned", run.main, *names) if (pair := _point_of(run, name))}
    floor = estimate_of(run, run.main, "ece_floor")
    title = f"{run.name}: did it merely move less?"
    return Plot(
        partial(plot_trade_off, points, title=title, floor=floor.mean if floor else None),
        alt="; ".join(f"{name}: accuracy {a.mean:.3f}, ECE {b.mean:.3f}" for name, (a, b) in points.items()),
        caption="Each control reaches its accuracy in a simpler way than the graft does. A control down and to the "
        "right of the graft would explain the graft away.",
    )


def _point_of(run: RunFolder, name: str) -> tuple[Estimate, Estimate] | None:
    accuracy, ece = estimate_of(run, name, "accuracy"), estimate_of(run, name, "ece")
    return (accuracy, ece) if accuracy and ece else None


def plot_trade_off(
    models: Mapping[str, tuple[Estimate, Estimate]], path: Path, *, title: str, floor: float | None
) -> list[Path]:
    """Draw each model at its test accuracy and ECE, with both 95 % intervals.

    Args:
        models: name -> accuracy, ECE.
        path: of the file, without suffix.
        title: over the plot.
        floor: the ECE that a perfectly calibrated model would show at this number of examples.

    Returns:
        The files written.
    """
    with in_style():
        figure = new_figure(5.3, 5.0)
        axes = figure.subplots()
        axes.set_title(title)
        for name, (accuracy, ece) in models.items():
            _draw_model(axes, name, accuracy, ece)
        if floor is not None:
            axes.axhline(floor, color=SOFT, linestyle="--", linewidth=0.9, zorder=0, label="floor for this n")
        axes.set_xlabel("accuracy on test (right is better)")
        axes.set_ylabel("ECE on test (down is better)")
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside lower center", ncols=2, fontsize=9)
        return save_figure(figure, path)


def _draw_model(axes: Any, name: str, accuracy: Estimate, ece: Estimate) -> None:
    color, marker = model_color(name), _MARKERS.get(name, "o")
    axes.errorbar(
        accuracy.mean,
        ece.mean,
        xerr=_error_bars(accuracy),
        yerr=_error_bars(ece),
        color=color,
        marker=marker,
        markersize=9 if name.startswith("graft") else 6.5,
        linewidth=0,
        elinewidth=1,
        ecolor=(color, 0.55),
        label=short_label(name),
    )


def _error_bars(estimate: Estimate) -> list[list[float]] | None:
    """Return how far the interval reaches below and above the mean, at least 0: a basic interval may miss the mean."""
    if estimate.low is None or estimate.high is None:
        return None
    return [[max(0.0, estimate.mean - estimate.low)], [max(0.0, estimate.high - estimate.mean)]]
