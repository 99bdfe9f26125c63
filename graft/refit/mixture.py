"""A mixture of objectives over one live model: what was lost is fitted to one teacher, what is to stay to another.

    loss = sum over parts of weight * (sum of the divergences of the batch's examples of that part) / batch size

Examples say which part they belong to, so that one text may be fitted to both teachers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from graft.refit.objective import Objective, divergences
from graft.tasks.examples import Example
from graft.tasks.head import Head


@dataclass(frozen=True)
class PartExample(Example):
    """An example of one part of a mixture.

    Attributes:
        part: the part's position.
    """

    part: int = 0


def assign_part(examples: Sequence[Example], part: int) -> list[PartExample]:
    """Return the examples as those of a part."""
    return [PartExample(example.texts, example.label, example.choices, example.roles, part) for example in examples]


@dataclass(frozen=True, eq=False)
class MixedObjective:
    """A weighted sum of objectives whose heads share a model.

    Attributes:
        parts: one objective each; `PartExample.part` is its position.
        weights: of the parts.
    """

    parts: Sequence[Objective]
    weights: Sequence[float]
    teacher: None = None  # there is no single one

    @property
    def head(self) -> Head:
        """A head over the student."""
        return self.parts[0].head

    def __call__(self, examples: Sequence[Example]) -> torch.Tensor:
        """Return the weighted mean loss, a scalar; gradients flow."""
        terms = [
            self.weights[part] * objective(own) * (len(own) / len(examples))
            for part, objective in enumerate(self.parts)
            if (own := examples_of(examples, part))
        ]
        return torch.stack(terms).sum()

    def measure(self, examples: Sequence[Example], batch_size: int) -> float:
        """Return the weighted sum of each part's mean divergence, without gradients."""
        total = 0.0
        for part, (objective, weight) in enumerate(zip(self.parts, self.weights, strict=True)):
            own = examples_of(examples, part)
            student = objective.head.predict(own, batch_size=batch_size, label="validation")
            total += weight * float(divergences(objective.teacher.logits(own), student).double().mean())
        return total


def examples_of(examples: Sequence[Example], part: int) -> list[Example]:
    """Return the examples of a part."""
    return [example for example in examples if isinstance(example, PartExample) and example.part == part]
