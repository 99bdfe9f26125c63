"""Rollback: a localization with the roles swapped, whose patch puts entries of a tuned model back to its base.

The patch belongs to the tuned model and holds the base's values; delta = base - tuned. The loss that falls along the
path from tuned towards base is the restore tasks', and the keep task's rises: the attribution of their sum,

    score_i = -delta_i * (mean gradient of  sum_r L_r / gap_r  +  keep_weight * L_keep / gap_keep)_i,

is an entry's gain for what was lost less its harm to what was learned. A gap is how far the loss lies apart in base and
tuned, so that tasks of any scale add up. With one point, the tuned model, it is the first-order term ("taylor"), to
which the distance to the tuned model's own outputs adds nothing; labels, or further points, see the harm. Every score
of `graft.scores` and every budget of `graft localize` applies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.files.location import Located
from graft.localize.budget import allocate, resolve_budget
from graft.localize.changes import Changes
from graft.localize.context import LocalizationContext, ScoreCache
from graft.localize.localization import describe_checkpoint
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch, cut_patch
from graft.scores.weighted_path import WeightedPath
from graft.specs.reader import to_plain
from graft.specs.rollback import RollbackSpec
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.pair import CheckpointPair
from graft.tensors.scope import Scope


def open_reversed(base: Path | Checkpoint, tuned: Path | Checkpoint) -> CheckpointPair:
    """Open the pair with the roles swapped: what lies in `pair.base` is the tuned model.

    Whole tensors are no part of it: a classifier head that the tuned model has stays on it, and one that only the base
    has is not put back. Values that differ by rounding alone are entries like others.

    Raises:
        CheckpointError, MismatchError: the checkpoints cannot be read or do not fit together.
    """
    pair = CheckpointPair.open(tuned, base)
    names = {name: other for name, other in pair.names.items() if name not in pair.grown}
    shrunk = {name: f"tensor {name!r} has more rows in the base than in the tuned model" for name in pair.grown}
    unlike = {**pair.unlike, **shrunk}
    return dataclasses.replace(pair, names=names, extra=(), replaced={}, grown=frozenset(), unlike=unlike)


class Rollback:
    """The choice of the entries to put back, at any budget.

    Attributes:
        pair: the tuned checkpoint as `base`, and the base as `tuned`.
        names: the tuned model's tensors in scope.

    Args:
        pair: as `open_reversed` gives.
        config: how to choose.

    Raises:
        BudgetError: the checkpoints are equal in scope.
        ConfigError: the scope holds no tensor.
    """

    def __init__(self, pair: CheckpointPair, config: RollbackSpec) -> None:
        self.pair = pair
        self.names = pair.names_in(Scope(config.scope))
        self._config = config
        self._changes = Changes(pair, self.names)
        self._scores: ScoreCache = {}

    def budgets(self) -> list[int]:
        """Return the numbers of entries to try, ascending.

        Raises:
            BudgetError: none of them can be had.
        """
        n, counts = self.pair.base.n_parameters, self._changes.counts
        fixed, densities = self._config.budget, self._config.densities
        asked = [fixed] if fixed is not None else sorted({int(density * n + 0.5) for density in densities})
        if possible := [k for k in asked if 1 <= k <= sum(counts.values())]:
            return possible
        k = resolve_budget(n, max(densities, default=0.0), fixed)
        return [sum(share for _, share in allocate(k, counts, "global"))]  # refuses more than there is

    def choose(self, k: int, path: WeightedPath | None) -> Mask:
        """Choose k entries; the path's model is the tuned one before and after.

        Scores that do not follow the graft of k entries are computed once, for the largest number that is tried.

        Raises:
            BudgetError: fewer than k entries differ.
        """
        scored = k if self._config.follows_graft else max(k, *self.budgets())
        context = LocalizationContext(self._changes, scored, self._config.at(scored), path, score_cache=self._scores)
        return context.score(self._config.method).select(allocate(k, self._changes.counts, "global"))

    def cut(
        self,
        mask: Mask,
        tuned: Located,
        method: Mapping[str, Any],
        task: dict[str, Any],
        metrics: Mapping[str, Any],
        *,
        with_base_values: bool = False,
    ) -> Patch:
        """Cut the base's values at a mask as a patch of the tuned model.

        Args:
            mask: the entries.
            tuned: where the tuned model was found.
            method: what to record beside the settings, such as the names of the tasks.
            task: the keep task's description.
            metrics: what was measured.
            with_base_values: store the tuned model's values too, for exact undo of a merged checkpoint.
        """
        settings: dict[str, Any] = {**to_plain(self._config), "score": self._config.chooser, "method": "rollback"}
        provenance = describe_checkpoint(
            tuned, self.pair.base, Scope(self._config.scope), {**settings, **method, "k": len(mask)}, task
        )
        provenance = dataclasses.replace(provenance, metrics=metrics)
        return cut_patch(self.pair, mask, provenance, with_base_values=with_base_values)
