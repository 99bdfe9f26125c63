"""Rollback of a tuned model: what was lost comes back, what was learned stays, for the fewest entries.

Each number of entries is chosen anew and measured on validation, so that the patch can still be reported on test. The
curve over k is the trade: what comes back against what it costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from graft.arguments import checked
from graft.errors import ConfigError, DataError
from graft.evaluate.abilities import Ability, AccuracyAbility, Reading
from graft.evaluate.registry import RESTORABLE
from graft.evaluate.rollback_curve import RollbackCurve, RollbackPoint
from graft.evaluate.rollback_values import BothOutputs, PutBack, Refit, Values
from graft.localize.rollback import Rollback, open_reversed
from graft.parallel.launch import find_ranks
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.scores.weighted_path import LossTerm, WeightedPath
from graft.sources.opening import Model, OpenModel, open_model
from graft.specs.rollback import RollbackSpec
from graft.specs.runtime import DEFAULT, Runtime
from graft.tasks.head import Head, open_head
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint


@dataclass(frozen=True)
class RolledBack:
    """A patch of the tuned model that puts entries back to the base, and the curve by which it was chosen."""

    patch: Patch
    curve: RollbackCurve


@checked
def roll_back(
    base: Model,
    tuned: Model,
    keep: Task,
    restore: Sequence[Task],
    config: RollbackSpec | None = None,
    *,
    runtime: Runtime = DEFAULT,
    with_base_values: bool = False,
    whole_curve: bool = False,
) -> RolledBack:
    """Find the fewest entries of a tuned model whose return to the base brings back what was lost.

    The least of the densities that restores the wanted share at no more than the tolerance is narrowed down by halving
    in log k; where none does, the one that restores most within the tolerance is taken, and the curve's sentence says
    so. A classifier head that the tuned model has stays as it is.

    Args:
        base: the model whose abilities are to come back; a local folder, the embedded encoder or a Hub id.
        tuned: the fine-tuned model, to which the patch belongs; it may be an adapter of the base too.
        keep: the task whose accuracy is to stay.
        restore: the tasks of which something was lost, at least one; all share the keep task's kind of head.
        config: what is to come back, at which price, and how entries are chosen.
        runtime: device and precision of the model that is measured; `parallel` is of no use here.
        with_base_values: also store the tuned model's values, for exact undo of a merged checkpoint.
        whole_curve: measure all densities, also above the one that is taken.

    Raises:
        NothingRestored: nothing comes back within the tolerance; its `curve` says what does at which price.
        BudgetError: no density can be had.
        DataError: a restore task lost nothing, or its data cannot be read.
        MismatchError, PatchMismatchError, CheckpointError, ConfigError: an input is refused; it says why.
    """
    config, opened = config or RollbackSpec(), open_model(base)
    located, opened_tuned = opened.located, open_model(tuned, base=opened)
    trial = start_trial(opened, opened_tuned, keep, restore, config, runtime)
    curve = trial.search(whole=whole_curve)
    chosen = curve.require()
    names = [task.spec.name for task in restore]
    method = {"keep": keep.spec.name, "restore": names, "put_back": located.id or located.name}
    metrics = {"rollback": curve.describe(chosen)}
    mask = trial.masks[chosen.k]
    patch = trial.rollback.cut(
        mask, opened_tuned.located, method, keep.describe(), metrics, with_base_values=with_base_values
    )
    return RolledBack(trial.values.finish(patch, chosen.k), curve)


@checked
def trace_rollback(
    base: Model,
    tuned: Model,
    keep: Task,
    restore: Sequence[Task],
    config: RollbackSpec | None = None,
    *,
    runtime: Runtime = DEFAULT,
) -> RollbackCurve:
    """Measure the whole curve of a rollback without making a patch; arguments and errors are those of `roll_back`."""
    return start_trial(base, tuned, keep, restore, config or RollbackSpec(), runtime).search(whole=True)


def start_trial(
    base: Model | OpenModel,
    tuned: Model | OpenModel,
    keep: Task,
    restore: Sequence[Task],
    config: RollbackSpec,
    runtime: Runtime = DEFAULT,
) -> Trial:
    """Measure base and tuned, and return the tuned model at hand; arguments and errors are those of `roll_back`."""
    _refuse_unsuited(keep, restore, config)
    opened = open_model(base)
    rollback = Rollback(open_reversed(opened.checkpoint, open_model(tuned, base=opened).checkpoint), config)
    rollback.budgets()  # refuses before the costly part
    return Trial.start(rollback, opened.checkpoint, keep, restore, config, runtime)


def _refuse_unsuited(keep: Task, restore: Sequence[Task], config: RollbackSpec) -> None:
    if not find_ranks().is_single:
        raise ConfigError("rollback runs in one process: start it without a launcher")
    names = [task.spec.name for task in restore]
    if not names or len(set(names)) < len(names):
        raise ConfigError("rollback needs one or more restore tasks, all of different names")
    for task in (keep, *restore):
        if task.spec.head.entry.own_layer is not None:
            raise ConfigError(
                f"task {task.spec.name!r}: a {task.spec.head.kind} head is a layer that base and tuned do not share, "
                "so that what was lost cannot be measured: use a head without a layer of its own, such as similarity"
            )
        if config.is_refit and not task.spec.head.entry.has_labels:
            raise ConfigError(f"task {task.spec.name!r}: a rollback refits no language model: leave out --refit")


class Trial:
    """The tuned model at hand, put back at more or fewer entries and measured.

    Attributes:
        head: the keep task's, over the tuned model.
        values: `values.written(k)` lets the model hold a rollback of k entries.
        budgets: the numbers of entries to try, ascending.
    """

    def __init__(
        self,
        rollback: Rollback,
        head: Head,
        keep: Ability,
        restore: Sequence[Ability],
        readings: tuple[Sequence[Reading], Sequence[Reading]],
        config: RollbackSpec,
        outputs: BothOutputs | None = None,
    ) -> None:
        self.rollback, self.head, self.config = rollback, head, config
        self.keep, self.restore = keep, restore
        self.base, self.tuned = readings  # of the keep task, then of the restore tasks
        self.budgets = rollback.budgets()
        self.masks: dict[int, Mask] = {}
        self.points: dict[int, RollbackPoint] = {}
        self.values = self._put_back() if outputs is None else self._refit(outputs)

    @classmethod
    def start(
        cls,
        rollback: Rollback,
        base: Checkpoint,
        keep: Task,
        restore: Sequence[Task],
        config: RollbackSpec,
        runtime: Runtime,
    ) -> Trial:
        """Measure the base, then the tuned model, one at a time in memory."""
        by_outputs = config.loss == "outputs"
        kind: Callable[..., Ability] = RESTORABLE[config.restore_metric].load()
        abilities: list[Ability] = [
            AccuracyAbility(keep, "accuracy", by_outputs=by_outputs),
            *(kind(task, config.restore_metric, by_outputs=by_outputs) for task in restore),
        ]

        def read(head: Head) -> list[Reading]:
            """Return what a model reads of every ability."""
            return [ability.read(head, config.batch_size) for ability in abilities]

        outputs = BothOutputs(abilities, config) if config.is_refit else None
        of_base = read(before := open_head(base, keep.spec, runtime))
        if outputs is not None:
            outputs.record_base(before)
        del before
        of_tuned = read(head := open_head(rollback.pair.base, keep.spec, runtime))
        for item in list(zip(abilities, of_base, of_tuned, strict=True))[1:]:
            _refuse_not_lost(*item)
        return cls(rollback, head, abilities[0], abilities[1:], (of_base, of_tuned), config, outputs)

    def search(self, *, whole: bool) -> RollbackCurve:
        """Measure budgets in ascending order, and between the last that fails and the first that does not."""
        below = 0
        for k in self.budgets:
            reached = self.try_budget(k)
            if reached and not whole:
                break
            below = below if reached or self.curve.reached else k
        curve = self.curve
        above = curve.reached.k if curve.reached else 0
        for _ in range(self.config.refine if below and above else 0):
            middle = round(math.sqrt(below * above))
            below, above = (below, middle) if self.try_budget(middle) else (middle, above)
        return self.curve

    def try_budget(self, k: int) -> bool:
        """Choose k entries and measure; return whether the goal is reached."""
        if k not in self.points:
            with self.values.written(k) as mask:
                keep, *restored = (item.measure(self.head, self.config.batch_size) for item in self._abilities)
            self.masks[k] = mask
            self.points[k] = self._point(len(mask), keep, restored)
        return self.points[k].meets(self.config.share, self.config.tolerance)

    @property
    def curve(self) -> RollbackCurve:
        """Return the curve so far."""
        names = [item.task.spec.name for item in self.restore]
        of_base, of_tuned = ([reading.value for reading in readings] for readings in (self.base, self.tuned))
        return RollbackCurve(
            self.config.chooser, self.config.restore_metric, self.config.share, self.config.tolerance,
            self.keep.task.spec.name, len(self.keep.measured), of_base[0], of_tuned[0],
            dict(zip(names, of_base[1:], strict=True)), dict(zip(names, of_tuned[1:], strict=True)),
            {name: len(item.measured) for name, item in zip(names, self.restore, strict=True)},
            tuple(self.points[k] for k in sorted(self.points)), self.config.is_fixed,
        )  # fmt: skip

    @property
    def _abilities(self) -> list[Ability]:
        return [self.keep, *self.restore]

    def _put_back(self) -> Values:
        config, rollback = self.config, self.rollback
        terms = [LossTerm(*item) for item in self._terms()]
        path = WeightedPath(terms, rollback.pair, rollback.names, batch_size=config.batch_size, seed=config.seed)
        return PutBack(rollback, path)

    def _refit(self, outputs: BothOutputs) -> Values:
        fitting = self.config.refit.at(self.config.seed)
        return Refit(self.rollback, outputs.objective(self.head), outputs.data, fitting)

    def _terms(self) -> list[tuple[Head, Sequence[Any], float, bool]]:
        """Return the terms of the loss: each restore task's over its gap, and the keep task's over its own."""
        ends = [(self.tuned[0], self.base[0]), *zip(self.base[1:], self.tuned[1:], strict=True)]
        weights = [self.config.keep_weight, *(1 / len(self.restore) for _ in self.restore)]
        terms = []
        for ability, (reference, other), weight in zip(self._abilities, ends, weights, strict=True):
            gap = ability.gap(reference, other)
            if gap <= 0 and ability is not self.keep and self.config.takes_gradients:
                raise DataError(
                    f"task {ability.task.spec.name!r}: its loss did not rise in tuning ({-gap:.3f} nats lower), "
                    "so that no entry can be scored by it"
                )
            debias = self.config.class_debias and ability.targets(reference) is None
            terms.append((ability.aim(self.head, reference), ability.scored, weight / gap if gap > 0 else 0.0, debias))
        return sorted(terms, key=lambda term: term[2] == 0)  # a term that counts comes first

    def _point(self, k: int, keep: float, restored: Sequence[float]) -> RollbackPoint:
        shares = [
            (value - after.value) / (before.value - after.value)
            for value, before, after in zip(restored, self.base[1:], self.tuned[1:], strict=True)
        ]
        names = [item.task.spec.name for item in self.restore]
        values = dict(zip(names, restored, strict=True))
        density = k / self.rollback.pair.base.n_parameters
        return RollbackPoint(k, density, keep, self.tuned[0].value - keep, values, sum(shares) / len(shares))


def _refuse_not_lost(ability: Ability, base: Reading, tuned: Reading) -> None:
    row = RESTORABLE[ability.metric]
    lost = base.value - tuned.value if row.higher_is_better else tuned.value - base.value
    if not lost > 0:
        raise DataError(
            f"task {ability.task.spec.name!r} lost no {ability.metric} in tuning ({base.value:.3f} before, "
            f"{tuned.value:.3f} after, on validation): there is nothing to restore"
        )
