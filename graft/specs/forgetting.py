"""The blocks of a recipe of kind forgetting."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from graft.errors import ConfigError
from graft.registry import name_number
from graft.specs.adapter import AdapterSpec
from graft.specs.block import Block
from graft.specs.localize import LocalizeSpec
from graft.specs.ranges import AtLeast
from graft.specs.reader import override, read_config, to_plain
from graft.specs.recipe import EvaluateSpec, Expectation, check_seeds
from graft.specs.regularize import UNIFORM, RegularizeSpec

MEAN = "mean"  # in place of a domain's name: over all domains


@dataclass(frozen=True)
class TaskUse(Block):
    """A TASK file, and how much of it is used; what is absent is the recipe's.

    Attributes:
        task: the file, relative to the recipe.
        shots, max_length: at most so many; the task's own where they are fewer.
        limit: rows of its test split, the first so many.
        train: overrides of the train block, where it is a domain.
        replay: where it is a general task, methods that replay train on its examples too.
    """

    task: str
    shots: int | None = None
    max_length: int | None = None
    limit: int | None = None
    train: Mapping[str, Any] = field(default_factory=dict)
    replay: bool = True


@dataclass(frozen=True)
class ProtectSpec(Block):
    """A core region that stays bitwise as it is while a domain is learned.

    Attributes:
        by: which weights: the best-scored by "saliency" (|g * theta|) or "fisher", as the mean over the general tasks'
            training examples at the start; "random" ones; or those of the start's own "patch".
        share: how many, of all weights in scope; of "random" as many as the start's patch has where absent.
        scope: where these weights may lie: layers, embeddings, heads, a sum of these, all, or a regular expression.
        micro_batch: examples whose gradients are averaged before they are scored; 1 is exact.
    """

    by: Literal["saliency", "fisher", "random", "patch"] = "saliency"
    share: float | None = None
    scope: str = "all"
    micro_batch: int = 1

    def __post_init__(self) -> None:
        """Refuse a share that is missing, superfluous or out of its range."""
        super().__post_init__()
        if self.by in ("saliency", "fisher") and self.share is None:
            raise ValueError(f"protection by {self.by} needs a share")
        if self.by == "patch" and self.share is not None:
            raise ValueError("the start's patch is protected as a whole: it has no share")
        if self.share is not None and not 0 < self.share < 1:
            raise ValueError("share must be above 0 and below 1")


@dataclass(frozen=True)
class MethodSpec(Block):
    """A way to learn a domain; plain fine-tuning where nothing is said.

    Attributes:
        train: overrides of the domain's train block; `scope` says which layers train, `localizable` trains few weights.
        protect: weights that stay as they are.
        regularize: moving a weight costs; its `importance` is "fisher" or "saliency", the mean over the general tasks'
            training examples at the start, or "uniform" (L2 to the start). By Fisher without layers it is EWC.
        replay: training examples per class of each general task, in all where it has no classes, that are trained
            along.
        peft: an adapter trains in place of the weights, and is merged.
        graft: of what was learned only these entries are kept, on the start.
        grid: one dotted key of this block -> the values that it takes in turn, such as {train.lr: [1e-4, 3e-4]}.
    """

    train: Mapping[str, Any] = field(default_factory=dict)
    protect: ProtectSpec | None = None
    regularize: RegularizeSpec | None = None
    replay: Annotated[int, AtLeast(0)] = 0
    peft: AdapterSpec | None = None
    graft: LocalizeSpec | None = None
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse keys that do not go together."""
        super().__post_init__()
        if self.regularize and self.regularize.importance not in (UNIFORM, "fisher", "saliency"):
            raise ValueError("regularize.importance must be fisher, saliency or uniform")
        if self.peft and (self.protect or self.regularize):
            raise ValueError("peft goes with neither protect nor regularize")
        if len(self.grid) > 1 or not all(self.grid.values()):
            raise ValueError("grid must hold one key and one or more values")


