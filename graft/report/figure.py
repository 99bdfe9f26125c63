"""One look for all figures, saving them as PNG and SVG, and setting them into a page that may be dark."""

from __future__ import annotations

import base64
import re
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from graft.errors import DataError

_PNG = b"\x89PNG\r\n\x1a\n"  # how every such file begins
INK, SOFT, PAPER = "#1b2430", "#5a6675", "#fdfefe"
# Okabe and Ito's palette: told apart by colour-blind readers too
COLOURS = {"base": "#999999", "tuned": "#D55E00", "graft": "#0072B2"}
METHODS = {"attribution": "#009E73", "magnitude": "#E69F00", "random": "#CC79A7", "learned": "#56B4E9"}
CONTROLS = {"interpolation": "#009E73", "early-stopped": "#E69F00", "random, larger": "#CC79A7"}
OTHER = "#A6761D"
# of the points of a line; others get a diamond
MARKERS = {"attribution": "s", "magnitude": "^", "random": "v", "learned": "o"}
# what each colour becomes on a dark page
_DARK = {INK: "#e6eaef", SOFT: "#a3aebb", PAPER: "#14181d", "#0072B2": "#4ba9ea", "#D55E00": "#f08842"}
STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.dpi": 130,
    "svg.hashsalt": "skillgraft",  # ids in the SVG do not change from run to run
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), PAPER),
    "legend.frameon": False,
    "text.parse_math": False,  # a $ in a name is a $
}


@dataclass(frozen=True)
class Picture:
    """A picture inside a page: its data URI, and its size in CSS pixels."""

    source: str
    width: int
    height: int


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches; no display is needed."""
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Write `path`.png and `path`.svg without a date in them; the files written."""
    files = [path.with_name(f"{path.name}.{kind}") for kind in ("png", "svg")]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box stands in for it
        for file in files:
            figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else {"Software": None})
            figure.set_layout_engine("none")  # what was laid out once stays: half of the time
    return files


def short_label(name: str) -> str:
    """A name that leaves room for the drawing."""
    return name if len(name) <= 40 else name[:39] + "…"


def in_style() -> Any:
    """A context in which figures look as they should."""
    return mpl.rc_context(STYLE)  # type: ignore[arg-type, unused-ignore]


def embed_svg(file: Path) -> Picture:
    """An SVG of ours as a data URI whose ink and paper follow the reader's colour scheme.

    The file itself keeps plain colours, which every drawing program reads.
    """
    text = file.read_text(encoding="utf-8")
    text = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    names = {light.lower(): f"c{i}" for i, light in enumerate(_DARK)}
    text = re.sub("|".join(names), lambda found: f"var(--{names[found[0].lower()]})", text, flags=re.IGNORECASE)
    light, dark = (
        "".join(f"--{name}:{pair[side]};" for name, pair in zip(names.values(), _DARK.items(), strict=True))
        for side in (0, 1)
    )
    rule = f"<style>svg{{{light}}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    text = re.sub(r"(<svg[^>]*>)", lambda found: found[1] + rule, text, count=1)
    width, height = (float(size) for size in re.findall(r' (?:width|height)="([\d.]+)pt"', text)[:2])
    data = base64.b64encode(text.strip().encode()).decode()
    return Picture(f"data:image/svg+xml;base64,{data}", round(width * 4 / 3), round(height * 4 / 3))


def embed_png(file: Path) -> Picture:
    """A PNG as a data URI, half as wide as it has pixels: plots are drawn for fine screens.

    Raises:
        DataError: it is none.
    """
    data = file.read_bytes()
    if not data.startswith(_PNG) or len(data) < 24:
        raise DataError(f"{file}: is no PNG picture")
    width, height = struct.unpack(">II", data[16:24])  # of the header that comes first
    return Picture(f"data:image/png;base64,{base64.b64encode(data).decode()}", width // 2, height // 2)


def model_colour(name: str) -> str:
    """The colour that a model wears in every plot; all grafts wear blue."""
    found = CONTROLS.get(name) or next((colour for key, colour in COLOURS.items() if name.startswith(key)), None)
    return found or OTHER


def colours_of(methods: Sequence[str]) -> dict[str, str]:
    """Method -> colour; the first is the run's own and wears the graft's blue."""
    return {method: METHODS.get(method, OTHER) if i else COLOURS["graft"] for i, method in enumerate(methods)}
