"""The block `refit` of a recipe: values of a chosen support, fitted to the tuned model's outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from graft.refit.registry import SUPPORTS
from graft.specs.block import Block
from graft.specs.localize import LINES, Structure, check_structure
from graft.specs.ranges import Above, Count, OneOf, Seed, Within

Criterion = Literal["nll", "kl"]


@dataclass(frozen=True)
class RefitSpec(Block):
    """The fitting of few values to the tuned model's outputs (`graft.refit.fitting`).

    Attributes:
        support: how the entries are chosen whose values are fitted.
        density: entries to fit, as a share of all parameters.
        budget: number of entries to fit, in place of `density`.
        structure: entries one by one, whole columns or rows of matrices, or within `max_rank`, as in
            `localize.structure`; of whole lines those with the largest sum of gradients' sizes, or of the scores.
        max_rank, lines, bytes: as in `localize`, of a support that is chosen.
        scope: which tensors the entries may lie in, as in `localize.scope`.
        labels: weight of the labels' cross-entropy in the loss; the rest is the divergence from the tuned model's
            outputs, which needs texts alone.
        texts: most texts to fit to, drawn by the seed where there are more.
        support_texts: most of these texts whose mean gradient chooses the support, evenly spaced among them: a
            backward pass over all weights costs more than a step of the fitting.
        lr: learning rate of Adam at its highest; 1 / (2 sqrt(k)) where absent, so that a step of all k values together
            is as long for every k, or a third or a ninth of it where the first pass goes further by that.
        warmup: share of the steps over which the learning rate rises to it; it falls to 0 over the others.
        epochs: passes over the texts.
        batch_size: texts per step.
        clip: largest norm of the gradient of the k values.
        select: the measure on validation by which the epoch is chosen that is kept: "nll" of the labels, or "kl" from
            the tuned model, which needs no label.
        hold_out: share of the texts that is held out to choose by, in place of the task's validation split.
        rounds: times that values are fitted; between them entries are dropped and others grown (`graft.refit.regrow`).
        drop: share of the entries that is dropped each time.
        seed: of the order of texts, and of a random support.
    """

    support: Annotated[str, OneOf(SUPPORTS)] = "gradient"
    density: float = 1e-4
    budget: int | None = None
    structure: Structure | None = None
    max_rank: Count | None = None
    lines: Count | None = None
    bytes: Count | None = None
    scope: str = "layers"
    labels: Annotated[float, Within(0, 1)] = 0.0
    texts: Count = 2000
    support_texts: Count = 500
    lr: Annotated[float, Above(0)] | None = None
    warmup: Annotated[float, Within(0, 0.9)] = 0.1
    epochs: Count = 3
    batch_size: Count = 16
    clip: Annotated[float, Above(0)] = 1.0
    select: Criterion = "nll"
    hold_out: Annotated[float, Within(0, 0.5)] = 0.0
    rounds: Count = 1
    drop: Annotated[float, Within(0, 1)] = 0.3
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Refuse settings of a structure that do not go together, and rounds, which would not keep to one."""
        super().__post_init__()
        check_structure(self)
        if self.rounds > 1 and (self.max_rank is not None or self.has_lines):
            raise ValueError("rounds drop and grow entries one by one, and keep to no structure: leave them out")

    @property
    def has_lines(self) -> bool:
        """Whether whole columns or rows are chosen."""
        return self.structure in LINES

    def rate_of(self, k: int) -> float:
        """Return the learning rate of k entries."""
        return 0.5 / math.sqrt(k) if self.lr is None else self.lr
