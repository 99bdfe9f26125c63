"""The plots of a page, each drawn once as a file and set into the page."""

from __future__ import annotations

import base64
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from graft.errors import DataError
from graft.report.page.markup import Html, element
from graft.report.plots.plot import Plot

_PNG = b"\x89PNG\r\n\x1a\n"  # how every such file begins
_PIXELS = 1.5  # of a plot for each CSS pixel, for fine screens: 144 and 96 an inch


@dataclass(frozen=True)
class Picture:
    """A picture inside a page: its data URI, and its size in CSS pixels."""

    source: str
    width: int
    height: int


class PlotWriter:
    """The plots of one page, in a folder; names come from runs and are made safe and unique."""

    def __init__(self, folder: Path) -> None:
        self.files: list[str] = []
        self._folder = folder
        self._taken: set[str] = set()

    def add(self, name: str, plot: Plot) -> Html:
        """Draw a plot into a file of that name, and return it as it stands in the page."""
        written = plot.draw(self._folder / self._unique(name))
        self.files += [file.name for file in written]
        return place_picture(embed_png(written[0]), name, plot.alt, plot.caption)

    def _unique(self, name: str) -> str:
        safe = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:80] or "plot"
        unique, i = safe, 2
        while unique.lower() in self._taken:  # some file systems do not tell cases apart
            unique, i = f"{safe}-{i}", i + 1
        self._taken.add(unique.lower())
        return unique


def embed_png(file: Path) -> Picture:
    """Read a PNG as a data URI.

    Raises:
        DataError: it is none.
    """
    data = file.read_bytes()
    if not data.startswith(_PNG) or len(data) < 24:
        raise DataError(f"{file}: is no PNG picture")
    width, height = (
        round(side / _PIXELS) for side in struct.unpack(">II", data[16:24])
    )  # in the header, which is first
    return Picture(f"data:image/png;base64,{base64.b64encode(data).decode()}", width, height)


def place_picture(picture: Picture, name: str, alt: str, caption: str) -> Html:
    """Return a plot as it stands in the page, in a box with its caption."""
    # on a narrow screen a wide plot scrolls inside its box, where it stays readable
    least = min(picture.width, max(330, round(picture.width * 0.7)))
    image = element(
        "img",
        src=picture.source,
        alt=alt,
        width=str(picture.width),
        height=str(picture.height),
        style=f"width:100%;min-width:{least}px;max-width:{picture.width}px",
    )
    box = element("div", image, klass="scroll", role="region", aria_label=f"Plot: {name}", tabindex="0")
    return element("figure", box, element("figcaption", caption))
