"""The task that a patch records: what a stranger may say of it, and what is taken over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graft.errors import ConfigError
from graft.localize.localization import localize_skill
from graft.patch.format.reading import load_patch
from graft.server.recorded_task import read_task
from graft.specs.localize import LocalizeSpec
from graft.tasks.task import Task
from tests.models import write_task
from tests.server.conftest import TASK, with_task


@pytest.fixture
def record(patches: dict[str, Path]) -> Any:
    """What is read of a patch that records something else in some keys of its task."""
    patch = load_patch(patches["noise"])
    return lambda **changes: read_task(with_task(patch, TASK | changes))


def test_texts_are_read_as_far_as_where_the_patch_was_made(shelf: Path, tmp_path: Path) -> None:
    task = Task.load(write_task(tmp_path / "toy", max_length=20))
    patch = localize_skill(shelf / "base", shelf / "tuned", task, LocalizeSpec("magnitude", budget=20))
    assert read_task(patch).max_length == 20


@pytest.mark.parametrize(("recorded", "taken"), [(None, 128), (1, 1), (300, 300), (10**9, 8192)])
def test_a_length_is_bounded_and_may_be_absent(recorded: int | None, taken: int, record: Any) -> None:
    assert record(max_length=recorded).max_length == taken
    assert record().max_length == 128


@pytest.mark.parametrize("recorded", ["long", 0, -3, 2.5, [128], True])
def test_what_is_no_length_is_refused(recorded: Any, record: Any) -> None:
    with pytest.raises(ConfigError, match="the patch's task: max_length"):
        record(max_length=recorded)


@pytest.mark.parametrize(
    "head",
    [
        {"kind": "similarity", "texts": ["{text_b} and {text_b}", "good"]},
        {"kind": "similarity", "template": "{} or {}"},
        {"kind": "verbalizer", "template": "{text} {text} It was {mask}."},
        {"kind": "verbalizer", "template": "{text_a} {text_b} {text_a} {mask}"},
    ],
)
def test_a_rows_text_has_one_place(head: dict[str, Any], record: Any) -> None:
    with pytest.raises(ConfigError, match="more than once"):
        record(head=head)


@pytest.mark.parametrize(
    "task",
    [
        {"head": {"kind": "similarity", "texts": ["bad" * 30_000, "good"]}},
        {"head": {"kind": "similarity", "template": "It is {}." + "!" * 40_000}},
        {"head": {"kind": "similarity"}, "labels": ["sad", "glad" * 20_000]},
        {"head": {"kind": "verbalizer", "template": "{text} {mask}", "words": ["bad", "good" * 20_000]}},
        {"head": {"kind": "similarity", "template": "{} " + "x" * 100}, "labels": [str(i) for i in range(1000)]},
    ],
)
def test_what_every_request_would_pay_for_is_short(task: dict[str, Any], record: Any) -> None:
    with pytest.raises(ConfigError, match="characters, more than 65,536"):
        record(**task)


def test_a_thousand_labels_in_a_template_are_short_enough(record: Any) -> None:
    labels = [f"the name of label {i}" for i in range(1000)]
    assert len(record(head={"kind": "similarity", "template": "This text is about {}."}, labels=labels).labels) == 1000
