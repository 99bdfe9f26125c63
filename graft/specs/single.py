"""The blocks of a recipe of kind single."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from graft.specs.block import Block
from graft.specs.localize import LocalizeSpec
from graft.specs.recipe import EvaluateSpec, Expectation, check_seeds
from graft.specs.refit import RefitSpec

ControlName = Literal["temperature", "interpolation", "early_stopping", "larger_random"]


@dataclass(frozen=True)
class CurveSpec(Block):
    """Grafts over a range of densities, measured on the test split alone.

    Attributes:
        densities: the densities to measure, as shares of all parameters.
        methods: names as in `localize.method`; that method and the recipe's `controls` where absent.
    """

    densities: tuple[float, ...]
    methods: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse densities that are no shares."""
        super().__post_init__()
        if not self.densities or not all(0 < density <= 1 for density in self.densities):
            raise ValueError("densities must be one or more numbers above 0 and at most 1")


@dataclass(frozen=True)
class AnalysisSpec(Block):
    """Further measurements of each seed; only what costs next to nothing is on by default.

    Attributes:
        controls: for "it merely moved less", each chosen on validation to match the main graft's accuracy
            (`graft.recipes.single.controls`): "interpolation" from base to tuned, "early_stopping" of the same
            training, "larger_random" masks; and "temperature" scaling of the tuned model, left out where a head has no
            labels.
        necessity: also measure the tuned model without the main method's region, and without that of "random" where it
            is a control; and, of a curve, without each point's region.
        detection: also measure AUROC and FPR@95 wherever a set has rows of novel classes.
        curve: measure grafts at several densities; not done where absent.
        diagnosis: also say whether the tuned checkpoint looks as if its skill can be localized, from its weights alone.
    """

    controls: tuple[ControlName, ...] = ("temperature",)
    necessity: bool = False
    detection: bool = True
    curve: CurveSpec | None = None
    diagnosis: bool = False


@dataclass(frozen=True)
class RefitStage(RefitSpec):
    """A refit beside the grafts: any fine-tune as a patch, whatever optimizer made it.

    Attributes:
        train: overrides of the recipe's train block for a checkpoint of its own to fit to, the "teacher"; fitted to the
            recipe's tuned model where absent.
    """

    train: Mapping[str, Any] | None = None

    @property
    def settings(self) -> RefitSpec:
        """The refit block alone."""
        return RefitSpec(**{field.name: getattr(self, field.name) for field in fields(RefitSpec)})


@dataclass(frozen=True)
class SingleSpec(Block):
    """A whole experiment: for each seed fine-tune, localize, graft, and measure base, tuned and grafts.

    Attributes:
        name: name of the experiment, as tables and plots show it.
        base: the base: a Hub id, the embedded encoder, or a local folder, which may be named relative to the recipe.
        task: the TASK file, relative to the recipe.
        train: overrides of the task's train block.
        localize: how to choose the entries of the patch.
        controls: other methods at the same budget and scope, grafted for comparison; and controls of the main method's
            patch by its columns, rows and values (`graft.controls.registry`).
        refit: also fit few weights to a tuned model's outputs; their graft is then the main one, beside which those of
            the methods stand. Not done where absent.
        evaluate: how models are measured: batch size, and how many rows of each set.
        analysis: what else is measured.
        seeds: seeds of few-shot draws, training order, dropout and random masks.
        expect: "MODEL.METRIC" or "MODEL.SET.METRIC" -> value and tolerance.
        hardware, minutes: what the expectation was measured on, and how long it took.
        kind: which kind of recipe the file is.
    """

    name: str
    base: str
    task: str
    train: Mapping[str, Any] = field(default_factory=dict)
    localize: LocalizeSpec = field(default_factory=LocalizeSpec)
    controls: tuple[str, ...] = ("magnitude", "random")
    refit: RefitStage | None = None
    evaluate: EvaluateSpec = field(default_factory=EvaluateSpec)
    analysis: AnalysisSpec = field(default_factory=AnalysisSpec)
    seeds: tuple[int, ...] = (0, 1, 2)
    expect: Mapping[str, Expectation] = field(default_factory=dict)
    hardware: str | None = None
    minutes: float | None = None
    kind: Literal["single"] = "single"

    def __post_init__(self) -> None:
        """Refuse seeds that a recipe cannot have."""
        super().__post_init__()
        check_seeds(self.seeds)

    @property
    def main(self) -> str:
        """The graft that the recipe is about: the refit where there is one, else that of the main method."""
        return self.localize.method if self.refit is None else "refit"

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods that are grafted, the main one first."""
        return (self.localize.method, *(method for method in self.controls if method != self.localize.method))

    @property
    def curve_methods(self) -> tuple[str, ...]:
        """The methods of the curve over density; none where there is no curve."""
        curve = self.analysis.curve
        return () if curve is None else self.methods if curve.methods is None else curve.methods
