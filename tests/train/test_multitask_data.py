"""Several tasks in one training: every batch is of one, all are met, and one alone is as it ever was."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest

from graft.errors import ConfigError
from graft.evaluate.evaluation import evaluate_task
from graft.files.training_manifest import MANIFEST
from graft.specs.head import HeadSpec
from graft.specs.train import TrainSpec
from graft.tasks.task import Task
from graft.train.fine_tuning import find_training, train_task
from graft.train.schedule import TrainingSchedule
from tests.models import FILMS, toy_rows, write_rows, write_task


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    """The moods of films, and whether a sentence is long."""
    folder = tmp_path_factory.mktemp("tasks")
    moods = Task.load(write_task(folder / "moods", ood={}, shots=32))
    texts = ["the film is one", "the film and the actor and the plot and the scene"]
    path = write_task(folder / "long", name="long", ood={}, shots=16, labels=["short", "long"])
    for seed, split in enumerate(("train", "validation", "test"), start=9):
        rows = [row | {"label": int(len(row["text"].split()) > 6)} for row in toy_rows(120, seed, FILMS)]
        write_rows(path.parent / f"{split}.jsonl", rows)
    long = Task.load(path)
    head = HeadSpec(texts=tuple(texts))
    return [moods, dataclasses.replace(long, spec=dataclasses.replace(long.spec, head=head))]


def test_every_batch_is_of_one_task_and_an_epoch_meets_every_example() -> None:
    schedule = TrainingSchedule((10, 7, 3), TrainSpec(epochs=2, batch_size=4), seed=5)
    assert (schedule.steps_per_epoch, schedule.steps) == (6, 12)
    for epoch in (0, 1):
        batches = schedule.batches(epoch)
        assert [batch.step for batch in batches] == list(range(6 * epoch, 6 * epoch + 6))
        met = Counter((batch.task, i) for batch in batches for i in batch.positions)
        assert met == Counter((task, i) for task, n in enumerate(schedule.sizes) for i in range(n))
    orders = {tuple(batch.task for batch in schedule.batches(epoch)) for epoch in range(8)}
    assert len(orders) > 1  # tasks take turns at random, not one after another


def test_one_model_learns_both(base: Path, tasks: list[Task], tmp_path: Path) -> None:
    config = dataclasses.replace(tasks[0].spec.train, epochs=6)
    both = train_task(base, tasks, tmp_path / "both", config=config)
    before = [evaluate_task(base, task)["accuracy"] for task in tasks]
    after = [evaluate_task(both.path, task)["accuracy"] for task in tasks]
    assert all(new > old + 0.1 for new, old in zip(after, before, strict=True))
    record = json.loads((both.path / MANIFEST).read_text())
    assert [task["name"] for task in record["task"]] == ["moods", "long"]
    assert find_training(base, tasks, both.path, config=config) is not None
    assert find_training(base, tasks[:1], both.path, config=config) is None
    assert find_training(base, tasks[::-1], both.path, config=config) is None


def test_a_list_of_one_is_the_one(base: Path, tasks: list[Task], tmp_path: Path) -> None:
    config = dataclasses.replace(tasks[0].spec.train, epochs=1)
    alone = [train_task(base, given, tmp_path / name, config=config).path for name, given in
             (("a", tasks[0]), ("b", tasks[:1]))]  # fmt: skip
    assert (alone[0] / "model.safetensors").read_bytes() == (alone[1] / "model.safetensors").read_bytes()
    assert (alone[0] / MANIFEST).read_text() == (alone[1] / MANIFEST).read_text()


def test_tasks_that_cannot_share_a_model_are_refused(base: Path, tasks: list[Task], tmp_path: Path) -> None:
    spec = dataclasses.replace(tasks[1].spec, head=HeadSpec("classifier"))
    other = dataclasses.replace(tasks[1], spec=spec)
    for given in ([tasks[0], other], [other, other]):
        with pytest.raises(ConfigError, match=r"cannot share a model: heads on one kind of model can"):
            train_task(base, given, tmp_path / "out")
    with pytest.raises(ConfigError, match="no task to train on"):
        train_task(base, [], tmp_path / "out")
    assert not list(tmp_path.iterdir())
