from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text


class Drawn(list[Figure]):
    """The figures that a test saved, in their order."""

    def words(self, number: int = -1) -> str:
        """All texts of one of them that can be seen."""
        return " ".join(text.get_text() for text in self[number].findobj(Text) if text.get_visible())  # type: ignore[attr-defined]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[Drawn]:
    """Whatever a test draws has no label that is a formula of matplotlib's, which the style would show as it is."""
    figures, save = Drawn(), Figure.savefig

    def keep(figure: Figure, *arguments: Any, **settings: Any) -> None:
        save(figure, *arguments, **settings)
        figures.append(figure)

    monkeypatch.setattr(Figure, "savefig", keep)
    yield figures
    assert not [number for number in range(len(figures)) if "mathdefault" in figures.words(number)]
