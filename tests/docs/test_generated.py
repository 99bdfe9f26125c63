"""The references that are read from the code: what is added to the code shows up in them."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import graft
from graft.registry import Entry, Registry
from tests.docs.blocks import ROOT

FLOOR = Entry(name="floor", help="the next lower | whole number", target="math:floor")
ROOT_OF = Entry(name="root", help="the square root", target="math:sqrt", source="https://example.org/roots")


@dataclass(frozen=True)
class Row:
    key: str
    type: str
    default: str
    range: str
    meaning: str


@pytest.fixture(scope="module")
def generated() -> Iterator[Any]:
    """The extension that fills the pages."""
    pytest.importorskip("sphinx")
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    import generated

    yield generated
    sys.path.remove(str(ROOT / "docs" / "_ext"))


def test_a_row_that_is_added_to_a_registry_is_in_its_table(generated: Any) -> None:
    functions = Registry("function", [FLOOR])
    before = generated.render_registry(functions, "graft.toy.registry")
    assert r"| `floor` | the next lower \| whole number. |" in before
    assert "root" not in before
    with functions.extended(ROOT_OF):
        after = generated.render_registry(functions, "graft.toy.registry")
    assert "| `root` | the square root. | <https://example.org/roots> |" in after
    paper = dataclasses.replace(ROOT_OF, name="paper", source="arXiv 2302.06600")
    with functions.extended(paper):
        assert "[arXiv 2302.06600](https://arxiv.org/abs/2302.06600)" in generated.render_registry(
            functions, "a.registry"
        )


def test_every_registry_of_the_package_is_found_and_takes_a_toy_row(generated: Any) -> None:
    for module, registry in generated.find_registries():
        kind = type(next(iter(registry.values())))
        toy = next(iter(registry.values())).__dict__ | {"name": "toy_row", "help": "shows up"}
        with registry.extended(kind(**toy)):
            text = generated.render_registries(generated.find_registries())
        assert "| `toy_row` | shows up. |" in text, module
        assert "toy_row" not in generated.render_registries(generated.find_registries())


def test_a_block_s_keys_are_in_its_table(generated: Any) -> None:
    rows = [Row("lr", "number", "0.05", "above 0", "learning rate"), Row("name", "text", "required", "", "of the task")]
    rows.append(Row("more", "text or block TASK: train.more", "", "", "what else"))
    text = generated.render_blocks({"The train block": rows, "TASK: train.more": []})
    assert "## The train block" in text
    assert "| text or [block TASK: train.more](#task-trainmore) |" in text
    assert "| `lr` | number | `0.05` | above 0 | learning rate |" in text
    assert "| `name` | text | *required* |  | of the task |" in text


def test_the_keys_of_a_task_file_are_described(generated: Any) -> None:
    text = generated.GENERATED["config-blocks"]()
    for key in ("shots", "weight_decay", "on_overlap", "replay", "micro_batch"):
        assert f"| `{key}` |" in text, key
    without_meaning = [line for line in text.splitlines() if line.startswith("| `") and line.endswith("|  |")]
    assert len(without_meaning) < 10, without_meaning


def test_every_public_name_is_in_the_python_reference(generated: Any) -> None:
    text = generated.GENERATED["python-api"]()
    assert [name for name in graft.__all__ if f":: graft.{name}\n" not in text] == []


def test_plain_text_is_safe_in_restructured_text() -> None:
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    from plain_text import quote

    assert quote("the `k` largest |delta|, `a * b`") == r"the ``k`` largest \|delta\|, ``a * b``"
    assert quote("give --base, or cut it anew") == "give ``--base``, or cut it anew"


def test_links_of_files_from_elsewhere_hold_from_their_pages() -> None:
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    from pages import find_borrowed, relink

    borrowed = find_borrowed()
    assert borrowed["SECURITY.md"] == "docs/project/security.md"
    text = "[faults](artifacts/hub_faults.md) and [guide](docs/guides/share.md#use), [web](https://example.org)"
    shown = "[faults](hub-faults.md) and [guide](../guides/share.md#use), [web](https://example.org)"
    assert relink(text, "", "docs/project/security.md", borrowed) == shown
