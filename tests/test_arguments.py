from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graft
from graft.arguments import checked
from graft.errors import ConfigError, GraftError


@checked
def ask(
    place: str | Path = "here",
    *names: str,
    share: float | None = None,
    count: int = 1,
    strict: bool = False,
    rule: Literal["one", "two"] = "one",
    items: Sequence[int] = (),
    table: Mapping[str, int] | None = None,
    **more: Any,
) -> str:
    """Say that all was as it should be."""
    return "asked"


@pytest.mark.parametrize(
    "given_",
    [
        {"place": Path("x")},
        {"share": 1},
        {"share": np.float32(0.5)},
        {"count": np.int64(3)},
        {"strict": np.bool_(True)},
        {"items": [1, 2]},
        {"items": (1,)},
        {"table": {"a": 1}},
        {"other": object()},
        {"rule": "two"},
    ],
)
def test_what_the_annotations_allow_goes_through(given_: dict[str, Any]) -> None:
    assert ask(**given_) == "asked"
    assert ask("x", "y", "z") == "asked"
    assert ask.__doc__ == "Say that all was as it should be."


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("place", None, "str or Path, not None"),
        ("place", b"x", "str or Path, not a bytes"),
        ("share", "0.1", "float or None, not '0.1'"),
        ("share", True, "float or None, not True"),
        ("count", 1.5, "int, not 1.5"),
        ("strict", 1, "bool, not 1"),
        ("rule", 3, "one of 'one', 'two', not 3"),
        ("items", "12", "a list of int, not '12'"),
        ("items", [1, "2"], "a list of int, not a list of int, str"),
        ("table", [1], "a mapping of str to int or None, not a list of int"),
    ],
)
def test_another_kind_is_refused_by_name(name: str, value: object, wanted: str) -> None:
    arguments: dict[str, Any] = {name: value}
    with pytest.raises(TypeError, match=rf"^ask: {name} must be {wanted}$"):
        ask(**arguments)
    with pytest.raises(TypeError, match=r"^ask: names must be str, not 5$"):
        ask("x", 5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("a\0b", "a NUL"),
        ("\ud83d", "half of a"),
        ("", "empty"),
        ("~nobody9/x", "no such user"),
    ],
)
def test_what_no_file_can_be_called_is_refused(place: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"ask: place .*cannot be a path: .*{said}"):
        ask(place)


PUBLIC = [
    *(name for name in graft.__all__ if name[0].islower() and name not in ("pull_patch", "push_patch")),
]
JUNK = st.one_of(
    st.none(), st.integers(), st.floats(), st.booleans(), st.binary(max_size=4), st.lists(st.none(), max_size=2)
)


@pytest.mark.parametrize("name", PUBLIC)
@given(junk=JUNK)
def test_public_functions_refuse_junk_by_the_name_of_the_argument(name: str, junk: object) -> None:
    with pytest.raises((TypeError, GraftError)) as raised:
        getattr(graft, name)(junk, junk, junk)
    if isinstance(raised.value, TypeError):
        said = str(raised.value)
        assert said.startswith(f"{name}: ") or "positional" in said or "missing" in said
