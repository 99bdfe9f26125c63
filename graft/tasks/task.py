"""Tasks: a TASK file with its data, opened once and read by split."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graft.arguments import checked
from graft.errors import DataError
from graft.specs.data import ANSWER_COLUMNS, MIRROR, SplitSpec
from graft.specs.head import HeadSpec
from graft.specs.reader import load_yaml, override, read_config, to_plain
from graft.specs.task import TaskSpec
from graft.tasks.examples import NONE_OF_THESE, Example, draw_shots, make_examples
from graft.tasks.held_rows import class_names, take_rows
from graft.tasks.rows import Row, find_mirrored, read_dataset


@dataclass(frozen=True)
class Task:
    """The data, labels and head by which a skill is measured.

    Attributes:
        spec: the checked content of the TASK file.
        folder: the file's paths are relative to it.
        mirror: a folder of local files that stand in for datasets of the Hub; None to ask the Hub.
        rows: a split's path -> its rows, where the program holds them (`Task.of`); None where files do.
    """

    spec: TaskSpec
    folder: Path
    mirror: Path | None = None
    rows: Mapping[str, Sequence[Row]] | None = field(default=None, repr=False)

    @classmethod
    @checked
    def load(cls, path: Path | str, assignments: tuple[str, ...] = ()) -> Task:
        """Read a TASK file; `assignments` are overrides such as "shots=16".

        The environment's GRAFT_DATA names the local mirror, if there is one.

        Raises:
            ConfigError: missing, not YAML, an unknown key or a wrong type.
        """
        path = Path(path)
        mirror = os.environ.get(MIRROR)
        return cls(
            read_config(TaskSpec, override(load_yaml(path), assignments), str(path)),
            path.parent,
            Path(mirror).expanduser().absolute() if mirror else None,
        )

    @classmethod
    def of(
        cls,
        *,
        train: Any = None,
        validation: Any = None,
        test: Any = None,
        ood: Mapping[str, Any] | None = None,
        labels: Sequence[str] | None = None,
        head: str | Mapping[str, Any] | HeadSpec = "similarity",
        name: str = "task",
        training: Mapping[str, Any] | None = None,
        **keys: Any,
    ) -> Task:
        """Make a task of rows that the program holds, without a TASK file.

        Args:
            train, validation, test: lists of dicts, or `datasets.Dataset`; a split that nothing reads may be absent.
            ood: name -> rows of an out-of-distribution set.
            labels: the label names; those of a dataset's class labels where absent.
            head: a kind of head, or the TASK file's block.
            name: of the task, as reports and patches show it.
            training: the TASK file's block `train`.
            keys: any other key of a TASK file, such as text, label, choices, max_length, shots, seed.

        Raises:
            ConfigError: an unknown key, a wrong type, or keys that do not go together.
            DataError: rows of another kind, or a split without any.
        """
        held = {"train": train, "validation": validation, "test": test}
        held |= {f"ood.{key}": rows for key, rows in (ood or {}).items()}
        column = str(keys.get("label", "label"))
        if labels is None:
            labels = next((names for rows in held.values() if (names := class_names(rows, column))), None)
        block = {
            "name": name,
            "data": {split: _path_of(split) for split in ("train", "validation", "test")},
            "ood": {key: _path_of(f"ood.{key}") for key in ood or {}},
            "head": to_plain(head) if isinstance(head, HeadSpec) else {"kind": head} if isinstance(head, str) else head,
            **({} if labels is None else {"labels": list(labels)}),
            **({} if training is None else {"train": training}),
            **{key: list(value) if isinstance(value, tuple) else value for key, value in keys.items()},
        }
        spec = read_config(TaskSpec, block, "Task.of")
        columns = _columns_of(spec)
        rows = {
            _path_of(split): take_rows(source, _path_of(split), columns, column)
            for split, source in held.items()
            if source is not None
        }
        return cls(spec, Path(), None, rows)

    @property
    def files(self) -> list[Path]:
        """Local files that the task reads and that exist."""
        if self.rows is not None:
            return []
        sources = (self.spec.data.train, self.spec.data.validation, self.spec.data.test, *self.spec.ood.values())
        splits = [_spec_of(source) for source in sources]
        paths = [self.folder / Path(split.path).expanduser() for split in splits]
        if self.mirror is not None:
            paths += [self.mirror / split.local for split in splits if split.local is not None]
        return [path for path in paths if path.exists()]

    def with_seed(self, seed: int) -> Task:
        """Return the task with another seed for few-shot draws and training; the train block's own is dropped."""
        train = dataclasses.replace(self.spec.train, seed=None)
        return dataclasses.replace(self, spec=dataclasses.replace(self.spec, seed=seed, train=train))

    def train_examples(self) -> list[Example]:
        """Return the training examples: `shots` per class where the task says so, in all where it has no classes.

        Raises:
            DataError: missing or malformed data, or too few examples of a class.
        """
        return self.draw(self.keep_known(self.spec.data.train, self.training_rows()), strict=True)

    def training_rows(self) -> list[Example]:
        """Return all rows of the training split; `shots` means nothing here, and no class of the task's is label -1.

        Raises:
            DataError: missing or malformed data.
        """
        return self._split(self.spec.data.train)

    def training_texts(self) -> list[Example]:
        """Return all rows of the training split without their labels, which are not read; `shots` means nothing here.

        Raises:
            DataError: missing or malformed data.
        """
        return self.read_texts(self.spec.data.train)

    def read_texts(self, split: str | SplitSpec) -> list[Example]:
        """Return the rows of a file or dataset as examples of this task, in its columns, without labels.

        Raises:
            DataError: missing or malformed data.
        """
        spec = find_mirrored(_spec_of(split), self.mirror)
        return make_examples(read_dataset(spec, self.folder), spec, self.spec, labeled=False)

    def validation_examples(self) -> list[Example]:
        """Return the examples that selection uses: at most `shots` per class, in all where the task has no classes."""
        return self.draw(self._known_split(self.spec.data.validation), strict=False)

    def test_examples(self, limit: int | None = None) -> list[Example]:
        """Return the examples that are reported; never subsampled unless `limit` asks for the first few."""
        return self._known_split(self.spec.data.test)[:limit]

    def ood_examples(self, name: str, limit: int | None = None) -> list[Example]:
        """Return the examples of an out-of-distribution set; those of a class that the task lacks have label -1."""
        return self._split(self.spec.ood[name])[:limit]

    def outside_examples(self) -> list[Example]:
        """Return the examples with label -1, of no class of the task, in validation and the `ood` sets."""
        splits = (self.spec.data.validation, *self.spec.ood.values())
        return [example for split in splits for example in self._split(split) if example.label == NONE_OF_THESE]

    def describe(self) -> dict[str, Any]:
        """Return name, head with its template, labels, longest input and columns, for a patch's provenance."""
        template = self.spec.head.pattern if self.spec.messages is None else ""
        head = to_plain(self.spec.head) | ({"template": template} if template else {})
        described: dict[str, Any] = {"name": self.spec.name, "head": head, "labels": list(self.spec.labels)}
        described["max_length"] = self.spec.max_length
        columns = {key: getattr(self.spec, key) for key in ("choices", *ANSWER_COLUMNS)}
        return described | {key: column for key, column in columns.items() if column is not None}

    def draw(self, examples: Sequence[Example], *, strict: bool) -> list[Example]:
        """Draw `shots` examples of each class, in all where the task has no classes; without `shots` return all.

        Raises:
            DataError: as `draw_shots`.
        """
        if self.spec.shots is None:
            return list(examples)
        classes = self.spec.labels if self.spec.has_classes else ()
        return draw_shots(examples, self.spec.shots, classes, self.spec.seed, strict=strict)

    def keep_known(self, split: str | SplitSpec, examples: Sequence[Example]) -> list[Example]:
        """Return those of a split's examples that have one of the task's labels.

        Raises:
            DataError: none has.
        """
        known = [example for example in examples if example.label != NONE_OF_THESE]
        if not known:
            raise DataError(f"{_spec_of(split).path}: no example has one of the task's labels")
        return known

    def _known_split(self, split: str | SplitSpec) -> list[Example]:
        return self.keep_known(split, self._split(split))

    def _split(self, split: str | SplitSpec) -> list[Example]:
        if self.rows is not None:
            own = _spec_of(split)
            if own.path not in self.rows:
                raise DataError(f"task {self.spec.name!r} has no {own.path}: give them to Task.of")
            return make_examples(self.rows[own.path], own, self.spec)
        spec = find_mirrored(_spec_of(split), self.mirror)
        return make_examples(read_dataset(spec, self.folder), spec, self.spec)


def _spec_of(split: str | SplitSpec) -> SplitSpec:
    return SplitSpec(split) if isinstance(split, str) else split


def _path_of(split: str) -> str:
    """Return what stands for a path where rows are held, as errors call them."""
    return f"{split} rows"


def _columns_of(spec: TaskSpec) -> list[str]:
    texts = spec.columns_of(SplitSpec(""))
    labels = [spec.label] if spec.head.entry.has_labels else []
    return [*texts, *labels, *([] if spec.choices is None else [spec.choices])]
