"""Supports of a refit: the k weights whose values are fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from graft.errors import BudgetError, ConfigError, PatchMismatchError
from graft.localize.lines import find_budget, find_codes, select_lines, total_lines
from graft.localize.rank_limit import select_within_rank
from graft.localize.registry import LocalizationMethod
from graft.parallel.sharded import is_sharded
from graft.patch.live import LiveTarget
from graft.patch.mask import Mask
from graft.refit.mixture import MixedObjective
from graft.refit.objective import Objective
from graft.refit.registry import SUPPORTS, Support
from graft.scores.coordinates import Groups
from graft.scores.gradients import DenseSum, Gradients, sum_mean_gradients
from graft.scores.selection import select_top
from graft.specs.localize import LocalizeSpec
from graft.specs.refit import RefitSpec
from graft.tasks.examples import Example
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.transposed import is_matrix


@dataclass(frozen=True, eq=False)
class SupportContext:
    """Everything from which a support is chosen by the refit's own loss.

    Attributes:
        objective: the loss, over the live base.
        base: the base checkpoint.
        weights: base name -> live tensor, for those in scope.
        examples: to fit to.
        k: how many entries.
        config: the refit block, for the structure of the support, how many texts choose it, and how many are in a
            backward pass, on which the mean does not depend beyond rounding.
        with_base_values: the patch will hold the base's values too, which a budget of bytes counts.
    """

    objective: Objective | MixedObjective
    base: Checkpoint
    weights: Mapping[str, torch.Tensor]
    examples: Sequence[Example]
    k: int
    config: RefitSpec
    with_base_values: bool = False

    def gradients(self) -> Gradients:
        """Return the gradient of the mean loss where the weights are now: base name -> (n,) fp32.

        The mean is over `support_texts` examples evenly spaced among all, so that each part of a mixture has its share.
        Each of several processes has the same bits, the sums of all added in the order of ranks: a collective call.

        Raises:
            CheckpointError: the loss or a gradient is not finite.
            ConfigError: the weights are sharded.
        """
        if is_sharded(self.objective.head.model):
            raise ConfigError(
                "the gradient of every weight is not held in shards: give a patch or mask as the support, or use "
                "--parallel ddp"
            )
        sink = DenseSum(self.weights)
        head, n = self.objective.head, min(self.config.support_texts, len(self.examples))
        chosen = [self.examples[i * len(self.examples) // n] for i in range(n)]
        sum_mean_gradients(head, self.weights, sink, chosen, self.config.batch_size, loss_of=self.objective)
        return {name: head.ranks.add(mine) for name, mine in sink.sums.items()}


def choose_by_loss(context: SupportContext) -> Mask:
    """Choose the entries to fit by the refit's own loss.

    Raises:
        BudgetError: there are fewer than k in scope.
        CheckpointError: the loss is not finite.
        ConfigError: the weights are sharded.
    """
    n = sum(weight.numel() for weight in context.weights.values())
    if context.k > n:
        raise BudgetError(f"a budget of {context.k:,} entries, but only {n:,} in scope: lower it or widen the scope")
    mask: Mask = SUPPORTS.find(context.config.support).load()(context)
    return mask


def is_chosen_by_loss(config: RefitSpec) -> bool:
    """Return whether the support is chosen by the refit's own loss, and not by a method of localization."""
    return isinstance(SUPPORTS.find(config.support), Support)


def localization_of(config: RefitSpec, k: int) -> LocalizeSpec:
    """Return the localize block that chooses the support, where a method of localization does.

    Raises:
        ConfigError: the method does not keep to a budget, or needs general texts.
    """
    row = SUPPORTS.find(config.support)
    if isinstance(row, LocalizationMethod) and row.sizes_itself:
        raise ConfigError(
            f"support {row.name!r} chooses its own number of entries, and a refit has exactly as many as asked for: "
            "localize by it first, and give its patch"
        )
    if row.needs_general:
        raise ConfigError(
            f"support {row.name!r} needs general texts, which a refit does not take: localize by it first, and give "
            "its patch"
        )
    shape = {key: getattr(config, key) for key in ("structure", "max_rank", "lines", "bytes")}
    of_lines = config.lines is not None or config.bytes is not None
    return LocalizeSpec(
        method=config.support, budget=None if of_lines else k, scope=config.scope, seed=config.seed, **shape
    )


def match_weights(model: torch.nn.Module, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return the live tensors of base names.

    Raises:
        PatchMismatchError: the model lacks one, or it is a buffer, which takes no gradient.
    """
    weights = LiveTarget(model).require(names, "is to be fitted")
    buffers = {id(buffer) for buffer in model.buffers()}
    buffer = next((name for name, weight in weights.items() if id(weight) in buffers), None)
    if buffer is not None:
        raise PatchMismatchError(f"tensor {buffer!r} is a buffer, which takes no gradient: it cannot be fitted")
    return weights


def largest_gradients(context: SupportContext) -> Mask:
    """Choose the k entries with the largest |gradient| of the mean loss at the base, in the structure asked for."""
    gradients, config, base = context.gradients(), context.config, context.base
    if config.has_lines:
        return _largest_lines(gradients, base, config, context.with_base_values)
    if config.max_rank is None:
        return select_largest(gradients, base, context.k)
    ranked = RankedGradients(
        {name: sizes for name, sizes in gradients.items() if is_matrix(name, base.spec(name).shape)}, base
    )
    counts = {name: len(sizes) for name, sizes in ranked.gradients.items()}
    return select_within_rank(ranked, [(tuple(counts), context.k)], config.max_rank, counts)


@dataclass(frozen=True)
class RankedGradients:
    """The sizes of matrices' gradients as scores.

    Attributes:
        gradients: base name -> (n,) fp32.
        base: the base checkpoint.
        advice: none, since every entry has a gradient.
    """

    gradients: Gradients
    base: Checkpoint
    advice: str = ""

    def select(self, groups: Groups, *, at_most: bool = False) -> Mask:
        """Return the entries with the largest sizes, of each group as many as its share."""
        ((_, k),) = groups
        return select_largest(self.gradients, self.base, k)

    def at(self, mask: Mask) -> torch.Tensor:
        """Return (k,) fp32 sizes at a mask."""
        return torch.cat([_sizes(self.gradients[name][torch.tensor(mask[name])]) for name in mask])


def _largest_lines(gradients: Gradients, base: Checkpoint, config: RefitSpec, with_base_values: bool) -> Mask:
    """Return the lines of matrices with the largest sums of |gradient|."""
    specs = {name: base.spec(name) for name in gradients if is_matrix(name, base.spec(name).shape)}
    codes = find_codes(base, list(specs), str(config.structure))
    everywhere = torch.ones(1, dtype=torch.bool)
    totals = {
        name: partial(total_lines, gradients[name].abs(), everywhere.expand(spec.numel), spec.shape, codes[name])
        for name, spec in specs.items()
    }
    budget = find_budget(base.n_parameters, config, with_base_values=with_base_values)
    return select_lines(totals, specs, codes, budget)


def select_largest(gradients: Gradients, base: Checkpoint, k: int) -> Mask:
    """Select the k largest |gradient|; NaN marks what may not be taken, ties go by tensor name, then index."""
    scores = {name: partial(_sizes, gradient) for name, gradient in gradients.items()}
    indices = select_top(scores, list(scores), k)
    return Mask.of({name: base.spec(name) for name in indices}, indices)


def _sizes(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.abs().nan_to_num(nan=-torch.inf)
