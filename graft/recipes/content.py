"""Content of a run: all that its metrics depend on, so that an unfinished run goes on with the same or not at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graft.specs.reader import to_plain
from graft.tasks.task import Task
from graft.train.content import (
    Content,
    content_of_base,
    content_of_task,
    describe_settings,
    digest_of_examples,
    hash_named_files,
)
from graft.version import __version__

# keys of a recipe: paths, whose content counts instead, and what is compared with the metrics afterwards
_ASIDE = ("base", "task", "tasks", "beside", "general", "domains", "drift", "expect", "hardware", "minutes")

Used = tuple[Task, int | None]  # and how many rows of its test split


def content_of_run(recipe: Any, base: Path, tasks: Mapping[str, Sequence[Used]], dtype: str) -> Content:
    """Return all that the metrics of a recipe depend on; every bit of the base and every row of the data is read.

    Args:
        recipe: of whatever kind, as typed blocks.
        base: its folder.
        tasks: the recipe's key -> the tasks that it names, in order.
        dtype: as asked for.

    Raises:
        CheckpointError, DataError: base or data cannot be read.
    """
    plain = to_plain(recipe)
    blocks = {key: value for key, value in hash_named_files(plain).items() if key not in _ASIDE}
    fits = "refit" in blocks or "extract" in blocks
    if "general" in plain:  # all else that these blocks say is in their tasks' content
        blocks["replay"] = [isinstance(use, str) or use.get("replay", True) for use in plain["general"]]
    if "start" in blocks:
        blocks["start"] = {key: value for key, value in blocks["start"].items() if key != "task"}
    order = {key: [task.spec.name for task, _ in used] for key, used in tasks.items()}
    contents = {
        key: {task.spec.name: _content_of(task, limit, base, dtype, fits=fits) for task, limit in tasks[key]}
        for key in tasks
    }
    content: Content = {"tool": __version__, "recipe": blocks, "dtype": dtype, "order": order, **contents}
    return content | {"base": content_of_base(base)}


def _content_of(task: Task, limit: int | None, base: Path, dtype: str, *, fits: bool) -> Content:
    """Return the content of a task for every seed: training draws from whole splits, refits from all texts."""
    unsampled = dataclasses.replace(task, spec=dataclasses.replace(task.spec, shots=None))
    reported = {"test": task.test_examples(limit), **{name: task.ood_examples(name) for name in task.spec.ood}}
    texts = {"texts": digest_of_examples(task.training_texts())} if fits else {}
    return {
        **content_of_task(unsampled),
        **texts,
        "shots": task.spec.shots,
        "train": describe_settings(task.spec.train, base, dtype),
        **{f"{name} examples": digest_of_examples(examples) for name, examples in reported.items()},
    }
