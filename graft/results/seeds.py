"""Results of one seed, typed, for each kind of recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graft.evaluate.bootstrap import Difference
from graft.evaluate.calibration import ReliabilityBins
from graft.results.fields import write_fields
from graft.results.figures import ModelFigures, is_number
from graft.results.json_node import Node

Numbers = Mapping[str, float]
Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Control:
    """Setting of a simpler model, chosen to be as accurate as the graft on validation.

    Attributes:
        setting: what was chosen: "alpha", "steps", "density" or "temperature".
        value: of the setting.
        validation_accuracy: what it reaches on validation.
    """

    setting: str
    value: float
    validation_accuracy: float | None


@dataclass(frozen=True)
class CurvePoint:
    """A patch of one method at one density, measured on test.

    Attributes:
        method: by which it was localized.
        density: as asked for, a share of all parameters.
        k: its entries.
        numbers: accuracy, recovered_gain, lost_gain, ece, nll.
    """

    method: str
    density: float
    k: int
    numbers: Numbers

    def to_json(self) -> dict[str, Any]:
        """Return all of it on one level."""
        return {"method": self.method, "density": self.density, "k": self.k, **self.numbers}

    @classmethod
    def from_node(cls, node: Node) -> CurvePoint:
        """Read a point; DataError where its density is no share."""
        density = node.need("density")
        if not density.number() > 0:
            density.refuse("a share above 0")
        numbers = {key: value for key, value in node.numbers().items() if key not in ("density", "k")}
        return cls(node.need("method").text(), density.number(), node.need("k").whole(), numbers)


@dataclass(frozen=True)
class Reliability(ReliabilityBins):
    """Reliability bins on test; in JSON the means of empty bins are null."""

    @classmethod
    def of(cls, bins: ReliabilityBins) -> Reliability:
        """Take bins as they were measured."""
        return cls(**vars(bins))

    def to_json(self) -> dict[str, list[float | None]]:
        """Return the bins as plain lists."""
        return {
            key: [None if np.isnan(x) else float(x) for x in getattr(self, key)]
            for key in ("edges", "count", "confidence", "accuracy")
        }

    @classmethod
    def from_node(cls, node: Node) -> Reliability:
        """Read the bins; DataError where they do not fit together."""
        edges, count = ([item.number() for item in node.need(key).elements()] for key in ("edges", "count"))
        means = [
            [np.nan if item.value is None else item.number() for item in node.need(key).elements()]
            for key in ("confidence", "accuracy")
        ]
        n = len(count)
        fits = len(edges) == n + 1 and all(len(mean) == n for mean in means) and all(np.diff(edges) >= 0)
        filled = fits and all(c == 0 or not (np.isnan(a) or np.isnan(b)) for c, a, b in zip(count, *means, strict=True))
        if not filled or min(count, default=0) < 0 or sum(count) <= 0:
            node.refuse("reliability bins: ascending edges, and for each bin count, confidence and accuracy")
        return cls(*(np.array(values, dtype=float) for values in (edges, count, *means)))


class Detection(dict[str, float]):
    """Detection of a set's novel rows by one model: "msp.auroc", "energy.fpr95", ..., "n_in", "n_out".

    Attributes:
        details: the same as JSON, with intervals.
    """

    def __init__(self, details: Mapping[str, Any]) -> None:
        self.details = details
        inner = {key: item for key, item in details.items() if isinstance(item, Mapping)}
        scores = {f"{key}.{name}": value for key, item in inner.items() for name, value in item.items()}
        super().__init__({key: value for key, value in {**details, **scores}.items() if is_number(value)})

    def to_json(self) -> Mapping[str, Any]:
        """Return the details."""
        return self.details

    @classmethod
    def from_node(cls, node: Node) -> Detection:
        """Read the details; DataError where a number is not finite."""
        node.numbers()
        for _, inner in node.items():
            if isinstance(inner.value, dict):
                inner.numbers()
        return cls(node.value)


@dataclass(frozen=True)
class Diagnosis:
    """Diagnosis of a checkpoint from its weights alone, before any data were touched.

    Attributes:
        text: sentences.
        details: what lies behind them, as JSON.
    """

    text: tuple[str, ...]
    details: Mapping[str, Any]

    @property
    def numbers(self) -> dict[str, float]:
        """Plain numbers among the details."""
        return {key: value for key, value in self.details.items() if is_number(value)}

    def to_json(self) -> dict[str, Any]:
        """Return the details, and the sentences as `text`."""
        return {**self.details, "text": list(self.text)}

    @classmethod
    def from_node(cls, node: Node) -> Diagnosis:
        """Read the sentences and what lies behind them; DataError where a number is not finite."""
        sentences = node.get("text")
        node.numbers()
        details = {key: item.value for key, item in node.items() if key != "text"}
        return cls(tuple(item.text() for item in sentences.elements()) if sentences else (), details)


@dataclass(frozen=True)
class SingleSeed:
    """Results of one seed of a recipe of one task.

    Attributes:
        seed: its number.
        k: entries of the main patch.
        models: model -> set -> metrics.
        differences: model -> set -> metric -> main graft minus that model, paired by example.
        bins: model -> reliability bins on test.
        controls: model -> how it was chosen.
        curve: patches over densities.
        detection: set -> model -> how well it tells the set's novel rows apart; empty where nobody asked.
        diagnosis: of the tuned checkpoint; None where nobody asked.
        own_shares: model of a control made of the patch -> share of its entries of matrices that are the patch's own.
        seconds: stage -> seconds.
    """

    seed: int
    k: int
    models: Mapping[str, ModelFigures]
    differences: Mapping[str, Mapping[str, Mapping[str, Difference]]] = field(default_factory=dict)
    bins: Mapping[str, Reliability] = field(default_factory=dict)
    controls: Mapping[str, Control] = field(default_factory=dict)
    curve: tuple[CurvePoint, ...] = ()
    detection: Mapping[str, Mapping[str, Detection]] = field(default_factory=dict)
    diagnosis: Diagnosis | None = None
    own_shares: Numbers = field(default_factory=dict)
    seconds: Numbers = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return all fields; no detection where nobody asked, and no shares without controls of the patch."""
        content = write_fields(self)
        absent = {key for key in ("detection", "own_shares") if not content[key]}
        return {key: value for key, value in content.items() if key not in absent}


