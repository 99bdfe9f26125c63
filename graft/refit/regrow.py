"""Support and values in turn: the entries that hardly moved are dropped, and others grown where the loss asks for them.

As in SpIEL (Ansell et al. 2024, arXiv 2401.16405; earlier RigL, arXiv 1911.11134): after each round of fitting the
share `drop` of the entries with the smallest |value - base| goes back to the base's bits, and as many weights with the
largest |gradient| of the loss there, of those that are not in the support, take their place. The support has exactly k
entries at every step. With k = 4 and drop = .5:

    |value - base|     a .5   b .1   c .3   d .02      b and d are dropped
    |gradient|         d .9   e .7   f .2   b .1       d and e are grown; d, dropped just now, may come back
"""

from __future__ import annotations

import dataclasses

import torch

from graft.refit.data import RefitData
from graft.refit.entries import Entries
from graft.refit.fitting import Fit, fit_values
from graft.refit.measured import Measured
from graft.refit.support import SupportContext, select_largest
from graft.specs.refit import RefitSpec


def fit_in_rounds(
    context: SupportContext, entries: Entries, data: RefitData, config: RefitSpec, start: Measured | None = None
) -> tuple[Entries, Fit]:
    """Fit values, then drop, grow and fit again, `config.rounds` times in all.

    Args:
        context: for the gradients of growth, over the live model.
        entries: the first support, of that model.
        data: texts to fit to, and examples to choose by.
        config: the refit block.
        start: the live model on validation, where it has been measured.

    Returns:
        The support and the fit whose kept values have the lowest measure of all rounds; the candidates are those of
        all rounds, and the live model holds the kept ones.

    Raises:
        TrainingError, CheckpointError: the loss is not finite.
    """
    best, fit = entries, fit_values(context.objective, entries, data, config, start)
    candidates = fit.candidates
    for number in range(1, config.rounds):
        entries = change_support(context, entries, round(config.drop * len(entries)))
        reseeded = dataclasses.replace(config, seed=(config.seed + number) % 2**32)
        again = fit_values(context.objective, entries, data, reseeded)
        shift = number * config.epochs
        kept = again.kept.later(shift)
        candidates += tuple(candidate.later(shift) for candidate in again.candidates)
        if kept.measured.by(config.select) < fit.kept.measured.by(config.select):
            best, fit = entries, dataclasses.replace(again, kept=kept)
    entries.return_to_base()
    best.write(fit.values)
    return best, dataclasses.replace(fit, candidates=candidates)


def change_support(context: SupportContext, entries: Entries, n_dropped: int) -> Entries:
    """Drop the entries that moved least, and grow as many where the gradient is largest; the others keep their values.

    Ties go by tensor name, then index. The live model holds the base's bits at the dropped ones.
    """
    moved = (entries.values.detach() - entries.base).abs()
    stays = torch.zeros(len(entries), dtype=torch.bool)
    stays[moved.argsort(descending=True, stable=True)[: len(entries) - n_dropped]] = True
    entries.return_to_base()
    remaining = Entries(context.weights, entries.mask_of(stays), context.base).adopt(entries)
    remaining.write(remaining.values.detach())
    if not n_dropped:
        return remaining
    gradients = context.gradients()
    for name in remaining.mask:
        gradients[name][remaining.indices[name]] = torch.nan  # which are in already
    mask = remaining.mask | select_largest(gradients, context.base, n_dropped)
    return Entries(context.weights, mask, context.base).adopt(remaining)
