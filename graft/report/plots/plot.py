"""Plot: a picture of a finished run that can be drawn, and the words that go with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Plot:
    """A picture, not drawn yet.

    Attributes:
        draw: draws it to a path without suffix and returns the files written, a PNG first.
        alt: what a person who cannot see it should know.
        caption: what is drawn, on what, and how to read it.
    """

    draw: Callable[[Path], list[Path]]
    alt: str
    caption: str
