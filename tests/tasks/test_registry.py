from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from graft.errors import ConfigError
from graft.evaluate.evaluation import evaluate_task
from graft.specs.head import HeadSpec
from graft.specs.reference import describe_blocks
from graft.tasks.head import Head
from graft.tasks.registry import HEADS
from graft.tasks.task import Task
from tests.models import write_task
from tests.tasks.toy_head import ROW


@pytest.mark.parametrize("name", HEADS)
def test_a_row_names_a_head_and_keys_that_the_block_has(name: str) -> None:
    entry, base = HEADS[name], inspect.signature(Head.load).parameters
    kind = entry.load()
    assert issubclass(kind, Head)
    assert inspect.signature(kind.load).parameters.keys() == base.keys()
    assert set(entry.keys) <= set(HeadSpec.__dataclass_fields__) - {"kind"}
    assert entry.slot is None or entry.slot in (entry.template or entry.example)


def kinds_in_reference() -> str:
    return next(f"{row.type}; {row.meaning}" for row in describe_blocks()["TASK: head"] if row.key == "kind")


def test_a_head_of_one_file_and_one_row_is_read_evaluated_refused_and_described(base: Path, tmp_path: Path) -> None:
    path = write_task(tmp_path, head={"kind": "length", "words": ["short", "long"]})
    with pytest.raises(ConfigError, match=r"head: kind: must be one of similarity, .*, lm, completion, not 'length'"):
        Task.load(path)
    with pytest.raises(ValueError, match=r"kind must be one of similarity, .*, lm, completion, not 'length'"):
        HeadSpec("length")
    assert "length" not in kinds_in_reference()
    with HEADS.extended(ROW):
        task = Task.load(path)
        last = [example.label == 1 for example in task.test_examples(8)]
        assert evaluate_task(base, task, limit=8)["accuracy"] == sum(last) / 8
        with pytest.raises(ConfigError, match=r"head: template goes with kind similarity .*, not with length"):
            Task.load(write_task(tmp_path / "other", head={"kind": "length", "template": "{}"}))
        with pytest.raises(ConfigError, match="words goes with kind verbalizer and length, not with lm"):
            Task.load(write_task(tmp_path / "lm", head={"kind": "lm", "words": ["a"]}, labels=[]))
        with pytest.raises(ConfigError, match=r"must be one of similarity, .*, lm, completion, length, not 'luck'"):
            Task.load(write_task(tmp_path / "luck", head={"kind": "luck"}))
        assert "length: the length of the text in tokens" in kinds_in_reference()
        assert kinds_in_reference().startswith(
            "one of similarity, classifier, verbalizer, choice, lm, completion, length"
        )
