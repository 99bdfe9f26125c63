"""Run one seed of a recipe about extraction: tune, then extract by every method at every size, and measure."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from graft.errors import BudgetError
from graft.evaluate.calibration import expected_calibration_error, negative_log_likelihood
from graft.evaluate.comparison import recovered_gain
from graft.evaluate.correctness import accuracy
from graft.evaluate.evaluation import Predictions, predict_examples
from graft.extraction.divergence import mean_divergence
from graft.extraction.extracted import Extracted
from graft.extraction.inputs import ExtractionInput
from graft.extraction.registry import EXTRACTION_METHODS
from graft.patch.live import apply_patch
from graft.recipes.seed_run import SeedRun
from graft.recipes.state import find_or_read
from graft.registry import name_number
from graft.results.seeds import ExtractedPoint, ExtractionSeed
from graft.specs.extraction import ExtractionSpec
from graft.tasks.head import Head
from graft.tasks.loading import tell
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint


@dataclass(frozen=True)
class ExtractionRun(SeedRun):
    """Seed at work.

    Attributes:
        recipe: the whole recipe.
        task: the task under this seed.
        others: the task of other texts, if the recipe names one.
    """

    recipe: ExtractionSpec
    task: Task
    others: Task | None

    def open(self, tuned: Path) -> ExtractionInput:
        """Return what methods are given."""
        recipe, folder = self.recipe, self.folder / "work"
        return ExtractionInput(
            recipe.base, tuned, self.task, recipe.extract, folder, self.runtime, self.seed, self.others
        )

    def predict(self, head: Head, name: str, *, with_ood: bool) -> Predictions:
        """Predict the test split, and the out-of-distribution sets where asked for."""
        limit, size = self.recipe.evaluate.limit, self.recipe.evaluate.batch_size
        test = predict_examples(head, self.task.test_examples(limit), size, name)
        sets = self.task.spec.ood if with_ood else ()
        ood = {of: predict_examples(head, self.task.ood_examples(of, limit), size, f"{name}, {of}") for of in sets}
        return Predictions(test, ood)


@dataclass(frozen=True)
class Yardstick:
    """What extracted models are held against: the predictions of base and tuned model on test."""

    base: Predictions
    tuned: Predictions

    def measure(self, predictions: Predictions) -> dict[str, float]:
        """Return n, accuracy, recovered_gain where tuning gained anything, ece, nll, and of labels kl in nats.

        Of an out-of-distribution set with labels, as SET.accuracy and so on, the accuracy and the ece.
        """
        sets = {of: item.outcomes() for of, item in predictions.labeled().items()}
        outcomes, ood = sets.pop("test"), sets
        base, tuned = (accuracy(item.test.outcomes()) for item in (self.base, self.tuned))
        gain = recovered_gain(accuracy(outcomes), base, tuned)
        return {
            "n": len(outcomes),
            "accuracy": float(accuracy(outcomes)),
            **({} if gain is None else {"recovered_gain": float(gain)}),
            "ece": float(expected_calibration_error(outcomes)),
            "nll": float(negative_log_likelihood(outcomes)),
            **({} if predictions.test.columns else {"kl": self._divergence(predictions)}),
            **{f"{of}.accuracy": float(accuracy(item)) for of, item in ood.items()},
            **{f"{of}.ece": float(expected_calibration_error(item)) for of, item in ood.items()},
        }

    def _divergence(self, predictions: Predictions) -> float:
        return mean_divergence(self.tuned.test.logits, predictions.test.logits)


def run_seed(run: ExtractionRun) -> ExtractionSeed:
    """Run one seed: its state has a file per method and size, so that a broken run loses one at most.

    A size that a method cannot have of this checkpoint is left out, with a line on stderr that says why.

    Raises:
        BudgetError: no method can have any of its sizes.
    """
    tuned = run.train(run.recipe.base, [run.task])
    inputs = run.open(tuned)
    head = inputs.open(run.recipe.base)
    with_ood = bool(run.recipe.ood)
    of_tuned = run.predict(inputs.open(tuned), "tuned", with_ood=with_ood)
    yardstick = Yardstick(run.predict(head, "base", with_ood=with_ood), of_tuned)
    points, refusals = [], list[BudgetError]()
    bar = tqdm(run.recipe.points(), desc=f"seed {run.seed}", unit="point", disable=None, leave=False)
    for method, size in bar:
        bar.set_postfix_str(f"{method} {name_number(size)}")
        file = run.folder / "points" / f"{method}-{name_number(size)}.json"
        find = partial(_run_point, run, inputs, head, yardstick, method, size)
        try:
            points.append(find_or_read(file, ExtractedPoint, find))
        except BudgetError as error:
            tell(f"note: seed {run.seed}: {EXTRACTION_METHODS[method].name_at(size)} is left out: {error}")
            refusals.append(error)
    if not points:
        raise refusals[-1]
    whole = Checkpoint.open(tuned)
    n_bytes = sum(whole.spec(name).n_bytes for name in whole.parameters)
    ends = [yardstick.measure(item) for item in (yardstick.base, yardstick.tuned)]
    shutil.rmtree(run.models)
    return ExtractionSeed(run.seed, n_bytes, ends[0], ends[1], tuple(points))


def _run_point(
    run: ExtractionRun, inputs: ExtractionInput, head: Head, yardstick: Yardstick, method: str, size: float
) -> ExtractedPoint:
    begun = time.perf_counter()
    extracted: Extracted = EXTRACTION_METHODS[method].load()(inputs, size)
    seconds = round(time.perf_counter() - begun, 1)
    on = contextlib.nullcontext() if extracted.patch is None else apply_patch(head.model, extracted.patch)
    with on:
        numbers = yardstick.measure(run.predict(head, method, with_ood=method in run.recipe.ood))
    return ExtractedPoint(method, size, extracted.n_bytes, numbers, dict(extracted.found), seconds, extracted.k)
