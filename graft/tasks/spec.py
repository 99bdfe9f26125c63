"""The TASK file as typed blocks (contract, section 6)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from graft.tasks.head_spec import HeadSpec as HeadSpec
from graft.tasks.regularize_spec import RecordSpec, RegularizeSpec


@dataclass(frozen=True)
class SplitSpec:
    """Where the rows of one split are, and how they differ from the task's own.

    Attributes:
        path: a local jsonl, json, csv or parquet file, relative to the TASK file, or the Hub id of a dataset.
        name, split, revision: configuration, split and revision of a Hub dataset.
        text, label, choices, labels: columns and label names of this file, where they differ from the task's. A Hub
            dataset's nested columns have dots in their names. Choices may be several columns of one text each; for a
            task with choices, `labels` may be the column in which each row names its own.
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

    def check_for(self, task: TaskSpec) -> None:
        """Refuse what would mean nothing beside the rest of the TASK file, and so be ignored.

        Raises:
            ValueError: it does not go together; the message says why.
        """
        if not self.path or re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", self.path):
            raise ValueError(f"path: {self.path!r} is not the name of a file or dataset")
        texts = 1 if isinstance(self.text or task.text, str) else len(self.text or task.text)
        if texts != (1 if isinstance(task.text, str) else 2):
            raise ValueError("text must be as many columns as the task's: one, or two for a pair")
        if self.choices is not None and task.choices is None:
            raise ValueError("choices is a column of tasks with choices, and the task names none")
        if isinstance(self.labels, str) and task.choices is None:
            raise ValueError("labels must be a list of names, or for a task with choices the column that names them")
        if not isinstance(self.labels, str | None) and len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must be different names")
        if self.map and not task.has_classes:
            raise ValueError("map goes with tasks whose labels are classes")
        for own, name in self.map.items():
            self._require(own, tuple(self.labels or task.labels), "is none of this file's labels")
            if name is not None:
                self._require(name, task.labels, "is none of the task's labels")

    def _require(self, name: str, names: tuple[str, ...], fact: str) -> None:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            meant = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(f"map: {name!r} {fact}{meant}: {', '.join(names)}")


@dataclass(frozen=True)
class DataSpec:
    """The three splits. Selection uses train and validation; every reported number is from test."""

    train: str | SplitSpec
    validation: str | SplitSpec
    test: str | SplitSpec


