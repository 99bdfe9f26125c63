"""What a recipe's start asks of its data: each split is read once, and every digest is of the examples themselves."""

from __future__ import annotations

import dataclasses
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from graft.errors import DataError
from graft.recipes import splits
from graft.recipes.run import load_experiment, run_recipe
from graft.recipes.single import experiment as single
from graft.recipes.splits import read_splits, survey_data
from graft.specs.reader import load_yaml
from graft.tasks import rows
from graft.tasks.examples import NONE_OF_THESE
from graft.tasks.task import Task
from graft.train.content import digest_of_examples
from tests.models import toy_rows, write_rows, write_yaml
from tests.recipes.toy_tasks import write_toy_tasks


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A TASK file with rows of no class of its own in every split, and a set out of distribution."""
    write_toy_tasks(tmp_path)
    file = tmp_path / "films" / "task.yaml"
    write_rows(file.parent / "strange.jsonl", [row | {"label": -1} for row in toy_rows(20, 7)])
    content = load_yaml(file) | {"ood": {"strange": "strange.jsonl"}}
    write_yaml(file, {key: value for key, value in content.items() if key != "shots"})
    for seed, split in enumerate(("train", "validation", "test")):
        write_rows(file.parent / f"{split}.jsonl", [{"text": f"neither {split}", "label": -1}, *toy_rows(60, seed)])
    return file


@pytest.fixture
def recipe(films: Path, shelf: Path, tmp_path: Path) -> Path:
    content = {"kind": "single", "name": "tiny", "base": str(shelf / "base"), "seeds": [0], "task": "films/task.yaml"}
    return write_yaml(tmp_path / "recipe.yaml", content | {"localize": {"density": 0.05}, "refit": {"epochs": 1}})


def test_each_split_is_read_once(recipe: Path, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Begun(Exception):
        """The first seed is begun."""

    def begin(*_: Any, **__: Any) -> None:
        raise Begun

    read: Counter[str] = Counter()
    read_local = rows._read_local

    def note(path: Path) -> list[rows.Row]:
        read[path.name] += 1
        return read_local(path)

    monkeypatch.setattr(single, "run_seed", begin)
    monkeypatch.setattr(rows, "_read_local", note)
    with pytest.raises(Begun):
        run_recipe(recipe, tmp_path / "out")
    assert read == {f"{name}.jsonl": 1 for name in ("train", "validation", "test", "strange")}
    Task.load(films).train_examples()
    assert read["train.jsonl"] == 2  # as anything that reads it is counted


def test_digests_are_those_of_the_tasks_own_examples(recipe: Path, films: Path) -> None:
    experiment, task = load_experiment(recipe), Task.load(films)
    expected = {
        "train examples": task.train_examples(),
        "validation examples": task.validation_examples(),
        "test examples": task.test_examples(5),
        "strange examples": task.ood_examples("strange"),
        "texts": task.training_texts(),
    }
    assert len(expected["texts"]) == len(expected["train examples"]) + 1
    digests = survey_data(experiment.recipe, {"task": [(task, 5)]})["task"]["films"]
    assert digests == {name: digest_of_examples(examples) for name, examples in expected.items()}
    assert len(set(digests.values())) == len(digests)
    plain = load_experiment(recipe, ("refit=null",)).recipe
    assert "texts" not in survey_data(plain, {"task": [(task, None)]})["task"]["films"]


def test_shots_that_no_split_has_are_refused_before_the_next_is_read(films: Path) -> None:
    task = Task.load(films, ("shots=1000",))
    assert len(read_splits(Task.load(films, ("shots=3",))).train) == 60  # digests are of whole splits
    (films.parent / "validation.jsonl").unlink()
    with pytest.raises(DataError, match="1000 shots per class were asked for"):
        read_splits(task)
    with pytest.raises(DataError, match=r"validation\.jsonl"):
        read_splits(dataclasses.replace(task, spec=dataclasses.replace(task.spec, shots=3)))


def test_no_split_is_kept_while_another_tasks_are_read(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[weakref.ref[splits.Splits]] = []

    def note(task: Task) -> splits.Splits:
        assert not any(reference() for reference in kept)
        made = read_splits(task)
        assert any(example.label == NONE_OF_THESE for example in made.rows)
        kept.append(weakref.ref(made))
        return made

    monkeypatch.setattr(splits, "read_splits", note)
    task = Task.load(films)
    survey_data(task.spec, {"tasks": [(task, None)], "beside": [(task, 3)]})
    assert len(kept) == 2
