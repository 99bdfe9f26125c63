"""The options of `graft rollback`: what is to come back, at which price, and how the entries are chosen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from graft.evaluate.registry import RESTORABLE
from graft.specs.block import Block
from graft.specs.localize import CandidateSpec, LocalizeSpec, PathKind
from graft.specs.ranges import Above, AtLeast, Count, OneOf, Within
from graft.specs.refit import RefitSpec

RollbackMethod = Literal["attribution", "taylor", "magnitude", "random"]
DENSITIES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


@dataclass(frozen=True)
class RollbackRefitSpec(Block):
    """The fitting of values at the entries of a rollback (`graft.refit.fitting`).

    Attributes:
        texts: most texts of each task to fit to, drawn by the seed where there are more.
        hold_out: share of them that is held out to choose the epoch by.
        lr: learning rate of Adam at its highest.
        epochs: passes over the texts.
        batch_size: texts per step.
    """

    texts: Count = 500
    hold_out: Annotated[float, Within(0.01, 0.5)] = 0.1
    lr: Annotated[float, Above(0)] = 1e-2
    epochs: Count = 3
    batch_size: Count = 16

    def at(self, seed: int) -> RefitSpec:
        """Return the refit that this is of each task."""
        return RefitSpec(
            texts=self.texts,
            hold_out=self.hold_out,
            lr=self.lr,
            epochs=self.epochs,
            batch_size=self.batch_size,
            select="kl",
            seed=seed,
        )


@dataclass(frozen=True)
class RollbackSpec(Block):
    """The choice of the entries that are put back to the base.

    Attributes:
        restore_metric: what was lost and is to come back.
        share: of what was lost, to come back: the mean over the restore tasks.
        tolerance: the most of the keep task's accuracy that it may cost.
        keep_weight: weight of the harm to the keep task beside the gain of the restore tasks, each measured by how far
            its loss lies apart in base and tuned; 0 looks at the gain alone. To the first order, at the tuned model
            itself, the distance to its own outputs asks for nothing: "taylor" with the loss "outputs" does not see it.
        loss: what the entries are scored by: distance to the "outputs" of the base on the restore tasks' texts and of
            the tuned model on the keep task's, which needs no labels, or cross-entropy with the "labels".
        densities: shares of all parameters that are tried, of which the least that reaches the goal is taken; a single
            one is taken as it is.
        refine: how many numbers of entries are tried, by halving in log k, between the least density that reaches the
            goal and the one before it.
        budget: number of entries to put back, in place of `densities`.
        values: what is written at the entries: the "base"'s values, or such as are "refit" to the base's outputs on the
            restore tasks' texts and the tuned model's on the keep task's, which no labels are needed for.
        refit: how values are refit.
        method: how the entries are chosen whose values are the base's; a refit takes the largest gradients of its loss.
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
    values: Literal["base", "refit"] = "base"
    refit: RollbackRefitSpec = field(default_factory=RollbackRefitSpec)
    method: RollbackMethod = "taylor"
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
    def is_refit(self) -> bool:
        """Return whether values are refit."""
        return self.values == "refit"

    @property
    def chooser(self) -> str:
        """Return what makes the patch: the method, or "refit"."""
        return "refit" if self.is_refit else self.method

    @property
    def takes_gradients(self) -> bool:
        """Return whether the method scores by a loss."""
        return self.is_refit or self.method in ("attribution", "taylor")

    @property
    def follows_graft(self) -> bool:
        """Return whether the scores of k entries are taken at grafts of k entries, so that each k needs its own."""
        return self.method == "attribution" and self.path == "graft" and self.points > 1

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
