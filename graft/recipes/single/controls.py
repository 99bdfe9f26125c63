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

from graft.evaluate.correctness import accuracy
from graft.evaluate.evaluation import Predictions
from graft.evaluate.interpolation import Mix, RandomShare, interpolate, interpolated, match_accuracy
from graft.evaluate.temperature import fit_temperature, fit_token_temperature, scale_predictions
from graft.recipes.single.seed_run import SingleRun
from graft.results.models import CONTROL_NAMES
from graft.results.seeds import Control
from graft.tasks.head import Head
from graft.tasks.heads.completion import CompletionHead
from graft.tasks.heads.lm import LanguageModelHead
from graft.train.fine_tuning import train_task
from graft.train.localizable import configure_restart
from graft.train.schedule import TrainingSchedule

ALPHAS = tuple(i / 20 for i in range(1, 21))
DENSER = 2.0  # from one density of the random masks to the next
CHECKS = 40  # looks at validation over a whole training


@dataclass(frozen=True)
class MeasuredControl(Control):
    """Control model with its setting, measured; `predictions` are on test and the other sets."""

    predictions: Predictions

    def settings(self) -> Control:
        """Return its setting alone, as the results have it."""
        return Control(self.setting, self.value, self.validation_accuracy)


def measure_blends(run: SingleRun, head: Head, target: float, k: int) -> dict[str, MeasuredControl]:
    """Measure the controls that are made of the base in `head` and the tuned checkpoint, as far as asked for.

    Args:
        run: the seed at work.
        head: over the base.
        target: the main graft's accuracy on validation.
        k: its entries.
    """
    makers: Mapping[str, Callable[[], MeasuredControl]] = {
        "interpolation": lambda: match_interpolation(run, head, target),
        "larger_random": lambda: match_larger_random(run, head, target, k),
    }
    asked = run.recipe.analysis.controls
    return {CONTROL_NAMES[key]: make() for key, make in makers.items() if key in asked}


def match_interpolation(run: SingleRun, head: Head, target: float) -> MeasuredControl:
    """Measure base + alpha (tuned - base), alpha the one whose validation accuracy is nearest to the target.

    Alphas are tried from the base's side; the one just below the target stands where it is nearer than the one above.
    """
    match = match_accuracy(ALPHAS, lambda alpha: _validate(run, head, interpolate(alpha)), target, nearest=True)
    return MeasuredControl("alpha", match.setting, match.accuracy, _measure(run, head, interpolate(match.setting)))


def match_larger_random(run: SingleRun, head: Head, target: float, k: int) -> MeasuredControl:
    """Measure random entries from k on, twice as many each time and those before among them, up to the target."""
    # an entry that rounding alone moved, of a base in several dtypes, is none that tuning changed
    pair, config, names = run.pair.without_rounding(), run.recipe.localize, frozenset(run.names())
    n, n_changed = pair.base.n_parameters, run.count_changed()
    # shares are of the changed entries, densities of all n: with n = 1,000, 400 changed and a graft of 30 entries the
    # shares are .075, .15, .3, .6 and 1; a share of .3 has 120 entries, a density of .12
    asked = config.density * n if config.budget is None else config.budget
    # a graft by lines or bytes, one that sizes itself and a refit have another number of entries than is asked for
    shares = [min(1.0, (asked if abs(asked - k) <= 0.5 else k) / n_changed)]
    while shares[-1] < 1:
        shares.append(min(1.0, shares[-1] * DENSER))

    def mix(share: float) -> RandomShare:
        """Return the base with a random share of what changed."""
        return RandomShare(names, share, run.seed)

    match = match_accuracy(shares, lambda share: _validate(run, head, mix(share)), target)
    chosen = mix(match.setting)
    return MeasuredControl("density", chosen.count(pair) / n, match.accuracy, _measure(run, head, chosen))


def match_early_stopping(run: SingleRun, target: float) -> MeasuredControl:
    """Measure the same training, stopped at the first of its checks at which validation accuracy reaches the target."""
    config = run.task.spec.train
    few = config.localizable
    stage = config if few is None else configure_restart(config, few, 1)  # which stops; of any k as many steps
    every = max(1, TrainingSchedule((len(run.task.train_examples()),), stage, run.seed).steps // CHECKS)
    out = run.folder / "early-stopped"
    config = dataclasses.replace(config, stop_at=target, check_every=every)
    made = train_task(run.recipe.base, run.task, out, config=config, **run.runtime.options, resume=True, force=True)
    predictions = run.predict(run.open(out))
    shutil.rmtree(out)  # as large as the model; its settings make it again
    return MeasuredControl("steps", made.steps, made.epochs[-1].validation_accuracy, predictions)


def scale_tuned(run: SingleRun, head: Head, predictions: Predictions) -> MeasuredControl:
    """Measure the tuned model in `head`, its predictions made milder by the temperature that fits validation best."""
    if isinstance(head, LanguageModelHead | CompletionHead):
        examples, size = run.task.validation_examples(), run.recipe.evaluate.batch_size
        temperature = fit_token_temperature(head, examples, size)
        return MeasuredControl("temperature", temperature, run.validate(head), run.predict(head, temperature))
    validation = run.predict_validation(head)
    temperature = fit_temperature(validation)
    reached = accuracy(validation.outcomes())
    return MeasuredControl("temperature", temperature, reached, scale_predictions(predictions, temperature))


def _validate(run: SingleRun, head: Head, mix: Mix) -> float:
    with interpolated(head.model, run.pair, mix):
        return run.validate(head)


def _measure(run: SingleRun, head: Head, mix: Mix) -> Predictions:
    with interpolated(head.model, run.pair, mix):
        return run.predict(head)
