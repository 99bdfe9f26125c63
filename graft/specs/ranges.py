"""Ranges: what a value may be beyond its type, written onto its field, as in `lr: Annotated[float, Above(0)]`.

A block (`graft.specs.block`) checks the ranges of its fields when it is made, from YAML or from Python; the generated
reference (`graft.specs.reference`) shows them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any

from graft.registry import Registry


class Range(ABC):
    """The values that a field may have; its text says which, as in "above 0"."""

    shows_value = False  # in a refusal; left out where the name of the field says enough

    @abstractmethod
    def holds(self, value: Any) -> bool:
        """Return whether a value of the right type is in the range."""

    @abstractmethod
    def __str__(self) -> str:
        """Return which values are in the range."""

    def check(self, name: str, value: Any) -> None:
        """Refuse a value outside the range.

        Raises:
            ValueError: naming the field and what it may be.
        """
        if not self.holds(value):
            shown = f", not {value!r}" if self.shows_value else ""
            raise ValueError(f"{name} must be {self}{shown}")


@dataclass(frozen=True)
class Above(Range):
    """Numbers above `low`, and at most `most` where there is one; NaN is none of them."""

    low: float
    most: float | None = None

    def holds(self, value: Any) -> bool:
        """Return whether low < value <= most."""
        return bool(value > self.low) and (self.most is None or bool(value <= self.most))

    def __str__(self) -> str:
        """Return "above LOW and at most MOST"."""
        return f"above {self.low:g}" + ("" if self.most is None else f" and at most {self.most:g}")


@dataclass(frozen=True)
class AtLeast(Range):
    """Numbers from `low` on; NaN is none of them."""

    low: float

    def holds(self, value: Any) -> bool:
        """Return whether value >= low."""
        return bool(value >= self.low)

    def __str__(self) -> str:
        """Return "LOW or more"."""
        return f"{self.low:g} or more"


@dataclass(frozen=True)
class Between(Range):
    """Whole numbers from `low` to `high`, both among them."""

    low: int
    high: int

    shows_value = True

    def holds(self, value: Any) -> bool:
        """Return whether low <= value <= high."""
        return bool(self.low <= value <= self.high)

    def __str__(self) -> str:
        """Return "a whole number from LOW to HIGH"."""
        return f"a whole number from {self.low} to {self.high}"


@dataclass(frozen=True)
class Within(Range):
    """Numbers from `low` to `high`, both among them; NaN is none of them."""

    low: float
    high: float

    def holds(self, value: Any) -> bool:
        """Return whether low <= value <= high."""
        return bool(self.low <= value <= self.high)

    def __str__(self) -> str:
        """Return "from LOW to HIGH"."""
        return f"from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class OneOf(Range):
    """The names of a registry, those that it has when it is asked."""

    registry: Registry[Any]

    shows_value = True

    def holds(self, value: Any) -> bool:
        """Return whether there is an entry of that name."""
        return isinstance(value, str) and value in self.registry

    def __str__(self) -> str:
        """Return "one of" and all names."""
        return f"one of {', '.join(self.registry)}"


@dataclass(frozen=True)
class NoText(Range):
    """Numbers as such: where a text is told from a number, as in JSON, one that spells a number is none."""

    def holds(self, value: Any) -> bool:
        """Return whether the value is no text."""
        return not isinstance(value, str)

    def __str__(self) -> str:
        """Return "a number, and no text"."""
        return "a number, and no text"


Share = Annotated[float, Above(0, most=1)]
Count = Annotated[int, AtLeast(1)]
Seed = Annotated[int, Between(0, 2**32 - 1)]  # what all of the generators in use take


def check_seed(seed: int) -> None:
    """Refuse a number that is not a seed to all of the generators in use.

    Raises:
        ValueError: it is negative or takes more than 32 bits.
    """
    Between(0, 2**32 - 1).check("seed", seed)
