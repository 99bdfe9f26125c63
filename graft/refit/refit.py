"""Refit: any fine-tuned checkpoint as a patch, by fitting the values of few weights to its outputs.

A patch that is cut copies the tuned values, and needs a checkpoint whose skill lies in few of them. A refit chooses few
weights of the base and fits their values, so that the base with them gives the tuned model's outputs; the tuned values
are not used at all. It is kin to sparse fine-tuning (LT-SFT, arXiv 2110.07560; SpIEL, arXiv 2401.16405) and to
distillation (arXiv 1503.02531), and no localization in the published sense, since the values are trained anew: a patch
made so says `values: refit`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graft.arguments import checked
from graft.errors import BudgetError
from graft.files.location import locate
from graft.localize.budget import resolve_budget
from graft.localize.localization import describe_origin, localize_skill, open_base_head, tuned_rows
from graft.patch.mask import Mask
from graft.patch.merge import StoredTarget
from graft.patch.refit_record import REFIT
from graft.patch.region_placement import place_region
from graft.patch.skill_patch import Patch, cut_patch
from graft.refit.data import RefitData, collect_data
from graft.refit.entries import Entries
from graft.refit.fitting import Fit
from graft.refit.measured import measure
from graft.refit.objective import Objective
from graft.refit.regrow import fit_in_rounds
from graft.refit.support import SupportContext, choose_by_loss, is_chosen_by_loss, localization_of, match_weights
from graft.refit.teacher import Teacher, make_teacher
from graft.specs.reader import to_plain
from graft.specs.refit import RefitSpec
from graft.specs.runtime import Runtime
from graft.tasks.examples import Example
from graft.tasks.head import spread_head
from graft.tasks.task import Task
from graft.tensors.hashing import digest_of
from graft.tensors.pair import CheckpointPair
from graft.tensors.scope import Scope


@checked
def refit_skill(
    base: str | Path,
    tuned: str | Path,
    task: Task,
    config: RefitSpec | None = None,
    *,
    support: Patch | Mask | None = None,
    texts: Sequence[Example] | None = None,
    device: str = "auto",
    dtype: str = "auto",
    gradient_checkpointing: bool = False,
    parallel: str = "ddp",
    with_base_values: bool = False,
) -> Patch:
    """Fit the values of exactly k weights of a base to a tuned model's outputs, and return them as a patch.

    No other weight moves. The optimizer's state is that of k values, and one tensor's gradient is held at a time.

    Args:
        base: the pretrained model; a local folder, the embedded encoder or a Hub id.
        tuned: the fine-tuned model.
        task: whose head gives the outputs; its training examples are fitted to, its validation examples choose the
            epoch that is kept.
        config: the refit block.
        support: the entries, those of a patch or mask; chosen by `config.support` where absent.
        texts: other examples to fit to, which need no labels.
        device, dtype, gradient_checkpointing, parallel: as in `graft.localize.localization.localize_skill`.
        with_base_values: also store the base's values.

    Raises:
        BudgetError: k is 0, or more than there is to choose from, or the outputs of both models are equal.
        TrainingError: the loss is not finite.
        PatchMismatchError: the support does not fit the base.
        MismatchError, CheckpointError, DataError, ConfigError: an input is refused; the line says which and why.
    """
    config = config or RefitSpec()
    runtime = Runtime(device, dtype, gradient_checkpointing, parallel)
    located, data = locate(base), collect_data(task, texts, config)
    pair = CheckpointPair.open(located.path, locate(tuned).path).without_rounding()
    mask = None if support is None else place_region(support, StoredTarget(pair.base), located.name)
    k = resolve_budget(pair.base.n_parameters, config.density, config.budget) if mask is None else len(mask)
    if mask is None and not is_chosen_by_loss(config):
        mask = localize_skill(base, tuned, task, localization_of(config, k), **runtime.options).mask
    teacher = _open_teacher(pair, task, data, runtime)
    objective = Objective(open_base_head(pair, task, runtime), teacher, config.labels)
    data = data.of(objective.head)
    _refuse_equal(objective, data)
    scope = _scope_of(config, mask)
    names = {*(mask or ()), *(pair.names_in(scope) if mask is None or config.rounds > 1 else ())}
    weights = match_weights(objective.head.model, sorted(names))
    context = SupportContext(objective, pair.base, weights, data.train, k)
    mask = mask or choose_by_loss(context, config)
    entries = Entries(context.weights, mask, pair.base)
    entries, fit = fit_in_rounds(context, entries, data, config)
    del teacher, objective, context  # and the models with them
    described = _describe(pair, data, fit, config, support)
    provenance = describe_origin(located, pair, scope, described["method"], task)
    provenance = dataclasses.replace(provenance, values=REFIT, refit=described["refit"])
    patch = cut_patch(pair, entries.mask, provenance, with_base_values=with_base_values)
    return dataclasses.replace(patch, values=entries.rounded(fit.values))


def _scope_of(config: RefitSpec, mask: Mask | None) -> Scope:
    """Return the scope of the settings, or all tensors where a support that was given lies outside it."""
    scope = Scope(config.scope)
    return scope if mask is None or all(map(scope.holds, mask)) else Scope("all")


def _refuse_equal(objective: Objective, data: RefitData) -> None:
    """Refuse a tuned model that answers as the base does.

    Raises:
        BudgetError: all of its outputs on validation are the base's, to the last bit.
    """
    if objective.labels == 0 and measure(objective, data.validation).kl == 0:
        raise BudgetError(
            "the tuned model's outputs are the base's on every text of validation: there is no skill to fit"
        )


def _open_teacher(pair: CheckpointPair, task: Task, data: RefitData, runtime: Runtime) -> Teacher:
    """Open the tuned model and record its outputs; the model is dropped where they are few."""
    head = spread_head(pair.tuned.path, task.spec, runtime, seed=task.spec.seed, rows=tuned_rows(pair, task))
    return make_teacher(head, [*data.train, *data.validation])


def _describe(
    pair: CheckpointPair, data: RefitData, fit: Fit, config: RefitSpec, support: Patch | Mask | None
) -> dict[str, dict[str, Any]]:
    """Return the method and the refit's own record for the provenance."""
    method = {"method": "refit", **to_plain(config)}
    if support is not None:
        method |= {"support": "given", "density": None, "budget": len(support)}
    record = {
        "teacher": digest_of(pair.tuned),
        "texts": data.describe(),
        "kept": to_plain(fit.kept),
        "candidates": [to_plain(candidate) for candidate in fit.candidates],
        "tuned": None if fit.tuned is None else to_plain(fit.tuned),
    }
    return {"method": method, "refit": record}
