"""Gain and loss by hand; a point is beaten only by one that is as good on both and better on one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.errors import ConfigError
from graft.recipes.forgetting.seed_run import MeasuredTask, score_of
from graft.recipes.forgetting.summary import FIGURES, Units, find_dominated, summarize
from graft.recipes.forgetting.table import tabulate_run
from graft.results.seeds import ForgettingSeed, MeasuredPoint
from graft.results.tables import to_markdown
from graft.specs.forgetting import MEAN, ForgettingSpec, MethodSpec
from graft.specs.head import HeadSpec
from graft.tasks.task import Task
from tests.models import toy_spec

PLACES = st.dictionaries(st.text("abcdef", min_size=1), st.tuples(*[st.integers(-3, 3).map(float)] * 2), min_size=1)


def setting(name: str, kind: Any = "similarity") -> MeasuredTask:
    spec = toy_spec(name=name, labels=() if kind == "lm" else ("sad", "glad"), head=HeadSpec(kind))
    return MeasuredTask(Task(spec, Path()), None)


@given(PLACES)
def test_the_front_holds_what_nothing_beats_and_every_beaten_point_is_beaten(places: dict[str, Any]) -> None:
    beaten = find_dominated(places)
    rivals = {**places, "doing nothing": (0.0, 0.0)}
    for name, by in beaten.items():
        better = [x for x in rivals.values() if x != places[name] and all(map(float.__ge__, x, places[name]))]
        assert (by is None) == (not better)
        assert by is None or rivals[by] in better
    assert beaten[max(places, key=lambda name: places[name])] in (None, "doing nothing")


def test_what_is_as_good_up_to_the_rounding_of_means_beats_nothing() -> None:
    noise = sum((0.1, 0.2, -0.3))  # 5.6e-17: the mean of +1, +2 and -3 rows of ten
    assert noise > 0
    assert find_dominated({"a": (3.0, 0.0), "b": (3.0, noise)}) == {"a": None, "b": None}
    assert find_dominated({"a": (noise, 0.0), "b": (0.0, -noise)}) == {"a": None, "b": None}  # as doing nothing
    assert find_dominated({"a": (3.0, 0.0), "b": (3.0, 1e-6)}) == {"a": "b", "b": None}  # the control
    found = find_dominated({"a": (1.0, -1.0), "b": (3.0 + noise, 0.0), "c": (3.0, 1.0)})
    assert found == {"a": "c", "b": "c", "c": None}  # of two with the same gain the one that loses less


def test_texts_are_scored_in_nats_and_the_rest_in_points() -> None:
    figures = {"accuracy": 0.6, "nll": 2.5}
    text, words = setting("wiki", "lm"), setting("films")
    assert score_of(text.task, figures) == -2.5
    assert score_of(words.task, figures) == 0.6
    units = Units.of([text, words], [setting("pubmed", "lm"), setting("meals")])
    assert (units.general, units.counted, units.others) == ("nats", ("wiki",), ("films",))
    assert units.averaged == ["pubmed"]
    assert [units.of_domain(name) for name in ("pubmed", "meals", MEAN)] == ["nats", "points", "nats"]
    assert [units.of_task(name) for name in ("wiki", "films")] == ["nats", "points"]


def figures(test: float, validation: float) -> dict[str, Any]:
    return {"test": {"score": test}, "validation": {"score": validation}}


@pytest.fixture
def seeds() -> list[ForgettingSeed]:
    """Two seeds, one domain, two general tasks; "low" gains as much on validation as "high" and loses less."""
    base = {"new": figures(0.5, 0.5), "old": figures(0.8, 0.8), "older": figures(0.6, 0.6)}

    def point(gain: float, loss: float, checked: float) -> MeasuredPoint:
        after = {"new": figures(0.5 + gain, 0.5 + checked), "old": figures(0.8 - loss, 0.8 - loss)}
        return MeasuredPoint("", 2.0, {**after, "older": base["older"]})

    return [
        ForgettingSeed(n, base, {"new": {"high": point(0.2 + n / 10, 0.4, 0.2), "low": point(0.1, 0.1, 0.2)}})
        for n in range(2)
    ]


def test_gain_and_loss_are_changes_from_the_start(seeds: list[ForgettingSeed]) -> None:
    units = Units.of([setting("old"), setting("older")], [setting("new")])
    summary = summarize(seeds, units)
    assert list(summary) == ["new"]  # of one domain there is no mean
    high = summary["new"]["high"]["figures"]
    assert high["gain"]["values"] == pytest.approx([20, 30])
    assert high["gain"]["half"] == pytest.approx(12.7062047 * 5)
    low = summary["new"]["low"]["figures"]
    assert low["gain_against"]["values"] == pytest.approx([-10, -20])  # seed by seed, of the first point
    assert high["general_against"]["mean"] == 0
    assert high["general"]["mean"] == pytest.approx(-20)
    assert (high["old"]["mean"], high["older"]["mean"]) == pytest.approx((-40, 0))
    assert [row["beaten_by"] for row in summary["new"].values()] == ["low", None]  # by validation, not by test
    worse = {**seeds[0].base, "new": figures(0.4, 0.4)}
    moved = summarize([dataclasses.replace(seed, start=worse) for seed in seeds], units)
    assert moved["new"]["high"]["figures"]["gain"]["mean"] == pytest.approx(35)


def test_figures_are_all_that_stand_beside_the_general_tasks(seeds: list[ForgettingSeed]) -> None:
    summary = summarize(seeds, Units.of([setting("old"), setting("older")], [setting("new")]))
    assert summary["new"]["high"]["figures"].keys() == {*FIGURES, "old", "older"}


def test_points_have_names_of_their_own() -> None:
    def names(methods: dict[str, MethodSpec]) -> list[str]:
        return [point.name for point in ForgettingSpec("tiny", "base", ("old.yaml",), ("new.yaml",), methods).points()]

    near = (1e-4, 1.000001e-4, 1.0000001e-4)
    rates = ["full, lr 0.0001", "full, lr 0.0001000001", "full, lr 0.00010000001"]
    assert names({"full": MethodSpec(grid={"train.lr": near})}) == rates
    steps = MethodSpec(grid={"train.steps": (1000000, 1000001)})
    assert names({"full": steps}) == ["full, steps 1000000", "full, steps 1000001"]
    for methods in (
        {"full": MethodSpec(grid={"train.lr": (1e-4, 0.0001)})},
        {"full": MethodSpec(grid={"train.lr": (1e-4,)}), rates[0]: MethodSpec()},
    ):
        with pytest.raises(ConfigError, match=r"^methods: two settings have the name 'full, lr 0\.0001'"):
            names(methods)


def test_the_table_says_what_was_lost_where(seeds: list[ForgettingSeed]) -> None:
    units = Units.of([setting("old"), setting("older")], [setting("new")])
    methods = {"high": MethodSpec(), "low": MethodSpec()}
    recipe = ForgettingSpec("tiny", "base", ("old.yaml",), ("new.yaml",), methods)
    table = to_markdown(tabulate_run(recipe, summarize(seeds, units), seeds, units))
    (line,) = (line for line in table.splitlines() if line.startswith("| high"))
    assert [cell.strip() for cell in line.split("|")[1:-1]] == [
        "high",
        "+25.0 ± 63.5",
        "-20.0 ± 0.0",
        "–",
        "-40.0 ± 0.0",
        "+0.0 ± 0.0",
        "2",
        "low",
    ]
