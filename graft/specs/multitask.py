"""The blocks of a recipe of kind multitask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from graft.patch.registry import OVERLAP_RULES
from graft.specs.block import Block
from graft.specs.fusion import FusionSpec
from graft.specs.localize import LocalizeSpec
from graft.specs.ranges import AtLeast, Count, OneOf
from graft.specs.recipe import EvaluateSpec, Expectation, check_seeds

BASE = "base"


@dataclass(frozen=True)
class SequenceSpec(Block):
    """Learning the tasks one after another, in their order.

    Attributes:
        train: overrides of the recipe's train block.
        replay: training examples per class of each earlier task that are trained along; 0 for none.
        graft: continual grafting: of each task's training only its region is kept, grafted onto what the tasks
            before it left, and stays bitwise as it is from then on (arXiv 2302.06600, section 5).
        density: of these grafts, as a share of all parameters; that of the recipe's `localize` block where absent.
    """

    train: Mapping[str, Any] = field(default_factory=dict)
    replay: Annotated[int, AtLeast(0)] = 0
    graft: bool = False
    density: float | None = None

    def __post_init__(self) -> None:
        """Refuse a density without grafts."""
        super().__post_init__()
        if self.density is not None and not self.graft:
            raise ValueError("density is that of grafts: it needs graft")


@dataclass(frozen=True)
class BlendSpec(Block):
    """A fusion of the models that were tuned on one task each.

    Attributes:
        fuse: the method of fusion and its options, as of `graft fuse`.
        scales: factors to choose from, by mean accuracy on validation; the method's own where there is none.
    """

    fuse: FusionSpec = field(default_factory=FusionSpec)
    scales: tuple[float, ...] = ()


@dataclass(frozen=True)
class UnionSpec(Block):
    """The grafts of all tasks at once on the base.

    Attributes:
        density: of each graft, as a share of all parameters.
        on_overlap: which value an entry gets that several grafts hold.
        shared: the grafts that `shared` finds within the first mix, which agree where they meet, instead of those from
            the models tuned on one task each.
    """

    density: float = 1e-4
    on_overlap: Annotated[str, OneOf(OVERLAP_RULES)] = "mean"
    shared: bool = False


@dataclass(frozen=True)
class MixSpec(Block):
    """Training on all tasks at once.

    Attributes:
        start: where training starts: "base", or the name of a fusion.
        shots: training examples per class and task, at most; the recipe's where absent.
        staged: one training for each cluster of the fusion's cores, one after another, as in CPI-FT (arXiv 2508.21741).
        freeze: in each stage the cores of the clusters before it stay as they are.
        train: overrides of the recipe's train block.
    """

    start: str = BASE
    shots: Count | None = None
    staged: bool = False
    freeze: bool = False
    train: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse frozen cores without stages."""
        super().__post_init__()
        if self.freeze and not self.staged:
            raise ValueError("freeze needs staged")


@dataclass(frozen=True)
class MultitaskSpec(Block):
    """An experiment over several tasks that share one base and one kind of head.

    Every task is tuned by itself first. The other blocks map the name of a method to how it is done.

    Attributes:
        name: name of the experiment, as tables and plots show it.
        base: the base: a local folder, a Hub id or the embedded encoder.
        tasks: TASK files, relative to the recipe, in the order in which sequences learn them.
        beside: TASK files that are tuned and localized for the overlap alone.
        shots: examples per class, at most; the tasks' own where they are fewer.
        max_length: longest input in tokens, likewise.
        train: overrides of each task's train block.
        localize: how to choose the entries of each task's graft.
        shared: masks of each task within the first mix, localized so; not done where absent.
        sequences: name -> a way to learn the tasks one after another.
        fusions: name -> a fusion of the models that were tuned on one task each.
        unions: name -> a union of the tasks' grafts on the base.
        mixes: name -> a training on all tasks at once.
        evaluate: batch size, and how many rows of each test split.
        seeds: seeds of few-shot draws, training order and dropout.
        expect: "METHOD.METRIC" -> value and tolerance.
        hardware, minutes: what the expectation was measured on, and how long it took.
        kind: which kind of recipe the file is.
    """

    name: str
    base: str
    tasks: tuple[str, ...]
    beside: tuple[str, ...] = ()
    shots: int | None = None
    max_length: int | None = None
    train: Mapping[str, Any] = field(default_factory=dict)
    localize: LocalizeSpec = field(default_factory=lambda: LocalizeSpec("magnitude"))
    shared: LocalizeSpec | None = None
    sequences: Mapping[str, SequenceSpec] = field(default_factory=dict)
    fusions: Mapping[str, BlendSpec] = field(default_factory=dict)
    unions: Mapping[str, UnionSpec] = field(default_factory=dict)
    mixes: Mapping[str, MixSpec] = field(default_factory=dict)
    evaluate: EvaluateSpec = field(default_factory=EvaluateSpec)
    seeds: tuple[int, ...] = (0, 1, 2)
    expect: Mapping[str, Expectation] = field(default_factory=dict)
    hardware: str | None = None
    minutes: float | None = None
    kind: Literal["multitask"] = "multitask"

    def __post_init__(self) -> None:
        """Refuse blocks that do not go together.

        Raises:
            ValueError: naming the key and why.
        """
        super().__post_init__()
        if len(self.tasks) < 2 or len({*self.tasks, *self.beside}) != len(self.tasks) + len(self.beside):
            raise ValueError("tasks must be two or more different files, and beside others than these")
        check_seeds(self.seeds)
        if "random" in (self.localize.method, self.shared.method if self.shared else None):
            raise ValueError("method random draws the same entries for every task of a seed: regions would be one")
        self._check_names()
        for name, mix in self.mixes.items():
            self._check_start(name, mix)
        if self.shared is not None and not self.mixes:
            raise ValueError("shared needs a mix")
        if self.shared is None and any(union.shared for union in self.unions.values()):
            raise ValueError("a union of shared grafts needs the block shared, which says how they are found")

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the table's rows, in its order."""
        return (BASE, "tuned", "graft", *self.mixes, *self.sequences, *self.fusions, *self.unions)

    def _check_names(self) -> None:
        if len(set(self.methods)) != len(self.methods):
            raise ValueError("two methods have one name, or that of base, tuned or graft")

    def _check_start(self, name: str, mix: MixSpec) -> None:
        if mix.start not in (BASE, *self.fusions):
            raise ValueError(f"mixes.{name}: start {mix.start!r} is neither base nor a fusion")
        if mix.staged and (mix.start == BASE or self.fusions[mix.start].fuse.method != "cpi"):
            raise ValueError(f"mixes.{name}: staged needs the start to be a fusion by cpi")
