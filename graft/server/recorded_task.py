"""The task that a patch records, as far as it reads labels off texts; a stranger's patch may say anything of it."""

from __future__ import annotations

import dataclasses
from typing import Any

from graft.errors import ConfigError
from graft.patch.skill_patch import Patch
from graft.specs.head import SECOND, HeadSpec
from graft.specs.reader import read_config
from graft.specs.task import TaskSpec

MOST_LABELS, MOST_TOKENS = 1000, 2**13  # of a task; of a text, however long a stranger's patch says it may be
MOST_CHARACTERS = 2**16  # of a task's labels with their texts and words, the template counted once a label
_NO_DATA = dict.fromkeys(("train", "validation", "test"), "none")
_PLACES = ("{}", "{text}", "{text_a}", SECOND)
_KEYS = {field.name for field in dataclasses.fields(HeadSpec)} - {"answer", "max_new_tokens"}


def read_task(patch: Patch) -> TaskSpec:
    """Read the task that a patch was cut for.

    Raises:
        ConfigError: it records none whose labels could be read off a text; the line says why.
    """
    task = patch.provenance.task or {}
    head, labels = task.get("head"), task.get("labels")
    if not isinstance(head, dict) or "kind" not in head:
        raise ConfigError("the patch records no head (--task NAME=TASK gives it one)")
    if not isinstance(labels, list | tuple) or not 2 <= len(labels) <= MOST_LABELS:
        raise ConfigError(f"the patch records no labels, or more than {MOST_LABELS:,} (--task NAME=TASK gives it some)")
    block: dict[str, Any] = {
        "name": str(task.get("name") or "task")[:80],
        "data": _NO_DATA,
        "labels": list(labels),
        "head": {key: value for key, value in head.items() if key in _KEYS},
    }
    if _reads_pairs(head):
        block["text"] = ["text_a", "text_b"]
    if task.get("choices") is not None:
        block["choices"] = str(task["choices"])
    if task.get("max_length") is not None:  # patches of earlier versions do not say it
        block["max_length"] = task["max_length"]
    spec = check_task(read_config(TaskSpec, block, "the patch's task"))
    _require_short(spec)
    return dataclasses.replace(spec, max_length=min(spec.max_length, MOST_TOKENS))


def check_task(spec: TaskSpec) -> TaskSpec:
    """Refuse a task whose logits are no labels' of a text alone.

    Raises:
        ConfigError: rows have choices of their own, or the head no labels.
    """
    if not spec.has_classes:
        kind = f"head.kind {spec.head.kind}" + ("" if spec.choices is None else " with choices of each row's own")
        raise ConfigError(f"{kind} has no labels that every text can be given")
    return spec


def _require_short(spec: TaskSpec) -> None:
    """Refuse texts of a task that every request would pay for: long ones, and those that repeat a row's text."""
    head = spec.head
    written = [*spec.labels, *(head.texts or ()), *(head.words or ()), head.system or ""]
    n_characters = sum(map(len, written)) + len(spec.labels) * len(head.pattern)
    if n_characters > MOST_CHARACTERS:
        raise ConfigError(
            f"the patch's labels, with their texts and the template, have {n_characters:,} characters, "
            f"more than {MOST_CHARACTERS:,}"
        )
    for text in (head.pattern, *(head.texts or ())):
        if repeated := [place for place in _PLACES if text.count(place) > 1]:
            raise ConfigError(f"the patch's task: {text[:40]!r} holds the place {repeated[0]} more than once")


def _reads_pairs(head: dict[str, Any]) -> bool:
    template, texts = head.get("template"), head.get("texts")
    texts = texts if isinstance(texts, list | tuple) else ()
    return "{text_a}" in str(template) or any(SECOND in str(text) for text in texts)
