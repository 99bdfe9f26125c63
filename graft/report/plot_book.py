"""The plots of a page: drawn once as files, and set into the page."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from graft.report.figure import Picture, embed_svg
from graft.report.markup import Html, element

Draw = Callable[[Path], list[Path]]  # path without suffix -> the PNG and SVG files


class PlotBook:
    """Draws into a folder; names come from runs and are made safe and unique."""

    def __init__(self, folder: Path) -> None:
        self.files: list[str] = []
        self._folder = folder
        self._taken: set[str] = set()

    def figure(self, name: str, draw: Draw, *, alt: str, caption: str) -> Html:
        """Draw a plot and set it into the page.

        Args:
            name: of the files.
            draw: draws the plot.
            alt: what a person who cannot see the plot should know.
            caption: what is drawn, on what, and how to read it.
        """
        written = draw(self._folder / self._free(name))
        self.files += [file.name for file in written]
        return place_picture(embed_svg(next(file for file in written if file.suffix == ".svg")), name, alt, caption)

    def _free(self, name: str) -> str:
        safe = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:80] or "plot"
        free, i = safe, 2
        while free.lower() in self._taken:  # some file systems do not tell cases apart
            free, i = f"{safe}-{i}", i + 1
        self._taken.add(free.lower())
        return free


def place_picture(picture: Picture, name: str, alt: str, caption: str) -> Html:
    """A plot as it stands in the page, in a box with its caption."""
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
