"""Localization of a skill: two checkpoints and a task in, a skill patch out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from graft.arguments import checked
from graft.errors import BudgetError, CheckpointError, ConfigError
from graft.files.location import Located
from graft.files.training_manifest import read_few
from graft.localize.budget import resolve_budget
from graft.localize.changes import Changes
from graft.localize.context import LocalizationContext, ScoreCache
from graft.localize.lines import count_lines, count_on_path, find_budget, find_codes
from graft.localize.registry import LOCALIZATION_METHODS, LocalizationMethod, check_general
from graft.parallel.launch import find_ranks
from graft.patch.head_config import read_head, renames_labels
from graft.patch.live import LiveTarget
from graft.patch.mask import Mask
from graft.patch.provenance import Provenance, trace_provenance
from graft.patch.skill_patch import Patch, cut_patch
from graft.patch.whole_tensors import match_whole_tensors
from graft.scores.gradient_path import GradientPath
from graft.scores.registry import SCORES
from graft.sources.opening import Model, open_model, open_pair, refuse_idle_tokenizer
from graft.specs.localize import LocalizeSpec
from graft.specs.reader import to_plain
from graft.specs.runtime import Runtime
from graft.tasks.head import Head, spread_head
from graft.tasks.label_order import RowNames, labels_in, read_rows
from graft.tasks.loading import tell_once, tokenizer_digest
from graft.tasks.sharing import can_share, share_model
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.pair import CheckpointPair
from graft.tensors.scope import Scope
from graft.tensors.shards import local_of, shard_of
from graft.tensors.transposed import has_inputs, is_matrix


@checked
def localize_skill(
    base: Model,
    tuned: Model,
    task: Task | None,
    config: LocalizeSpec | None = None,
    *,
    general: Task | None = None,
    tokenizer: Any = None,
    device: str = "auto",
    dtype: str = "auto",
    gradient_checkpointing: bool = False,
    parallel: str = "ddp",
    with_base_values: bool = False,
    score_cache: ScoreCache | None = None,
) -> Patch:
    """Find the entries that hold a skill and cut them out of the tuned checkpoint.

    A budget counts changed entries only: exactly k, ties broken by tensor name, then index.

    Args:
        base: the pretrained model: a local folder, the embedded encoder, a Hub id, or a live model, which is read and
            left as it is (a copy of it runs).
        tuned: the fine-tuned model, held in any of these ways; or an adapter of the base, its folder, its Hub id, or a
            live PeftModel, whose merged values count.
        task: whose training examples attributions are computed on; None for scores without data.
        config: the localize block.
        general: a task whose training texts have no part in the skill, for methods that contrast its texts with them;
            its head's template is read too where the head is of the task's kind.
        tokenizer: of a live base; where absent, that of the folder which the base was loaded from.
        device, dtype, gradient_checkpointing: of the model that attributions are computed with, as in `open_head`.
        parallel: over several processes, all of which call this: the whole model in each ("ddp"; the mask is bitwise
            one process's over the same micro-batches), or shards of it ("fsdp", FSDP2; gradients are summed over
            processes in another order, and candidates are those of their sums).
        with_base_values: also store the base's values, for exact undo of a merged checkpoint.
        score_cache: scores of earlier calls with the same checkpoints and tasks; this call's are added (4 bytes per
            weight in scope for those that take gradients of every weight).

    Raises:
        BudgetError: k is 0, or more than there is to choose from, or the checkpoints are equal.
        MismatchError, CheckpointError, DataError, ConfigError: an input is refused; the line says which and why.
    """
    config = config or LocalizeSpec()
    refuse_idle_tokenizer(tokenizer, base, tuned)
    opened = open_model(base, tokenizer=tokenizer)
    pair = open_pair(opened, tuned).without_rounding()
    runtime = Runtime(device, dtype, gradient_checkpointing, parallel)
    cache = {} if score_cache is None else score_cache
    mask = find_entries(pair, task, config, runtime, cache, general=general, with_base_values=with_base_values)
    method = to_plain(config) | count_of_lines(pair.base, mask, config)
    method |= {} if general is None else {"general": general.spec.name}
    provenance = describe_origin(opened.located, pair, Scope(config.scope), method, task)
    return cut_patch(pair, mask, provenance, with_base_values=with_base_values)


def count_of_lines(base: Checkpoint, mask: Mask, config: LocalizeSpec) -> dict[str, int]:
    """Return how many whole lines a mask has, for its provenance; nothing of other structures."""
    if not config.has_lines:
        return {}
    return {"lines": count_lines(mask, find_codes(base, list(mask), str(config.structure)))}


def find_entries(
    pair: CheckpointPair,
    task: Task | None,
    config: LocalizeSpec,
    runtime: Runtime,
    score_cache: ScoreCache,
    *,
    general: Task | None = None,
    with_base_values: bool = False,
) -> Mask:
    """Find the entries that hold a skill, without cutting them out; arguments and errors are `localize_skill`'s."""
    check_general(config.method, general is not None)
    if config.has_lines:  # whose sums need the score of every weight
        config = dataclasses.replace(config, exact_scores=True)
    changes = Changes(pair, _names_to_choose_from(pair, config))
    context = LocalizationContext(
        changes, _resolve_k(changes, config), config, with_base_values=with_base_values, score_cache=score_cache
    )
    if LOCALIZATION_METHODS[config.method].needs_data:
        context.groups  # noqa: B018 - refuses before the costly part
        context = _with_data(context, task, general, runtime)
    return choose_entries(context)


