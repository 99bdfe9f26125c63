"""The index of the artifacts is the one that their results give, and leaves no folder out."""

from __future__ import annotations

from pathlib import Path

import pytest

from artifacts import index

RECIPES = sorted((index.ROOT / "recipes").glob("*.yaml"))


def test_the_committed_index_is_the_generated_one() -> None:
    assert index.INDEX.read_text(encoding="utf-8") == index.write_index()  # else: make index


@pytest.mark.parametrize("recipe", RECIPES, ids=[recipe.stem for recipe in RECIPES])
def test_every_recipe_begins_with_its_question(recipe: Path) -> None:
    first = recipe.read_text(encoding="utf-8").partition("\n")[0]
    assert first.startswith("# ")
    assert first.endswith("?")


def test_every_folder_is_a_recipe_s_or_says_what_made_it() -> None:
    folders = {path.name for path in index.INDEX.parent.iterdir() if path.is_dir() and any(path.glob("*.*"))}
    assert "quickstart" in folders
    assert folders - {"__pycache__"} <= {recipe.stem for recipe in RECIPES} | set(index.MADE_OF_OTHERS)


def test_a_run_s_answer_is_read_whatever_its_kind() -> None:
    graft = {"accuracy": {"mean": 0.8}, "recovered_gain": {"mean": 1.0}}
    single = {"base": {"accuracy": {"mean": 0.5}}, "tuned": {"accuracy": {"mean": 0.8}}, "graft (learned)": graft}
    assert index.answer({"summary": single}) == (
        "accuracy: base .500, tuned .800, graft (learned) .800; gain recovered: graft (learned) 1.000"
    )
    several = single | {"joint": {"accuracy": {"mean": 0.7}, "validation_accuracy": {"mean": 0.75}}}
    del several["graft (learned)"]
    assert index.answer({"summary": several}).endswith("joint .700 (best of 1 on validation)")
    sizes = {"svd, rank 1": (9e4, 0.2), "svd, rank 8": (7e5, 0.6), "svd, rank 64": (5e6, 1.0)}
    references = {name: single[name] for name in ("base", "tuned")}
    extracted = {
        name: {"n_bytes": {"mean": n_bytes}, "recovered_gain": {"mean": gain}}
        for name, (n_bytes, gain) in sizes.items()
    }
    assert index.answer({"kind": "extraction", "summary": references | extracted}).endswith("at most 1 MB: svd .600")
    points = {
        "full": {"gain": {"mean": 3.0}, "general": {"mean": -2.0}},
        "core": {"gain": {"mean": 2.0}, "general": {"mean": 0.0}, "validation_gain": {"mean": 1.0}},
    }
    assert "full +3.00 / -2.00, core +2.00 / +0.00" in index.answer({"summary": {"mean": points}})


def test_planted_entries_that_are_found_are_averaged_over_the_ladder() -> None:
    places = {f"taylor, density {density}": {"recall": {"mean": mean}} for density, mean in ((0.1, 0.5), (0.2, 1.0))}
    summary = {"base": {"accuracy": {"mean": 0.5}}, **places}
    assert index.answer({"kind": "planted", "summary": summary}).endswith("(worst): taylor .750 (.500)")
