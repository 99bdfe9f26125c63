"""Registry of the metrics that are computed from the per-example outcomes of a model on a labeled set.

A metric is a function from `graft.evaluate.outcomes.Outcomes` to a number, and a row here. The JSON of `evaluate` and
the results of a run hold all of them, each with its bootstrap interval, so that a recipe may expect any; `places` says
where else one is shown. Perplexity, which only a language model has, is the exponential of `nll` and has no row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from graft.registry import Entry, Registry, load_target

Place = Literal["command", "page", "comparison"]
EVERYWHERE: frozenset[Place] = frozenset(("command", "page", "comparison"))
BINS = "graft.evaluate.calibration:"
ONE_BY_ONE = "graft.evaluate.outcomes:apply_to_each"


@dataclass(frozen=True, kw_only=True)
class MetricEntry(Entry):
    """Row of one metric.

    Attributes:
        label: its name in tables and plots.
        unit: shown after the label in a table, where the number is no share.
        limits: the smallest and the largest possible value; intervals are clipped to them.
        higher_is_better: whether larger values are better.
        needs_probabilities: whether it reads stated probabilities, and not the predicted classes alone.
        needs_classes: whether it is computed class by class, and so is left out where answers are texts.
        places: the outputs that show it: by `graft evaluate`, on the page, in paired comparisons of models.
        of_many: whether its function takes many resamples at once, as `Outcomes` has them; others take one at a time.
    """

    label: str
    unit: str = ""
    limits: tuple[float, float] = (0.0, 1.0)
    higher_is_better: bool
    needs_probabilities: bool = True
    needs_classes: bool = False
    places: frozenset[Place] = EVERYWHERE
    of_many: bool = False

    def load(self) -> Any:
        """Import and return the function, so that it takes one set of outcomes or many resamples."""
        metric = super().load()
        return metric if self.of_many else partial(load_target(ONE_BY_ONE), metric)

    @property
    def heading(self) -> str:
        """The label with its unit."""
        return f"{self.label}, {self.unit}" if self.unit else self.label


METRICS = Registry(
    "metric",
    [
        MetricEntry(
            name="accuracy",
            help="share of examples whose most probable class is the label",
            target="graft.evaluate.correctness:accuracy",
            label="accuracy",
            higher_is_better=True,
            needs_probabilities=False,
            of_many=True,
        ),
        MetricEntry(
            name="f1",
            help="mean over classes of the harmonic mean of precision and recall",
            target="graft.evaluate.correctness:macro_f1",
            label="macro F1",
            higher_is_better=True,
            needs_probabilities=False,
            needs_classes=True,
            places=frozenset(("command", "page")),
            of_many=True,
        ),
        MetricEntry(
            name="nll",
            help="mean negative log-likelihood of the label, nats",
            target=f"{BINS}negative_log_likelihood",
            label="NLL",
            unit="nats",
            limits=(0.0, math.inf),
            higher_is_better=False,
            of_many=True,
        ),
        MetricEntry(
            name="brier",
            help="mean squared error of the probabilities, summed over classes, 0 to 2",
            target=f"{BINS}brier_score",
            source="Brier 1950, Monthly Weather Review 78:1-3",
            label="Brier",
            unit="0–2",
            limits=(0.0, 2.0),
            higher_is_better=False,
            of_many=True,
        ),
        MetricEntry(
            name="ece",
            help="mean gap between confidence and accuracy over 15 bins of equal width",
            target=f"{BINS}expected_calibration_error",
            source="https://arxiv.org/abs/1706.04599",
            label="ECE",
            higher_is_better=False,
            of_many=True,
        ),
        MetricEntry(
            name="ece_mass",
            help="the same over 15 bins of equally many examples",
            target=f"{BINS}equal_mass_calibration_error",
            source="https://arxiv.org/abs/1904.01685",
            label="equal-mass ECE",
            higher_is_better=False,
            places=frozenset(("command",)),
            of_many=True,
        ),
        MetricEntry(
            name="ece_debiased",
            help="root mean square gap less its sampling bias",
            target=f"{BINS}debiased_calibration_error",
            source="https://arxiv.org/abs/1909.10155",
            label="debiased ECE",
            higher_is_better=False,
            places=frozenset(("page",)),
            of_many=True,
        ),
        MetricEntry(
            name="mce",
            help="largest gap of any of 15 bins of equal width",
            target=f"{BINS}maximum_calibration_error",
            source="https://arxiv.org/abs/1706.04599",
            label="MCE",
            higher_is_better=False,
            places=frozenset(("command",)),
            of_many=True,
        ),
    ],
)

ABILITIES = "graft.evaluate.abilities:"


@dataclass(frozen=True, kw_only=True)
class RestorableEntry(Entry):
    """Row of what a rollback can bring back; its target is a subclass of `graft.evaluate.abilities.Ability`.

    Attributes:
        higher_is_better: whether larger values are better.
    """

    higher_is_better: bool = True


RESTORABLE = Registry(
    "restore metric",
    [
        RestorableEntry(
            name="accuracy",
            help="what the restore tasks' labels say, scored on their training texts",
            target=f"{ABILITIES}AccuracyAbility",
        ),
        RestorableEntry(
            name="nll",
            help="likelihood of the labels, scored on one half of validation and measured on the other",
            target=f"{ABILITIES}CalibrationAbility",
            higher_is_better=False,
        ),
        RestorableEntry(
            name="ece",
            help="calibration, by the same halves and loss as nll",
            target=f"{ABILITIES}CalibrationAbility",
            source="https://arxiv.org/abs/1706.04599",
            higher_is_better=False,
        ),
        RestorableEntry(
            name="auroc",
            help="telling rows outside all labels (label -1, of validation and the ood sets) by low confidence",
            target=f"{ABILITIES}RefusalAbility",
            source="https://arxiv.org/abs/1812.04606",
        ),
    ],
)


def metrics_shown(place: Place) -> dict[str, MetricEntry]:
    """Return the metrics that one output shows, by name, in the registry's order."""
    return {name: entry for name, entry in METRICS.items() if place in entry.places}


def is_higher_better(metric: str) -> bool:
    """Return whether larger values are better, as they are for numbers without a row, such as a gain."""
    return metric not in METRICS or METRICS[metric].higher_is_better


def label_of(metric: str) -> str:
    """Return the label of a metric; for a number without a row, its name in words."""
    return METRICS[metric].label if metric in METRICS else metric.replace("_", " ")
