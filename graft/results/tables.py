"""Tables of a run as data: Markdown for people, and part of the results for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graft.results.json_node import Node


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are texts; the first cell of a row names it."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def to_markdown(self) -> str:
        """Return the table as Markdown, its columns aligned."""
        lines = [self.head, *self.rows]
        widths = [max(len(row[i]) for row in lines) for i in range(len(self.head))]
        texts = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in lines]
        return "\n".join([texts[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *texts[1:]])

    @classmethod
    def from_node(cls, node: Node) -> TextTable:
        """Read a table; DataError where a row has another length than the head."""
        head, rows = _texts(node.need("head")), [_texts(row) for row in node.need("rows").elements()]
        if not head or any(len(row) != len(head) for row in rows):
            node.refuse("a table whose rows are as long as its head")
        return cls(head, rows)


Block = str | TextTable  # a paragraph or a table


def to_markdown(blocks: Sequence[Block]) -> str:
    """Return paragraphs and tables as one text."""
    return "\n\n".join(block if isinstance(block, str) else block.to_markdown() for block in blocks)


def read_block(node: Node) -> Block:
    """Read a paragraph or a table."""
    return node.value if isinstance(node.value, str) else TextTable.from_node(node)


def _texts(node: Node) -> list[str]:
    return [item.text() for item in node.elements()]