@dataclass(frozen=True)
class Point:
    """A method at one setting: a point of the (gain, loss) plane.

    Attributes:
        name: of the method, with the setting where there are several.
        method: the method's name.
        how: the method without its grid.
    """

    name: str
    method: str
    how: MethodSpec


@dataclass(frozen=True)
class StartSpec(Block):
    """A skill that the model is given before it learns any domain: trained on the base, localized, grafted.

    Attributes:
        task: TASK file, or a block.
        localize: which entries of the skill are grafted onto the base.
    """

    task: str | TaskUse
    localize: LocalizeSpec = field(default_factory=LocalizeSpec)


@dataclass(frozen=True)
class ForgettingSpec(Block):
    """An experiment on forgetting: the gain on new domains, and the loss of general ability, by method.

    Attributes:
        name: name of the experiment, as tables and plots show it.
        base: the base: a Hub id, the embedded encoder, or a local folder, which may be named relative to the recipe.
        general: TASK files, or blocks: what the model can do without training, measured before and after.
        domains: likewise; each is learned by itself from the start. Not in `general`.
        methods: name -> a way to learn a domain.
        start: a skill grafted onto the base first; the base as it is where absent.
        shots, max_length: caps of all tasks that have none of their own here.
        train: overrides of all train blocks.
        evaluate: batch size, and how many rows of each test split.
        seeds: seeds of few-shot draws, training order and dropout.
        expect: "DOMAIN.POINT.METRIC", or "mean.POINT.METRIC" -> value and tolerance.
        hardware, minutes: what the expectation was measured on, and how long it took.
        kind: which kind of recipe the file is.
    """

    name: str
    base: str
    general: tuple[str | TaskUse, ...]
    domains: tuple[str | TaskUse, ...]
    methods: Mapping[str, MethodSpec]
    start: StartSpec | None = None
    shots: int | None = None
    max_length: int | None = None
    train: Mapping[str, Any] = field(default_factory=dict)
    evaluate: EvaluateSpec = field(default_factory=EvaluateSpec)
    seeds: tuple[int, ...] = (0, 1, 2)
    expect: Mapping[str, Expectation] = field(default_factory=dict)
    hardware: str | None = None
    minutes: float | None = None
    kind: Literal["forgetting"] = "forgetting"

    def __post_init__(self) -> None:
        """Refuse blocks that do not go together.

        Raises:
            ValueError: naming the key and why.
        """
        super().__post_init__()
        if not (self.general and self.domains and self.methods):
            raise ValueError("general, domains and methods must each hold one or more")
        check_seeds(self.seeds)
        for name, how in self.methods.items():
            if how.protect and self.start is None and (how.protect.by == "patch" or how.protect.share is None):
                raise ValueError(f"methods.{name}: there is no start whose patch gives the region or its size")

    @property
    def files(self) -> list[str]:
        """The TASK files of all its tasks."""
        uses = [*self.general, *self.domains, *([] if self.start is None else [self.start.task])]
        return [use if isinstance(use, str) else use.task for use in uses]

    def points(self) -> list[Point]:
        """Every method at every setting, in their order.

        Raises:
            ConfigError: a setting is none of the method's, or two points have one name, which tables and results go by.
        """
        points = [point for name, how in self.methods.items() for point in _settings(name, how)]
        names = Counter(point.name for point in points)
        if twice := [name for name, n in names.items() if n > 1]:
            raise ConfigError(f"methods: two settings have the name {twice[0]!r}: leave one out, or rename the method")
        return points


def _settings(name: str, how: MethodSpec) -> Iterator[Point]:
    plain = dataclasses.replace(how, grid={})
    if not how.grid:
        yield Point(name, name, plain)
    for key, values in how.grid.items():
        for value in values:
            block = override(to_plain(plain), (f"{key}={json.dumps(value)}",))
            yield Point(
                f"{name}, {key.rpartition('.')[-1]} {_show(value)}",
                name,
                read_config(MethodSpec, block, f"methods.{name}"),
            )


def _show(value: object) -> str:
    return name_number(value) if isinstance(value, float) else str(value)
