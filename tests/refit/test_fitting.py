from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from graft.errors import TrainingError
from graft.patch.mask import Mask
from graft.refit import fitting
from graft.refit.data import RefitData
from graft.refit.entries import Entries
from graft.refit.fitting import SLOWER, Fit, Fitting, fit_values
from graft.refit.measured import Measured, measure
from graft.refit.objective import Objective
from graft.refit.support import SupportContext, largest_gradients
from graft.specs.refit import Criterion, RefitSpec
from graft.tensors.dtypes import as_bits
from tests.checkpoints import bits_of

CONFIG = RefitSpec(lr=0.02, epochs=2, batch_size=8)


def moved_weights(context: SupportContext) -> Mask:
    """The live weights whose bits are not the base's."""
    changed = {
        name: (as_bits(weight.detach()) != as_bits(context.base.read(name))).flatten().nonzero().flatten().numpy()
        for name, weight in context.weights.items()
    }
    return Mask.of({name: context.base.spec(name) for name in changed}, changed)


def fit(context: SupportContext, mask: Mask, data: RefitData, config: RefitSpec = CONFIG) -> Fit:
    """Fit from the base, which the live model holds again afterwards."""
    entries = Entries(context.weights, mask, context.base)
    try:
        return fit_values(context.objective, entries, data, config)
    finally:
        entries.return_to_base()


