"""The blocks of a recipe of kind planted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from graft.errors import ConfigError
from graft.localize.registry import LOCALIZATION_METHODS, keeps_to_budget
from graft.specs.block import Block
from graft.specs.localize import LocalizeSpec
from graft.specs.ranges import Above, Within
from graft.specs.recipe import EvaluateSpec, Expectation, check_seeds

ADAMW = {"optimizer": "adamw", "lr": 5e-5, "epochs": 3, "l1": 0}


@dataclass(frozen=True)
class PlantedSpec(Block):
    """A skill planted in a known mask, a drift of another training over all weights: which score finds the mask?

    Attributes:
        name: name of the experiment, as tables and plots show it.
        base: the base: a Hub id, the embedded encoder, or a local folder, which may be named relative to the recipe.
        task: the TASK file of the skill, relative to the recipe.
        drift: the TASK file whose training by AdamW gives the drift its directions and its distribution of sizes; its
            texts are the general ones of methods that contrast the task's with such.
        densities: sizes of the planted mask, as shares of all parameters.
        ratios: root mean square of the drift over that of the planted movement.
        overlaps: shares of the planted entries that drift too; all others in scope always do.
        support: which entries are planted: "random" ones, or those with the largest "gradient" of the task's loss at
            the base, which are where scores by gradients look.
        train: overrides of the task's train block for the planted entries, which alone train; of "gradient" the epochs
            and the learning rate count.
        drift_train: overrides of the train block of the drift's task.
        methods: names as in `localize.method`, of those that keep to a budget.
        multiples: budgets of the recall's curve, in planted entries; 1 must be among them. Where a scope has too few
            entries for the largest, the recall at the others is measured, and no area under the curve.
        localize: settings of the methods; its method, density and budget are replaced, its scope holds the mask.
        evaluate: how models are measured: batch size, and how many rows of the test split.
        seeds: seeds of few-shot draws, training order, dropout and the random masks.
        expect: "METHOD, density D, drift R, overlap O.METRIC" -> value and tolerance.
        hardware, minutes: what the expectation was measured on, and how long it took.
        kind: which kind of recipe the file is.
    """

    name: str
    base: str
    task: str
    drift: str
    densities: tuple[Annotated[float, Above(0)], ...] = (1e-4, 1e-3)
    ratios: tuple[Annotated[float, Above(0)], ...] = (0.01, 0.1, 1.0)
    overlaps: tuple[Annotated[float, Within(0, 1)], ...] = (0.0,)
    support: Literal["random", "gradient"] = "random"
    train: Mapping[str, Any] = field(default_factory=lambda: {"optimizer": "adamw", "lr": 1e-3, "epochs": 5, "l1": 0})
    drift_train: Mapping[str, Any] = field(default_factory=lambda: dict(ADAMW))
    methods: tuple[str, ...] = ("attribution", "taylor", "fisher", "magnitude", "random")
    multiples: tuple[Annotated[float, Above(0)], ...] = (1, 10, 100)
    localize: LocalizeSpec = field(default_factory=LocalizeSpec)
    evaluate: EvaluateSpec = field(default_factory=EvaluateSpec)
    seeds: tuple[int, ...] = (0, 1, 2)
    expect: Mapping[str, Expectation] = field(default_factory=dict)
    hardware: str | None = None
    minutes: float | None = None
    kind: Literal["planted"] = "planted"

    def __post_init__(self) -> None:
        """Refuse seeds that a recipe cannot have, unknown methods, empty ladders, and a second choice of weights."""
        super().__post_init__()
        check_seeds(self.seeds)
        for key in ("densities", "ratios", "overlaps", "methods"):
            values = getattr(self, key)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{key} must hold one or more different values")
        if 1 not in self.multiples or list(self.multiples) != sorted(set(self.multiples)):
            raise ValueError("multiples must ascend, and 1 be among them")
        if "localizable" in self.train:
            raise ValueError("train.localizable: at most the planted weights train anyway; see support and densities")
        try:
            for method in self.methods:
                LOCALIZATION_METHODS.find(method)
        except ConfigError as error:
            raise ValueError(f"methods: {error}") from error
        for method in self.methods:
            if not keeps_to_budget(method):
                raise ValueError(f"methods: {method} sizes itself, and a recall is among as many entries as planted")
