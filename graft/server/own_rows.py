"""The rows of the base's own classification layer: whose labels they are, on the base and under skills."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graft.errors import CheckpointError, ConfigError
from graft.mixture.mixed_model import MixedModel
from graft.patch.head_config import head_settings
from graft.server.refusal import Refusal
from graft.server.skill import Skill
from graft.specs.task import TaskSpec
from graft.tasks.heads.classifier import ClassifierHead
from graft.tasks.label_order import are_rows_of, find_rows, match_rows, row_names, rows_in

_ELSEWHERE = "the base's own classification layer has no rows of these labels"


class OwnRows:
    """The rows of a classification layer that many skills read, and that some of them change.

    Args:
        path: the base's folder, whose config names the rows.
        model: as it was loaded, its layer perhaps of another size, as a patch needs it.
    """

    def __init__(self, path: Path, model: Any) -> None:
        self._where, self._model = path.name, model
        self._base: tuple[str, ...] | None = None
        try:
            names = row_names(path)
        except CheckpointError:  # a head of another kind
            names = None
        if names is not None and len(names) == model.config.num_labels:
            self._base = names
        self._changed: dict[str, tuple[str, ...] | None] = {}

    def find(self, skill: Skill, task: TaskSpec) -> list[int]:
        """Return for each of a task's labels its row under a skill, as `ClassifierHead.load` finds it.

        Raises:
            CheckpointError, ConfigError: the rows are for other labels.
        """
        named = rows_in([skill.patch], task)
        if named is not None and named.replaces:
            return list(find_rows(named.names, task.labels, named.where))
        if self._base is None:
            raise ConfigError(_ELSEWHERE)
        return list(match_rows(self._base, task.labels, named, self._where).order)

    def note(self, mixed: MixedModel, skill: Skill, head: ClassifierHead | None) -> None:
        """Note which labels the rows are under a skill that was added, where it changes the layer."""
        inside, layers = set(self._model.base_model.modules()), dict(self._model.named_modules())
        if all(layers[name] in inside for name in mixed.touched(skill.name)):
            return
        if head is not None:
            names = tuple(label for _, label in sorted(zip(head.rows, head.task.labels, strict=True)))
        else:
            architecture, labels, _ = head_settings(skill.patch.provenance.task)
            names = tuple(labels) if architecture else ()
        self._changed = {**self._changed, skill.name: names or self._base}  # another thread may be reading it

    def forget(self, name: str) -> None:
        """Forget a skill."""
        self._changed = {other: names for other, names in self._changed.items() if other != name}

    def require(self, skills: Sequence[str], task: str, head: ClassifierHead) -> None:
        """Refuse to read a task's labels with skills under which the rows are others.

        Raises:
            Refusal: saying which they are.
        """
        changed = self._changed
        changing = {name: changed[name] for name in skills if name in changed}
        for name, names in (changing or {"base": self._base}).items():
            if names is None or not are_rows_of(head.task.labels, head.rows, names):
                own = _ELSEWHERE if names is None else f"{name!r} has its rows for {', '.join(names)}"
                raise Refusal(422, f"the labels of {task!r} cannot be read: {own}", code="labels")
