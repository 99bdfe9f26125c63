"""The blocks of a recipe of kind extraction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from graft.errors import ConfigError
from graft.extraction.registry import EXTRACTION_METHODS
from graft.specs.block import Block
from graft.specs.localize import LocalizeSpec
from graft.specs.ranges import Above, Count
from graft.specs.recipe import EvaluateSpec, Expectation, check_seeds
from graft.specs.refit import RefitSpec


@dataclass(frozen=True)
class DistillSpec(Block):
    """The fit of few numbers to the tuned model's predictions on texts (`graft.extraction.distilled_scales`).

    Attributes:
        lr: learning rate of Adam on the logarithms of the scales.
        epochs: passes over the training texts.
        batch_size: texts per step.
    """

    lr: Annotated[float, Above(0)] = 0.03
    epochs: Count = 2
    batch_size: Count = 32


@dataclass(frozen=True)
class ExtractSpec(Block):
    """Settings of extraction methods, the same at every size.

    Attributes:
        localize: cut, magnitude, columns: how entries are scored, and the scope in which they lie; attribution is exact
            and along the straight path, whatever it says of these. Whole lines and a rank are methods of their own.
        lora_rates: lora, lora_qv: learning rates, of which the one that validates best is kept.
        refit: how values are fitted; the epoch is chosen by the divergence, so that no label is read.
        distill: bitdelta_distilled: how the scales are fitted.
    """

    localize: LocalizeSpec = field(default_factory=LocalizeSpec)
    lora_rates: tuple[Annotated[float, Above(0)], ...] = (5e-4, 2e-3)
    refit: RefitSpec = field(default_factory=RefitSpec)
    distill: DistillSpec = field(default_factory=DistillSpec)

    def __post_init__(self) -> None:
        """Refuse an adapter without a rate, and sizes and structures that methods have by themselves."""
        super().__post_init__()
        if not self.lora_rates:
            raise ValueError("lora_rates must hold one or more learning rates")
        for name, block in (("localize", self.localize), ("refit", self.refit)):
            sizes = [key for key in ("budget", "lines", "bytes") if getattr(block, key) is not None]
            if sizes:
                raise ValueError(f"{name}.{sizes[0]}: sizes are those that `methods` lists: leave it out")
        if self.localize.structure not in (None, "entries") or self.localize.max_rank is not None:
            raise ValueError(
                "localize: cut and magnitude choose entries one by one; methods columns, rows and rank are for whole "
                "lines and a rank: leave out structure and max_rank"
            )


@dataclass(frozen=True)
class ExtractionSpec(Block):
    """One tuned checkpoint a seed, extracted by many methods at many sizes: what is kept against bytes.

    Attributes:
        name: name of the experiment, as tables and plots show it.
        base: the base: a Hub id, the embedded encoder, or a local folder, which may be named relative to the recipe.
        task: the TASK file, relative to the recipe.
        train: overrides of the task's train block.
        methods: method -> its sizes; an empty list stands for those of `graft.extraction.registry`, and so do all
            methods where the key is absent.
        extract: settings of the methods.
        other_texts: the TASK file, relative to the recipe, whose training texts `refit_other_texts` fits to.
        ood: methods that are measured on the task's out-of-distribution sets too, beside base and tuned model; on those
            with rows of the task's labels.
        evaluate: how models are measured: batch size, and how many rows of the test split.
        seeds: seeds of few-shot draws, training order, dropout and what methods draw.
        expect: "MODEL.METRIC" -> value and tolerance, where MODEL is base, tuned, or such as "svd, rank 4".
        hardware, minutes: what the expectation was measured on, and how long it took.
        kind: which kind of recipe the file is.
    """

    name: str
    base: str
    task: str
    train: Mapping[str, Any] = field(default_factory=dict)
    methods: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    extract: ExtractSpec = field(default_factory=ExtractSpec)
    other_texts: str | None = None
    ood: tuple[str, ...] = ()
    evaluate: EvaluateSpec = field(default_factory=EvaluateSpec)
    seeds: tuple[int, ...] = (0, 1, 2)
    expect: Mapping[str, Expectation] = field(default_factory=dict)
    hardware: str | None = None
    minutes: float | None = None
    kind: Literal["extraction"] = "extraction"

    def __post_init__(self) -> None:
        """Refuse seeds that a recipe cannot have, unknown methods, and sizes that are none of their method."""
        super().__post_init__()
        check_seeds(self.seeds)
        if "refit_other_texts" in self.methods and self.other_texts is None:
            raise ValueError("methods: refit_other_texts needs other_texts, a TASK file whose texts are fitted to")
        try:
            for method, size in self.points():
                EXTRACTION_METHODS[method].check(size)
            for method in self.ood:
                EXTRACTION_METHODS.find(method)
        except ConfigError as error:
            raise ValueError(f"methods: {error}") from error

    def points(self) -> list[tuple[str, float]]:
        """Return every method with each of its sizes.

        Raises:
            ConfigError: an unknown method.
        """
        methods = self.methods or {name: () for name, row in EXTRACTION_METHODS.items() if not row.is_control}
        rows = {name: EXTRACTION_METHODS.find(name) for name in methods}
        return [(name, size) for name, sizes in methods.items() for size in sizes or rows[name].sizes]
