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

from graft.patch.mask import Mask
from graft.refit.data import RefitData
from graft.refit.entries import Entries
from graft.refit.fitting import Fit, fit_values
from graft.refit.support import SupportContext, select_largest
from graft.specs.refit import RefitSpec


def fit_in_rounds(context: SupportContext, entries: Entries, data: RefitData, config: RefitSpec) -> tuple[Entries, Fit]:
    """Fit values, then drop, grow and fit again, `config.rounds` times in all.

    Args:
        context: for the gradients of growth, over the live model.
        entries: the first support, of that model.
        data: texts to fit to, and examples to choose by.
        config: the refit block.

    Returns:
        The last support and its fit, whose candidates are those of all rounds.

    Raises:
        TrainingError, CheckpointError: the loss is not finite.
    """
    fit = fit_values(context.objective, entries, data, config)
    for number in range(1, config.rounds):
        entries = _change_support(context, entries, fit.values, round(config.drop * len(entries)))
        again = fit_values(context.objective, entries, data, dataclasses.replace(config, seed=config.seed + number))
        shifted = [item.later(number * config.epochs) for item in again.candidates]
        kept = again.kept.later(number * config.epochs)
        fit = Fit(again.values, kept, (*fit.candidates, *shifted), again.tuned)
    return entries, fit


def _change_support(context: SupportContext, entries: Entries, values: torch.Tensor, n_dropped: int) -> Entries:
    """Drop the entries that moved least, and grow as many where the gradient is largest; the others keep their values.

    Ties go by tensor name, then index.
    """
    moved = (values - entries.base).abs()
    stays = torch.zeros(len(entries), dtype=torch.bool)
    stays[moved.argsort(descending=True, stable=True)[: len(entries) - n_dropped]] = True
    entries.write(torch.where(stays, values, entries.base))
    remaining = entries.mask_of(stays)
    gradients = context.gradients()
    for name in remaining:
        gradients[name][torch.tensor(remaining[name])] = torch.nan  # which are in already
    grown = select_largest(gradients, context.base, n_dropped) if n_dropped else Mask.of({}, {})
    mask = remaining | grown
    return Entries({name: context.weights[name] for name in mask}, mask, context.base)
