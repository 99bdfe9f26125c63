"""Refit: a patch of few entries whose values are fitted to the tuned model's predictions on texts (`graft.refit`)."""

from __future__ import annotations

import dataclasses

from graft.extraction.extracted import Extracted, extract_patch
from graft.extraction.inputs import ExtractionInput
from graft.refit.refit import refit_skill


def extract_refit(inputs: ExtractionInput, density: float) -> Extracted:
    """Fit the values of a support at a density; the divergence on validation texts says which epoch is kept."""
    config = dataclasses.replace(inputs.config.refit, density=density, budget=None, select="kl", seed=inputs.seed)
    return extract_patch(refit_skill(inputs.base, inputs.tuned, inputs.task, config, **inputs.runtime.options))
