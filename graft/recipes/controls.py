"""Controls for "it merely moved less": simpler models of the same accuracy as the main graft.

Each has one setting, chosen on validation: walked from the base's side up to the main graft's validation accuracy.
That accuracy is itself noisy (512 examples of 0.8 have a standard error of 0.018), so the accuracy reached stands
beside each setting. Test is touched once, when the setting is fixed.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from graft.evaluate.correctness import accuracy
from graft.evaluate.evaluation import Predictions
from graft.evaluate.interpolation import Mix, RandomShare, interpolate, interpolated, match_accuracy
from graft.evaluate.temperature import fit_temperature, scale_predictions
from graft.recipes.bench import Bench
from graft.tasks.head import Head
from graft.train.fine_tuning import train_task
from graft.train.steps import Plan

ALPHAS = tuple(i / 20 for i in range(1, 21))
DENSER = 2.0  # from one density of the random masks to the next
CHECKS = 40  # looks at validation over a whole training
NAMES = {
    "temperature": "tuned, temperature-scaled",
    "interpolation": "interpolation",
    "early_stopping": "early-stopped",
    "larger_random": "random, larger",
}


@dataclass(frozen=True)
class Control:
    """A control model, measured.

    Attributes:
        setting: what was chosen: "alpha", "steps", "density" or "temperature".
        value: of the setting.
        validation_accuracy: what it reaches on validation.
        predictions: on test and the other sets.
    """

    setting: str
    value: float
    validation_accuracy: float
    predictions: Predictions

    def to_json(self) -> dict[str, Any]:
        """All but the predictions."""
        return {"setting": self.setting, "value": self.value, "validation_accuracy": self.validation_accuracy}


def measure_blends(bench: Bench, head: Head, target: float) -> dict[str, Control]:
    """The controls that are made of the base in `head` and the tuned checkpoint on disk, as far as asked for."""
    makers: Mapping[str, Callable[[Bench, Head, float], Control]] = {
        "interpolation": match_interpolation,
        "larger_random": match_larger_random,
    }
    asked = bench.recipe.analysis.controls
    return {NAMES[key]: make(bench, head, target) for key, make in makers.items() if key in asked}


def match_interpolation(bench: Bench, head: Head, target: float) -> Control:
    """base + alpha (tuned - base), the alpha whose validation accuracy is nearest to the target from below or at it."""
    match = match_accuracy(ALPHAS, lambda alpha: _validate(bench, head, interpolate(alpha)), target, nearest=True)
    return Control("alpha", match.setting, match.accuracy, _measure(bench, head, interpolate(match.setting)))


def match_larger_random(bench: Bench, head: Head, target: float) -> Control:
    """Random entries of doubling density, each mask holding the one before, until the target is reached."""
    pair, config, names = bench.pair, bench.recipe.localize, frozenset(bench.names())
    n, n_changed = pair.base.n_parameters, bench.count_changed()
    start = config.density * n if config.budget is None else config.budget
    shares = [min(1.0, start / n_changed)]
    while shares[-1] < 1:
        shares.append(min(1.0, shares[-1] * DENSER))

    def mix(share: float) -> RandomShare:
        return RandomShare(names, share, bench.seed)

    match = match_accuracy(shares, lambda share: _validate(bench, head, mix(share)), target)
    chosen = mix(match.setting)
    return Control("density", chosen.count(pair) / n, match.accuracy, _measure(bench, head, chosen))


def match_early_stopping(bench: Bench, target: float) -> Control:
    """The same training, stopped at the first of its checks at which validation accuracy reaches the target."""
    config = bench.task.spec.train
    every = max(1, Plan((len(bench.task.train_examples()),), config, bench.seed).steps // CHECKS)
    out = bench.folder / "early-stopped"
    config = dataclasses.replace(config, stop_at=target or None, check_every=every if target else None)
    made = train_task(
        bench.recipe.base, bench.task, out, config=config, **bench.runtime.options, resume=True, force=True
    )
    predictions = bench.predict(bench.open(out))
    shutil.rmtree(out)  # as large as the model; its settings make it again
    return Control("steps", made.steps, made.epochs[-1].validation_accuracy, predictions)


def scale_tuned(bench: Bench, head: Head, predictions: Predictions) -> Control:
    """The tuned model in `head`, its predictions made milder by the temperature that fits validation best."""
    validation = bench.predict_validation(head)
    temperature = fit_temperature(validation)
    reached = accuracy(validation.outcomes())
    return Control("temperature", temperature, reached, scale_predictions(predictions, temperature))


def _validate(bench: Bench, head: Head, mix: Mix) -> float:
    with interpolated(head.model, bench.pair, mix):
        return bench.validate(head)


def _measure(bench: Bench, head: Head, mix: Mix) -> Predictions:
    with interpolated(head.model, bench.pair, mix):
        return bench.predict(head)