@dataclass(frozen=True)
class MultitaskSeed:
    """Results of one seed of a recipe of several tasks.

    Attributes:
        seed: its number.
        methods: method -> task -> n, accuracy, ece and nll on test.
        stages: sequence -> after each stage the accuracies on the tasks so far.
        found: method -> what was chosen on validation, and what is known of it.
        grafts: task of a graft -> task -> accuracy of the base with that graft.
        shared: likewise, of the grafts found within the first mix.
        kinship: measure -> matrix of similarities over all tasks.
        seconds: method -> seconds.
    """

    seed: int
    methods: Mapping[str, Mapping[str, Numbers]]
    stages: Mapping[str, Rows]
    found: Mapping[str, Mapping[str, Any]]
    grafts: Mapping[str, Numbers]
    kinship: Mapping[str, Any]
    seconds: Numbers
    shared: Mapping[str, Numbers] | None = None


@dataclass(frozen=True)
class MeasuredPoint:
    """A domain learned by a method at one setting.

    Attributes:
        point: the method's name, with the setting where there are several.
        seconds: of training and localizing.
        figures: task -> "test", "validation" -> score, n, accuracy, ece, nll; of a general task with answers also
            lost and won, the shares of test rows that were right before and are wrong now, and the other way round.
    """

    point: str
    seconds: float
    figures: Mapping[str, Mapping[str, Numbers]]


@dataclass(frozen=True)
class ForgettingSeed:
    """Results of one seed of a recipe about forgetting.

    Attributes:
        seed: its number.
        base: task -> "test", "validation" -> score, n, accuracy, ece, nll.
        start: likewise of the model that learns, where it is another.
        k: entries of the start's patch.
        domains: domain -> point -> metrics.
    """

    seed: int
    base: Mapping[str, Mapping[str, Numbers]]
    domains: Mapping[str, Mapping[str, MeasuredPoint]]
    start: Mapping[str, Mapping[str, Numbers]] | None = None
    k: int | None = None


@dataclass(frozen=True)
class ExtractedPoint:
    """A tuned checkpoint extracted by a method at one size, and measured on test.

    Attributes:
        method: name in `graft.extraction.registry`.
        size: in the method's unit.
        n_bytes: of the file that it is stored in, without the base.
        numbers: n, accuracy, recovered_gain where tuning gained anything, ece, nll, and of labels kl: the mean KL
            divergence of its predictions from the tuned model's, in nats.
        found: settings that were chosen on validation.
        seconds: of extracting.
        k: entries, of a method that stores a patch; None of others.
    """

    method: str
    size: float
    n_bytes: int
    numbers: Numbers
    found: Numbers
    seconds: float
    k: int | None = None


@dataclass(frozen=True)
class ExtractionSeed:
    """Results of one seed of a recipe about extraction.

    Attributes:
        seed: its number.
        n_bytes: of the tuned checkpoint's weights, whole.
        base, tuned: n, accuracy, ece, nll and kl on test.
        points: the methods at their sizes, in the recipe's order.
    """

    seed: int
    n_bytes: int
    base: Numbers
    tuned: Numbers
    points: tuple[ExtractedPoint, ...]
