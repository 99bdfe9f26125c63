"""Cut: a patch of few tuned values, chosen by attribution (labels) or by how far they moved (nothing needed)."""

from __future__ import annotations

import dataclasses

from graft.extraction.extracted import Extracted, extract_patch
from graft.extraction.inputs import ExtractionInput
from graft.localize.localization import localize_skill


def extract_by_attribution(inputs: ExtractionInput, density: float) -> Extracted:
    """Cut the entries with the largest attribution at a density."""
    return _cut(inputs, "attribution", density)


def extract_by_magnitude(inputs: ExtractionInput, density: float) -> Extracted:
    """Cut the entries with the largest |delta| at a density."""
    return _cut(inputs, "magnitude", density)


def _cut(inputs: ExtractionInput, method: str, density: float) -> Extracted:
    config = dataclasses.replace(inputs.config.localize.at(density), method=method, seed=inputs.seed)
    return extract_patch(localize_skill(inputs.base, inputs.tuned, inputs.task, config, **inputs.runtime.options))