def _resolve_k(changes: Changes, config: LocalizeSpec) -> int:
    """Return the number of entries to choose; of whole lines, about how many they will be."""
    base = changes.pair.base
    if not config.has_lines:
        k = resolve_budget(base.n_parameters, config.density, config.budget)
        return k if config.budget is not None else _within_few(changes, k)
    specs = {name: base.spec(name) for name in changes.counts}
    find_codes(base, list(specs), str(config.structure))  # refuses before the costly part
    return count_on_path(find_budget(base.n_parameters, config), specs, sum(changes.counts.values()))


def _within_few(changes: Changes, k: int) -> int:
    """Return the entries of a density: of a training of few weights no more than changed, where the density has more.

    Of k weights that trained alone in a narrow dtype some may round back to the base's: the others are all there is.
    """
    n_changed, few = sum(changes.counts.values()), read_few(changes.pair.tuned.path)
    if not 0 < n_changed < k <= few:
        return k
    tell_once(f"{n_changed:,} of the {few:,} weights that trained have other values than the base: all are taken")
    return n_changed


def _names_to_choose_from(pair: CheckpointPair, config: LocalizeSpec) -> tuple[str, ...]:
    """Return the tensors in scope; with a largest rank, or for whole lines, the matrices among them.

    Of a method that tells nothing of vectors they are all others.

    Raises:
        ConfigError: the method cannot keep to a rank or to lines, or there is no matrix.
    """
    names, method = pair.names_in(Scope(config.scope)), LOCALIZATION_METHODS.find(config.method)
    if method.of_matrices:
        names = pick_tensors(pair.base, names, has_inputs, config.scope)
    if config.max_rank is None and not config.has_lines:
        return names
    if config.has_lines and config.method not in SCORES:
        raise ConfigError(
            f"method {config.method!r} chooses entries one by one, and no whole {config.structure}: choose from "
            f"{', '.join(SCORES)}"
        )
    if isinstance(method, LocalizationMethod) and not method.limits_rank:
        raise ConfigError(f"method {method.name!r} cannot keep to a rank: choose another, or leave out max_rank")
    return pick_tensors(pair.base, names, is_matrix, config.scope)


def pick_tensors(
    base: Checkpoint, names: Iterable[str], fits: Callable[[str, Sequence[int]], bool], scope: str
) -> tuple[str, ...]:
    """Return the tensors whose name and shape fit, of those that are matrices or like them.

    Raises:
        ConfigError: there is none.
    """
    kept = tuple(name for name in names if fits(name, base.spec(name).shape))
    if not kept:
        raise ConfigError(f"scope {scope!r:.80} holds no matrix, whose entries, rank or lines could be chosen")
    return kept


def describe_origin(
    base: Located, pair: CheckpointPair, scope: Scope, method: dict[str, object], task: Task | None
) -> Provenance:
    """Describe where a patch came from, without path, user, host or time; labels in the tuned head's order."""
    description = task.describe() if task else None
    rows = tuned_rows(pair, task)
    if description is not None and rows is not None:
        description["labels"] = list(rows.names)
    head, before = read_head(pair.tuned.path), read_head(pair.base.path)
    if head and (pair.extra or pair.replaced or renames_labels(before, head)):
        description = description or {"labels": list(labels_in(pair.tuned.path) or ())}
        description["head"] = description.get("head", {}) | head | ({"labels": list(rows.names)} if rows else {})
    return describe_checkpoint(base, pair.base, scope, method, description)