def test_only_the_support_ever_moves_and_the_model_holds_the_kept_values(
    context: SupportContext,
    data: RefitData,
    entries_of: Callable[[Mask], Entries],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, mask, steps = bits_of(context.objective.head.model), largest_gradients(context), []
    update = Fitting._update

    def watched(self: Fitting, gradient: torch.Tensor) -> None:
        update(self, gradient)
        steps.append(len(moved_weights(context) - mask))

    monkeypatch.setattr(Fitting, "_update", watched)
    entries = entries_of(mask)
    found = fit_values(context.objective, entries, data, CONFIG)
    assert steps == [0] * 12
    assert torch.equal(entries.values.detach(), found.values)
    assert moved_weights(context) == entries.mask_of(found.values != entries.base)
    assert len(moved_weights(context)) > 50  # the control: the entries did move
    assert measure(context.objective, data.validation) == found.kept.measured
    entries.return_to_base()
    assert bits_of(context.objective.head.model) == before
    assert all(weight.grad is None for weight in context.weights.values())


def test_the_kept_candidate_has_the_lowest_measure(context: SupportContext, data: RefitData) -> None:
    mask = largest_gradients(context)
    criteria: tuple[Criterion, ...] = ("nll", "kl")
    for criterion in criteria:
        found = fit(context, mask, data, dataclasses.replace(CONFIG, select=criterion))
        later = [candidate.measured.by(criterion) for candidate in found.candidates[1:]]
        assert found.kept.measured.by(criterion) == min(later)
        assert [(item.epoch, item.kind) for item in found.candidates] == [
            (0, "start"), (1, "last"), (2, "last"), (2, "mean"),
        ]  # fmt: skip
        assert found.candidates[0].loss is None
        assert found.kept.measured.kl < 0.8 * found.candidates[0].measured.kl
        assert found.tuned is not None
        assert found.tuned.kl == 0


def test_the_criterion_decides_which_epoch_is_kept(
    context: SupportContext, data: RefitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = largest_gradients(context)
    for criterion, kept in (("nll", 1), ("kl", 2)):
        told = iter([Measured(3, 3), Measured(2, 1), Measured(1, 2), Measured(9, 9)])
        monkeypatch.setattr(fitting, "measure", lambda *_, told=told: next(told))
        found = fit(context, mask, data, RefitSpec(lr=0.02, epochs=2, batch_size=24, select=criterion))  # type: ignore[arg-type]
        assert (found.kept.epoch, found.kept.kind) == (kept, "last")


def test_what_is_not_known_or_no_number_loses() -> None:
    assert Measured(0.5).by("nll") == 0.5
    assert Measured(0.5, 0.2).by("nll") == 0.2
    assert Measured(float("nan"), 0.2).by("kl") == float("inf")


def test_the_same_seed_gives_the_same_bits(context: SupportContext, data: RefitData) -> None:
    mask = largest_gradients(context)
    first = fit(context, mask, data)
    assert torch.equal(fit(context, mask, data).values, first.values)
    assert not torch.equal(fit(context, mask, data, dataclasses.replace(CONFIG, seed=1)).values, first.values)


def test_the_rate_rises_then_falls_to_nothing(
    context: SupportContext, data: RefitData, entries_of: Callable[[Mask], Entries]
) -> None:
    for warmup in (0.0, 0.5):
        config = dataclasses.replace(CONFIG, warmup=warmup)
        run = Fitting(context.objective, entries_of(largest_gradients(context)), data.train, config)
        rates = []
        for _ in range(run.n_steps):
            run._update(torch.ones(len(run.entries)))
            rates.append(run._optimizer.param_groups[0]["lr"])
        peak = 6 if warmup else 0
        assert rates[:peak] == sorted(rates[:peak])
        assert rates[peak:] == sorted(rates[peak:], reverse=True)
        assert max(rates) <= config.lr
        assert 0 < rates[-1] < 0.2 * config.lr
        assert run._n_averaged == run.n_steps // 2
        run.entries.return_to_base()


def test_a_loss_that_is_not_finite_is_an_error(context: SupportContext, data: RefitData) -> None:
    mask = largest_gradients(context)
    with pytest.raises(TrainingError, match=r"the loss is \w+: lower refit.lr"):
        fit(context, mask, data, dataclasses.replace(CONFIG, lr=1e30))


def test_measures_do_not_depend_on_the_batches(
    objective: Objective, data: RefitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measure(objective, data.validation)
    monkeypatch.setattr("graft.refit.measured.BATCH_SIZE", 5)
    parts = measure(objective, data.validation)
    assert whole.nll is not None
    assert (parts.kl, parts.nll) == pytest.approx((whole.kl, whole.nll), rel=1e-4)
    assert parts.accuracy == whole.accuracy


def test_parts_by_length_give_the_same_values(
    context: SupportContext, data: RefitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of whole batches, to rounding; a positive control: a part that is left out shows."""
    mask = largest_gradients(context)
    monkeypatch.setattr(fitting, "split_by_length", lambda part: [part])
    whole = fit(context, mask, data).values
    for kept, is_same in ((slice(None), True), (slice(1, None), False)):
        monkeypatch.setattr(fitting, "split_by_length", lambda part, kept=kept: [part[:3], part[3:]][kept])
        parted = fit(context, mask, data).values
        assert torch.allclose(parted, whole, atol=1e-5) is is_same


def default_rate(monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    """Set the rate where none is asked for."""
    monkeypatch.setattr(RefitSpec, "rate_of", lambda self, k: rate if self.lr is None else self.lr)


def test_a_default_rate_that_is_too_high_is_left_for_a_third_of_it(
    context: SupportContext, data: RefitData, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fit is that of the lower rate, bit for bit; a rate that was asked for is kept, as is one beside labels."""
    mask, high = largest_gradients(context), 0.6
    default_rate(monkeypatch, high)
    found = fit(context, mask, data, dataclasses.replace(CONFIG, lr=None))
    assert f"started again at {found.lr:.1g}, whose" in capsys.readouterr().err
    assert found.lr in (high * SLOWER, high * SLOWER * SLOWER)
    expected = fit(context, mask, data, dataclasses.replace(CONFIG, lr=found.lr))
    assert torch.equal(found.values, expected.values)
    assert found.candidates == expected.candidates
    changes: tuple[dict[str, Any], ...] = ({"lr": high}, {"lr": None, "labels": 0.5})
    for change in changes:
        assert fit(context, mask, data, dataclasses.replace(CONFIG, **change)).lr == high
    assert "rate" not in capsys.readouterr().err
    asked = fit(context, mask, data, dataclasses.replace(CONFIG, lr=high))
    assert found.kept.measured.nll is not None
    assert asked.kept.measured.nll is not None
    assert found.kept.measured.nll < asked.kept.measured.nll


def test_a_support_that_can_do_little_keeps_the_default_rate(
    context: SupportContext, data: RefitData, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A third of a rate that is low already goes down less: the fit is that of the default rate, bit for bit."""
    mask, low = largest_gradients(context), 1e-4
    default_rate(monkeypatch, low)
    epochs = watch_epochs(monkeypatch)
    found = fit(context, mask, data, dataclasses.replace(CONFIG, lr=None))
    assert epochs == [low, low * SLOWER, low]  # the control: a third was tried
    assert found.lr == low
    assert torch.equal(found.values, fit(context, mask, data, dataclasses.replace(CONFIG, lr=low)).values)
    assert "started again" not in capsys.readouterr().err


def test_a_rate_is_left_twice_at_most(
    context: SupportContext, data: RefitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = measure(context.objective, data.validation).kl
    told = iter(start * share for share in (0.99, 0.9, 0.8, 0.1))
    monkeypatch.setattr(Fitting, "run_epoch", lambda self: next(told))
    found = fit(context, largest_gradients(context), data, dataclasses.replace(CONFIG, lr=None))
    assert found.lr == pytest.approx(0.5 / len(largest_gradients(context)) ** 0.5 * SLOWER**2)
    assert [candidate.loss for candidate in found.candidates[1:]] == [0.8 * start, 0.1 * start]


def watch_epochs(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list that grows by the rate of each pass."""
    rates, run = [], Fitting.run_epoch

    def watched(self: Fitting) -> float:
        rates.append(self.lr)
        return run(self)

    monkeypatch.setattr(Fitting, "run_epoch", watched)
    return rates
