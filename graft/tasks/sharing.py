"""Sharing of one loaded model by the heads of several tasks, and of one head by several threads."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any, TypeVar

from graft.errors import ConfigError
from graft.specs.task import TaskSpec
from graft.tasks.head import Head
from graft.tasks.prompt import PromptEncoder

Reader = TypeVar("Reader", bound=Head | PromptEncoder)


def share_model(head: Head, task: TaskSpec) -> Head:
    """Return a head for another task on the same loaded model; training one trains both.

    Raises:
        ConfigError: the task's head is put on another kind of model, or has a layer of its own.
    """
    if not can_share(head, task):
        raise ConfigError(
            f"tasks {head.task.name!r} ({head.task.head.kind}) and {task.name!r} ({task.head.kind}) cannot share a "
            "model: heads on one kind of model can, and none with a layer of its own"
        )
    made: Head = task.head.entry.load().on(head, task)
    made.ranks = head.ranks
    return made


def with_tokenizer(reader: Reader, tokenizer: Any) -> Reader:
    """Return a head, or prompts, that encode by a copy of their tokenizer, as another thread must; all else is shared.

    A tokenizer cannot be used by two threads at once.
    """
    other = copy.copy(reader)
    for name, part in vars(reader).items():
        if part is reader.tokenizer:
            setattr(other, name, tokenizer)
        elif isinstance(part, Head | PromptEncoder):
            setattr(other, name, with_tokenizer(part, tokenizer))
    return other


def can_share(head: Head, task: TaskSpec) -> bool:
    """Return whether a task's head can be on the model that another head is on."""
    return _can_be_on([head.kind_of_model], task)


def could_share(task: TaskSpec, other: TaskSpec) -> bool:
    """Return whether the heads of two tasks can be on one model, as far as can be told before it is loaded."""
    return _can_be_on(task.head.entry.models, other)


def _can_be_on(models: Collection[str], task: TaskSpec) -> bool:
    entry = task.head.entry
    return entry.own_layer is None and not set(models).isdisjoint(entry.models)
