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
from dataclasses import dataclass
from typing import Any

from graft.arguments import checked
from graft.errors import BudgetError
from graft.localize.budget import resolve_budget
from graft.localize.lines import count_lines, find_codes
from graft.localize.localization import describe_origin, find_entries, open_base_head, tuned_rows
from graft.patch.mask import Mask
from graft.patch.merge import StoredTarget
from graft.patch.refit_record import REFIT
from graft.patch.region_placement import place_region
from graft.patch.skill_patch import Patch, cut_patch
from graft.refit.data import RefitData, collect_data
from graft.refit.entries import Entries
from graft.refit.fitting import Fit, measure_ends, record_fit
from graft.refit.measured import Measured, measure
from graft.refit.objective import Objective
from graft.refit.regrow import fit_in_rounds
from graft.refit.support import SupportContext, choose_by_loss, is_chosen_by_loss, localization_of, match_weights
from graft.refit.teacher import Teacher, make_teacher
from graft.sources.opening import Model, OpenModel, open_model, open_pair, refuse_idle_tokenizer
from graft.specs.reader import to_plain
from graft.specs.refit import RefitSpec
from graft.specs.runtime import DEFAULT, Runtime
from graft.tasks.examples import Example
from graft.tasks.head import spread_head
from graft.tasks.task import Task
from graft.tensors.pair import CheckpointPair
from graft.tensors.scope import Scope


@checked
def refit_skill(
    base: Model,
    tuned: Model,
    task: Task,
    config: RefitSpec | None = None,
    *,
    support: Patch | Mask | None = None,
    texts: Sequence[Example] | None = None,
    tokenizer: Any = None,
    device: str = "auto",
    dtype: str = "auto",
    gradient_checkpointing: bool = False,
    parallel: str = "ddp",
    with_base_values: bool = False,
) -> Patch:
    """Fit the values of exactly k weights of a base to a tuned model's outputs, and return them as a patch.

    No other weight moves. The optimizer's state is that of k values, and one tensor's gradient is held at a time.

    Args:
        base: the pretrained model; a local folder, the embedded encoder, a Hub id or a live model.
        tuned: the fine-tuned model, which may be an adapter of the base too.
        task: whose head gives the outputs; its training examples are fitted to, its validation examples choose the
            epoch that is kept.
        config: the refit block.
        support: the entries, those of a patch or mask; chosen by `config.support` where absent.
        texts: other examples to fit to, which need no labels.
        tokenizer: of live models; where absent, that of the folder which they were loaded from.
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
    refuse_idle_tokenizer(tokenizer, base, tuned)
    opened = open_model(base, tokenizer=tokenizer)
    _refuse_early(opened, config, support)
    refitter = Refitter.open(opened, tuned, task, config, texts=texts, runtime=runtime)
    return refitter.refit(config, support, with_base_values=with_base_values)


@dataclass(frozen=True, eq=False)
class Refitter:
    """A base and a tuned model's outputs at hand, from which one patch after another can be fitted.

    Attributes:
        opened: the base.
        pair: base and tuned checkpoints.
        task: whose head gives the outputs.
        data: to fit to and to choose by.
        objective: over the live base, with the recorded outputs.
        start: the base on validation; None where it was not measured.
        runtime: where and how the model runs.
    """

    opened: OpenModel
    pair: CheckpointPair
    task: Task
    data: RefitData
    objective: Objective
    start: Measured | None
    runtime: Runtime

    @classmethod
    def open(
        cls,
        base: Model | OpenModel,
        tuned: Model,
        task: Task,
        config: RefitSpec,
        *,
        texts: Sequence[Example] | None = None,
        runtime: Runtime = DEFAULT,
    ) -> Refitter:
        """Record the tuned model's outputs, then load the base; arguments and errors are those of `refit_skill`."""
        data, opened = collect_data(task, texts, config), open_model(base)
        pair = open_pair(opened, tuned).without_rounding()
        teacher = _open_teacher(pair, task, data, runtime)
        objective = Objective(open_base_head(pair, task, runtime), teacher, config.labels)
        data = data.of(objective.head)
        start = measure(objective, data.validation) if objective.labels == 0 else None
        _refuse_equal(start)
        return cls(opened, pair, task, data, objective, start, runtime)

    def refit(self, config: RefitSpec, support: Patch | Mask | None = None, *, with_base_values: bool = False) -> Patch:
        """Fit a patch; the live model is the base again afterwards, unless it failed.

        `config` may differ from the one that this was opened with in all but what its data and loss depend on: labels,
        texts and hold_out.
        """
        pair, given = self.pair, None
        if support is not None:
            given = place_region(support, StoredTarget(pair.base), self.opened.located.name)
        scope = _scope_of(config, given)
        mask = self._choose(config, scope, with_base_values) if given is None else given
        # between rounds entries may grow anywhere in scope
        names = {*mask, *(pair.names_in(scope) if config.rounds > 1 else ())}
        context = self._context(sorted(names), len(mask), config)
        entries = Entries(context.weights, mask, pair.base)
        entries, fit = fit_in_rounds(context, entries, self.data, config, self.start)
        fit = measure_ends(fit, self.objective, entries, self.data)  # the model is the base again
        method, record = _describe(pair, self.data, fit, config, support, mask)
        provenance = describe_origin(self.opened.located, pair, scope, method, self.task)
        provenance = dataclasses.replace(provenance, values=REFIT, refit=record)
        patch = cut_patch(pair, entries.mask, provenance, with_base_values=with_base_values)
        return dataclasses.replace(patch, values=entries.rounded(fit.values))

    def _choose(self, config: RefitSpec, scope: Scope, with_base_values: bool) -> Mask:
        """Return the entries to fit, by the refit's own loss or a method of localization."""
        k = resolve_budget(self.pair.base.n_parameters, config.density, config.budget)
        if is_chosen_by_loss(config):
            context = self._context(self.pair.names_in(scope), k, config)
            return choose_by_loss(dataclasses.replace(context, with_base_values=with_base_values))
        chooser = localization_of(config, k)
        return find_entries(self.pair, self.task, chooser, self.runtime, {}, with_base_values=with_base_values)

    def _context(self, names: Sequence[str], k: int, config: RefitSpec) -> SupportContext:
        weights = match_weights(self.objective.head.model, names)
        return SupportContext(self.objective, self.pair.base, weights, self.data.train, k, config)


