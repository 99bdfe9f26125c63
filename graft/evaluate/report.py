"""Report of one model's metrics on a test split and its out-of-distribution sets, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graft.evaluate.bootstrap import Interval, bootstrap_metrics
from graft.evaluate.calibration import calibration_floor
from graft.evaluate.outcomes import Outcomes
from graft.evaluate.registry import METRICS


@dataclass(frozen=True)
class Report:
    """Metrics of one model on one set.

    Attributes:
        n: number of labeled examples behind the metrics.
        metrics: name -> value, for each row of `graft.evaluate.registry.METRICS`; for a language model perplexity too.
        ci: metric -> 95 % basic bootstrap interval over examples.
        ece_floor: the ECE that a perfectly calibrated model with these confidences shows at this n.
        n_none: examples of a class that the task lacks (label -1), left out of the metrics.
        n_cut: examples longer than the model reads, those of other classes among them: their answers, from the
            completion head.
        agreement: share of examples on which the prediction is the reference model's.
        recovered_gain: (accuracy - base) / (reference - base), where both were measured.
        lost_gain: (reference - accuracy) / (reference - base), for the reference with a region put back to the base.
        ood: name -> the same for each out-of-distribution set.
        detection: set -> detection of its novel rows (`graft.evaluate.detection`), as JSON.
    """

    n: int
    metrics: Mapping[str, float]
    ci: Mapping[str, Interval]
    ece_floor: float
    n_none: int = 0
    n_cut: int = 0
    agreement: float | None = None
    recovered_gain: float | None = None
    lost_gain: float | None = None
    ood: Mapping[str, Report] = field(default_factory=dict)
    detection: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __getitem__(self, metric: str) -> float:
        return self.metrics[metric]

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, with the intervals in `ci` and the other sets in `ood`."""
        result: dict[str, Any] = {"n": self.n, **self.metrics, "ece_floor": self.ece_floor}
        optional = {key: getattr(self, key) for key in ("agreement", "recovered_gain", "lost_gain")}
        optional |= {key: getattr(self, key) or None for key in ("n_none", "n_cut")}
        result |= {key: value for key, value in optional.items() if value is not None}
        result["ci"] = {name: list(interval) for name, interval in self.ci.items()}
        ood = {name: report.to_json() for name, report in self.ood.items()}
        for name, detection in self.detection.items():  # a set of novel rows alone has detection but no accuracy
            ood.setdefault(name, {"n": 0, "n_none": detection["n_out"]})["detection"] = dict(detection)
        return result | ({"ood": ood} if ood else {})


def measure(outcomes: Outcomes, *, draws: int = 1000, seed: int = 0) -> Report:
    """Compute all metrics of one set.

    Args:
        outcomes: results by example.
        draws: bootstrap resamples of examples.
        seed: of the resampling.
    """
    metrics = {name: entry.load() for name, entry in METRICS.items() if outcomes.n_classes or not entry.needs_classes}
    limits = {name: METRICS[name].limits for name in metrics}
    return Report(
        n=len(outcomes),
        metrics={name: float(metric(outcomes)) for name, metric in metrics.items()},
        ci=bootstrap_metrics(outcomes, metrics, draws=draws, seed=seed, limits=limits),
        ece_floor=calibration_floor(outcomes, seed=seed),
    )
