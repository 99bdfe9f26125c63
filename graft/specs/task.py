"""The TASK file: data, labels, head, and how to train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graft.specs.block import Block
from graft.specs.data import ANSWER_COLUMNS, DataSpec, SplitSpec
from graft.specs.head import HeadSpec
from graft.specs.ranges import Count, Seed
from graft.specs.train import TrainSpec, train_unless_told


@dataclass(frozen=True)
class TaskSpec(Block):
    """A TASK file.

    Attributes:
        name: name of the task, as reports and patches show it.
        data: the train, validation and test splits.
        labels: label names; a row's label is one of these or its 0-based position. Not needed with `choices`, where
            they name the positions of the choices, such as A to E, nor for the lm and completion heads.
        ood: name -> an out-of-distribution set, which is evaluated through the same head.
        text: column of the text, or the two columns of a pair's texts.
        label: column of the label; the lm and completion heads read none.
        choices: column of a row's choices, a list of texts; its label is the position of the right one.
        prompt: completion head: column of what is before the answer; "prompt" where absent.
        completion: completion head: column of the answer; "completion" where absent.
        messages: completion head: column of a chat in place of both, a list of {role, content}; what the assistant
            says is learned, and its last turn is the answer.
        head: how a model's outputs become logits.
        max_length: longest input in tokens; longer texts are cut, those of the lm head into several inputs, and
            of the completion head at the end.
        shots: examples per class drawn from train and, at the same count, from validation; all where absent. Where a
            task has no classes to balance (choices, lm, completion), examples in all.
        seed: seed by which the shots are drawn, class after class in the order of `labels`: in another order, as with
            another order of the rows, other examples are drawn.
        train: how a base is fine-tuned on this task; where absent few weights of the layers train (`localizable`).
    """

    name: str
    data: DataSpec
    labels: tuple[str, ...] = ()
    ood: Mapping[str, str | SplitSpec] = field(default_factory=dict)
    text: str | tuple[str, ...] = "text"
    label: str = "label"
    choices: str | None = None
    prompt: str | None = None
    completion: str | None = None
    messages: str | None = None
    head: HeadSpec = field(default_factory=HeadSpec)
    max_length: Count = 128
    shots: Count | None = None
    seed: Seed = 0
    train: TrainSpec = field(default_factory=train_unless_told)

    def __post_init__(self) -> None:
        """Refuse ranges, and keys that do not go together.

        Raises:
            ValueError: naming the key and why.
        """
        super().__post_init__()
        if (self.has_classes or self.labels) and (len(self.labels) < 2 or len(set(self.labels)) != len(self.labels)):
            raise ValueError("labels must be two or more different names")
        if not isinstance(self.text, str) and len(self.text) != 2:
            raise ValueError("text must be one column, or two for a pair")
        if "test" in self.ood:
            raise ValueError("ood: a set cannot be called 'test', which is the test split's name")
        self._check_answers()
        self.head.check_for(
            labels=len(self.labels),
            pair=not isinstance(self.text, str),
            choices=self.choices is not None,
            messages=self.messages is not None,
        )
        self._check_splits()

    def _check_answers(self) -> None:
        given = [key for key in ANSWER_COLUMNS if getattr(self, key) is not None]
        if not self.head.entry.has_answers and given:
            raise ValueError(f"{given[0]} goes with head.kind completion, not with {self.head.kind}")
        if self.messages is not None and len(given) > 1:
            raise ValueError(f"messages hold prompt and answer: leave out {given[0]}")
        if self.head.entry.has_answers and self.text != "text":
            raise ValueError("text is no column of head.kind completion: name prompt and completion, or messages")

    def _check_splits(self) -> None:
        splits = {f"data.{name}": split for name, split in vars(self.data).items()}
        for name, source in (splits | {f"ood.{name}": split for name, split in self.ood.items()}).items():
            split = SplitSpec(source) if isinstance(source, str) else source
            try:
                split.check_for(
                    text=self.text,
                    choices=self.choices,
                    labels=self.labels,
                    has_classes=self.has_classes,
                    answers=self._answer_keys,
                )
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error

    @property
    def _answer_keys(self) -> tuple[str, ...]:
        if not self.head.entry.has_answers:
            return ()
        return ("prompt", "completion") if self.messages is None else ("messages",)

    def columns_of(self, split: SplitSpec) -> tuple[str, ...]:
        """Return the columns that hold the texts of a split's rows: its own, or the task's."""
        if self._answer_keys:
            return tuple(getattr(split, key) or getattr(self, key) or key for key in self._answer_keys)
        columns = split.text or self.text
        return (columns,) if isinstance(columns, str) else columns

    @property
    def has_classes(self) -> bool:
        """Return whether a label means the same in every row; a choice's position does not, and lm has no label."""
        return self.choices is None and self.head.entry.has_labels
