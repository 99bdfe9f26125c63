"""YAML without its surprises: what would be read as something else than it seems is refused, with its line.

YAML 1.1, as PyYAML reads it, takes the last of two equal keys, 010 for 8 and 1:30 for 90, joins no surrogates, and lets
a few lines of aliases stand for billions of values.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

MOST_REPEATED = 100_000  # values that aliases may stand for in all
LONGEST = 16_000_000  # characters; more is a model or a dataset by mistake
UNREADABLE = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
# the last of these from constructors that are given a tag which does not suit the value, such as `!!bool x`


def parse_yaml(text: str) -> Any:
    """Read one YAML document.

    Raises:
        ValueError: it cannot be read, or not in one way only; the message, of one line, says where.
    """
    if len(text) > LONGEST:
        raise ValueError(f"{len(text):,} characters are too many")
    try:
        return yaml.load(text, StrictLoader)
    except UNREADABLE as error:
        raise ValueError(_fact_of(error)) from error


class StrictLoader(yaml.SafeLoader):
    """A SafeLoader that refuses what it would otherwise read in one of several ways."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._sizes: dict[int, int] = {}  # by node: the values that it holds, those that aliases stand for included
        self._repeated = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node as the base class does, and count the values that it stands for."""
        is_alias = self.check_event(yaml.AliasEvent)
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        # a bomb of aliases is small to read and huge to walk: a: [x, x], b: [*a, *a], c: [*b, *b] holds 2, 4, then 8
        # texts. Each node's size is known when it is complete, its aliases counted in full, so that the sum of what
        # aliases repeat, here (3 + 3) + (7 + 7), is refused before anything is built
        if is_alias:
            if id(node) not in self._sizes:
                raise _refuse("an alias stands within what it repeats", mark)
            self._repeated += self._sizes[id(node)]
            if self._repeated > MOST_REPEATED:
                raise _refuse(f"aliases stand for more than {MOST_REPEATED:,} values", mark)
        elif node is not None:
            self._sizes[id(node)] = 1 + sum(self._sizes[id(child)] for child in _children(node))
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Compose a mapping; refuse a key that occurs twice."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise _refuse(f"the key {key.value!r} occurs twice", key.start_mark)
                seen.add((key.tag, key.value))
        return node


def _fact_of(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    problem = str(getattr(error, "problem", None) or getattr(error, "context", None) or "unreadable")
    return f"line {mark.line + 1}, column {mark.column + 1}: {' '.join(problem.split())}"


def _children(node: Any) -> list[Any]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _text(loader: StrictLoader, node: Any) -> str:
    text = str(loader.construct_scalar(node))
    if "\0" in text:
        raise _refuse("a text holds a NUL character", node.start_mark)
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")  # "\ud83d\ude00", as JSON writes it, is one
    except UnicodeDecodeError:
        raise _refuse("a text holds half a character (a lone surrogate)", node.start_mark) from None


def _number(loader: StrictLoader, node: Any) -> float:
    """Construct an int or a float."""
    written = str(loader.construct_scalar(node))
    if ":" in written or re.match(r"[-+]?0[0-9_]+$", written):
        raise _refuse(
            f"{written} is a number to base {60 if ':' in written else 8} in YAML: quote it, or write it without "
            + ("colons" if ":" in written else "a 0 in front"),
            node.start_mark,
        )
    if not node.tag.endswith(":int"):
        return float(loader.construct_yaml_float(node))
    value = int(loader.construct_yaml_int(node))
    if value.bit_length() > 64:
        raise _refuse("a whole number of more than 64 bits", node.start_mark)
    return value


def _refuse(fact: str, mark: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, fact, mark)


StrictLoader.add_constructor("tag:yaml.org,2002:str", _text)
for _kind in ("int", "float"):
    StrictLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _number)
