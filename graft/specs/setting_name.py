"""Numbers in the names of settings, by which tables, results and files tell one setting from another."""

from __future__ import annotations


def name_number(value: float) -> str:
    """Return a number in six digits, or in all that tell it from others."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