@dataclass(frozen=True)
class LocalizableSpec:
    """Training only the few weights that a first training picks out (`graft.train.localizable`).

    Attributes:
        density: how many, as a share of all parameters.
        pull_lr, pull_epochs, pull_l1: of the first training, by SGD with an L1 pull.
        lr, epochs: of the second, by AdamW.
    """

    density: float = 1e-4
    pull_lr: float = 1e-1
    pull_epochs: int = 5
    pull_l1: float = 1.5e-4
    lr: float = 1e-3
    epochs: int = 5

    def __post_init__(self) -> None:
        for name in ("density", "pull_lr", "pull_epochs", "pull_l1", "lr", "epochs"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0")


@dataclass(frozen=True)
class TrainSpec:
    """Fine-tuning. The defaults are the published procedure's spirit: plain SGD, so that the skill localises.

    Attributes:
        optimizer: "sgd" without momentum, or "adamw".
        lr: learning rate of the first step.
        schedule: "linear" decay to 0 (a constant rate ends wherever the last noisy steps left the class balance,
            which misleads attribution), or "constant".
        epochs, steps: length; `steps` overrides.
        batch_size: examples per step.
        weight_decay: decoupled for AdamW.
        l1: pull towards the base (`graft.train.pull`): weights whose gradient stays below it do not move, so that
            the skill gathers in few; 0 for none.
        clip: largest gradient norm.
        scope: which tensors train, as in `graft.tensors.scope`.
        seed: of the order of examples and dropout; the task's where absent.
        stop_at: accuracy on validation at which training stops early; the schedule stays that of the whole length.
        check_every: steps between looks at it; the end of each epoch alone where absent.
        localizable: train only few weights, in place of optimizer, lr, epochs and l1 above.
        record: record on the way which weights matter, and leave it beside the tuned weights.
        regularize: moving a weight costs in proportion to how much it matters.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 5e-2
    schedule: Literal["linear", "constant"] = "linear"
    epochs: int = 5
    steps: int | None = None
    batch_size: int = 8
    weight_decay: float = 0.0
    l1: float = 0.0
    clip: float = 1.0
    scope: str = "all"
    seed: int | None = None
    stop_at: float | None = None
    check_every: int | None = None
    localizable: LocalizableSpec | None = None
    record: RecordSpec | None = None
    regularize: RegularizeSpec | None = None

    def __post_init__(self) -> None:
        if self.batch_size > 2**31:
            raise ValueError("batch_size is more than any data has")
        for name in ("lr", "epochs", "batch_size", "clip"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0")
        if self.steps is not None and self.steps <= 0:
            raise ValueError("steps must be above 0")
        for name in ("weight_decay", "l1"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more")
        if self.stop_at is not None and not 0 < self.stop_at <= 1:
            raise ValueError("stop_at must be above 0 and at most 1")
        if self.check_every is not None and (self.check_every < 1 or self.stop_at is None):
            raise ValueError("check_every must be 1 or more, and needs stop_at")
        if self.localizable is not None and (self.record is not None or self.regularize is not None):
            raise ValueError("localizable trains in two stages: it goes with neither record nor regularize")
        check_seed(self.seed or 0)
        try:
            re.compile(self.scope)
        except re.error as error:
            raise ValueError(f"scope {self.scope!r} is not a regular expression ({error})") from error


@dataclass(frozen=True)
class TaskSpec:
    """A TASK file.

    Attributes:
        name: of the task.
        data: train, validation and test.
        labels: label names; a row's label is one of these or its 0-based position. Not needed with `choices`,
            where they name the places of the choices, such as A to E, and for the lm head.
        ood: name -> a split from elsewhere that is evaluated through the same head.
        text: column of the text, or of both texts of a pair.
        label: column of the label; the lm head reads none.
        choices: column of a row's choices, a list of texts; its label is the place of the right one.
        head: how outputs become logits.
        max_length: longest input in tokens; longer texts are cut, those of the lm head into pieces.
        shots: examples per class drawn from train and, at the same count, from validation; all where absent.
            Where a task has no classes to balance (choices, lm), examples in all.
        seed: of that drawing.
        train: how to fine-tune.
    """

    name: str
    data: DataSpec
    labels: tuple[str, ...] = ()
    ood: Mapping[str, str | SplitSpec] = field(default_factory=dict)
    text: str | tuple[str, ...] = "text"
    label: str = "label"
    choices: str | None = None
    head: HeadSpec = field(default_factory=HeadSpec)
    max_length: int = 128
    shots: int | None = None
    seed: int = 0
    train: TrainSpec = field(default_factory=TrainSpec)

    def __post_init__(self) -> None:
        if (self.has_classes or self.labels) and (len(self.labels) < 2 or len(set(self.labels)) != len(self.labels)):
            raise ValueError("labels must be two or more different names")
        if self.shots is not None and self.shots < 1:
            raise ValueError("shots must be 1 or more")
        if not isinstance(self.text, str) and len(self.text) != 2:
            raise ValueError("text must be one column, or two for a pair")
        if self.max_length < 1:
            raise ValueError("max_length must be 1 or more")
        if "test" in self.ood:
            raise ValueError("ood: a set cannot be called 'test', which is the test split's name")
        self.head.check_for(
            labels=len(self.labels), pair=not isinstance(self.text, str), choices=self.choices is not None
        )
        check_seed(self.seed)
        self._check_splits()

    def _check_splits(self) -> None:
        splits = {f"data.{name}": place for name, place in vars(self.data).items()}
        for name, place in (splits | {f"ood.{name}": place for name, place in self.ood.items()}).items():
            split = SplitSpec(place) if isinstance(place, str) else place
            try:
                split.check_for(self)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error

    @property
    def has_classes(self) -> bool:
        """Whether a label means the same in every row; a choice's place means nothing, and lm has no label."""
        return self.choices is None and self.head.kind != "lm"


def check_seed(seed: int) -> None:
    """Refuse what is no seed to all of the generators in use.

    Raises:
        ValueError: it is negative or takes more than 32 bits.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be a whole number from 0 to {2**32 - 1}, not {seed}")
