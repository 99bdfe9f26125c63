"""The style of all plots, and how they are saved."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

DPI = 144  # pixels of an inch
_SOFTWARE = "skillgraft"  # stands in the header of each PNG, by which a plot of ours is known
INK, SOFT, PAPER = "#1b2430", "#5a6675", "#fdfefe"
# Okabe and Ito's palette: told apart by color-blind readers too
COLORS = {"base": "#999999", "tuned": "#D55E00", "graft": "#0072B2"}
METHOD_COLORS = {"attribution": "#009E73", "magnitude": "#E69F00", "random": "#CC79A7", "learned": "#56B4E9"}
CONTROLS = {"interpolation": "#009E73", "early-stopped": "#E69F00", "random, larger": "#CC79A7"}
OTHER = "#A6761D"
# of the points of a line; others get a diamond
MARKERS = {"attribution": "s", "magnitude": "^", "random": "v", "learned": "o"}
STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.dpi": DPI,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), PAPER),
    "legend.frameon": False,
    "text.parse_math": False,  # a $ in a name is a $
}


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure, in inches; no display is needed."""
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as `path`.png, the same bytes each time; return the files written."""
    file = path.with_name(f"{path.name}.png")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box stands in for it
        figure.savefig(file, metadata={"Software": _SOFTWARE})
    return [file]


def is_plot(file: Path) -> bool:
    """Say whether a file is a plot that `save_figure` wrote."""
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return f"Software\0{_SOFTWARE}".encode() in stream.read(1024)


def label_log(axis: Any, show: Callable[[float], str]) -> None:
    """Label the ticks of a logarithmic axis: powers of ten, and 2 and 5 times these where it spans two decades or less.

    Matplotlib's own labels are formulas, which the style does not parse.
    """

    def show_between(value: float, _: object) -> str:
        """Return the label of a tick between powers of ten, empty where it has none."""
        low, high = axis.get_view_interval()
        leading = round(value / 10 ** math.floor(math.log10(value)))
        return show(value) if high <= 100 * low and leading in (2, 5) else ""

    axis.set_major_formatter(lambda value, _: show(value))
    axis.set_minor_formatter(show_between)


def short_label(name: str) -> str:
    """Shorten a name, to leave room for the drawing."""
    return name if len(name) <= 40 else name[:39] + "…"


def in_style() -> Any:
    """Return a context in which figures are drawn in this style."""
    return mpl.rc_context(STYLE)  # type: ignore[arg-type, unused-ignore]


def model_color(name: str) -> str:
    """Return the color that a model has in every plot; all grafts are blue."""
    color = CONTROLS.get(name) or next((value for key, value in COLORS.items() if name.startswith(key)), None)
    return color or OTHER


def colors_of(methods: Sequence[str]) -> dict[str, str]:
    """Return each method's color; the first is the run's own and has the graft's blue."""
    return {method: METHOD_COLORS.get(method, OTHER) if i else COLORS["graft"] for i, method in enumerate(methods)}
