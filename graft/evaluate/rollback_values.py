"""What is written at the entries of a rollback: the base's values put back, or values refit to both models' outputs.

A refit aims at the base's outputs on the restore tasks' texts and at the tuned model's on the keep task's, each
divergence measured by how far it lies apart in base and tuned, as the scores' losses are.
"""

from __future__ import annotations

import contextlib
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import chain

import torch

from graft.evaluate.abilities import Ability
from graft.localize.rollback import Rollback
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.refit.data import RefitData, collect_data
from graft.refit.entries import Entries
from graft.refit.fitting import Fit, fit_values, record_fit
from graft.refit.mixture import MixedObjective, PartExample, assign_part
from graft.refit.objective import Objective, divergences
from graft.refit.support import SupportContext, largest_gradients, match_weights
from graft.refit.teacher import RecordedTeacher
from graft.scores.weighted_path import WeightedPath
from graft.specs.refit import RefitSpec
from graft.specs.rollback import RollbackSpec
from graft.tasks.head import Head


class Values(ABC):
    """The entries of a rollback and what is written at them, in a live model that is the tuned one otherwise."""

    @abstractmethod
    def written(self, k: int) -> contextlib.AbstractContextManager[Mask]:
        """Choose k entries and let the model hold their values inside the block; the tuned ones afterwards.

        Raises:
            BudgetError: fewer than k entries may be chosen.
        """

    def finish(self, patch: Patch, k: int) -> Patch:
        """Return a patch that was cut at the k entries with the values that were written."""
        return patch


class PutBack(Values):
    """The base's own values.

    Attributes:
        path: over the live tuned model, whose losses score entries.
    """

    def __init__(self, rollback: Rollback, path: WeightedPath) -> None:
        self._rollback, self.path = rollback, path

    @contextlib.contextmanager
    def written(self, k: int) -> Iterator[Mask]:
        """Choose by the rollback's method."""
        mask = self._rollback.choose(k, self.path)
        self.path.move_to_graft(mask)
        try:
            yield mask
        finally:
            self.path.return_to_base()


class BothOutputs:
    """The outputs of base and tuned that a refit aims at, recorded while each of the models is at hand.

    Attributes:
        data: all tasks' texts, the keep task's as part 0.

    Args:
        abilities: of the keep task, then of the restore tasks.
        config: the settings; a share of the texts is held out to choose the epoch by.

    Raises:
        DataError: malformed data, or no text.
    """

    def __init__(self, abilities: Sequence[Ability], config: RollbackSpec) -> None:
        self._abilities, self._keep_weight = abilities, config.keep_weight
        spec = config.refit.at(config.seed)
        parts = [collect_data(ability.task, ability.texts, spec) for ability in abilities]
        self._train = [assign_part(part.train, number) for number, part in enumerate(parts)]
        self._held_out = [assign_part(part.validation, number) for number, part in enumerate(parts)]
        self.data = RefitData([*chain(*self._train)], [*chain(*self._held_out)], "mixed")
        self._teachers: list[RecordedTeacher] = []

    def record_base(self, head: Head) -> None:
        """Record the base's outputs."""
        self._teachers = [
            RecordedTeacher(ability.on(head), train if number else (), held_out)
            for number, (ability, train, held_out) in enumerate(
                zip(self._abilities, self._train, self._held_out, strict=True)
            )
        ]

    def objective(self, head: Head) -> MixedObjective:
        """Return the loss over the live tuned model, whose outputs are recorded now."""
        heads = [ability.on(head) for ability in self._abilities]
        stays = RecordedTeacher(heads[0], self._train[0], self._held_out[0])
        teachers = [stays, *self._teachers[1:]]
        lost = [RecordedTeacher(*both) for both in zip(heads[1:], self._held_out[1:], strict=True)]
        ends = [self._teachers[0], *lost]
        gaps = [_gap(*both) for both in zip(teachers, ends, self._held_out, strict=True)]
        wanted = [self._keep_weight, *(1 / len(gaps[1:]) for _ in gaps[1:])]
        weights = [weight / gap if gap > 0 else 0.0 for weight, gap in zip(wanted, gaps, strict=True)]
        return MixedObjective([Objective(*both) for both in zip(heads, teachers, strict=True)], weights)


class Refit(Values):
    """Values fitted to both models' outputs, at the weights with the largest gradient of that loss.

    Args:
        rollback: the pair and the scope.
        objective: over the live tuned model.
        data: its texts.
        config: how to fit.
    """

    def __init__(self, rollback: Rollback, objective: MixedObjective, data: RefitData, config: RefitSpec) -> None:
        self._rollback, self._objective, self._data, self._config = rollback, objective, data, config
        self._weights = match_weights(objective.head.model, rollback.names)
        self._made: dict[int, tuple[Entries, Fit]] = {}

    @contextlib.contextmanager
    def written(self, k: int) -> Iterator[Mask]:
        """Choose by the gradient, and fit; gradients at the tuned model are taken anew for each k."""
        tuned = self._rollback.pair.base
        context = SupportContext(self._objective, tuned, self._weights, self._data.train, k, self._config)
        entries = Entries(self._weights, largest_gradients(context), tuned)
        try:
            self._made[k] = entries, fit_values(self._objective, entries, self._data, self._config)
            yield entries.mask
        finally:
            entries.return_to_base()

    def finish(self, patch: Patch, k: int) -> Patch:
        """Return the patch with the fitted values, which says so."""
        entries, fit = self._made[k]
        record = record_fit(self._rollback.pair.tuned, self._data, fit)
        provenance = dataclasses.replace(patch.provenance, values="refit", refit=record)
        return dataclasses.replace(patch, values=entries.rounded(fit.values), provenance=provenance)


def _gap(teacher: RecordedTeacher, other: RecordedTeacher, examples: Sequence[PartExample]) -> float:
    found: torch.Tensor = divergences(teacher.logits(examples), other.logits(examples))
    return float(found.double().mean())
