from __future__ import annotations

import json
from pathlib import Path

import pytest

from graft.recipes.copies import tell_copies
from graft.recipes.splits import read_splits
from graft.tasks import loading
from graft.tasks.task import Task
from tests.recipes.toy_tasks import write_toy_tasks


def test_rows_that_training_has_seen_are_counted_by_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_told", set())
    write_toy_tasks(tmp_path)
    task, folder = Task.load(tmp_path / "films" / "task.yaml", ("shots=3",)), tmp_path / "films"
    texts = {json.loads(line)["text"] for line in (folder / "train.jsonl").read_text().splitlines()}
    for name in ("validation", "test"):  # new texts alone, since the toy sentences repeat
        rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        new = [{**row, "text": f"{row['text']} {number} {name}"} for number, row in enumerate(rows)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in new))
    tell_copies_of(task)
    assert "of validation" not in (said := capsys.readouterr().err)
    assert "of test" not in said
    file = folder / "test.jsonl"
    file.write_text(file.read_text() + json.dumps({"text": min(texts), "label": 0}) + "\n")
    tell_copies_of(task)
    n = len(file.read_text().splitlines())
    assert f"films: 1 of {n} rows of test are in the training split too" in capsys.readouterr().err


def tell_copies_of(task: Task) -> None:
    splits = read_splits(task)
    tell_copies(task.spec.name, splits.train, splits.measured)
