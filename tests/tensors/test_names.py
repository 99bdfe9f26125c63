from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import MismatchError
from graft.tensors.names import NameMap, NameMatch, unwrap_name


def renamed(name: str) -> str:
    return name.replace("gamma", "weight")


@pytest.mark.parametrize(
    ("wanted", "available"),
    [
        ("layer.w", "layer.w"),
        ("layer.w", "bert.layer.w"),
        ("bert.layer.w", "layer.w"),
        ("norm.gamma", "norm.weight"),
        ("norm.weight", "norm.gamma"),
        ("norm.gamma", "bert.norm.weight"),
        ("layer.w", "module.layer.w"),
        ("module.layer.w", "layer.w"),
        ("layer.w", "_orig_mod.layer.w"),
        ("layer.w", "module._orig_mod.bert.layer.w"),
        ("encoder.layer.w", "encoder.module.layer.w"),
        ("_orig_mod.bert.norm.gamma", "module.norm.weight"),
    ],
)
def test_each_rule_finds_its_name(wanted: str, available: str) -> None:
    match = NameMap("bert", renamed).match([wanted], ["other", available])
    assert match == NameMatch({wanted: available}, (), ("other",))


def test_names_that_are_found_as_they_stand_are_not_translated() -> None:
    translated: list[str] = []

    def rename(name: str) -> str:
        translated.append(name)
        return renamed(name)

    assert NameMap("bert", rename).match(["a.w"], ["a.w", "b.w"]).found == {"a.w": "a.w"}
    assert not translated
    assert NameMap("bert", rename).match(["a.gamma"], ["a.weight", "b.w"]).found == {"a.gamma": "a.weight"}
    assert "b.w" in translated


@pytest.mark.parametrize(
    ("wanted", "available"),
    [("layer.w", "layer.v"), ("layer.w", "roberta.layer.w"), ("layer.w", "bertlayer.w"), ("layer.w", "xlayer.w")],
)
def test_other_names_are_not_found(wanted: str, available: str) -> None:
    assert NameMap().match([wanted], [wanted]).found
    assert NameMap("bert", renamed).match([wanted], [available]) == NameMatch({}, (wanted,), (available,))


def test_without_a_prefix_or_renaming_only_the_other_rules_hold() -> None:
    assert NameMap().match(["w"], ["bert.w"]).missing == ("w",)
    assert NameMap().match(["gamma"], ["weight"]).missing == ("gamma",)
    assert NameMap().match(["w"], ["module.w"]).found == {"w": "module.w"}


def test_the_first_rule_that_finds_a_name_decides() -> None:
    order = ["norm.gamma", "bert.norm.gamma", "norm.weight", "bert.norm.weight", "module.norm.gamma"]
    for i, best in enumerate(order):
        match = NameMap("bert", renamed).match(["norm.gamma"], reversed(order[i:]))
        assert match.found == {"norm.gamma": best}


@pytest.mark.parametrize(
    ("wanted", "available"),
    [
        (["bert.w"], ["bert.bert.w", "w"]),
        (["w"], ["module.w", "_orig_mod.w"]),
        (["norm.x"], ["norm.module.x", "module.norm.x"]),
        (["w", "bert.w"], ["w"]),
        (["w", "module.w"], ["w"]),
        (["norm.gamma", "norm.weight"], ["norm.weight"]),
    ],
)
def test_an_ambiguity_is_refused(wanted: list[str], available: list[str]) -> None:
    assert NameMap("bert", renamed).match(wanted[:1], available[-1:]).found
    with pytest.raises(MismatchError, match="ambiguous"):
        NameMap("bert", renamed).match(wanted, available)


@settings(derandomize=True, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "layer.0", "bert.x", "x", "module.y"]), unique=True), st.booleans())
def test_equal_names_match_whatever_the_rules(names: list[str], wrap: bool) -> None:
    available = [f"module.{name}" for name in names] if wrap else names
    match = NameMap("bert").match(names, available)
    assert match == NameMatch(dict(zip(names, available, strict=True)), (), ())


def test_unwrapping_takes_whole_parts_only() -> None:
    assert unwrap_name("module.a._orig_mod.module.w") == "a.w"
    assert unwrap_name("my_module.modules.w") == "my_module.modules.w"
