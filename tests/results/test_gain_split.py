from __future__ import annotations

import dataclasses

import pytest

from graft.results.figures import ModelFigures
from graft.results.gain_split import split_gain
from graft.results.models import Model, name_models
from graft.results.seeds import SingleSeed

METHODS = ("learned", "random", "random_rows", "vectors_only")


def seed_of(number: int, **accuracies: float) -> SingleSeed:
    names = {"base": "base", "tuned": "tuned"} | {method: f"graft ({method})" for method in METHODS}
    figures = {names[key]: ModelFigures.of({"n": 10, "accuracy": value}) for key, value in accuracies.items()}
    return SingleSeed(number, 5, figures)


def models_of(seeds: list[SingleSeed]) -> dict[str, Model]:
    return {name: model for name, model in name_models(METHODS).items() if name in seeds[0].models}


SEEDS = [
    seed_of(0, base=0.5, tuned=0.9, learned=0.7, random=0.5, random_rows=0.6, vectors_only=0.5),
    seed_of(1, base=0.5, tuned=0.9, learned=0.9, random=0.5, random_rows=0.6, vectors_only=0.54),
]


def test_shares_are_of_the_patchs_mean_gain() -> None:
    split = split_gain(SEEDS, models_of(SEEDS))
    assert split is not None
    assert split.patch == "graft (learned)"
    assert split.gain["mean"] == pytest.approx(0.3)
    assert [item.control for item in split.shares] == ["vectors_only", "random_rows"]  # `random` is no control of it
    vectors, rows = split.shares
    assert vectors.share is not None
    assert rows.share is not None
    assert rows.share["values"] == pytest.approx([1 / 3, 1 / 3])  # of gains of .1, by .3, the mean of .2 and .4
    assert vectors.share["values"] == pytest.approx([0.0, 0.04 / 0.3])
    assert "33 ± 141 % by random rows of its own columns" in split.sentence
    assert "own)" not in split.sentence
    assert [row[0] for row in split.table().rows] == ["graft (learned)", "vectors_only", "random_rows"]


def test_one_seed_with_next_to_no_gain_does_not_decide() -> None:
    gains = [(0.10, 0.05), (0.002, 0.02), (0.11, 0.06)]
    seeds = [seed_of(i, base=0.5, tuned=0.9, learned=0.5 + a, random_rows=0.5 + b) for i, (a, b) in enumerate(gains)]
    split = split_gain(seeds, models_of(seeds))
    assert split is not None
    share = split.shares[0].share
    assert share is not None
    assert share["mean"] == pytest.approx(0.13 / 0.212)
    assert share["half"] < 0.6  # a mean of ratios would be 3.7 ± 13.6


def test_where_the_patch_gains_nothing_there_is_no_share() -> None:
    seeds = [seed_of(i, base=0.5, tuned=0.9, learned=0.5, random_rows=0.6, vectors_only=0.5) for i in range(2)]
    split = split_gain(seeds, models_of(seeds))
    assert split is not None
    assert all(item.share is None for item in split.shares)
    assert split.shares[1].gain["mean"] == pytest.approx(0.1)
    assert "gains nothing, so that" in split.sentence


def test_a_control_that_holds_much_of_the_patch_is_said_to() -> None:
    seeds = [dataclasses.replace(seed, own_shares={"graft (random_rows)": 0.25}) for seed in SEEDS]
    split = split_gain(seeds, models_of(seeds))
    assert split is not None
    assert "by random rows of its own columns (of these 25 % are the patch's own)" in split.sentence
    assert [row[3] for row in split.table().rows] == ["100 %", "–", "25 %"]


def test_without_a_control_of_the_patch_there_is_no_split() -> None:
    seeds = [seed_of(0, base=0.5, tuned=0.9, learned=0.7, random=0.5)]
    assert split_gain(seeds, models_of(seeds)) is None
