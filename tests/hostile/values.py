"""Values that nobody meant, for any place of a configuration, and the meanings that a mutation may have."""

from __future__ import annotations

import datetime
import random
from typing import Any, Literal

Draw = random.Random
Meaning = Literal["hostile", "wrong", "harmless"]  # anything may come of it; must be refused; must change no number
SEVERITY: tuple[Meaning, ...] = ("harmless", "hostile", "wrong")

SMALL_NUMBERS = (0, 1, -1, 2, 3, 0.5, -0.0, 1e-300, float("nan"), float("inf"), -float("inf"))
HUGE_NUMBERS = (2**31, 2**32, 2**63, 2**64, 10**30, -(2**63), 1e300)
TEXTS = (
    "",
    " ",
    "x",
    "true",
    "no",
    "null",
    "1e-4",
    "0x10",
    "1_000",
    "nan",
    "\x00",
    "\x1b[2J",
    "ä",
    "\u202etxt",
    "\U0001f600",
    "x" * 300,
    "..",
    "../../etc/passwd",
    "/dev/zero",
    "~",
    "{}",
    "{text}",
    "{mask}",
    "%s%n",
    "(",
    "(a+)+$",
    "two\nlines",
    "a/b/c/d",
    "\ud800",
)


def odd_scalar(draw: Draw, *, huge: bool = True) -> Any:
    """A number, text, date, truth value or nothing."""
    numbers = SMALL_NUMBERS + (HUGE_NUMBERS if huge else ())
    dates = (datetime.date(2024, 2, 29), datetime.datetime(1, 1, 1))
    return draw.choice((draw.choice(numbers), draw.choice(TEXTS), draw.choice((True, False, None, *dates))))


def odd_value(draw: Draw, *, huge: bool = True) -> Any:
    """A scalar, or something made of them."""
    one, two = odd_scalar(draw, huge=huge), odd_scalar(draw, huge=huge)
    deep: Any = one
    for _ in range(draw.choice((2, 40))):
        deep = [deep]
    return draw.choice((one, one, one, [], {}, [one], [one, two], {"x": one}, {"kind": one, "path": two}, deep))


def misspelt(draw: Draw, name: str) -> str:
    """A name as somebody in a hurry, or of another mind, would write it."""
    place = draw.randrange(len(name) + 1)
    changed = (name[:place] + name[place + 1 :], name.upper(), f"{name}s", f" {name}", name.replace("_", "-"), "")
    return draw.choice(changed)


def gravest(meanings: list[Meaning]) -> Meaning:
    """What several mutations together mean."""
    return max(meanings, key=SEVERITY.index, default="harmless")
