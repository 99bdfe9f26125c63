"""The density of a skill's texts: the normal one that it says it is, whatever the company of a vector."""

from __future__ import annotations

import torch

from graft.mixture.routing.reference import Subspace, fit_subspace
from tests.mixture.routing.planted import WIDTH, own_texts, plant


def covariance(density: Subspace) -> torch.Tensor:
    directions = density.directions.double()
    within = directions.T @ torch.diag(density.variances.double()) @ directions
    return within + density.rest * (torch.eye(WIDTH, dtype=torch.float64) - directions.T @ directions)


def test_the_score_is_the_log_density_but_for_a_constant() -> None:
    density = fit_subspace(plant(own_texts("bank", 60)), most=8)
    normal = torch.distributions.MultivariateNormal(density.mean.double(), covariance(density))
    vectors = plant([*own_texts("bank", 10, 100), *own_texts("nothing", 10)])
    constant = density.score(vectors) - normal.log_prob(vectors.double())
    assert torch.allclose(constant, constant[0].expand(20), atol=1e-3)
    assert normal.log_prob(vectors.double()).std() > 10  # it is no constant itself


def test_the_fit_keeps_the_variance_of_the_vectors() -> None:
    vectors = plant(own_texts("food", 200))
    density = fit_subspace(vectors, most=8)
    assert torch.allclose(covariance(density).trace(), vectors.double().var(0).sum(), rtol=1e-4)
    assert torch.allclose(density.directions @ density.directions.T, torch.eye(8), atol=1e-5)


def test_few_texts_give_few_directions_and_equal_texts_a_finite_density() -> None:
    assert len(fit_subspace(plant(own_texts("bank", 20))).variances) == 5
    same = fit_subspace(torch.ones(20, WIDTH) / WIDTH**0.5)
    scores = same.score(plant(["bank/1", "food/1"]))
    assert bool(scores.isfinite().all())
