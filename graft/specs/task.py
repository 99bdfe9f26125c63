"""The TASK file: data, labels, head, and how to train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graft.specs.block import Block
from graft.specs.data import DataSpec, SplitSpec
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
            they name the positions of the choices, such as A to E, nor for the lm head.
        ood: name -> an out-of-distribution set, which is evaluated through the same head.
        text: column of the text, or the two columns of a pair's texts.
        label: column of the label; the lm head reads none.
        choices: column of a row's choices, a list of texts; its label is the position of the right one.
        head: how a model's outputs become logits.
        max_length: longest input in tokens; longer texts are cut, those of the lm head into several inputs.
        shots: examples per class drawn from train and, at the same count, from validation; all where absent. Where a
            task has no classes to balance (choices, lm), examples in all.
        seed: seed by which the shots are drawn.
        train: how a base is fine-tuned on this task; where absent few weights of the layers train (`localizable`).
    """

    name: str
    data: DataSpec
    labels: tuple[str, ...] = ()
    ood: Mapping[str, str | SplitSpec] = field(default_factory=dict)
    text: str | tuple[str, ...] = "text"
    label: str = "label"
    choices: str | None = None
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
        self.head.check_for(
            labels=len(self.labels), pair=not isinstance(self.text, str), choices=self.choices is not None
        )
        self._check_splits()

    def _check_splits(self) -> None:
        splits = {f"data.{name}": split for name, split in vars(self.data).items()}
        for name, source in (splits | {f"ood.{name}": split for name, split in self.ood.items()}).items():
            split = SplitSpec(source) if isinstance(source, str) else source
            try:
                split.check_for(text=self.text, choices=self.choices, labels=self.labels, has_classes=self.has_classes)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error

    @property
    def has_classes(self) -> bool:
        """Return whether a label means the same in every row; a choice's position does not, and lm has no label."""
        return self.choices is None and self.head.entry.has_labels