def _refuse_early(base: OpenModel, config: RefitSpec, support: Patch | Mask | None) -> None:
    """Refuse a budget, or a support that has none or does not fit, before the costly part."""
    if support is not None:
        place_region(support, StoredTarget(base.checkpoint), base.located.name)
        return
    k = resolve_budget(base.checkpoint.n_parameters, config.density, config.budget)
    if not is_chosen_by_loss(config):
        localization_of(config, k)


def _scope_of(config: RefitSpec, mask: Mask | None) -> Scope:
    """Return the scope of the settings, or all tensors where a support that was given lies outside it."""
    scope = Scope(config.scope)
    return scope if mask is None or all(map(scope.holds, mask)) else Scope("all")


def _refuse_equal(start: Measured | None) -> None:
    """Refuse a tuned model that answers as the base does.

    Raises:
        BudgetError: all of its outputs on validation are the base's, to the last bit.
    """
    if start is not None and start.kl == 0:
        raise BudgetError(
            "the tuned model's outputs are the base's on every text of validation: there is no skill to fit"
        )


def _open_teacher(pair: CheckpointPair, task: Task, data: RefitData, runtime: Runtime) -> Teacher:
    """Open the tuned model and record its outputs; the model is dropped where they are few."""
    head = spread_head(pair.tuned, task.spec, runtime, seed=task.spec.seed, rows=tuned_rows(pair, task))
    return make_teacher(head, data.train, data.validation)


def _describe(
    pair: CheckpointPair, data: RefitData, fit: Fit, config: RefitSpec, support: Patch | Mask | None, mask: Mask
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the method and the refit's own record for the provenance."""
    method = {"method": "refit", **to_plain(config), "lr": fit.lr}
    if support is not None:
        method |= {"support": "given", "density": None, "budget": len(mask)}
    if isinstance(support, Patch) and support.provenance.has_lines:
        method |= {"structure": support.provenance.method["structure"]}
    elif config.has_lines:
        method |= {"lines": count_lines(mask, find_codes(pair.base, list(mask), str(config.structure)))}
    return method, record_fit(pair.tuned, data, fit)
