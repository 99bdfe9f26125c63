from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from graft.specs.block import Block
from graft.specs.ranges import AtLeast
from graft.specs.reference import Row, describe, describe_blocks


@dataclass(frozen=True)
class Inner(Block):
    """A block.

    Attributes:
        depth: how deep.
    """

    depth: int


@dataclass(frozen=True)
class Outer(Block):
    """A block.

    Attributes:
        name: what it is called,
            over two lines.
        kind, other: one of
            two: each.

    Some more text: not a key.
    """

    name: str
    kind: Literal["a", "b"] = "a"
    other: tuple[str, ...] = ("x", "y")
    rate: Annotated[float, AtLeast(0)] | None = None
    inner: Mapping[str, str | Inner] = field(default_factory=dict)
    flag: bool = True


def test_rows_are_read_off_fields_and_docstring() -> None:
    assert describe(Outer, {Inner: "inner"}) == [
        Row("name", "text", "required", "", "what it is called, over two lines."),
        Row("kind", "one of a, b", "a", "", "one of two: each."),
        Row("other", "list of text", "[x, y]", "", "one of two: each."),
        Row("rate", "number", "", "0 or more", ""),
        Row("inner", "mapping of names to text or block inner", "", "", ""),
        Row("flag", "true or false", "true", "", ""),
    ]


def test_every_key_of_every_block_has_a_meaning() -> None:
    blocks = describe_blocks()
    assert {"TASK", "TASK: data.train", "TASK: head", "TASK: train.regularize", "localize: learn", "fuse"} <= set(
        blocks
    )
    assert sum(map(len, blocks.values())) > 100
    assert not [(title, row.key) for title, rows in blocks.items() for row in rows if not row.meaning]


def test_blocks_are_named_by_titles_that_there_are() -> None:
    blocks = describe_blocks()
    named = {row.type.rpartition("block ")[2] for rows in blocks.values() for row in rows if "block " in row.type}
    assert "TASK: train" in named
    assert named <= set(blocks)


def test_the_ranges_are_those_of_the_fields() -> None:
    rows = {row.key: row for row in describe_blocks()["TASK: train"]}
    assert (rows["lr"].type, rows["lr"].default, rows["lr"].range) == ("number", "0.05", "above 0")
    assert rows["optimizer"].type == "one of sgd, adamw"
    assert rows["stop_at"].range == "from 0 to 1"


def test_blocks_load_without_torch() -> None:
    code = "import sys, graft.specs.reference as reference; reference.describe_blocks();"
    loaded = subprocess.run([sys.executable, "-c", f"{code} print(*sys.modules)"], capture_output=True, text=True)
    assert "graft.specs.train" in loaded.stdout.split()
    assert not {"torch", "numpy", "transformers"} & set(loaded.stdout.split())
