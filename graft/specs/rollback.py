"""The options of `graft rollback`: what is to come back, at which price, and how the entries are chosen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from graft.evaluate.registry import RESTORABLE
from graft.specs.block import Block
from graft.specs.localize import CandidateSpec, LocalizeSpec, PathKind
from graft.specs.ranges import Above, AtLeast, Count, OneOf

RollbackMethod = Literal["attribution", "taylor", "magnitude", "random"]
DENSITIES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


@dataclass(frozen=True)
class RollbackSpec(Block):
    """The choice of the entries that are put back to the base.

    Attributes:
        restore_metric: what was lost and is to come back.
        share: of what was lost, to come back: the mean over the restore tasks.
        tolerance: the most of the keep task's accuracy that it may cost.
        keep_weight: weight of the harm to the keep task beside the gain of the restore tasks, each measured by how far
            its loss lies apart in base and tuned; 0 looks at the gain alone.
        loss: what the entries are scored by: distance to the "outputs" of the base on the restore tasks' texts and of
            the tuned model on the keep task's, which needs no labels, or cross-entropy with the "labels".
        densities: shares of all parameters that are tried, of which the least that reaches the goal is taken; a single
            one is taken as it is.
        refine: how many numbers of entries are tried, by halving in log k, between the least density that reaches the
            goal and the one before it.
        budget: number of entries to put back, in place of `densities`.
        method: how the entries are chosen.
        scope: which tensors the entries may lie in.
        path: attribution: along the "graft" as it grows, or "straight" from tuned to base.
        points: attribution: points of that path.
        class_debias: loss "labels": set class offsets aside at every point of the path (`graft.scores.offsets`).
        batch_size: examples per forward and backward pass.
        candidates: attribution, taylor: how the weights are found that these methods look at.
        exact_scores: attribution, taylor: look at every weight in scope instead, at 4 bytes of host memory each.
        seed: seed of "random", and of the path in low precision.
    """

    restore_metric: Annotated[str, OneOf(RESTORABLE)] = "accuracy"
    share: Annotated[float, Above(0)] = 0.5
    tolerance: Annotated[float, AtLeast(0)] = 0.01
    keep_weight: Annotated[float, AtLeast(0)] = 1.0
    loss: Literal["outputs", "labels"] = "outputs"
    densities: tuple[Annotated[float, Above(0, 1)], ...] = DENSITIES
    refine: Annotated[int, AtLeast(0)] = 2
    budget: Count | None = None
    method: RollbackMethod = "attribution"
    scope: str = "layers"
    path: PathKind = "graft"
    points: Count = 4
    class_debias: bool = False
    batch_size: Count = 32
    candidates: CandidateSpec = field(default_factory=CandidateSpec)
    exact_scores: bool = False
    seed: int = 0

    @property
    def is_fixed(self) -> bool:
        """Return whether a single number of entries is asked for."""
        return self.budget is not None or len(self.densities) == 1

    @property
    def takes_gradients(self) -> bool:
        """Return whether the method scores by a loss."""
        return self.method in ("attribution", "taylor")

    def at(self, k: int) -> LocalizeSpec:
        """Return the localization that a rollback of k entries is."""
        return LocalizeSpec(
            self.method,
            budget=k,
            scope=self.scope,
            path=self.path,
            points=self.points,
            class_debias=self.class_debias,
            batch_size=self.batch_size,
            candidates=self.candidates,
            exact_scores=self.exact_scores,
            seed=self.seed,
        )
