"""The block `localize` of a recipe: what chooses the entries of a patch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, get_args

from graft.localize.registry import LOCALIZATION_METHODS
from graft.specs.block import Block
from graft.specs.ranges import Above, AtLeast, Count, OneOf

Allocation = Literal["global", "per-tensor", "per-layer"]
Structure = Literal["entries", "columns", "rows", "rank"]
PathKind = Literal["graft", "straight"]
LINES = ("columns", "rows")  # the structures of whole lines


@dataclass(frozen=True)
class LearnSpec(Block):
    """The settings of method "learned" (`graft.localize.learned`).

    Attributes:
        start: the score that names the candidates and gives them their initial values.
        prior: weight of |delta| beside that score in the initial values: 0 for none, 1 for as much as the score.
        multiple: candidates per entry of the budget.
        lr: learning rate: the weight of one pass over the data, in points of the path.
        epochs: passes over the training examples.
        batch_size: examples per step.
        micro_batch: examples per forward and backward pass within a step; where absent the whole step, or over several
            processes an equal part for each. Masks are equal for any number of processes where it is given.
        restarts: how many times the learner runs, with the examples in another order each time.
        data: "train" keeps the mask with the lowest NLL on validation; "train+validation" learns from both and keeps
            the last, so that metrics on validation no longer say how good the mask is.
    """

    start: Literal["attribution", "taylor"] = "attribution"
    prior: Annotated[float, AtLeast(0)] = 1.0
    multiple: Annotated[int, Above(0)] = 10
    lr: Annotated[float, Above(0)] = 0.5
    epochs: Annotated[int, Above(0)] = 4
    batch_size: Annotated[int, Above(0)] = 128
    micro_batch: Count | None = None
    restarts: Annotated[int, Above(0)] = 1
    data: Literal["train", "train+validation"] = "train"


@dataclass(frozen=True)
class PaperSpec(Block):
    """The settings of method "paper" (`graft.localize.panigrahi2023`); the defaults are the published values.

    Attributes:
        lr: learning rate of gradient descent on the mask's logits S.
        steps: steps of gradient descent.
        batch_size: largest number of examples per step.
        check_every: steps between checks of the rounded mask's accuracy.
    """

    lr: Annotated[float, Above(0)] = 1e7
    steps: Annotated[int, Above(0)] = 100
    batch_size: Annotated[int, Above(0)] = 1024
    check_every: Annotated[int, Above(0)] = 1


@dataclass(frozen=True)
class CandidateSpec(Block):
    """The search for candidates, the few weights that attribution scores, so that it needs one model's memory.

    Attributes:
        micro_batches: micro-batches, evenly spread over the training examples, that each look at every weight.
        multiple: candidates that each micro-batch names per entry of the budget.
    """

    micro_batches: Count = 8
    multiple: Count = 5


@dataclass(frozen=True)
class LocalizeSpec(Block):
    """The choice of a patch's entries.

    Attributes:
        method: how the entries are chosen.
        density: entries to keep, as a share of all parameters.
        budget: number of entries to keep, in place of `density`.
        structure: "entries" one by one; whole "columns" (input dimensions) or "rows" (output dimensions) of matrices,
            as many as fit the budget (`graft.localize.lines`); or entries within the lines of `max_rank`, "rank". Where
            absent, "rank" if `max_rank` is given, and else "entries".
        lines: columns, rows: number of lines to keep, in place of `density`.
        bytes: columns, rows: most bytes that values and names of the lines may take in a file, in place of `density`.
        scope: which tensors the entries may lie in: layers, embeddings, heads, a sum such as layers+embeddings, all, or
            a regular expression; with a first layer after it, as in layers>=6, those before it are left out.
        allocation: one budget over all tensors ("global"), or shared out by size "per-tensor" or "per-layer".
        max_rank: largest exact rank of each matrix's part of the mask, so that the patch fits a LoRA of that rank
            (`graft.localize.rank_limit`); entries then lie in matrices alone. Where absent, there is no limit.
        path: attribution: along the "graft" as it grows, or "straight" from base to tuned.
        points: attribution: points of that path.
        class_debias: set class offsets aside at every point of the path and step of the learner
            (`graft.scores.offsets`).
        batch_size: examples per forward and backward pass.
        micro_batch: fisher, talos, adam-attribution: examples whose gradients are averaged before they are squared; 1
            is exact, more is faster (`graft.scores.fisher`).
        candidates: attribution, taylor, learned: how the weights are found that these methods look at.
        exact_scores: attribution, taylor, learned: look at every weight in scope instead, at 4 bytes of host memory
            each.
        learn: learned: how the mask is learned.
        paper: paper: how the mask is learned.
        seed: seed of "random" and the learners, of the labels that "talos" draws, and of the path in low precision.
    """

    method: Annotated[str, OneOf(LOCALIZATION_METHODS)] = "attribution"
    density: float = 1e-4
    budget: int | None = None
    structure: Structure | None = None
    lines: Count | None = None
    bytes: Count | None = None
    scope: str = "layers"
    allocation: Allocation = "global"
    max_rank: Count | None = None
    path: PathKind = "graft"
    points: Count = 8
    class_debias: bool = True
    batch_size: Count = 32
    micro_batch: Count = 1
    candidates: CandidateSpec = field(default_factory=CandidateSpec)
    exact_scores: bool = False
    learn: LearnSpec = field(default_factory=LearnSpec)
    paper: PaperSpec = field(default_factory=PaperSpec)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings of a structure that do not go together."""
        super().__post_init__()
        check_structure(self)

    @property
    def has_lines(self) -> bool:
        """Whether whole columns or rows are chosen."""
        return self.structure in LINES

    def at(self, density: float | None) -> LocalizeSpec:
        """Return the same block at another density; at its own where none is given."""
        return self if density is None else replace(self, density=density, budget=None, lines=None, bytes=None)


def check_structure(settings: Any) -> None:
    """Refuse settings of a structure that do not go together.

    Raises:
        ValueError: it says which.
    """
    structure, max_rank = settings.structure, settings.max_rank
    if structure not in (None, *get_args(Structure)):
        raise ValueError(f"structure {structure!r:.40} is none of {', '.join(get_args(Structure))}")
    if structure == "rank" and max_rank is None:
        raise ValueError("structure rank needs max_rank")
    if structure not in (None, "rank") and max_rank is not None:
        raise ValueError(f"structure {structure} does not go with max_rank")
    sizes = [name for name in ("budget", "lines", "bytes") if getattr(settings, name) is not None]
    if len(sizes) > 1:
        raise ValueError(f"give one of {' and '.join(sizes)}")
    if sizes and sizes[0] != "budget" and structure not in LINES:
        raise ValueError(f"{sizes[0]} goes with structure columns or rows alone")
    if sizes and sizes[0] != "budget" and getattr(settings, "allocation", "global") != "global":
        raise ValueError(f"allocation {settings.allocation} shares out a budget of entries, not of {sizes[0]}")
