from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from graft.patch.mask import Mask
from graft.refit import regrow
from graft.refit.data import RefitData
from graft.refit.entries import Entries
from graft.refit.fitting import Candidate, Fit
from graft.refit.measured import Measured
from graft.refit.regrow import change_support, fit_in_rounds
from graft.refit.support import SupportContext, largest_gradients
from graft.specs.refit import RefitSpec
from tests.refit.conftest import K
from tests.refit.test_fitting import moved_weights


@pytest.mark.parametrize("n_dropped", [0, 1, 18, K])
def test_the_least_moved_go_back_and_as_many_grow(
    n_dropped: int, context: SupportContext, entries_of: Callable[[Mask], Entries]
) -> None:
    entries = entries_of(largest_gradients(context))
    entries.values.data += 0.01 + 0.001 * torch.arange(K).flip(0)  # the last ones moved least
    entries.write(entries.values.detach())
    after = change_support(context, entries, n_dropped)
    stayed = entries.mask_of(torch.arange(K) < K - n_dropped)
    assert len(after) == K
    assert len(stayed - after.mask) == 0
    assert moved_weights(context) == stayed  # the dropped hold the base's bits, the grown still do
    positions, before = after.positions_of(stayed), entries.positions_of(stayed)
    assert torch.equal(after.values.detach()[positions], entries.values.detach()[before])
    grown = np.setdiff1d(np.arange(K), positions.numpy())
    assert torch.equal(after.values.detach()[grown], after.base[grown])
    if n_dropped:  # what grew has the largest gradients there, of all that are not in the support
        gradients = context.gradients()
        sizes = torch.cat([gradients[name][indices].abs() for name, indices in after.indices.items()])
        for name in stayed:
            gradients[name][torch.tensor(stayed[name])] = 0
        largest = torch.cat(list(gradients.values())).abs().topk(n_dropped).values
        assert torch.equal(sizes[grown].sort(descending=True).values, largest)


def test_the_support_has_exactly_k_entries_in_every_round(context: SupportContext, data: RefitData) -> None:
    config = RefitSpec(lr=0.02, epochs=1, batch_size=16, rounds=3, drop=0.4)
    first = Entries(context.weights, largest_gradients(context), context.base)
    entries, fit = fit_in_rounds(context, first, data, config)
    assert len(entries) == len(fit.values) == K
    assert [item.epoch for item in fit.candidates if item.kind == "start"] == [0, 1, 2]
    assert fit.kept in fit.candidates
    assert len(moved_weights(context) - entries.mask) == 0
    assert torch.equal(entries.values.detach(), fit.values)


def test_the_best_of_all_rounds_is_kept(
    context: SupportContext, data: RefitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = iter([0.5, 0.2, 0.3])

    def fit_values(_: object, entries: Entries, *__: object) -> Fit:
        kl = next(told)
        entries.values.data += kl
        entries.write(entries.values.detach())
        kept = Candidate(1, "last", kl, Measured(kl))
        return Fit(entries.values.detach().clone(), kept, (kept,), None, 0.1)

    monkeypatch.setattr(regrow, "fit_values", fit_values)
    first = Entries(context.weights, largest_gradients(context), context.base)
    entries, fit = fit_in_rounds(context, first, data, RefitSpec(rounds=3, drop=0.5, epochs=4, select="kl"))
    assert (fit.kept.epoch, fit.kept.measured.kl) == (5, 0.2)
    assert [item.measured.kl for item in fit.candidates] == [0.5, 0.2, 0.3]
    assert moved_weights(context) == entries.mask  # the model holds them, and nothing of the last round
    assert torch.equal(entries.values.detach(), fit.values)


def test_seeds_of_rounds_stay_seeds(context: SupportContext, data: RefitData) -> None:
    config = RefitSpec(epochs=1, batch_size=48, rounds=2, seed=2**32 - 1)
    first = Entries(context.weights, largest_gradients(context), context.base)
    assert len(fit_in_rounds(context, first, data, dataclasses.replace(config))[0]) == K
