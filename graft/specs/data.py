"""The block `data` of a TASK file: where the rows of each split are."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graft.specs.block import Block

ANSWER_COLUMNS = ("prompt", "completion", "messages")  # keys of the completion head, for columns of the same name
MIRROR = "GRAFT_DATA"  # the environment's variable for the folder of a local mirror


@dataclass(frozen=True)
class SplitSpec(Block):
    """The rows of one split, and how they differ from the task's own.

    Attributes:
        path: a local jsonl, json, csv or parquet file, relative to the TASK file, or the Hub id of a dataset.
        name: configuration of a Hub dataset.
        split: split of a Hub dataset, such as "train".
        revision: revision of a Hub dataset; its newest where absent.
        text: column of the text, or the two columns of a pair's texts; the task's where absent.
        label: column of the label; the task's where absent.
        prompt, completion, messages: columns of the completion head; the task's where absent.
        choices: column of a row's choices, or several columns of one text each; the task's where absent.
        labels: label names of this file, in the order of its positions; the task's where absent. For a task with
            choices it may be the column in which each row names its own. A Hub dataset's nested columns have dots in
            their names.
        map: this file's label name -> the task's; null means "none of these" (-1).
        skip_blank: leave out rows without text, which corpora of lines have.
        local: the file that stands in for the dataset in a local mirror (`--data-root`, GRAFT_DATA), relative to the
            mirror. It has the task's own columns and labels: nothing else that this entry says applies to it.
    """

    path: str
    name: str | None = None
    split: str | None = None
    text: str | tuple[str, ...] | None = None
    label: str | None = None
    choices: str | tuple[str, ...] | None = None
    labels: str | tuple[str, ...] | None = None
    map: Mapping[str, str | None] = field(default_factory=dict)
    revision: str | None = None
    skip_blank: bool = False
    local: str | None = None
    prompt: str | None = None
    completion: str | None = None
    messages: str | None = None

    def check_for(
        self,
        *,
        text: str | tuple[str, ...],
        choices: str | None,
        labels: tuple[str, ...],
        has_classes: bool,
        answers: Sequence[str] = (),
    ) -> None:
        """Refuse what would mean nothing beside the rest of the TASK file, and so be ignored.

        Args:
            text: the task's column, or two columns, of texts.
            choices: the task's column of choices.
            labels: the task's label names.
            has_classes: whether a label of the task means the same in every row.
            answers: which of prompt, completion and messages the task reads.

        Raises:
            ValueError: it does not go together; the message says why.
        """
        if not self.path or re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", self.path):
            raise ValueError(f"path: {self.path!r} is not the name of a file or dataset")
        own = self.text or text
        if (1 if isinstance(own, str) else len(own)) != (1 if isinstance(text, str) else 2):
            raise ValueError("text must be as many columns as the task's: one, or two for a pair")
        for key in ANSWER_COLUMNS:
            if getattr(self, key) is not None and key not in answers:
                raise ValueError(f"{key} is no column that the task reads")
        if answers and self.text is not None:
            raise ValueError(f"text is no column that the task reads: {' and '.join(answers)} are")
        if self.choices is not None and choices is None:
            raise ValueError("choices is a column of tasks with choices, and the task names none")
        if isinstance(self.labels, str) and choices is None:
            raise ValueError("labels must be a list of names, or for a task with choices the column that names them")
        if not isinstance(self.labels, str | None) and len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must be different names")
        if self.map and not has_classes:
            raise ValueError("map goes with tasks whose labels are classes")
        for name, mapped in self.map.items():
            _require(name, tuple(self.labels or labels), "is none of this file's labels")
            if mapped is not None:
                _require(mapped, labels, "is none of the task's labels")


@dataclass(frozen=True)
class DataSpec(Block):
    """The three splits. Selection uses train and validation; every reported number is from test.

    Attributes:
        train: the examples that a model learns from, and that scores and learners see.
        validation: the examples by which settings and masks are chosen.
        test: the examples that reports are about.
    """

    train: str | SplitSpec
    validation: str | SplitSpec
    test: str | SplitSpec


def _require(name: str, names: Sequence[str], fact: str) -> None:
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        meant = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"map: {name!r} {fact}{meant}: {', '.join(names)}")
