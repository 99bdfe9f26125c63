"""Content of a run: all that its metrics depend on, so that an unfinished run goes on with the same or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graft.specs.reader import to_plain
from graft.tasks.task import Task
from graft.train.content import Content, content_of_base, describe_settings, describe_task, hash_named_files
from graft.version import __version__

# keys of a recipe: paths, whose content counts instead, and what is compared with the metrics afterwards
_ASIDE = ("base", "task", "tasks", "beside", "general", "domains", "drift", "expect", "hardware", "minutes")

Used = tuple[Task, int | None]  # and how many rows of its test split
Digests = Mapping[str, str]  # of a task's examples, split by split


def content_of_run(
    recipe: Any,
    base: Path,
    tasks: Mapping[str, Sequence[Used]],
    digests: Mapping[str, Mapping[str, Digests]],
    dtype: str,
) -> Content:
    """Return all that the metrics of a recipe depend on; every bit of the base is read.

    Args:
        recipe: of whatever kind, as typed blocks.
        base: its folder.
        tasks: the recipe's key -> the tasks that it names, in order.
        digests: of their data, by key and task (`graft.recipes.splits.survey_data`).
        dtype: as asked for.

    Raises:
        CheckpointError: the base cannot be read.
    """
    plain = to_plain(recipe)
    blocks = {key: value for key, value in hash_named_files(plain).items() if key not in _ASIDE}
    if "general" in plain:  # all else that these blocks say is in their tasks' content
        blocks["replay"] = [isinstance(use, str) or use.get("replay", True) for use in plain["general"]]
    if "start" in blocks:
        blocks["start"] = {key: value for key, value in blocks["start"].items() if key != "task"}
    order = {key: [task.spec.name for task, _ in used] for key, used in tasks.items()}
    contents = {
        key: {task.spec.name: _content_of(task, digests[key][task.spec.name], base, dtype) for task, _ in used}
        for key, used in tasks.items()
    }
    content: Content = {"tool": __version__, "recipe": blocks, "dtype": dtype, "order": order, **contents}
    return content | {"base": content_of_base(base)}


def fits_texts(recipe: Any) -> bool:
    """Return whether a recipe fits values on the texts of training splits, all of which count then, without labels."""
    return not {"refit", "extract"}.isdisjoint(to_plain(recipe))


def _content_of(task: Task, digests: Digests, base: Path, dtype: str) -> Content:
    """Return the content of a task for every seed: training draws from whole splits, refits from all texts."""
    settings = {"shots": task.spec.shots, "train": describe_settings(task.spec.train, base, dtype)}
    return {**describe_task(task.spec), **settings, **digests}
