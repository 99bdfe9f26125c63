"""Cut: a patch of few tuned values, chosen by attribution (labels) or by how far they moved (nothing needed)."""

from __future__ import annotations

import dataclasses

from graft.extraction.extracted import Extracted, extract_patch
from graft.extraction.inputs import ExtractionInput
from graft.files.location import locate
from graft.localize.budget import allocate, resolve_budget
from graft.localize.changes import Changes
from graft.localize.localization import describe_origin, localize_skill
from graft.patch.skill_patch import cut_patch
from graft.specs.reader import to_plain
from graft.tensors.scope import Scope


def extract_by_attribution(inputs: ExtractionInput, density: float) -> Extracted:
    """Cut the entries with the largest attribution at a density.

    They are those that `localize_skill` gives along the straight path; the attribution is taken once for all densities.
    """
    pair, config = inputs.pair, inputs.attribution_at(density)
    scope, k = Scope(config.scope), resolve_budget(pair.base.n_parameters, density, None)
    groups = allocate(k, Changes(pair, pair.names_in(scope)).counts, config.allocation)
    origin = describe_origin(locate(inputs.base), pair, scope, to_plain(config), inputs.task)
    return extract_patch(cut_patch(pair, inputs.attribution.select(groups), origin))


def extract_by_magnitude(inputs: ExtractionInput, density: float) -> Extracted:
    """Cut the entries with the largest |delta| at a density."""
    config = dataclasses.replace(inputs.config.localize.at(density), method="magnitude", seed=inputs.seed)
    return extract_patch(localize_skill(inputs.base, inputs.tuned, inputs.task, config, **inputs.runtime.options))
