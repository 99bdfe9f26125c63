from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import DataError
from graft.specs.data import SplitSpec
from graft.tasks.examples import (
    Example,
    draw_shots,
    make_examples,
    order_by_length,
    sort_by_length,
    sort_by_texts,
    split_by_length,
)
from tests.models import Rows, toy_examples, toy_spec

LABELS = ("sad", "glad")


def rows_of(*labels: Any) -> Rows:
    return [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]


def labels_of(rows: Rows, **split: Any) -> list[int]:
    return [example.label for example in make_examples(rows, SplitSpec("a.jsonl", **split), toy_spec())]


def test_labels_by_name_and_by_position_mean_the_same() -> None:
    assert labels_of(rows_of("glad", "sad", "glad")) == labels_of(rows_of(1, 0, 1)) == [1, 0, 1]
    assert labels_of(rows_of(-1, 1)) == [-1, 1]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (rows_of("glad", 0), r"a.jsonl, row 2: label 0 in column 'label' is not a name"),
        (rows_of(1, 0, "sad"), r"a.jsonl, row 3: label 'sad' in column 'label' is not a position"),
        (rows_of(0, 2), r"row 2: label 2 is outside the list \['sad', 'glad'\]"),
        (rows_of(-2), r"row 1: label -2 is outside the list"),
        (rows_of("glad", "gladly"), r"row 2: label 'gladly' is outside the list"),
        (rows_of(1.0), r"row 1: label 1.0 in column 'label' is not a position"),
        (rows_of(True), r"row 1: label True in column 'label' is not a position"),
        ([{"text": "x"}], r"row 1: no column 'label'; it has text"),
        ([{"Text": "x", "label": 0}], r"row 1: no column 'text'; it has Text, label"),
        ([{"text": "  ", "label": 0}], r"row 1: 'text' is not a text"),
        ([{"text": None, "label": 0}], r"row 1: 'text' is not a text"),
    ],
)
def test_what_is_wrong_in_a_row_is_named(rows: Rows, said: str) -> None:
    with pytest.raises(DataError, match=said):
        labels_of(rows)


def test_a_file_may_have_its_own_columns_labels_and_map() -> None:
    rows = [{"body": "x", "class": 2}, {"body": "y", "class": 0}, {"body": "z", "class": 1}]
    own: dict[str, Any] = {"text": "body", "label": "class", "labels": ("down", "none", "up")}
    renamed = {"down": "sad", "up": "glad", "none": None}
    assert labels_of(rows, **own, map=renamed) == [1, 0, -1]
    with pytest.raises(DataError, match=r"row 1: label 'up' is not one of the task's; give it a place with `map`"):
        labels_of(rows, **own, map={"down": "sad"})


def test_pairs_are_read_from_two_columns() -> None:
    rows = [{"a": "one", "b": "two", "label": 1}]
    assert make_examples(rows, SplitSpec("x"), toy_spec(text=("a", "b"))) == [Example(("one", "two"), 1)]


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_exactly_as_many_shots_a_class_as_asked_for_and_never_one_twice(shots: int, seed: int) -> None:
    pool = toy_examples(40)
    drawn = draw_shots(pool, shots, LABELS, seed, strict=True)
    assert [sum(example.label == i for example in drawn) for i in (0, 1)] == [shots, shots]
    assert all(drawn.count(example) <= pool.count(example) for example in drawn)


def test_the_draw_is_given_by_the_seed() -> None:
    pool = toy_examples(60)
    draws = [draw_shots(pool, 8, LABELS, seed, strict=True) for seed in (0, 0, 1)]
    assert draws[0] == draws[1]
    assert set(draws[0]) != set(draws[2])


def test_too_few_shots_are_refused_for_training_and_not_for_validation() -> None:
    pool = [example for example in toy_examples(60) if example.label == 0] + [Example(("glad",), 1)]
    assert len(draw_shots(pool, 5, LABELS, 0, strict=False)) == 6
    with pytest.raises(DataError, match=r"5 shots per class were asked for, but class 'glad' has 1 examples"):
        draw_shots(pool, 5, LABELS, 0, strict=True)
    with pytest.raises(DataError, match=r"class 'glad' has 0 examples"):
        draw_shots(pool[:-1], 5, LABELS, 0, strict=False)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=30), st.integers(1, 2000))
@settings(deadline=None)
def test_parts_by_length_hold_every_example_once_and_save_what_a_pass_is_worth(lengths: list[int], worth: int) -> None:
    examples = [Example(("x" * length,), 0) for length in lengths]
    parts = split_by_length(examples, worth)
    assert [len(example.texts[0]) for part in parts for example in part] == sorted(lengths)
    padded = sum(len(part) * max(example.n_characters for example in part) for part in parts)
    assert padded + (len(parts) - 1) * worth <= len(lengths) * max(lengths)


def test_a_few_long_texts_are_apart_from_many_short_ones() -> None:
    short, long = [Example(("x" * 20,), 0)] * 12, [Example(("x" * 200,), 0)] * 4
    assert split_by_length([*long, *short]) == [short, long]
    assert split_by_length(short) == [short]


def test_examples_go_by_length_with_their_choices_or_by_their_texts_alone() -> None:
    examples = [Example(("a" * n,), 0, choices) for n, choices in ((4, ("b", "ccccc")), (6, ()), (4, ("d", "e")))]
    assert order_by_length(examples) == [2, 1, 0]
    assert sort_by_length(examples) == [examples[i] for i in (2, 1, 0)]
    assert sort_by_texts(examples) == [examples[i] for i in (0, 2, 1)]
