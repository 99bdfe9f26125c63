"""Makes what is plain text in the code, docstrings and the help of commands, safe in reStructuredText."""

from __future__ import annotations

import itertools
import re
from typing import Any

LITERAL = re.compile(r"(``.+?``|`[^`]+`)")


def quote(line: str) -> str:
    """Return a line of plain text for reStructuredText: code in double backticks, and bars and stars as they are."""
    parts = LITERAL.split(line)
    parts[::2] = [re.sub(r"(?<!\\)([|*])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [f"``{part.strip('`')}``" for part in parts[1::2]]
    return "".join(parts)


def _quote_docstring(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    in_code = False
    for number, line in enumerate(lines):
        in_code = in_code and (not line or line.startswith(" "))
        if not in_code:
            lines[number] = quote(line)
        in_code = in_code or line == "::"


def _quote_description(app: Any, context: Any, lines: list[str]) -> None:
    """Show as code what a command's help wants kept as it is typed, which comes with bars before its lines."""
    result: list[str] = []
    for kept, group in itertools.groupby(lines, lambda line: line.startswith("| ")):
        block = [line.removeprefix("| ") for line in group]
        if kept and block[0].endswith(":"):
            result += [block[0], "", ".. code-block:: bash", "", *(f"   {line}" for line in block[1:]), ""]
        elif kept:
            result += ["::", "", *(f"  {line}" for line in block), ""]
        else:
            result += map(quote, block)
    lines[:] = result


def _quote_options(app: Any, context: Any, lines: list[str]) -> None:
    for number, line in enumerate(lines):
        before, text = re.fullmatch(r"(\s*(?:\*\*Required\*\* ?)?)(.*)", line, flags=re.DOTALL).groups()  # type: ignore[union-attr]
        if not text.startswith((".. ", ":")):
            lines[number] = before + quote(text)


def setup(app: Any) -> dict[str, Any]:
    """Quote docstrings before napoleon finds their sections, and the help of commands and options."""
    app.connect("autodoc-process-docstring", _quote_docstring, priority=400)
    app.connect("sphinx-click-process-description", _quote_description)
    app.connect("sphinx-click-process-options", _quote_options)
    app.connect("sphinx-click-process-epilog", lambda app, context, lines: lines.clear())  # the page has exit codes
    return {"parallel_read_safe": True, "parallel_write_safe": True}
