from __future__ import annotations

import pytest

from graft.errors import ConfigError
from graft.registry import Entry, LayeredRegistry, Registry

SQRT = Entry(name="root", help="the square root", target="math:sqrt", source="https://example.org")


def make() -> Registry[Entry]:
    return Registry("function", [SQRT, Entry(name="floor", help="the next lower whole number", target="math:floor")])


def test_rows_are_found_in_their_order_and_loaded_when_asked() -> None:
    registry = make()
    assert list(registry) == ["root", "floor"]
    assert registry.find("root").load()(9) == 3
    assert registry.describe() == "root: the square root; floor: the next lower whole number."


def test_what_is_not_there_is_refused_by_name_with_all_that_is() -> None:
    with pytest.raises(ConfigError, match="'cube' is not a function; choose from root, floor"):
        make().find("cube")
    with pytest.raises(ValueError, match="two entries"):
        Registry("function", [SQRT, SQRT])


def test_a_row_may_be_added_for_a_while() -> None:
    registry = make()
    with registry.extended(Entry(name="ceil", help="up", target="math:ceil")):
        assert "ceil" in registry
        with pytest.raises(ValueError, match="already"), registry.extended(SQRT):
            pass
    assert "ceil" not in registry


def test_the_rows_of_another_registry_are_shown_after_ones_own_which_take_precedence() -> None:
    below = make()
    own = [
        Entry(name="floor", help="a quicker way down", target="math:trunc"),
        Entry(name="up", help="up", target="math:ceil"),
    ]
    layered = LayeredRegistry("way", own, below=below)
    assert list(layered) == ["up", "root", "floor"]
    assert len(layered) == 3
    assert layered.find("floor").help == "a quicker way down"
    assert below.find("floor").help == "the next lower whole number"
    with below.extended(Entry(name="cube", help="times three", target="math:pow")):
        assert "cube" in layered  # looked up at each use
    assert "cube" not in layered
    with pytest.raises(ConfigError, match="'cube' is not a way; choose from up, root, floor"):
        layered.find("cube")
    with pytest.raises(ValueError, match="already"), layered.extended(SQRT):
        pass
