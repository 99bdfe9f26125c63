"""The order of labels in a classifier's head, from configs and patches, matched with the task's labels.

Only the reading of outputs depends on it; weights stay as the files have them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.errors import CheckpointError
from graft.files.model_config import architecture_in, read_model_config
from graft.patch.skill_patch import Patch
from graft.specs.task import TaskSpec
from graft.tasks.registry import HEADS

_OTHER_HEADS = {  # suffixes of transformers' names for architectures that are no classifiers of texts
    "TokenClassification": "labels every token",
    "QuestionAnswering": "marks an answer in a text",
    "MultipleChoice": "has one row for all choices",
    "NextSentencePrediction": "tells whether a sentence follows",
    "ImageClassification": "classifies pictures",
    "AudioClassification": "classifies sounds",
}


@dataclass(frozen=True)
class RowNames:
    """Names of a head's rows from a source other than its model's own config.

    Attributes:
        names: in the order of the rows.
        where: the source, for a message.
        replaces: the rows themselves come from there too, and replace the model's own.
    """

    names: tuple[str, ...]
    where: str
    replaces: bool


@dataclass(frozen=True)
class Rows:
    """The rows of a head with their order for a task.

    Attributes:
        names: in the order of the rows.
        order: for each of the task's labels, its row.
        where: the source, for a message.
    """

    names: tuple[str, ...]
    order: tuple[int, ...]
    where: str


def read_rows(path: Path, labels: Sequence[str], other: RowNames | None) -> Rows | None:
    """Read the rows of a folder's own head; None where it has none by its config.

    Args:
        path: the folder.
        labels: the task's.
        other: names from another source, which must agree, and count where the config has none.

    Raises:
        CheckpointError: the head is for other labels, or of another kind than one of several labels for each text.
    """
    names = row_names(path)
    return None if names is None else match_rows(names, labels, other, path.name)


def match_rows(names: tuple[str, ...], labels: Sequence[str], other: RowNames | None, where: str) -> Rows:
    """Match the rows of a model's own head with a task's labels.

    Args:
        names: of the rows, as the model's config gives them.
        labels, other: as in `read_rows`.
        where: the model, for a message.

    Raises:
        CheckpointError: the head is for other labels.
    """
    if _are_default(names):
        ordered = tuple(labels) if other is None else other.names
        if len(ordered) == len(names):
            return Rows(ordered, find_rows(ordered, labels, where if other is None else other.where), where)
    order = find_rows(names, labels, where)
    if other is not None and find_rows(other.names, labels, other.where) != order:
        raise CheckpointError(
            f"{where} has its head's labels in the order {', '.join(names)}, "
            f"and {other.where} in the order {', '.join(other.names)}"
        )
    return Rows(names, order, where)


def row_names(path: Path) -> tuple[str, ...] | None:
    """Read the names that a folder's config gives the rows of its head; None where it has no head.

    LABEL_0, LABEL_1, … are transformers' names for rows without names.

    Raises:
        CheckpointError: the head is of another kind than one of several labels for each text, or the config
            contradicts itself.
    """
    where, config = path.name, read_model_config(path)
    named = architecture_in(path) or ""
    for kind, fact in _OTHER_HEADS.items():
        if named.endswith(f"For{kind}"):
            raise CheckpointError(f"{where}: its config names {named}, whose head {fact}: no classifier of texts")
    names = _names_in(config, where)
    if not named.endswith("ForSequenceClassification") and (named or _are_default(names)):
        return None
    if (problem := config.get("problem_type")) not in (None, "single_label_classification"):
        raise CheckpointError(f"{where}: its head is for {problem}, not for one of several labels")
    if len(names) < 2:
        raise CheckpointError(f"{where}: its head has one output, as for regression, not one of several labels")
    return names


def has_head(path: Path) -> bool:
    """Return whether a folder has a head of any kind by its config."""
    try:
        return row_names(path) is not None
    except CheckpointError:
        return True


def find_rows(names: Sequence[str], labels: Sequence[str], where: str) -> tuple[int, ...]:
    """Return, for each of the task's labels, the row of that name, or its own position where rows have no names.

    Names are compared exactly first, then without regard to case and outer space.

    Raises:
        CheckpointError: the names are not the task's labels; both lists are named.
    """
    if _are_default(names) and len(names) == len(labels):
        return tuple(range(len(labels)))
    for normalize in (str, lambda name: name.strip().casefold()):
        rows = {normalize(name): row for row, name in enumerate(names)}
        wanted = [normalize(label) for label in labels]
        if len(rows) == len(names) == len(set(wanted)) and rows.keys() == set(wanted):
            return tuple(rows[name] for name in wanted)
    raise CheckpointError(f"{where}: its head has the labels {', '.join(names)}, and the task has {', '.join(labels)}")


def are_rows_of(labels: Sequence[str], rows: Sequence[int], names: Sequence[str]) -> bool:
    """Return whether a head whose rows have these names has each label at its row; any may be where rows have none."""
    try:
        found = find_rows(names, labels, "")
    except CheckpointError:
        return False
    return _are_default(names) or found == tuple(rows)


def rows_in(patches: Sequence[Patch], task: TaskSpec) -> RowNames | None:
    """Return the names that patches give the rows of a head with a layer of its own; None where they give none.

    Raises:
        CheckpointError: two of them say different things.
    """
    if task.head.entry.own_layer is None:
        return None
    with_heads = [patch for patch in patches if patch.dense]  # their heads replace the model's
    orders = {names for patch in with_heads or patches if (names := _names_of(patch))}
    if len(orders) > 1:
        lists = " and ".join(", ".join(names) for names in sorted(orders))
        raise CheckpointError(f"the patches are for heads with different labels, or the same in another order: {lists}")
    return RowNames(orders.pop(), "the patch", bool(with_heads)) if orders else None


def _names_of(patch: Patch) -> tuple[str, ...] | None:
    """Return the labels that a patch names; in a patch from elsewhere the task may hold anything."""
    task = patch.provenance.task or {}
    labels, head = task.get("labels"), task.get("head")
    kind = str(head.get("kind")) if isinstance(head, dict) else ""
    owns_layer = bool(patch.dense) or (kind in HEADS and HEADS[kind].own_layer is not None)
    if not owns_layer or not isinstance(labels, (list, tuple)) or not all(isinstance(x, str) for x in labels):
        return None
    return tuple(labels) or None


def labels_in(path: Path) -> tuple[str, ...] | None:
    """Return the names that a folder's config gives its head's outputs, of any kind; None without names."""
    try:
        names = _names_in(read_model_config(path), path.name)
    except CheckpointError:
        return None
    return None if _are_default(names) else names


def _names_in(config: dict[str, Any], where: str) -> tuple[str, ...]:
    """Read names from id2label, or from label2id where only that has any."""
    by_row, by_name = (config.get(key) or {} for key in ("id2label", "label2id"))
    if not isinstance(by_row, dict) or not isinstance(by_name, dict):
        raise CheckpointError(f"{where}: id2label and label2id of its config are no tables of labels")
    count = config.get("num_labels", 2)  # the library's own default, which it does not write
    names = _in_order(by_row.items(), where) or tuple(
        f"LABEL_{row}" for row in range(count if type(count) is int else 2)
    )
    other = _in_order(((row, name) for name, row in by_name.items()), where)
    if _are_default(other) or other == names:
        return names
    if _are_default(names) and len(other) == len(names):
        return other
    raise CheckpointError(
        f"{where}: its config contradicts itself: id2label has {', '.join(names)}, label2id {', '.join(other)}"
    )


def _in_order(pairs: Iterable[tuple[Any, Any]], where: str) -> tuple[str, ...]:
    by_row = {str(row): str(name) for row, name in pairs}
    if by_row.keys() != {str(row) for row in range(len(by_row))}:
        raise CheckpointError(f"{where}: its config numbers labels {', '.join(by_row)}, not from 0 without a gap")
    return tuple(by_row[str(row)] for row in range(len(by_row)))


def _are_default(names: Sequence[str]) -> bool:
    return all(name == f"LABEL_{row}" for row, name in enumerate(names))
