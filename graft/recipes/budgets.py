"""Budgets of a recipe that no training can meet, refused before the first one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from graft.errors import BudgetError, ConfigError
from graft.localize.budget import resolve_budget
from graft.localize.registry import LOCALIZATION_METHODS
from graft.scores.registry import ScoreEntry
from graft.specs.localize import LocalizeSpec
from graft.specs.train import TrainSpec
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.scope import KINDS, Scope
from graft.train.localizable import check_density
from graft.train.protection.protected_set import ProtectedSet

Asked = tuple[
    str, LocalizeSpec | None, TrainSpec
]  # key of the recipe, how it localizes, and how what it looks at trains


def refuse_budgets(base: Path, asked: Iterable[Asked]) -> None:
    """Refuse a budget of nothing, or of more entries than its training can move within its scope.

    Raises:
        BudgetError: the key is named.
        ConfigError: a scope holds nothing.
    """
    checkpoint = Checkpoint.open(base)
    for key, how, training in asked:
        check_density(checkpoint, training, ProtectedSet())
        if how is None:
            continue
        refuse_contrast(key, LOCALIZATION_METHODS[how.method])
        k, most = resolve_budget(checkpoint.n_parameters, how.density, how.budget), _most(checkpoint, how, training)
        if k > most:
            raise BudgetError(
                f"{key}: a budget of {k:,} entries, but training moves at most {most:,} of those in scope "
                f"{how.scope!r}: lower it or widen the scope"
            )


def refuse_contrast(key: str, method: ScoreEntry) -> None:
    """Refuse a method that needs general texts, which recipes of one kind alone have.

    Raises:
        ConfigError: naming the key.
    """
    if method.needs_general:
        raise ConfigError(f"{key}: method {method.name!r} needs general texts, which only recipes of kind planted give")


def _most(checkpoint: Checkpoint, how: LocalizeSpec, training: TrainSpec) -> int:
    names = Scope(how.scope).names(checkpoint)
    if set(training.scope.split("+")) <= {*KINDS, "all"}:  # an expression is searched in the live model's names
        names = tuple(name for name in names if Scope(training.scope).holds(name))
    moved = sum(checkpoint.spec(name).numel for name in names)
    if training.localizable is None:
        return moved
    return min(moved, resolve_budget(checkpoint.n_parameters, training.localizable.density, None))
