from __future__ import annotations

import itertools
import json
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from graft.recipes.run import load_experiment
from graft.specs.reader import load_yaml
from graft.tasks.task import Task

RECIPES = Path(__file__).parents[2] / "recipes"
STARTERS = sorted((RECIPES / "starter").iterdir())
TASKS = sorted([*RECIPES.glob("starter/*/task.yaml"), *RECIPES.glob("tasks/*.yaml")])
EXPERIMENTS = sorted(RECIPES.glob("*.yaml"))
MIRROR = Path(os.environ.get("GRAFT_DATA", RECIPES.parents[1] / "shared" / "data"))


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(RECIPES)) for path in paths]


def read_texts(folder: Path) -> list[str]:
    lines = [line for file in sorted(folder.glob("*.jsonl")) for line in file.read_text(encoding="utf-8").splitlines()]
    return [json.loads(line)["text"] for line in lines]


def overlaps(texts: list[str]) -> np.ndarray:
    """(n, n) Jaccard similarity of the sets of words, the diagonal left out."""
    words = [set(re.findall(r"[\w']+", text.lower())) for text in texts]
    position = {word: i for i, word in enumerate(sorted(set().union(*words)))}
    held = np.zeros((len(texts), len(position)), np.float32)
    for row, found in enumerate(words):
        held[row, [position[word] for word in found]] = 1
    common = held @ held.T
    sizes = held.sum(1)
    jaccard = common / np.maximum(sizes[:, None] + sizes[None, :] - common, 1)
    np.fill_diagonal(jaccard, 0)
    return np.asarray(jaccard)


def test_there_are_three_starters_and_the_quickstart() -> None:
    assert [path.name for path in STARTERS] == ["requests", "reviews", "topics"]
    assert "quickstart.yaml" in names(EXPERIMENTS)


@pytest.mark.parametrize("starter", STARTERS, ids=[path.name for path in STARTERS])
def test_the_counts_are_those_of_the_readme_and_every_class_has_as_many(starter: Path) -> None:
    task = Task.load(starter / "task.yaml")
    data, n_labels = task.spec.data, len(task.spec.labels)
    splits = {str(data.train): None, str(data.validation): None, str(data.test): None} | {
        str(place): name for name, place in task.spec.ood.items()
    }
    promised = dict(re.findall(r"^\| `(\w+\.jsonl)` +\| +(\d+) ", (starter / "README.md").read_text(), re.MULTILINE))
    assert set(promised) == set(splits) == {file.name for file in starter.glob("*.jsonl")}
    whole = Task.load(starter / "task.yaml", ("shots=null",))
    for file, name in splits.items():
        draw = {str(data.train): whole.train_examples, str(data.validation): whole.validation_examples}
        examples = whole.ood_examples(name) if name else draw.get(file, whole.test_examples)()
        assert len(examples) == int(promised[file]), file
        counts = Counter(example.label for example in examples)
        novel = set(counts) == {-1}
        assert novel or counts == dict.fromkeys(range(n_labels), len(examples) // n_labels), file


@pytest.mark.parametrize("starter", STARTERS, ids=[path.name for path in STARTERS])
def test_no_two_texts_are_nearly_the_same(starter: Path) -> None:
    texts = read_texts(starter)
    assert len(texts) > 600
    assert overlaps([*texts, "really " + texts[0]]).max() > 0.6  # the measure would see it
    jaccard = overlaps(texts)
    assert jaccard.max() <= 0.6, [texts[i] for i in np.unravel_index(jaccard.argmax(), jaccard.shape)]


def test_no_text_is_shared_between_starters() -> None:
    sets = [set(read_texts(starter)) for starter in STARTERS]
    assert all(left.isdisjoint(right) for left, right in itertools.combinations(sets, 2))


@pytest.mark.parametrize("path", TASKS, ids=names(TASKS))
def test_every_task_file_loads_and_its_data_where_they_are_here(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_DATA", str(MIRROR))
    task = Task.load(path)
    assert task.spec.name
    if not isinstance(task.spec.data.train, str) and not MIRROR.is_dir():
        pytest.skip("needs a local mirror of the datasets")
    assert task.train_examples()
    assert task.validation_examples()
    assert task.test_examples()
    assert all(task.ood_examples(name) for name in task.spec.ood)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=names(EXPERIMENTS))
def test_every_recipe_loads_and_says_what_it_ran_on(path: Path) -> None:
    experiment = load_experiment(path)
    assert len(experiment.tasks) >= len(experiment.files)
    assert all((path.parent / file).is_file() for file in experiment.files)
    assert all(task.spec.name for task in experiment.tasks)
    assert experiment.recipe.hardware
    assert load_yaml(path)["name"] == path.stem
