"""Sharing of one loaded model by the heads of several tasks."""

from __future__ import annotations

from graft.errors import ConfigError
from graft.specs.task import TaskSpec
from graft.tasks.head import Head


def share_model(head: Head, task: TaskSpec) -> Head:
    """Return a head for another task on the same loaded model; training one trains both.

    Raises:
        ConfigError: the task's head is put on another kind of model, or has a layer of its own.
    """
    kind, entry = head.task.head.kind, task.head.entry
    if head.kind_of_model not in entry.models or entry.own_layer is not None:
        raise ConfigError(
            f"tasks {head.task.name!r} ({kind}) and {task.name!r} ({task.head.kind}) cannot share a model: "
            "heads on one kind of model can, and none with a layer of its own"
        )
    made: Head = entry.load().on(head, task)
    made.ranks = head.ranks
    return made


def can_share(task: TaskSpec, other: TaskSpec) -> bool:
    """Return whether the heads of two tasks can be on one model, as far as can be told before it is loaded."""
    entry = other.head.entry
    return entry.own_layer is None and not set(task.head.entry.models).isdisjoint(entry.models)
