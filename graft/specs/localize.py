"""How to localise, as a typed block."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from graft.localize.registry import LOCALIZATION_METHODS

Allocation = Literal["global", "per-tensor", "per-layer"]


@dataclass(frozen=True)
class LearnSpec:
    """Of method "learned" (`graft.localize.learned`).

    Attributes:
        start: the score that gives the candidates and what they start from.
        prior: weight of |delta| beside that score where the learner starts: 0 for none, 1 for as much.
        multiple: candidates per entry of the budget.
        lr: how many more points of the path a pass weighs.
        epochs: passes over the training examples.
        batch_size: examples per step.
        micro_batch: examples per forward and backward within a step; where absent the whole step, or over several
            processes an equal part for each. Masks are equal for any number of processes where it is given.
        restarts: how often, with other orders of examples.
        data: "train" keeps the mask with the lowest NLL on validation; "train+validation" learns from both and keeps
            the last, so that figures on validation no longer say how good the mask is.
    """

    start: Literal["attribution", "taylor"] = "attribution"
    prior: float = 1.0
    multiple: int = 10
    lr: float = 0.5
    epochs: int = 4
    batch_size: int = 128
    micro_batch: int | None = None
    restarts: int = 1
    data: Literal["train", "train+validation"] = "train"

    def __post_init__(self) -> None:
        for name in ("multiple", "lr", "epochs", "batch_size", "restarts"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError("micro_batch must be 1 or more")
        if self.prior < 0:
            raise ValueError("prior must be 0 or more")


@dataclass(frozen=True)
class PaperSpec:
    """Of method "paper" (`graft.localize.panigrahi2023`); the defaults are the published values.

    Attributes:
        lr: rate of gradient descent on S.
        steps: how many.
        batch_size: largest number of examples per step.
        check_every: steps between looks at the rounded mask's accuracy.
    """

    lr: float = 1e7
    steps: int = 100
    batch_size: int = 1024
    check_every: int = 1

    def __post_init__(self) -> None:
        for name in ("lr", "steps", "batch_size", "check_every"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0")


@dataclass(frozen=True)
class CandidateSpec:
    """Of attribution in one model's memory: how the weights that it looks at are found.

    Attributes:
        micro_batches: how many, evenly spread over the training examples, look at every weight.
        multiple: candidates that each of them names per entry of the budget.
    """

    micro_batches: int = 8
    multiple: int = 5

    def __post_init__(self) -> None:
        if self.micro_batches < 1 or self.multiple < 1:
            raise ValueError("micro_batches and multiple must be 1 or more")


@dataclass(frozen=True)
class LocalizeSpec:
    """What chooses the entries of a patch.

    Attributes:
        method: of `graft.localize.registry`: "learned" at the exact budget, the "paper"'s procedure, or any score.
        density: share of all parameters to keep; `budget` overrides it by a number of entries.
        budget: number of entries k.
        scope: where they may lie, as in `graft.tensors.scope`.
        allocation: one budget over all tensors, or shared out per tensor or per layer by size.
        path: of "attribution": through the "graft" as it grows (the default), or "straight" from base to tuned.
        points: of that path.
        centred: set class offsets aside at every point of the path and step of the learner (`graft.scores.offsets`).
        batch_size: examples per forward and backward.
        micro_batch: of "fisher" and "talos": examples whose gradients are averaged before they are squared; 1 is
            exact, more is faster (`graft.scores.fisher`).
        candidates: of "attribution", "taylor" and "learned", which look at these alone.
        exact_scores: let them look at every weight in scope instead, at 4 bytes of host memory each.
        learn, paper: of the methods of these names.
        seed: of "random" and the learners, of the labels that "talos" draws, and of the path in low precision.
    """

    method: str = "attribution"
    density: float = 1e-4
    budget: int | None = None
    scope: str = "layers"
    allocation: Allocation = "global"
    path: Literal["graft", "straight"] = "graft"
    points: int = 8
    centred: bool = True
    batch_size: int = 32
    micro_batch: int = 1
    candidates: CandidateSpec = field(default_factory=CandidateSpec)
    exact_scores: bool = False
    learn: LearnSpec = field(default_factory=LearnSpec)
    paper: PaperSpec = field(default_factory=PaperSpec)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in LOCALIZATION_METHODS:
            raise ValueError(f"method must be one of {', '.join(LOCALIZATION_METHODS)}, not {self.method!r}")
        if self.points < 1 or self.batch_size < 1:
            raise ValueError("points and batch_size must be 1 or more")
        if self.micro_batch < 1:
            raise ValueError("micro_batch must be 1 or more")

    def at(self, density: float | None) -> LocalizeSpec:
        """The same at another density; at its own where none is given."""
        return self if density is None else replace(self, density=density, budget=None)
