from __future__ import annotations

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


def test_shares_are_of_the_patchs_gain_seed_by_seed() -> None:
    split = split_gain(SEEDS, models_of(SEEDS))
    assert split is not None
    assert split.patch == "graft (learned)"
    assert split.gain["mean"] == pytest.approx(0.3)
    assert [item.control for item in split.shares] == ["vectors_only", "random_rows"]  # `random` is no control of it
    vectors, rows = split.shares
    assert vectors.share is not None
    assert rows.share is not None
    assert rows.share["values"] == pytest.approx([0.5, 0.25])
    assert vectors.share["values"] == pytest.approx([0.0, 0.1])
    assert "38 ± 159 % by random rows of its own columns" in split.sentence
    assert [row[0] for row in split.table().rows] == ["graft (learned)", "vectors_only", "random_rows"]


def test_where_the_patch_gains_nothing_in_a_seed_there_is_no_share() -> None:
    seeds = [*SEEDS, seed_of(2, base=0.5, tuned=0.9, learned=0.5, random_rows=0.6, vectors_only=0.5)]
    split = split_gain(seeds, models_of(seeds))
    assert split is not None
    assert all(item.share is None for item in split.shares)
    assert split.shares[1].gain["mean"] == pytest.approx(0.1)
    assert "gains nothing in some seed" in split.sentence


def test_without_a_control_of_the_patch_there_is_no_split() -> None:
    seeds = [seed_of(0, base=0.5, tuned=0.9, learned=0.7, random=0.5)]
    assert split_gain(seeds, models_of(seeds)) is None
