"""SingleRun: one seed of a recipe of one task at work, with the few things that every stage does."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from graft.controls.application import Graft, make_control
from graft.controls.inputs import ControlInput
from graft.controls.registry import is_made_of_patch
from graft.evaluate.evaluation import Prediction, Predictions, predict_examples, predict_task
from graft.files.location import locate
from graft.localize.changes import Changes
from graft.localize.context import ScoreCache
from graft.localize.localization import localize_skill, tuned_rows
from graft.patch.skill_patch import Patch
from graft.recipes.seed_run import SeedRun
from graft.refit.refit import refit_skill
from graft.results.models import graft_name
from graft.specs.localize import LocalizeSpec
from graft.specs.recipe import EvaluateSpec
from graft.specs.single import SingleSpec
from graft.tasks.head import Head, open_head
from graft.tasks.task import Task
from graft.tensors.pair import CheckpointPair
from graft.tensors.scope import Scope


@dataclass(frozen=True)
class SingleRun(SeedRun):
    """Seed at work.

    Attributes:
        recipe: the whole recipe.
        task: the task under this seed.
        of_base: evaluate block -> what the untouched base predicts, for all seeds.
        tables: scores that more than one method starts from.
        located: localize block -> the main method's patch, of which several controls are made.
    """

    recipe: SingleSpec
    task: Task
    of_base: dict[EvaluateSpec, Predictions] = field(default_factory=dict)
    tables: ScoreCache = field(default_factory=dict)
    located: dict[LocalizeSpec, Patch] = field(default_factory=dict)

    @property
    def tuned(self) -> Path:
        """The folder of the tuned checkpoint."""
        return self.folder / "tuned"

    @property
    def main(self) -> str:
        """The name of the main graft among the models."""
        return graft_name(self.recipe.main)

    @cached_property
    def pair(self) -> CheckpointPair:
        """Base and tuned checkpoints side by side, once there is a tuned one."""
        return CheckpointPair.open(locate(self.recipe.base).path, self.tuned)

    def names(self) -> list[str]:
        """Return the base's tensors in the recipe's scope that the tuned checkpoint has."""
        scope = Scope(self.recipe.localize.scope)
        return list(self.pair.names_in(scope))

    def count_changed(self) -> int:
        """Return how many entries in scope tuning changed: the largest possible k."""
        return sum(Changes(self.pair.without_rounding(), self.names()).counts.values())

    def open(self, model: str | Path) -> Head:
        """Open a model with the task's head, whose rows are the tuned one's."""
        rows = tuned_rows(self.pair, self.task)
        return open_head(locate(model).path, self.task.spec, self.runtime, seed=self.seed, rows=rows)

    def find_graft(self, method: str, **changes: Any) -> Graft:
        """Return what a method or control puts on the base; `changes` replace fields of the `localize` block.

        A control that is made of a patch is made of the main method's, at the same size.
        """
        if not is_made_of_patch(method):
            return self.localize(method, **changes)
        patch = self.localize(self.recipe.localize.method, **changes)
        pair = self.pair.without_rounding()
        return make_control(ControlInput(method, patch, pair, self.task, self.seed, self.runtime))

    def localize(self, method: str, **changes: Any) -> Patch:
        """Return the patch of a method; `changes` replace fields of the recipe's `localize` block."""
        config = dataclasses.replace(self.recipe.localize, method=method, seed=self.seed, **changes)
        if config in self.located:
            return self.located[config]
        patch = localize_skill(
            self.recipe.base, self.tuned, self.task, config, score_cache=self.tables, **self.runtime.options
        )
        if method == self.recipe.localize.method and any(map(is_made_of_patch, self.recipe.methods)):
            self.located[config] = patch
        return patch

    def train_teacher(self) -> Path:
        """Return the checkpoint that a refit is fitted to: the tuned one, or one that is trained for it."""
        stage = self.recipe.refit
        if stage is None or stage.train is None:
            return self.tuned
        return self.train(self.recipe.base, [self.task], stage.train)

    def fit_refit(self, teacher: Path) -> Patch:
        """Return the patch that is fitted to a teacher's outputs."""
        assert self.recipe.refit is not None
        config = dataclasses.replace(self.recipe.refit.settings, seed=self.seed)
        return refit_skill(self.recipe.base, teacher, self.task, config, **self.runtime.options)

    def predict(self, head: Head, temperature: float = 1.0) -> Predictions:
        """Predict the test split and all out-of-distribution sets, with logits divided by the temperature."""
        evaluate = self.recipe.evaluate
        limit, size = evaluate.limit, evaluate.batch_size
        return predict_task(head, self.task, limit=limit, batch_size=size, temperature=temperature)

    def predict_base(self, head: Head) -> Predictions:
        """Predict with the untouched base in `head`: once for all seeds, unless each has a layer of its own there."""
        evaluate = self.recipe.evaluate
        if self.task.spec.head.entry.own_layer is not None:
            return self.predict(head)
        if evaluate not in self.of_base:
            self.of_base[evaluate] = self.predict(head)
        return self.of_base[evaluate]

    def predict_test(self, head: Head) -> Prediction:
        """Predict the test split alone."""
        examples = self.task.test_examples(self.recipe.evaluate.limit)
        return predict_examples(head, examples, self.recipe.evaluate.batch_size, "test")

    def predict_validation(self, head: Head) -> Prediction:
        """Predict the validation examples, by which settings are chosen."""
        return predict_examples(head, self.task.validation_examples(), self.recipe.evaluate.batch_size, "validation")

    def validate(self, head: Head) -> float:
        """Return the accuracy on validation, as training measures it."""
        examples = self.task.validation_examples()
        return head.accuracy(examples, batch_size=self.recipe.evaluate.batch_size, label="validation")
