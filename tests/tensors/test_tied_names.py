from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from graft.tensors.tied_names import TiedNames

TIED = TiedNames.of([["lm_head.weight", "wte.weight"], ["a", "b", "c"]])


def test_one_name_stands_for_all_that_share_a_storage() -> None:
    assert TIED.group_of("b") == {"a", "b", "c"}
    assert TIED.listed("b", ["c", "x", "b"]) == ["b", "c"]
    assert [TIED.owner(name, ["c", "b"]) for name in "abc"] == ["b", "b", "b"]
    assert TIED.repeats(["c", "b", "wte.weight", "x"]) == {"c"}
    assert TIED.are_tied("a", "c")
    assert not TIED.are_tied("a", "wte.weight")


def test_a_name_that_is_tied_to_none_stands_for_itself() -> None:
    assert TIED.group_of("x") == {"x"}
    assert TIED.owner("x", ["x", "y"]) == "x"
    assert TIED.owner("b", []) == "b"  # nothing is listed, so that the name is all there is
    assert TIED.are_tied("x", "x")
    assert TiedNames().repeats(["x", "y"]) == frozenset()


@settings(derandomize=True, deadline=None)
@given(st.sets(st.sampled_from(["a", "b", "c", "lm_head.weight", "wte.weight", "x"])))
def test_owners_and_repeats_share_out_what_is_listed(listed: set[str]) -> None:
    repeats = TIED.repeats(listed)
    assert {TIED.owner(name, listed) for name in listed} == listed - repeats