def tuned_rows(pair: CheckpointPair, task: Task | None) -> RowNames | None:
    """Read the labels of the rows of the tuned model's classifier; None where the task has no such head.

    Raises:
        CheckpointError: they are for other labels than the task's.
    """
    if task is None or task.spec.head.entry.own_layer is None:
        return None
    rows = read_rows(pair.tuned.path, task.spec.labels, None)
    if rows is None:
        return None
    try:
        read_rows(pair.base.path, task.spec.labels, None)
        is_another = bool(pair.extra or pair.replaced)
    except CheckpointError:  # tuning replaced a head for other labels by a new one
        is_another = True
    return RowNames(rows.names, rows.where, is_another)


def describe_checkpoint(
    base: Located, checkpoint: Checkpoint, scope: Scope, method: dict[str, object], task: dict[str, object] | None
) -> Provenance:
    """Describe where a region of a checkpoint came from; `task` as `Task.describe` gives it."""
    tokenizer = tokenizer_digest(base.path) if base.path.is_dir() else None
    return trace_provenance(base, checkpoint, scope, method, task=task, tokenizer=tokenizer)


def choose_entries(context: LocalizationContext) -> Mask:
    """Choose the k entries of a context by its method."""
    method = LOCALIZATION_METHODS.find(context.config.method)
    if context.config.has_lines or not isinstance(method, LocalizationMethod):
        return context.select_by_score(method.name)
    mask: Mask = method.load()(context)
    return mask


def _with_data(
    context: LocalizationContext, task: Task | None, general: Task | None, runtime: Runtime
) -> LocalizationContext:
    """Return the context with a model at hand and the tasks' examples."""
    config, method = context.config, LOCALIZATION_METHODS[context.config.method]
    if task is None:
        raise BudgetError(f"method {config.method!r} needs a task's data")
    needs_validation = isinstance(method, LocalizationMethod) and method.needs_validation
    validation = task.validation_examples() if needs_validation else []
    _refuse_dense(config)
    head = open_base_head(context.pair, task, runtime)
    path = GradientPath(
        head,
        context.pair,
        context.names,
        task.train_examples(),
        batch_size=config.batch_size,
        seed=config.seed,
        class_debias=config.class_debias,
    )
    context = dataclasses.replace(context, path=path, validation=validation)
    if general is None:
        return context
    general_head = share_model(head, general.spec) if can_share(head, general.spec) else None
    return dataclasses.replace(context, general=general.train_examples(), general_head=general_head)


def open_base_head(pair: CheckpointPair, task: Task, runtime: Runtime) -> Head:
    """Open the base with the task's head; what of it only the tuned checkpoint has holds the tuned values.

    Raises:
        CheckpointError, ConfigError: as `spread_head`.
    """
    head = spread_head(pair.base, task.spec, runtime, seed=task.spec.seed, rows=tuned_rows(pair, task))
    _copy_head(head.model, pair)
    return head


def _copy_head(model: torch.nn.Module, pair: CheckpointPair) -> None:
    """Copy tensors that only the tuned checkpoint has into the model: a graft holds them, and so its gradients must."""
    with torch.no_grad():
        for name, tensor in match_whole_tensors(LiveTarget(model), pair).items():
            local_of(tensor).copy_(shard_of(tensor).cut(pair.read_whole(name)))


def _refuse_dense(config: LocalizeSpec) -> None:
    """Refuse a method that holds a number for every weight, where there are several processes."""
    dense = not LOCALIZATION_METHODS[config.method].over_processes or config.exact_scores
    if dense and not find_ranks().is_single:
        others = [name for name, row in LOCALIZATION_METHODS.items() if row.needs_data and row.over_processes]
        subject = "--exact-scores" if config.exact_scores else f"method {config.method!r}"
        held = (
            "a sum for every input" if LOCALIZATION_METHODS[config.method].forward_only else "a number for every weight"
        )
        raise ConfigError(
            f"{subject} holds {held}, which is not added up over processes: run it in one process, "
            f"or use {', '.join(others[:-1])} or {others[-1]} without exact scores"
        )
