"""SkillReference: what a skill's own texts look like to the base, as a Gaussian around a few directions.

Mean and directions, no text and no text's vector: with probabilistic PCA (Tipping & Bishop 1999) the vectors of a
skill's texts are normal, with variances λ₁ ≥ … ≥ λ_r along r principal directions v_i and σ² along the others:

    score(x) = -½ (Σ_i (v_i · z)² / λ_i + (|z|² - Σ_i (v_i · z)²) / σ² + Σ_i ln λ_i + (w - r) ln σ²),  z = x - mean

the log density but for a constant that all skills share; the distance in it is Mahalanobis's (as a detector: Lee et al.
2018, arXiv 1807.03888), with a covariance of the skill's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

PROBE = "the quick brown fox jumps over the lazy dog"  # where the base puts it tells one base from another
FEWEST_TEXTS = 20  # fewer say little of a skill, and a mean over very few is close to a text's own vector
MOST_DIRECTIONS = 32


@dataclass(frozen=True, eq=False)
class Subspace:
    """The density of a skill's texts.

    Attributes:
        mean: (w,) fp32.
        directions: (r, w) fp32, orthonormal.
        variances: (r,) fp32, along the directions.
        rest: variance along each other direction.
    """

    mean: torch.Tensor
    directions: torch.Tensor
    variances: torch.Tensor
    rest: float

    def score(self, embedded: torch.Tensor) -> torch.Tensor:
        """Return (n,) fp64 log densities, nats but for a constant, of vectors (n, w)."""
        z = embedded.double() - self.mean.double()
        along = (z @ self.directions.double().T) ** 2  # (n, r)
        variances, beside = self.variances.double(), len(self.mean) - len(self.variances)
        distance = (along / variances).sum(1) + ((z**2).sum(1) - along.sum(1)).clamp(min=0) / self.rest
        volume = variances.log().sum() + beside * torch.tensor(self.rest, dtype=torch.float64).log()
        return -(distance + volume) / 2


def fit_subspace(embedded: torch.Tensor, most: int = MOST_DIRECTIONS) -> Subspace:
    """Return the maximum likelihood fit to vectors (n, w), of `most` directions or n / 4 where that is fewer."""
    x = embedded.double()
    n, width = x.shape
    mean = x.mean(0)
    _, scales, directions = torch.linalg.svd(x - mean, full_matrices=False)
    variances = scales**2 / (n - 1)
    r = min(most, n // 4, width - 1)
    rest = max(float(variances[r:].sum()) / (width - r), 1e-9)
    return Subspace(mean.float(), directions[:r].float().contiguous(), variances[:r].clamp(min=rest).float(), rest)


@dataclass(frozen=True, eq=False)
class SkillReference:
    """A skill's density with the threshold from which on a text is taken for one of its own.

    Attributes:
        subspace: the density.
        threshold: the score that a text must reach.
        accept: the share of the skill's own texts that do, in 0..1.
        n_held_out: texts that the threshold was set on.
        probe: (w,) fp32, the base's vector of `PROBE`, which tells it from other bases.
    """

    subspace: Subspace
    threshold: float
    accept: float
    n_held_out: int
    probe: torch.Tensor

    def score(self, embedded: torch.Tensor) -> torch.Tensor:
        """Return (n,) fp64, higher for texts that are more like the skill's, of vectors (n, w)."""
        return self.subspace.score(embedded)
