"""Tasks: a TASK file with its data, opened once and read by split."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.arguments import checked
from graft.errors import DataError
from graft.specs.data import MIRROR, SplitSpec
from graft.specs.reader import load_yaml, override, read_config, to_plain
from graft.specs.task import TaskSpec
from graft.tasks.examples import NONE_OF_THESE, Example, draw_shots, make_examples
from graft.tasks.rows import find_mirrored, read_dataset


@dataclass(frozen=True)
class Task:
    """The data, labels and head by which a skill is measured.

    Attributes:
        spec: the checked content of the TASK file.
        folder: the file's paths are relative to it.
        mirror: a folder of local files that stand in for datasets of the Hub; None to ask the Hub.
    """

    spec: TaskSpec
    folder: Path
    mirror: Path | None = None

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

    @property
    def files(self) -> list[Path]:
        """Local files that the task reads and that exist."""
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
        return self._known_split(self.spec.data.train, draw=True, strict=True)

    def validation_examples(self) -> list[Example]:
        """Return the examples that selection uses: at most `shots` per class, in all where the task has no classes."""
        return self._known_split(self.spec.data.validation, draw=True, strict=False)

    def test_examples(self, limit: int | None = None) -> list[Example]:
        """Return the examples that are reported; never subsampled unless `limit` asks for the first few."""
        return self._known_split(self.spec.data.test, draw=False, strict=False)[:limit]

    def ood_examples(self, name: str, limit: int | None = None) -> list[Example]:
        """Return the examples of an out-of-distribution set; those of a class that the task lacks have label -1."""
        return self._split(self.spec.ood[name])[:limit]

    def outside_examples(self) -> list[Example]:
        """Return the examples with label -1, of no class of the task, in validation and the `ood` sets."""
        splits = (self.spec.data.validation, *self.spec.ood.values())
        return [example for split in splits for example in self._split(split) if example.label == NONE_OF_THESE]

    def describe(self) -> dict[str, Any]:
        """Return name, head with its template, labels and the column of choices, for a patch's provenance."""
        head = to_plain(self.spec.head) | ({"template": self.spec.head.pattern} if self.spec.head.pattern else {})
        described = {"name": self.spec.name, "head": head, "labels": list(self.spec.labels)}
        return described if self.spec.choices is None else described | {"choices": self.spec.choices}

    def _known_split(self, split: str | SplitSpec, *, draw: bool, strict: bool) -> list[Example]:
        examples = [example for example in self._split(split) if example.label != NONE_OF_THESE]
        if not examples:
            raise DataError(f"{_spec_of(split).path}: no example has one of the task's labels")
        if draw and self.spec.shots is not None:
            classes = self.spec.labels if self.spec.has_classes else ()
            return draw_shots(examples, self.spec.shots, classes, self.spec.seed, strict=strict)
        return examples

    def _split(self, split: str | SplitSpec) -> list[Example]:
        spec = find_mirrored(_spec_of(split), self.mirror)
        return make_examples(read_dataset(spec, self.folder), spec, self.spec)


def _spec_of(split: str | SplitSpec) -> SplitSpec:
    return SplitSpec(split) if isinstance(split, str) else split
