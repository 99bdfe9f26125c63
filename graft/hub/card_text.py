"""Escaping of texts that a card takes from a patch, so that they are shown as words and act as nothing else.

A card is Markdown with HTML in it, after a head of YAML. Task names, labels and methods come out of a file that may be
a stranger's, so that each is written by one of the functions below.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

LONGEST = 200  # characters of a stranger's text in prose
LONGEST_JSON = 12_000  # characters of a configuration
_RISKY = re.compile(r"[^\w ,./-]|(?<![^\W_])_|_(?![^\W_])")  # an underscore within a word is none
_LINKS = re.compile(r"(?i)(https?|ftp|mailto|javascript|data):|www\.")


def one_line(text: object, longest: int = LONGEST) -> str:
    """Remove line breaks, control and direction-changing characters, and clip a long text."""
    plain = "".join(" " if unicodedata.category(letter)[0] in "CZ" else letter for letter in str(text))
    plain = " ".join(plain.split())
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def prose(text: object) -> str:
    """Write words for Markdown: punctuation as character references, which can begin no markup (CommonMark 2.5).

    Text that would become a link by itself is broken up, since some renderers look for links after references.
    """
    plain = _LINKS.sub(lambda match: match[0][:-1] + " " + match[0][-1], one_line(text))
    return _RISKY.sub(lambda match: f"&#{ord(match[0])};", plain)


def json_block(value: Mapping[str, Any]) -> str:
    """Write a fenced block of JSON; no line of it can close the fence, and <, > and & are written as JSON escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True, default=str)
    if len(text) > LONGEST_JSON:
        text = json.dumps({"left out": f"{len(text):,} characters; the patch file holds them"}, indent=2)
    text = "".join(f"\\u{ord(letter):04x}" if _is_risky(letter) else letter for letter in text)
    return f"```json\n{text}\n```"


def _is_risky(letter: str) -> bool:
    """Return whether JSON must escape a letter: HTML's own and invisible ones; astral ones stay."""
    invisible = unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp") and letter != "\n"
    return letter in "<>&`" or (invisible and ord(letter) < 0x10000)


def identifier(text: object) -> str:
    """Reduce a text to lower-case letters, digits and single hyphens, for a tag or a data set; "" if none is left."""
    plain = unicodedata.normalize("NFKD", one_line(text)).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:60]
